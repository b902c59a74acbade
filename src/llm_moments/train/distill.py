"""`distill`: a smaller model learns the answers of a larger one, on examples that need no labels."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.assembly.load import load
from llm_moments.base.errors import EngineError, InputError
from llm_moments.core import Outputs, Pipeline, Plan
from llm_moments.engines.base import Engines, put_on
from llm_moments.evaluate.evaluation import evaluation, gather, judging, opened
from llm_moments.models.model import Model
from llm_moments.train import distill_images
from llm_moments.train.data_checks import leaks
from llm_moments.train.fit import Job, Tick, Training, digest_of, fit, made_way, plain
from llm_moments.train.loop import Loop
from llm_moments.train.losses import Distillation
from llm_moments.train.problem import with_head
from llm_moments.train.reloaded import reloaded
from llm_moments.train.settings import Settings
from llm_moments.train.student_spec import Parts, parts_of
from llm_moments.train.student_spec import share_of as layers_of

JUDGES = 64  # examples by which layers are chosen
WEIGHED = 256  # examples by which heads and neurons are: they take one pass forward and backward
MOST_EPOCHS = 12  # however much time there is; students of R8 had what they could get from 1,600 texts after 10
COUNTS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")


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
    on_update: Callable[[Loop], None] | None = None,
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
    if base.model.is_linear:
        raise InputError(f"{base.model.name} is a linear model: nothing smaller can be made of it")
    images = base.task.modality == "image"
    if "truncate" not in base.plan and not images:
        raise InputError(f"a student can be taught by a classifier of texts or images, not by one of {base.task.name}")
    examples, _ = gather(data)
    evaluate = opened(evaluate)
    judged = gather(evaluate) if evaluate is not None else ([], "")
    if quantize not in (None, "int8"):
        raise InputError(f"a student learns to bear int8 (quantize), not {quantize!r}")
    out = Path(out)
    tick = progress or (lambda done, message: None)
    if images:
        distill_images.usual(base, student, settings)
    else:
        settings.setdefault("max_length", base.settled().plan["truncate"]["max_length"])
    settings.setdefault("learning_rate", 3e-4)
    settings.setdefault("dropout", 0.0)  # what the teacher says of each row is regularisation enough
    parts = parts_of(student)
    if parts is not None and not images:
        settings.setdefault("freeze", ("embeddings",))  # they are the teacher's own
    try:
        wanted = Settings(**settings)
    except TypeError as error:
        raise InputError(str(error).replace("Settings.__init__() ", "distill ")) from error
    distill_images.check(base, student, wanted, hidden)
    if wanted.augment or wanted.balance or wanted.translate_there or wanted.translate_back:
        raise InputError("a student learns what the teacher said of the examples as they are: no augment, no balance")
    question = {
        "teacher": base.model.digest, "student": student, "data": digest_of(examples, judged[0]),
        "settings": plain(asdict(wanted)), "temperature": temperature, "hidden": hidden, "seconds": seconds,
    }  # fmt: skip
    if quantize is not None:
        question["quantize"] = quantize
    if (finished := made_way(out, question, overwrite)) is not None:
        return finished
    values = [base.task.normalise(e.input) for e in examples]
    tick(None, f"the teacher's answers to {len(values):,} examples")
    told = base.outputs(values)
    kept: list[int]
    if images:
        module, described, kept = distill_images.made(base, student, parts, values, told, wanted, JUDGES, tick)
        if kept and "freeze" not in settings:
            wanted = replace(wanted, freeze=distill_images.frozen(module))
    elif parts is None:
        module, described = with_head(
            Path(student), base.model.labels, base.model.problem_type, wanted.seed, own_labels=False
        )
        kept = []
    else:
        module, described, kept = made_of(base, parts, values, told, wanted.max_length, tick)
    if quantize is not None:
        from llm_moments.train.quantized import rounding

        module = rounding(module)
    plan = (
        distill_images.plan_for(base, described, wanted)
        if images
        else Plan({"truncate": {"max_length": min(wanted.max_length, described.max_length)}})
    )
    pipe = Pipeline(base.task.of(described), plan, engines=Engines(described))
    part = evaluation(pipe, judging(pipe, judged[0], evaluate, judged[1], varied=False)) if judged[0] else None
    if part is not None and not part.labelled:
        answers = base.outputs(part.values)
        part = replace(part, references=base.task.as_references(answers))
    said = leaks(values, part.values) if part else []
    loss = distillation(base, told, temperature, hidden, kept)
    if seconds is not None:
        wanted = replace(wanted, epochs=epochs_in(seconds, module, pipe, values, wanted, loss))
    job = Job(
        module, pipe, values, _rows(len(values)), loss, wanted, question, (part, judged[1]), said,
        notes={"quantize": quantize} if quantize else {},
    )  # fmt: skip
    return fit(job, out, progress=progress, device=device, on_update=on_update)


def distillation(base: Pipeline, told: Outputs, temperature: float, hidden: float, kept: Sequence[int]) -> Any:
    """The loss against what the teacher said, once, of every row; hidden states need the teacher itself."""
    from llm_moments.engines.torch_eager import load_module

    teacher = load_module(base.model) if hidden else None
    kind = distill_images.ImageDistillation if base.task.modality == "image" else Distillation
    return kind(
        base.model.problem_type, told["logits"], teacher, temperature=temperature, hidden=hidden, stands_for=kept
    )


def _rows(count: int) -> Any:
    """The targets of a distillation are the rows' own numbers: what the teacher said is found by them."""
    import torch

    return torch.arange(count)


