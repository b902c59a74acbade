"""A linear model in front: what is easy needs no network. Trained within a search, offered as the cheap stage of a cascade.

It is other weights for the same task (`forward.weights`) that bring their own features along, so that a cascade's
cheap stage can be a whole other model, and the plan stays plain data. It costs no examples of its own: rows that the
search judges by are answered by weights that have not seen them (crossed.py), and the certification by none of them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.base.atomic import sibling
from llm_moments.base.errors import DataError, InputError
from llm_moments.core import Outputs, Pipeline
from llm_moments.data.independent import input_key
from llm_moments.data.labels import MULTI, SINGLE
from llm_moments.engines import crossed
from llm_moments.evaluate.evaluation import Evaluation
from llm_moments.improve.study import Study, Trial
from llm_moments.models.linear import WEIGHTS, config_of, make_module, save
from llm_moments.models.open import open_model
from llm_moments.models.vectorizer import Vectorizer
from llm_moments.train.convex import fitted, table

NAME, NONE = "linear", "none"  # of the weights, and of what may be put first
FOLDS = 5
MOST_WEIGHTS, FEWEST = 2_000_000, 500  # features times labels: the solver holds 25 of such arrays; and least features
MOST = 20_000  # rows that it learns from: more bring little, and the search waits


def possible(pipe: Pipeline) -> bool:
    """Whether a linear model of words can be put before this one."""
    return (
        pipe.task.classifies
        and pipe.task.modality == "text"
        and pipe.task.layered
        and not pipe.model.is_linear
        and pipe.task.has_margins()
    )  # a regression says nothing of how sure it is


OBJECTIVES = ("throughput", "latency")  # what a cascade can make better


def check(first: Any, pipe: Pipeline, objective: str) -> None:
    """InputError where what was asked for cannot be put before this model, or would not help."""
    if first not in (NAME, NONE):
        raise InputError(f"what can be put first is {NAME} or {NONE}, not {first!r}")
    if first == NAME and not possible(pipe):
        raise InputError(
            f"a linear model of words can be put before a classifier of texts that says how sure it is, not before {pipe.model.name}"
        )

    if first == NAME and objective not in OBJECTIVES:
        raise InputError(f"a model that is asked first makes nothing better in {objective}; leave out --first")


class First:
    """Called, it trains the linear model and makes it known to the pipeline; gives the name of the weights, or
    nothing where it could not be made. folder: where they stay with the study; without one they go with the process.

    parts: the whole splits; those to learn from are all but the one that certifies.
    """

    def __init__(
        self, pipe: Pipeline, study: Study, parts: dict[str, Evaluation], folder: Path | None,
        tick: Callable[[float | None, str], None],
    ):  # fmt: skip
        self.pipe, self.study, self.tick = pipe, study, tick
        self.taught = [part for name, part in parts.items() if name != "certify" and part.labelled]
        self._scratch = None if folder else tempfile.TemporaryDirectory(prefix="llm-moments-")
        self.folder = (folder or Path(self._scratch.name if self._scratch else "")) / "weights" / NAME
        self._known()

    def __call__(self, judged: Evaluation, baseline: Outputs, seconds: float = 60.0) -> str:
        """judged: the rows that the search judges by; baseline: its outputs there, which stand for labels if there are none;
        seconds: what learning may take."""
        begin = time.monotonic()
        try:
            many = 0 if self._known() else self._learnt(judged, baseline, seconds)
        except DataError as error:
            self.study.note("first", f"no linear model was put first: {error}")
            return ""
        if many:
            self.study.note("first", {"seconds": round(time.monotonic() - begin, 1), "examples": many})
        return NAME if self._known() else ""

    def _learnt(self, judged: Evaluation, baseline: Outputs, seconds: float) -> int:
        """With the labels of the model that it is put before, in their order, even those that no example has."""
        self.tick(None, "a linear model, to be asked first")
        model = self.pipe.model
        values, references, folds = self._rows(judged, baseline)
        most = min(MOST_WEIGHTS // len(model.labels), 50_000)
        if most < FEWEST:
            raise DataError(f"{len(model.labels):,} labels are too many for it")
        vectorizer = Vectorizer.fit(values, ngrams=1, most=most)
        targets = _targets(references, len(model.labels), model.problem_type)
        features = vectorizer.rows(values)
        keys = crossed.keys_of(features)
        folds = _together(keys, folds)
        known, several = folds < FOLDS, model.problem_type == MULTI
        rows, weights = table(features, vectorizer.size), []
        for fold in range(FOLDS):
            seen = folds != fold
            weights.append(fitted(rows[seen], targets[seen], several=several, seconds=seconds / FOLDS))
        mean = tuple(np.mean([w[at] for w in weights], axis=0).astype(np.float32) for at in (0, 1))
        config = config_of(vectorizer, model.labels, model.problem_type)
        module = make_module(config, vectorizer, mean)
        with sibling(self.folder, unless="config.json") as made:
            crossed.save(made, keys[known], folds[known], weights)
            save(module, config, vectorizer, made)
        return len(values)

    def _rows(self, judged: Evaluation, baseline: Outputs) -> tuple[list[Any], list[Any], np.ndarray]:
        """Inputs, references and folds; what is not judged is in no fold. Units stay together."""
        values = list(judged.values)
        references = self.pipe.task.as_references(baseline) if not judged.labelled else list(judged.references or ())
        units = _units(judged)
        _, which = np.unique(units, return_inverse=True)
        folds = np.random.default_rng(0).permutation(int(which.max()) + 1)[which] % FOLDS
        known = set(units)
        for part in self.taught if judged.labelled else ():
            more = [at for at, unit in enumerate(_units(part)) if unit not in known][: max(MOST - len(values), 0)]
            values += [part.values[at] for at in more]
            references += [part.references[at] for at in more if part.references is not None]
        return values, references, np.concatenate([folds, np.full(len(values) - len(folds), FOLDS)])

    def _known(self) -> bool:
        if not (self.folder / WEIGHTS).exists():
            return False
        self.pipe.engines.variants[NAME] = replace(open_model(self.folder), crossed=True)
        return True


def alone(trial: Trial) -> bool:
    """Whether it is the linear model on its own: offered before the baseline's model, which answers where it is unsure,
    and never in its place."""
    return "cascade" not in trial.plan and trial.plan.get("forward", {}).get("weights") == NAME


def uses(changes: Mapping[str, Any]) -> bool:
    """Whether a cheap stage of these changes is the linear model, or has it before it."""
    before = changes.get("cascade.cheap")
    return changes.get("forward.weights") == NAME or (isinstance(before, Mapping) and uses(before))


def words(told: Any, max_drop: float) -> str:
    """What a study notes of the linear model, for people."""
    if not isinstance(told, dict) or "score" not in told:
        return told if isinstance(told, str) else ""
    said = (
        f"A linear model of words, which learnt from {told['examples']:,} of these examples, scores {told['score']:.4f} alone "
        f"where the baseline scores {told['baseline']:.4f} (search split; each row answered by weights that have not seen it)."
    )
    if told["score"] < told["baseline"] - max_drop:
        return f"{said} It was tried in front of the model, not in its place."
    return f"{said} Such examples hardly need a network: see moments train linear."


def _units(part: Evaluation) -> list[Any]:
    """What is the same for rows that are not independent."""
    return list(map(input_key, part.values)) if part.units is None else part.units.tolist()


def _together(keys: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Rows of the same features in one fold, that of the first of them: to these weights they are one row."""
    first: dict[int, int] = {}
    return np.array([first.setdefault(key, fold) for key, fold in zip(keys.tolist(), folds.tolist(), strict=True)])


def _targets(references: Sequence[Any], labels: int, problem: str) -> np.ndarray:
    """float64 [rows, labels]: 1 where a row has the label."""
    made = np.zeros((len(references), labels))
    for row, reference in enumerate(references):
        made[row, [int(reference)] if problem == SINGLE else list(reference)] = 1
    return made
