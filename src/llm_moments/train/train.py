"""`train`: the arm of the loop that changes the model, on the same steps that later run it."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llm_moments.atomic import recover, sibling, sync, write_atomic
from llm_moments.core import Pipeline, Plan
from llm_moments.engines.base import Engines
from llm_moments.environment import fingerprint
from llm_moments.errors import DataError, InputError, ModelError, OutputExists
from llm_moments.evaluation import Evaluation, evaluation, gather
from llm_moments.model import NOTES, Model, checked_config
from llm_moments.record.meters import peak_memory
from llm_moments.record.probes import layer_costs
from llm_moments.record.recorder import Recorder
from llm_moments.record.session import Figure, Session, StepCost
from llm_moments.tasks.text_classification import TextClassification
from llm_moments.train.loop import Loop, Settings
from llm_moments.train.losses import Loss, balanced, loss_for
from llm_moments.train.weather import warnings

Tick = Callable[[float | None, str], None]
RUN = "training.json"  # what is being trained, and in a finished model what came of it
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Training:
    """A trained model folder, how it went, and what its steps cost.

    history: one entry every ten updates (update, epoch, loss, learning_rate, norm) and one after each epoch
    that was judged (update, epoch, score). warnings: what a reader of the score must know.
    """

    folder: Path
    session: Session | None
    history: list[dict[str, float]] = field(default_factory=list)
    warnings: tuple[str, ...] = ()
    evaluation: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": "training", "format": 1, "out": str(self.folder), "settings": dict(self.settings),
            "seconds": round(self.seconds, 1), "warnings": list(self.warnings), "evaluation": self.evaluation,
            "history": self.history, "session": self.session.to_dict() if self.session else None,
        }  # fmt: skip

    @classmethod
    def load(cls, folder: str | Path) -> Training:
        """What `train` left in a model folder; DataError if that is nothing."""
        try:
            found = json.loads((Path(folder) / RUN).read_text(encoding="utf-8"))
            told = found["training"]
            session = Session.from_dict(told["session"]) if told["session"] else None
            return cls(
                Path(folder), session, told["history"], tuple(told["warnings"]), told["evaluation"], told["settings"],
                told["seconds"],
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder} holds no finished training: {error!r:.200}") from error

    def report(self) -> str:
        from llm_moments.render.html import report

        return report(session=self.session, training=self, title=f"llm-moments: training {self.folder.name}")

    def _repr_html_(self) -> str:
        from llm_moments.render.notebook import training_html

        return training_html(self)


def train(
    model: str | Path,
    data: Any,
    out: str | Path,
    *,
    evaluate: Any = None,
    overwrite: bool = False,
    progress: Tick | None = None,
    device: str = "auto",
    on_update: Callable[[Loop], None] | None = None,
    read: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Training:
    """Fine-tunes a text classifier, with or without a head, on examples with references.

    model: a folder in the Hugging Face layout. settings: the fields of `Settings`. The problem goes with the
    references: names or whole numbers are single labels, lists are several, other numbers a regression; the
    loss goes with the problem unless it is named. The same call with the same out goes on after an
    interruption, bit for bit as if there had been none (on a CPU), and gives the finished model as it is.
    """
    try:
        wanted = Settings(**settings)
    except TypeError as error:
        raise InputError(str(error).replace("Settings.__init__() ", "train ")) from error
    start = time.perf_counter()
    examples, name = gather(data, **(read or {}))
    read_s = time.perf_counter() - start
    judged = gather(evaluate, **(read or {})) if evaluate is not None else ([], "")
    if wanted.early_stopping and not judged[0]:
        raise InputError("early stopping needs examples to judge by: --eval")
    out = Path(out)
    references = [e.reference for e in examples]
    labels, problem = labels_of(references, name)
    module, described = with_head(Path(model), labels, problem, wanted.seed)
    question = _question(described, examples, judged[0], wanted)
    recover(out)
    if (finished := _made_way(out, question, overwrite)) is not None:
        return finished

    task = TextClassification()
    length = min(wanted.max_length, described.max_length)
    pipe = Pipeline(task, described, Plan({"truncate": {"max_length": length}}), engines=Engines(described))
    known = task.references(references, described)
    loss = _loss(wanted, problem, known, described)
    part = evaluation(pipe, judged[0]) if judged[0] else None
    if part is not None and not part.labelled:
        raise DataError(f"{judged[1]}: most rows have no label, so that nothing can be judged by them")
    values = [task.normalise(e.input) for e in examples]
    said = warnings(
        values, known, described.labels, part.values if part else [], problem, part.references or () if part else ()
    )
    recorder = Recorder()
    changed = _prepared(module, wanted)
    loop = Loop(
        changed, pipe, values, _targets(known, described), wanted, loss, recorder=recorder, device=_device(device),
        folder=run_folder(out) / CHECKPOINTS, judged=part,
    )  # fmt: skip
    changed.to(loop.device)
    tick = progress or (lambda done, message: None)
    for warning in said:
        tick(None, f"warning: {warning}")
    if loop.resume():
        tick(None, f"going on after update {loop.position.updates}")
    run = partial_run(loop, tick, on_update)
    loop.take_best()
    final = _evaluated(loop, part, judged[1])
    session = _session(recorder, run, loop, described, read_s, len(values))
    done = Training(
        out, session, loop.position.history, tuple(said), final, _plain(asdict(wanted)), session.root.wall_s
    )
    _save(done, _whole(changed, wanted), described, question)
    return done


def partial_run(loop: Loop, tick: Tick, on_update: Callable[[Loop], None] | None) -> dict[str, Any]:
    """Runs the loop with probes on its layers; what the probes have seen."""
    with ExitStack() as stack:
        probes = loop.watched(stack)

        def told(done: float | None, message: str) -> None:
            tick(done, message)
            if on_update is not None:
                on_update(loop)

        start = time.perf_counter()
        loop.run(told)
        seen = {"seconds": time.perf_counter() - start, **probes}
        forward = loop.recorder.root.children.get("forward")  # type: ignore[attr-defined]
        if probes and forward is not None:
            seen["layers"] = layer_costs(probes["forward"], forward.wall / 1e9, 2)
        return seen


# ------------------------------------------------------------------------------------------- what is learnt


def labels_of(references: Sequence[Any], name: str) -> tuple[list[str], str]:
    """Label names and Hugging Face's problem type; DataError if there is nothing to learn."""
    missing = [row for row, ref in enumerate(references, 1) if ref is None or ref == ""]
    if missing:
        raise DataError(f"{name}, row {missing[0]}: no label ({len(missing)} of {len(references)} rows have none)")
    lists = [isinstance(ref, list | tuple) for ref in references]
    if any(lists):
        if not all(lists):
            row = lists.index(False) + 1
            raise DataError(
                f"{name}, row {row}: one label ({references[row - 1]!r}) where other rows have lists of them"
            )
        several = {str(label) for ref in references for label in ref}
        return sorted(several), "multi_label_classification"
    if all(_fraction(ref) for ref in references) and not all(float(ref).is_integer() for ref in references):
        return ["LABEL_0"], "regression"
    labels = sorted({_name(ref) for ref in references}, key=lambda x: (not x.lstrip("-").isdigit(), x.zfill(9)))
    if len(labels) < 2:
        raise DataError(f"{name} has one class only ({labels[0]!r}); a classifier needs at least two")
    if len(labels) > 10_000:
        raise DataError(f"{name} has {len(labels):,} different labels; is the label column the right one?")
    return labels, "single_label_classification"


