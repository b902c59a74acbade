"""From a problem to a trained model folder: the trainer, its recording, its checkpoints."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from llm_moments.base.atomic import held, remove, sibling, sync, write_atomic, writing
from llm_moments.base.environment import fingerprint
from llm_moments.engines.padding import note_side
from llm_moments.evaluate.evaluation import Evaluation
from llm_moments.models.model import NOTES
from llm_moments.models.nets.pruned import told_of
from llm_moments.record.meters import peak_memory
from llm_moments.record.probes import layer_costs
from llm_moments.record.recorder import Recorder
from llm_moments.record.session import Figure, Session, StepCost
from llm_moments.train.back_translation import reworded
from llm_moments.train.feed import Rows
from llm_moments.train.observers import Observer, watch_layers
from llm_moments.train.place import CHECKPOINTS, made_way, plain, run_folder
from llm_moments.train.prepare import placed, prepared
from llm_moments.train.problems.contract import Job, Problem, Tick
from llm_moments.train.trainer import Trainer
from llm_moments.train.training import RUN, Training


def learn(
    problem: Problem, out: Path, *, overwrite: bool = False, progress: Tick | None = None, device: str = "auto",
    observers: Sequence[Observer] = (),
) -> Training:  # fmt: skip
    """The finished model of a problem, whatever of it is there already: all of it, its checkpoints, or nothing."""
    if (finished := made_way(out, problem.question, overwrite)) is not None:
        return finished
    tick = progress or (lambda done, message: None)
    job = problem.job(tick, partial(learn, device=device))
    return fit(job, out, tick, device, observers)


def fit(job: Job, out: Path, tick: Tick, device: str = "auto", observers: Sequence[Observer] = ()) -> Training:
    """Trains from the last checkpoint, if there is one, and puts the model folder in its place."""
    from llm_moments.engines.torch_eager import best_device

    for warning in job.warnings:
        tick(None, f"warning: {warning}")
    changed = prepared(job.module, job.settings)
    run = run_folder(out)
    with writing(run, "Nothing was changed."):
        run.mkdir(parents=True, exist_ok=True)
    with held(run, f"another process is training into {out} at this moment; wait for it or choose another place"):
        return _fitted(job, changed, out, tick, best_device(device), observers)


def _fitted(job: Job, changed: Any, out: Path, tick: Tick, device: str, observers: Sequence[Observer]) -> Training:
    write_atomic(run_folder(out) / RUN, json.dumps({"question": dict(job.question)}))
    if job.pipe.task.classifies and job.pipe.task.modality == "text" and not job.pipe.model.is_linear:
        note_side(job.module, job.pipe.model)
    recorder = Recorder()
    values = job.feed.values if isinstance(job.feed, Rows) else ()
    words = reworded(job.back, job.settings, values, recorder, tick)
    trainer = Trainer(
        changed, job.pipe, job.feed, job.settings, job.loss, recorder=recorder, device=device,
        folder=run_folder(out) / CHECKPOINTS, judged=job.judged[0], reworded=words, observers=observers,
    )  # fmt: skip
    placed(changed, trainer.device)
    if trainer.resume():
        tick(None, f"going on after update {trainer.position.updates}")
    seen = _run(trainer, tick)
    trainer.take_best()
    session = _session(recorder, seen, trainer, job)
    done = Training(
        out, session, trainer.position.history, tuple(job.warnings), _evaluated(trainer, *job.judged),
        plain(asdict(job.settings)), session.root.wall_s, job.expansion,
    )  # fmt: skip
    _save(done, changed.merge_and_unload() if job.settings.lora else changed, job)
    return done


def _run(trainer: Trainer, tick: Tick) -> dict[str, Any]:
    """Trains with probes on the layers; what the probes have seen."""
    with ExitStack() as stack:
        probes = watch_layers(trainer, stack)
        start = time.perf_counter()
        trainer.run(tick)
        seen = {"seconds": time.perf_counter() - start, **probes}
        forward = trainer.recorder.root.children.get("forward")  # type: ignore[attr-defined]
        if probes and forward is not None:
            seen["layers"] = layer_costs(probes["forward"], forward.wall / 1e9, 2)
        return seen


def _evaluated(trainer: Trainer, part: Evaluation | None, name: str) -> dict[str, Any] | None:
    if part is None:
        return None
    outputs = trainer.outputs(part.values)
    scores = part.scores(outputs, outputs)
    return {"data": name, "n": len(part), "metric": part.metric, "score": float(scores.mean())}


def _session(recorder: Recorder, seen: Mapping[str, Any], trainer: Trainer, job: Job) -> Session:
    """The recording of the whole run: layers under forward and backward, where they could be told apart."""
    root = recorder.tree()
    children = []
    for step in root.children:
        if step.name == "forward" and "layers" in seen:
            step = replace(step, children=(*step.children, *seen["layers"]))
        if step.name == "backward" and "backward" in seen:
            step = replace(step, children=seen["backward"].costs())
        children.append(step)
    read = StepCost("read", 1, job.read_s, None, {"items": job.rows})
    wall = seen["seconds"] + job.read_s + (job.back.seconds if job.back else 0.0)
    done = sum(step.counts.get("items", 0) for step in children if step.name == "forward")
    figures = {"throughput": Figure(done / seen["seconds"], "items/s"), "peak_memory": peak_memory()}
    notes = () if "layers" in seen else ("Layers could not be told apart in this model; forward is one step.",)
    return Session(
        StepCost("train", 1, wall, None, {"items": done}, None, (read, *children)), figures, job.pipe.model.name,
        job.pipe.task.name, trainer.pipe.plan.to_dict(), fingerprint(), notes,
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