def made_of(
    base: Pipeline, parts: Parts, values: Sequence[Any], told: Outputs, length: int, tick: Tick
) -> tuple[Any, Model, list[int]]:
    """The student before it learns, its description, and the teacher's layers that its own stand for.

    Everything is chosen at the student's own length: that is where it is to serve, and it takes less time.
    """
    from llm_moments.engines.torch_eager import load_module
    from llm_moments.models.blocks import layer_count
    from llm_moments.train.prune import narrowed

    short = base.with_(**{"truncate.max_length": min(length, base.settled().plan["truncate"]["max_length"])})
    if parts.layers is None:
        module, described = load_module(base.model), base.model
        kept = list(range(layer_count(module)))
    else:
        wanted = parts.layers
        kept = (
            wanted if isinstance(wanted, list) else chosen_layers(short, values[:JUDGES], told[:JUDGES], wanted, tick)
        )
        module, described = smaller(base.model, kept)
    if parts.heads or parts.neurons:
        tick(None, "choosing heads and neurons")
        judge = None if parts.layers is None else load_module(base.model)
        batches = short.arrays(values[:WEIGHED])
        module, described = narrowed(
            module, described, batches, heads=parts.heads, neurons=parts.neurons, judge=judge, layers=kept
        )
    return module, described, kept


def chosen_layers(base: Pipeline, values: Sequence[Any], told: Outputs, count: str, tick: Tick) -> list[int]:
    """The layers to keep: one after the other is left out whose loss changes the answers least. count: a number, half, third."""
    from llm_moments.engines.torch_eager import load_module
    from llm_moments.models.blocks import layer_count

    total = layer_count(load_module(base.model))
    keep = layers_of(total, count)
    if not 1 <= keep <= total:
        raise InputError(f"this model has {total} layers; a student cannot have {count} of them")
    gone: list[int] = []
    eager = base.with_(**put_on("torch", "fp32"), **{"forward.calibration": None})
    while total - len(gone) > keep:
        tick(None, f"choosing layers: {total - len(gone) - 1} left")
        apart = {}
        for layer in [i for i in range(total) if i not in gone]:
            outputs = eager.with_(**{"forward.skip_layers": sorted([*gone, layer])}).outputs(values)
            apart[layer] = float(base.task.divergence(told, outputs).mean())
        gone.append(min(apart, key=apart.__getitem__))
    return [i for i in range(total) if i not in gone]


def smaller(teacher: Model, keep: Sequence[int]) -> tuple[Any, Model]:
    """The teacher's module with only these layers, and its description; EngineError where none can be left out."""
    import torch

    from llm_moments.engines.torch_eager import load_module
    from llm_moments.models.blocks import layer_count, layer_list

    module = load_module(teacher)
    path, layers = layer_list(module)
    if len(layers) != layer_count(module):
        raise EngineError(f"{type(module).__name__} shares its layers; a student of some of them cannot be made")
    if not keep or max(keep) >= len(layers) or len(set(keep)) != len(keep):
        raise InputError(f"this model has the layers 0 to {len(layers) - 1}; cannot keep {list(keep)}")
    kept = [layers[i] for i in sorted(keep)]
    parent, _, name = path.rpartition(".")
    setattr(
        module.get_submodule(parent),
        name,
        type(layers)(kept) if isinstance(layers, torch.nn.ModuleList) else torch.nn.Sequential(*kept),
    )
    for at, layer in enumerate(kept):
        for part in layer.modules():
            if isinstance(getattr(part, "layer_idx", None), int):
                part.layer_idx = at
    config = module.config
    config.num_hidden_layers = len(kept)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[i] for i in sorted(keep)]
    _same_when_reloaded(module, teacher)
    return module, Model(teacher.path, {**teacher.config, **json.loads(config.to_json_string(use_diff=False))})


def _same_when_reloaded(module: Any, teacher: Model) -> None:
    """Some architectures give layers a meaning by their number: what is saved must be what was made."""
    import torch

    tokens = torch.full((1, 4), min(5, int(getattr(module.config, "vocab_size", 6)) - 1))
    with torch.no_grad():
        one, two = (m.eval()(input_ids=tokens).logits for m in (module, reloaded(module, teacher)))
    if not torch.allclose(one, two, atol=1e-4):
        raise EngineError(f"{type(module).__name__} gives layers a meaning by their number; none can be left out")


def epochs_in(seconds: float, module: Any, pipe: Pipeline, values: Sequence[Any], settings: Settings, loss: Any) -> int:
    """How many epochs take about so long, by the time of some updates of a loop that is thrown away."""
    import copy

    few = list(values[: 6 * settings.batch_size])
    trial = Loop(copy.deepcopy(module), pipe, few, _rows(len(few)), replace(settings, epochs=1), loss)
    trial.module.train()
    groups = list(trial.groups(0))
    for group in groups:
        trial.update(group, 0)  # what is done for the first time with a shape takes longer
    start = time.perf_counter()
    for group in groups:
        trial.update(group, 0)
    each = (time.perf_counter() - start) / len(few)
    return int(np.clip(seconds / (each * len(values)), 1, MOST_EPOCHS))