def _name(label: Any) -> str:
    """1.0 is how pandas reads a column of 1 that has gaps: the label is 1."""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label).strip()


def _fraction(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def with_head(path: Path, labels: list[str], problem: str, seed: int) -> tuple[Any, Model]:
    """The module in float32 with a head for these labels; a head that knows them all is kept as it is."""
    import torch
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    config = checked_config(path, False)
    old = Model(path, config)
    if old.problem_type == problem and set(labels) <= set(old.labels) and problem != "regression":
        labels = old.labels
    torch.manual_seed(seed)
    names = dict(enumerate(labels))
    before = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # a fresh head is what is wanted here, not a fault to report
    try:
        module = AutoModelForSequenceClassification.from_pretrained(
            path, num_labels=len(labels), id2label=names, label2id={v: k for k, v in names.items()},
            problem_type=problem, dtype="float32", use_safetensors=True, local_files_only=True,
            ignore_mismatched_sizes=True,
        )  # fmt: skip
    except Exception as error:
        raise ModelError(f"{path} cannot be fine-tuned as a classifier: {error}") from error
    finally:
        logging.set_verbosity(before)
    described = {**config, "id2label": {str(k): v for k, v in names.items()}, "problem_type": problem}
    return module, Model(path, described, known_digest=old.digest)


def _loss(wanted: Settings, problem: str, references: Sequence[Any], model: Model) -> Loss:
    weights = None
    if wanted.class_weights == "balanced":
        if problem != "single_label_classification":
            raise InputError("balanced class weights are for single labels")
        weights = balanced(references, len(model.labels))
    return loss_for(problem, wanted.loss, label_smoothing=wanted.label_smoothing, class_weights=weights)


def _targets(references: Sequence[Any], model: Model) -> Any:
    import torch

    if model.problem_type == "multi_label_classification":
        rows = torch.zeros(len(references), len(model.labels))
        for row, chosen in enumerate(references):
            rows[row, list(chosen)] = 1.0
        return rows
    kind = torch.float32 if model.problem_type == "regression" else torch.int64
    return torch.tensor(references, dtype=kind)


def _device(wanted: str) -> str:
    from llm_moments.engines.torch_eager import best_device

    return best_device(wanted)


def _prepared(module: Any, wanted: Settings) -> Any:
    """The module with some blocks frozen, adapters put in or activations recomputed, as the settings say."""
    if wanted.freeze:
        from llm_moments.engines.layers import blocks

        known = {block.name: block for block in blocks(module)}
        if missing := [name for name in wanted.freeze if name not in known]:
            raise InputError(f"no block {missing} to freeze in this model; it has {', '.join(known)}")
        for name in wanted.freeze:
            for part in (known[name].module, *known[name].also):
                part.requires_grad_(False)
        if not any(p.requires_grad for p in module.parameters()):
            raise InputError("every block is frozen; there is nothing left to train")
    if wanted.gradient_checkpointing:
        try:
            module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        except ValueError as error:
            raise InputError(f"this model cannot recompute its activations: {error}") from error
    if wanted.lora:
        return _adapted(module, wanted.lora)
    return module


def _adapted(module: Any, rank: int) -> Any:
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError as error:
        from llm_moments.errors import EngineMissing

        raise EngineMissing("peft", "train") from error
    config = LoraConfig(task_type=TaskType.SEQ_CLS, r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    return get_peft_model(module, config)


def _whole(module: Any, wanted: Settings) -> Any:
    """The module as it is saved: adapters are added to the weights that they change."""
    return module.merge_and_unload() if wanted.lora else module


# ------------------------------------------------------------------------------------------- what is left behind


def _question(model: Model, examples: Sequence[Any], judged: Sequence[Any], wanted: Settings) -> dict[str, Any]:
    digest = hashlib.sha256()
    for part in (examples, judged):
        for example in part:
            said = json.dumps([example.input, example.reference], default=str)
            digest.update(said.encode("utf-8", "surrogatepass"))
        digest.update(b"|")
    return {"model": model.digest, "data": digest.hexdigest()[:32], "settings": _plain(asdict(wanted))}


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _made_way(out: Path, question: dict[str, Any], overwrite: bool) -> Training | None:
    """This very training, if it is finished; else its folder is begun, or found half done. OutputExists if
    the place is taken by anything else. What is at `out` stays until the new model takes its place."""
    run = run_folder(out)
    if overwrite:
        if out.exists() and not ((out / RUN).exists() or (out / "config.json").exists()):
            raise OutputExists(out, "it is no model folder, so that --overwrite leaves it alone")
        shutil.rmtree(run, ignore_errors=True)
    elif out.exists():
        if _asked(out) != question:
            raise OutputExists(out)
        shutil.rmtree(run, ignore_errors=True)
        return Training.load(out)
    if run.exists() and _asked(run) != question:
        raise OutputExists(run, "it is a half-done training of another model, other data or other settings")
    write_atomic(run / RUN, json.dumps({"question": question}))
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


def _session(
    recorder: Recorder, seen: Mapping[str, Any], loop: Loop, model: Model, read_s: float, rows: int
) -> Session:
    """The recording of the whole run: layers under forward and backward, where they could be told apart."""
    root = recorder.tree()
    children = []
    for step in root.children:
        if step.name == "forward" and "layers" in seen:
            step = replace(step, children=(*step.children, *seen["layers"]))
        if step.name == "backward" and "backward" in seen:
            step = replace(step, children=seen["backward"].costs())
        children.append(step)
    read = StepCost("read", 1, read_s, None, {"items": rows})
    wall = seen["seconds"] + read_s
    done = sum(step.counts.get("items", 0) for step in children if step.name == "forward")
    figures = {"throughput": Figure(done / seen["seconds"], "items/s"), "peak_memory": peak_memory()}
    notes = () if "layers" in seen else ("Layers could not be told apart in this model; forward is one step.",)
    return Session(
        StepCost("train", 1, wall, None, {"items": done}, None, (read, *children)), figures, model.name,
        "text-classification", loop.pipe.plan.to_dict(), fingerprint(), notes,
        datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


def _save(done: Training, module: Any, model: Model, question: dict[str, Any]) -> None:
    """The model folder is put in its place in one step; only then do the checkpoints go."""
    s = done.settings
    notes = {name: s[name] for name in ("max_length", "epochs", "learning_rate", "seed")}
    if done.evaluation:
        notes["evaluation"] = done.evaluation
    with sibling(done.folder) as folder:
        module.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
        (folder / NOTES).write_text(json.dumps(notes), encoding="utf-8")
        told = {"question": question, "training": done.to_dict()}
        (folder / RUN).write_text(json.dumps(told), encoding="utf-8")
        for file in folder.iterdir():
            sync(file)
    shutil.rmtree(run_folder(done.folder), ignore_errors=True)
