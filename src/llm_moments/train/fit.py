"""From a module, inputs and targets to a trained model folder: the loop, its recording, its checkpoints."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

from llm_moments.base import schema
from llm_moments.base.atomic import held, recover, remove, sibling, sync, write_atomic, writing
from llm_moments.base.environment import fingerprint
from llm_moments.base.errors import DataError, EngineMissing, InputError, OutputExists
from llm_moments.base.views import drawn
from llm_moments.core import Pipeline
from llm_moments.engines.padding import note_side
from llm_moments.evaluate.evaluation import Evaluation
from llm_moments.models.model import NOTES
from llm_moments.models.nets.pruned import told_of
from llm_moments.record.meters import peak_memory
from llm_moments.record.probes import layer_costs
from llm_moments.record.recorder import Recorder
from llm_moments.record.session import Figure, Session, StepCost
from llm_moments.train import checkpoints
from llm_moments.train.back_translation import BackTranslation, reworded
from llm_moments.train.loop import Loop
from llm_moments.train.losses import Loss
from llm_moments.train.settings import Settings

Tick = Callable[[float | None, str], None]
RUN = "training.json"  # what is being trained, and in a finished model what came of it
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Training:
    """A trained model folder, how it went, and what its steps cost.

    history: one entry every ten updates (update, epoch, loss, learning_rate, norm) and one after each epoch
    that was judged (update, epoch, score). warnings: what a reader of the score must know. expansion: what a first
    model has labelled, how much of it and how surely; empty if nothing was to be labelled.
    """

    folder: Path
    session: Session | None
    history: list[dict[str, float]] = field(default_factory=list)
    warnings: tuple[str, ...] = ()
    evaluation: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    expansion: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": "training", "format": 1, "out": str(self.folder), "settings": dict(self.settings),
            "seconds": round(self.seconds, 1), "warnings": list(self.warnings), "evaluation": self.evaluation,
            "expansion": dict(self.expansion), "history": self.history, "session": self.session.to_dict() if self.session else None,
        }  # fmt: skip

    @classmethod
    def load(cls, folder: str | Path) -> Training:
        """What `train` left in a model folder; DataError if that is nothing."""
        found = schema.read(Path(folder) / RUN, "a finished training", _saved)
        session = Session.from_dict(found.session) if found.session else None
        return cls(
            Path(folder), session, found.history, found.warnings, found.evaluation, found.settings, found.seconds, found.expansion,
        )  # fmt: skip

    def report(self) -> str:
        return drawn("report", session=self.session, training=self, title=f"llm-moments: training {self.folder.name}")

    def _repr_html_(self) -> str:
        return drawn("training", self)


class Judged(TypedDict):
    """What an evaluation says at least."""

    data: str
    n: int
    metric: str
    score: float


class Expanded(TypedDict):
    """What an expansion says at least, where there was one."""

    labelled: int
    unlabelled: int
    known_already: int
    threshold: float
    by_class: dict[str, int]


class Entry(TypedDict):
    epoch: float
    update: float


@dataclass(frozen=True)
class _Saved:
    out: str
    settings: Mapping[str, Any]
    seconds: float
    warnings: tuple[str, ...]
    evaluation: Mapping[str, Any] | None
    history: list[dict[str, float]]
    session: Mapping[str, Any] | None
    expansion: Mapping[str, Any] = field(default_factory=dict)


def _saved(data: Any) -> _Saved:
    if not isinstance(data, dict) or "training" not in data:
        raise DataError("it tells of no finished training")
    found = schema.result(data["training"], "training", _Saved)
    for entry in found.history:
        schema.least(entry, Entry)
    for part, said in ((found.evaluation, Judged), (found.expansion, Expanded)):
        if part:
            schema.least(part, said)
    if found.session:
        Session.from_dict(found.session)
    return found


@dataclass(frozen=True)
class Job:
    """What is to be fitted. question: plain data that tells this training from any other; judged: examples to
    judge by, and where they came from; warnings: what is known to be wrong already."""

    module: Any
    pipe: Pipeline
    values: Sequence[Any]
    targets: Any
    loss: Loss
    settings: Settings
    question: Mapping[str, Any]
    judged: tuple[Evaluation | None, str] = (None, "")
    warnings: Sequence[str] = ()
    read_s: float = 0.0
    expansion: Mapping[str, Any] = field(default_factory=dict)
    back: BackTranslation | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)  # for the model folder


def fit(
    job: Job, out: Path, *, progress: Tick | None = None, device: str = "auto",
    on_update: Callable[[Loop], None] | None = None,
) -> Training:  # fmt: skip
    """Runs the loop, from its last checkpoint if there is one, and puts the model folder in its place."""
    from llm_moments.engines.torch_eager import best_device

    tick = progress or (lambda done, message: None)
    for warning in job.warnings:
        tick(None, f"warning: {warning}")
    changed = prepared(job.module, job.settings)
    run = run_folder(out)
    with writing(run, "Nothing was changed."):
        run.mkdir(parents=True, exist_ok=True)
    with held(run, f"another process is training into {out} at this moment; wait for it or choose another place"):
        return _fitted(job, changed, out, tick, best_device(device), on_update)


def _fitted(
    job: Job, changed: Any, out: Path, tick: Tick, device: str, on_update: Callable[[Loop], None] | None
) -> Training:
    write_atomic(run_folder(out) / RUN, json.dumps({"question": dict(job.question)}))
    if job.pipe.task.classifies and job.pipe.task.modality == "text" and not job.pipe.model.is_linear:
        note_side(job.module, job.pipe.model)
    recorder = Recorder()
    words = reworded(job.back, job.settings, job.values, recorder, tick)
    loop = Loop(
        changed, job.pipe, job.values, job.targets, job.settings, job.loss, recorder=recorder,
        device=device, folder=run_folder(out) / CHECKPOINTS, judged=job.judged[0],
        reworded=words,
    )  # fmt: skip
    placed(changed, loop.device)
    if loop.resume():
        tick(None, f"going on after update {loop.position.updates}")
    seen = _run(loop, tick, on_update)
    loop.take_best()
    session = _session(recorder, seen, loop, job)
    settings = plain(asdict(job.settings))
    final = _evaluated(loop, *job.judged)
    done = Training(
        out, session, loop.position.history, tuple(job.warnings), final, settings, session.root.wall_s, job.expansion
    )
    _save(done, changed.merge_and_unload() if job.settings.lora else changed, job)
    return done


def _run(loop: Loop, tick: Tick, on_update: Callable[[Loop], None] | None) -> dict[str, Any]:
    """Runs the loop with probes on its layers; what the probes have seen."""
    with ExitStack() as stack:
        probes = loop.watched(stack)

        def told(done: float | None, message: str) -> None:
            tick(done, message)
            if on_update is not None:
                with loop.recorder.step("report"):  # scalars and histograms, where they are asked for
                    on_update(loop)

        start = time.perf_counter()
        loop.run(told)
        seen = {"seconds": time.perf_counter() - start, **probes}
        forward = loop.recorder.root.children.get("forward")  # type: ignore[attr-defined]
        if probes and forward is not None:
            seen["layers"] = layer_costs(probes["forward"], forward.wall / 1e9, 2)
        return seen


def placed(module: Any, device: str) -> None:
    """On the device and, of images, channels last: convolutions take half the time on a CPU."""
    import torch

    module.to(device)
    if getattr(module, "input_shape", None):
        module.to(memory_format=torch.channels_last)


def prepared(module: Any, wanted: Settings) -> Any:
    """The module with some blocks frozen, adapters put in or activations recomputed, as the settings say."""
    if wanted.freeze:
        from llm_moments.models.blocks import blocks

        known = {block.name: block for block in blocks(module)}
        if missing := [name for name in wanted.freeze if name not in known]:
            raise InputError(f"no block {missing} to freeze in this model; it has {', '.join(known)}")
        for name in wanted.freeze:
            for part in (known[name].module, *known[name].also):
                part.requires_grad_(False)
        if not any(p.requires_grad for p in module.parameters()):
            raise InputError("every block is frozen; there is nothing left to train")
    if wanted.dropout is not None:
        for part in module.modules():
            for name, value in list(vars(part).items()):
                if isinstance(value, float) and (name.endswith("dropout") or "dropout_p" in name or name == "p"):
                    setattr(part, name, wanted.dropout)
                elif name == "layerdrop" and not wanted.dropout:  # whole layers left out at random, as in M2M100
                    setattr(part, name, 0.0)
    if wanted.gradient_checkpointing:
        try:
            module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        except ValueError as error:
            raise InputError(f"this model cannot recompute its activations: {error}") from error
    if wanted.lora:
        return _adapted(module, wanted.lora, wanted.seed)
    return module


def _adapted(module: Any, rank: int, seed: int) -> Any:
    import torch

    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError as error:
        raise EngineMissing("peft", "train") from error
    kind = TaskType.SEQ_CLS
    if getattr(module, "can_generate", bool)():
        kind = TaskType.SEQ_2_SEQ_LM if module.config.is_encoder_decoder else TaskType.CAUSAL_LM
    config = LoraConfig(task_type=kind, r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    torch.manual_seed(seed)  # half of an adapter is drawn
    return get_peft_model(module, config)


# ------------------------------------------------------------------------------------------- what is left behind


def digest_of(*parts: Sequence[Any]) -> str:
    """Of the inputs and references of examples."""
    digest = hashlib.sha256()
    for part in parts:
        for example in part:
            said = json.dumps([example.input, example.reference], default=str)
            digest.update(said.encode("utf-8", "surrogatepass"))
        digest.update(b"|")
    return digest.hexdigest()[:32]


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def made_way(out: Path, question: Mapping[str, Any], overwrite: bool) -> Training | None:
    """This very training, if it is finished; None if it is to be begun or gone on with. OutputExists if
    the place is taken by anything else. What is at `out` stays until the new model takes its place."""
    run = run_folder(out)
    recover(out)
    if overwrite:
        if out.exists() and not ((out / RUN).exists() or (out / "config.json").exists()):
            raise OutputExists(out, "it is no model folder, so that --overwrite leaves it alone")
        remove(run)
    elif out.exists():
        if _asked(out) != question:
            raise OutputExists(out)
        remove(run)
        return Training.load(out)
    begun = any(checkpoints.found(run / CHECKPOINTS))  # what has no checkpoint yet is no loss
    if begun and _asked(run) != question:
        raise OutputExists(run, "it is a half-done training of another model, other data or other settings")
    return None


def run_folder(out: Path) -> Path:
    """Where the checkpoints of a training are until its model is done."""
    return out.with_name(f"{out.name}.training")


def _asked(folder: Path) -> Any:
    try:
        return json.loads((folder / RUN).read_text(encoding="utf-8"))["question"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _evaluated(loop: Loop, part: Evaluation | None, name: str) -> dict[str, Any] | None:
    if part is None:
        return None
    outputs = loop.outputs(part.values)
    scores = part.scores(outputs, outputs)
    return {"data": name, "n": len(part), "metric": part.metric, "score": float(scores.mean())}


def _session(recorder: Recorder, seen: Mapping[str, Any], loop: Loop, job: Job) -> Session:
    """The recording of the whole run: layers under forward and backward, where they could be told apart."""
    root = recorder.tree()
    children = []
    for step in root.children:
        if step.name == "forward" and "layers" in seen:
            step = replace(step, children=(*step.children, *seen["layers"]))
        if step.name == "backward" and "backward" in seen:
            step = replace(step, children=seen["backward"].costs())
        children.append(step)
    read = StepCost("read", 1, job.read_s, None, {"items": len(job.values)})
    wall = seen["seconds"] + job.read_s + (job.back.seconds if job.back else 0.0)
    done = sum(step.counts.get("items", 0) for step in children if step.name == "forward")
    figures = {"throughput": Figure(done / seen["seconds"], "items/s"), "peak_memory": peak_memory()}
    notes = () if "layers" in seen else ("Layers could not be told apart in this model; forward is one step.",)
    return Session(
        StepCost("train", 1, wall, None, {"items": done}, None, (read, *children)), figures, job.pipe.model.name,
        job.pipe.task.name, loop.pipe.plan.to_dict(), fingerprint(), notes,
        datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


def _save(done: Training, module: Any, job: Job) -> None:
    """The model folder is put in its place in one step; only then do the checkpoints go."""
    from transformers.utils import logging

    s = done.settings
    notes = {name: s[name] for name in ("epochs", "learning_rate", "seed")}
    if "truncate" in job.pipe.plan:
        notes["max_length"] = s["max_length"]
    notes |= {**job.pipe.task.notes, **told_of(getattr(module, "config", None)), **job.notes}
    if "translate" in job.pipe.plan:
        notes["translate"] = dict(job.pipe.plan["translate"])
    if done.evaluation:
        notes["evaluation"] = done.evaluation
    with sibling(done.folder) as folder:
        logging.disable_progress_bar()
        module.save_pretrained(folder)
        job.pipe.task.save_inputs(job.pipe.plan, folder)
        (folder / NOTES).write_text(json.dumps(notes), encoding="utf-8")
        told = {"question": dict(job.question), "training": done.to_dict()}
        (folder / RUN).write_text(json.dumps(told), encoding="utf-8")
        for file in folder.iterdir():
            sync(file)
    remove(run_folder(done.folder))
