"""A pipeline of what is named: a model folder or file, a server, an artefact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_moments.assembly import chain
from llm_moments.assembly.artefact import PLAN, is_artefact, open_artefact, verify
from llm_moments.base.atomic import recover
from llm_moments.base.errors import InputError
from llm_moments.base.notes import slowly
from llm_moments.core import Pipeline, Plan
from llm_moments.engines.base import Engines
from llm_moments.models.open import open_model
from llm_moments.tasks.base import task_for


def load(
    ref: str | Path | Pipeline,
    *,
    task: str | None = None,
    plan: Any = None,
    metric: str | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
) -> Pipeline:
    """A pipeline from a local folder, a hub id, a .gguf file, an OpenAI-compatible server's address
    (`http://127.0.0.1:8080/v1#model-name`), or an artefact (which brings its plan along).

    task: one of `tasks.base.TASKS`, where the model could be for several. metric: what answers are judged by,
    where the task knows several (exact match, token F1, chrF). plan: a Plan, or changes such as `{"truncate.max_length": 64}`, on top of the stock plan.
    """
    if isinstance(ref, Pipeline):
        if task or metric:  # the same model and plan, judged in another way
            chosen = task_for(ref.model, task or ref.task.name, metric)
            seen = chosen.model.config != ref.model.config  # in another way, which the engines must know
            engines = Engines(chosen.model, device=ref.engines.device) if seen else ref.engines
            ref = Pipeline(chosen, Plan(chosen.stock()) if seen else ref.plan, engines=engines)
        return ref if plan is None else ref.with_(**plan)
    if (file := chain.file_of(ref)) is not None:
        if task or metric:
            raise InputError("a chain's stages have tasks and metrics of their own: name them in its file")
        whole = chain.open_chain(file, load, str(ref), device=device, trust_remote_code=trust_remote_code)
        return whole.with_(plan) if isinstance(plan, Plan) else whole.with_(**(plan or {}))
    recover(Path(ref))
    with slowly(f"loading {ref}"):
        return _alone(ref, task, plan, metric, device, trust_remote_code)


def _alone(
    ref: str | Path, task: str | None, plan: Any, metric: str | None, device: str, trust_remote_code: bool
) -> Pipeline:
    """The pipeline of one model, or of an artefact."""
    if is_artefact(ref) and (Path(ref) / "model" / chain.FILE).is_file():
        verify(Path(ref))
        return load_chain_artefact(Path(ref), plan, device, trust_remote_code)
    if is_artefact(ref):
        model, stored = open_artefact(Path(ref), trust_remote_code=trust_remote_code)
    else:
        model, stored = open_model(ref, trust_remote_code=trust_remote_code), None
    chosen = task_for(model, task or model.notes.get("task"), metric)
    base = stored or Plan(chosen.stock())
    wanted = plan if isinstance(plan, Plan) else base.with_(**(plan or {}))
    engines = Engines(chosen.model, device=device, keep=chosen.engines_open)  # which a task may see in its own way
    return Pipeline(chosen, wanted, engines=engines)


def load_chain_artefact(path: Path, plan: Any, device: str, trust_remote_code: bool) -> Pipeline:
    """A chain that was saved as one artefact: its plan is the artefact's."""
    file = path / "model" / chain.FILE
    whole = chain.open_chain(file, load, str(path), inside=True, device=device, trust_remote_code=trust_remote_code)
    stored = Plan.from_toml((path / PLAN).read_text(encoding="utf-8"))
    return whole.with_(plan if isinstance(plan, Plan) else stored.with_(**(plan or {})))
