"""`distill`: a smaller model learns the answers of a larger one, on examples that need no labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llm_moments.assembly.load import load
from llm_moments.evaluate.evaluation import gather, opened
from llm_moments.train.fit import learn
from llm_moments.train.observers import Observer, Reporting
from llm_moments.train.problems.contract import Tick
from llm_moments.train.problems.imitation import Imitation, Taught
from llm_moments.train.trainer import Trainer
from llm_moments.train.training import Training


def distill(
    teacher: Any,
    data: Any,
    out: str | Path,
    *,
    student: str = "layers=half",
    evaluate: Any = None,
    temperature: float = 2.0,
    hidden: float = 0.0,
    quantize: str | None = None,
    overwrite: bool = False,
    progress: Tick | None = None,
    device: str = "auto",
    on_update: Callable[[Trainer], None] | None = None,
    observers: Sequence[Observer] = (),
    seconds: float | None = None,
    **settings: Any,
) -> Training:
    """A model folder that answers as the teacher does, as far as it can.

    teacher: a model folder or pipeline. data: examples, whose references are not looked at. student:
    "layers=3" for the teacher with so many of its layers, chosen by what leaving out the others changes least;
    "layers=0,2,5" for these; "layers=half" or "layers=third"; "heads=half", "neurons=half" likewise for the attention heads
    and the feed-forward neurons of each layer, chosen by `prune.importance`; several of these with spaces between;
    "as-is" for all of it; or another model's folder, which keeps its own tokenizer or size of images. Of images also
    "width=half" for a `cnn` with fewer channels, and "cnn" for a new one. hidden:
    weight of the hidden states (of a student made of the teacher's layers). quantize: "int8" for weights that bear to be
    rounded, for an engine in int8; what is saved is float. seconds: as many epochs as fit in.
    settings: fields of `Settings`. evaluate: examples with references, or without: then the teacher's answers
    are held against the student's.
    """
    base = load(teacher, device=device)
    base = base.with_(**base.task.sorts)
    examples, _ = gather(data)
    evaluate = opened(evaluate)
    judged = gather(evaluate) if evaluate is not None else ([], "")
    asked = Taught(base, examples, student, settings, temperature, hidden, quantize, seconds, judged, evaluate)
    looking = [*observers, *([Reporting(on_update)] if on_update is not None else [])]
    return learn(Imitation(asked), Path(out), overwrite=overwrite, progress=progress, device=device, observers=looking)
