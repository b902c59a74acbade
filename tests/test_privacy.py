"""Nothing of what a user does is told to anybody: neither a connection nor a file of a library that counts its users."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm_moments.engines.base import available

BUILDS = """
import multiprocessing, socket, sys
import llm_moments as lm

def never(*args, **kwargs):
    raise SystemExit("the process was forked, or tried to connect")

multiprocessing.Process.start = socket.socket.connect = never
pipe = lm.load(sys.argv[1], plan={"forward.engine": "openvino", "forward.precision": "int8"})
pipe.engines.calibration = pipe.with_(**{"forward.engine": "torch", "forward.precision": "fp32", "batch.size": 1}).arrays(["a film", "a book"] * 4)
print(len(list(pipe.run(["a good film", "a bad one"]))))
"""


@pytest.mark.slow
@pytest.mark.skipif("openvino" not in available(), reason="OpenVINO is not installed")
def test_a_graph_is_built_without_telling_its_makers(tiny_model: Path, tmp_path: Path) -> None:
    env = {**os.environ, "HOME": str(tmp_path), "MOMENTS_CACHE": str(tmp_path / "cache"), "CI": ""}
    done = subprocess.run([sys.executable, "-c", BUILDS, str(tiny_model)], env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["2"], done.stderr[-2000:]
    assert [entry.name for entry in tmp_path.iterdir()] == ["cache"]  # no ~/intel with a number for this user
