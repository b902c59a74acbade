"""A worker process: it is told a pipeline once, then inputs, again and again, and answers each with its outputs."""

from __future__ import annotations

import os
import resource
import sys

from llm_moments.assembly.executors import frames
from llm_moments.assembly.spec import PipelineSpec
from llm_moments.base.errors import MomentsError
from llm_moments.core import outputs_file


def main() -> None:
    """Frames come in on stdin and go out where stdout was: what a library prints must not come among them."""
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    pipe = None
    while (frame := frames.receive(source)) is not None:
        head, _ = frame
        try:
            if "spec" in head:
                pipe = PipelineSpec.from_json(head["spec"]).open()
                frames.send(sink, {"open": True})
            elif "peak" in head:
                scale = 1 if sys.platform == "darwin" else 1024
                frames.send(sink, {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale})
            else:
                assert pipe is not None, "inputs come after the pipeline"
                kind, raw = outputs_file.write(pipe.outputs(head["values"]), details=True)
                frames.send(sink, {"kind": kind}, raw)
        except MomentsError as error:
            frames.send(sink, frames.told(error))


if __name__ == "__main__":
    main()
