"""`improve --train`: the moves, the order of the looks, what is certified and what is not, the file of settings."""

from __future__ import annotations

import time
import tomllib
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llm_moments.base.errors import DataError, InputError, OutputExists
from llm_moments.improve.training import SEEDS, _Run, improve_training, sequence
from llm_moments.improve.training_certificate import TrainingCertificate
from llm_moments.improve.training_space import BASELINE, moves, toml
from llm_moments.tasks.extents import TOKENS
from llm_moments.train.settings import settings_of
from llm_moments.train.short_runs import Run
from tests.fakes import make_model
from tests.test_weigh_training import labelled

NOW = {**asdict(settings_of({**BASELINE, "max_length": 64})), "epochs": 3}


def test_moves_go_from_the_harmless_to_the_bold_and_never_stand_still() -> None:
    groups = list(moves(NOW, [10, 20, 30, 60], bf16=True, embeddings=True))
    first = [group[0].name for group in groups]
    assert first[:3] == ["rows of like length together", "attention as plain matrix products", "bf16"]
    for move in (m for group in groups for m in group):
        changed = settings_of({**NOW, **move.changes})  # each is a plan that can be
        assert asdict(changed) != asdict(settings_of(NOW))
    cuts = [m.changes["max_length"] for g in groups for m in g if "max_length" in m.changes]
    assert cuts == [32] * len(cuts) or all(c < 60 for c in cuts)
    fast = {**NOW, "order": "length", "attention": "math", "precision": "bf16", "epochs": 1}
    assert [g[0].name for g in moves(fast, [10], bf16=True, embeddings=False) if g][0] == "no dropout"


def test_a_plan_is_written_as_train_takes_it() -> None:
    found = tomllib.loads(toml({**NOW, "freeze": ("embeddings",), "precision": 'b"f'}, "two\nlines"))
    assert found["train"]["freeze"] == ["embeddings"]
    assert found["train"]["precision"] == 'b"f'
    assert found["train"]["batch-size"] == 8
    assert "dropout" not in found["train"]


def test_hardly_faster_plans_end_no_sequence() -> None:
    plans = [
        ("a", {"x": 1}, 1.05),
        ("b", {"x": 2}, 1.5),
        ("c", {"x": 3}, 2.0),
        ("d", {"x": 4}, 3.0),
        ("e", {"x": 5}, 4.0),
    ]
    assert [name for name, _ in sequence(plans, 3)] == ["a; b", "a; b; c; d", "a; b; c; d; e"]
    assert sequence(plans[:1], 3) == [("a", {"x": 1})]


class FakeCourse:
    """Runs that take and lose what `world` says of their settings: (seconds, loss)."""

    model, name, device, block_names, examples = Path("m"), "data", "cpu", (), ()

    def __init__(self, world: Any, n: int = 200):
        self.world, self.base = world, settings_of({**BASELINE, "max_length": 64})
        self.described = SimpleNamespace(max_length=64)
        self.task = SimpleNamespace(extent=TOKENS, ladder=TOKENS)
        self.values = list(range(100))
        self.ran: list[tuple[dict[str, Any], int]] = []

    def kept(self, name: str, asked: Any, make: Any, sizes: Any) -> dict[str, Any]:
        return {"rows": 100, "judged": 200}

    def run(self, changes: Any, seed: int, rows: int, part: Any, tick: Any = None) -> Run:
        self.ran.append((dict(changes), seed))
        seconds, loss = self.world({**asdict(self.base), **changes}, seed)
        rng = np.random.default_rng(seed)
        losses = rng.exponential(1.0, len(part)) * loss + rng.normal(0, 0.002)
        ones = (1.0,) * len(part)
        return Run(dict(changes), seed, rows, 10, seconds * (1 + rng.normal(0, 0.02)), 0.1, ones, tuple(losses))


class Part(list[int]):
    metric = "accuracy"

    def take(self, rows: Any) -> Part:
        return Part(self[r] for r in rows)


class FakeRun(_Run):
    def halves(self) -> Any:
        return Part(range(200)), Part(range(200))

    def lengths(self) -> list[int]:
        return [20, 30, 60]

    def timed(self, now: dict[str, Any], trial: dict[str, Any], name: str) -> float | None:
        world = self.course.world  # type: ignore[attr-defined]
        base = asdict(self.course.base)
        return float(world({**base, **now})[0] / world({**base, **trial})[0])


def certified(world: Any, allowed: float = 1e6) -> TrainingCertificate:
    return FakeRun(FakeCourse(world), time.monotonic(), allowed, 0.05, lambda done, said: None).finish()  # type: ignore[arg-type]


def test_what_is_faster_at_the_same_loss_is_certified_and_what_loses_is_left_out() -> None:
    def world(s: Any, seed: int = 0) -> tuple[float, float]:
        seconds = 8.0 * (0.5 if s["order"] == "length" else 1) * (8 / s["batch_size"]) ** 0.5
        return seconds, 0.5 * (1.5 if s["batch_size"] > 16 else 1) * (2.0 if s["max_length"] < 64 else 1)

    found = certified(world)
    assert found.certified
    assert found.best is not None
    assert (found.settings["order"], found.settings["batch_size"], found.settings["max_length"]) == ("length", 16, 64)
    assert 2.6 < found.best.speedup < 3.0
    assert found.best.speedup_low > 2.4
    assert "at most 5% above" in found.words()
    assert TrainingCertificate.from_dict(found.to_dict()) == found or found.to_dict()["words"]
    assert "Certified" in found.report()


def test_a_search_that_was_lucky_is_found_out_by_new_seeds() -> None:
    def world(s: Any, seed: int = 0) -> tuple[float, float]:
        bold = s["batch_size"] > 8
        return (3.0 if bold else 8.0), (0.6 if bold and seed >= 100 else 0.5)

    found = certified(world)
    assert not found.certified
    assert "could rise by" in found.reason
    assert found.settings["batch_size"] == 8
    assert "Not certified" in found.report()


def test_nothing_faster_is_said_plainly_and_a_late_search_stops() -> None:
    assert "no change made" in certified(lambda s, seed=0: (8.0, 0.5)).reason
    late = certified(lambda s, seed=0: (8.0 if s["order"] == "random" else 2.0, 0.5), allowed=20.0)
    assert not late.certified
    assert late.reason


def test_certification_takes_seeds_of_its_own() -> None:
    course = FakeCourse(lambda s, seed=0: (8.0 if s["order"] == "random" else 4.0, 0.5))
    FakeRun(course, time.monotonic(), 1e6, 0.05, lambda done, said: None).finish()  # type: ignore[arg-type]
    assert {seed for _, seed in course.ran} == {0, *range(100, 100 + SEEDS)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "m")


@pytest.mark.slow
def test_a_real_search_leaves_its_files_and_train_takes_the_plan(model: Path, tmp_path: Path) -> None:
    from llm_moments.train.train import train

    out = tmp_path / "faster"
    more = {"max_length": 24, "learning_rate": 3e-3}
    found = improve_training(model, labelled(48), evaluate=labelled(60, 5), out=out, budget="10m", max_rise=0.9, **more)
    assert {p.name for p in out.iterdir()} == {"runs", "train.toml", "certificate.json", "report.html"}
    assert TrainingCertificate.load(out / "certificate.json").words() == found.words()
    assert found.tried
    assert found.rows == 48
    assert found.seconds < 600
    plan = tomllib.loads((out / "train.toml").read_text())["train"]
    done = train(model, labelled(30), tmp_path / "m", **{k.replace("-", "_"): v for k, v in plan.items()})
    assert done.settings["learning_rate"] == plan["learning-rate"]


def test_bad_input_is_named(model: Path, tmp_path: Path) -> None:
    few = labelled(40)
    with pytest.raises(InputError, match="share between 0 and 1"):
        improve_training(model, few, evaluate=few, out=tmp_path / "a", max_rise=5)
    with pytest.raises(InputError, match="too short"):
        improve_training(model, few, evaluate=few, out=tmp_path / "a", budget="1s", max_length=24)
    with pytest.raises(DataError, match="no labels"):
        improve_training(model, few, evaluate=["a film"], out=tmp_path / "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "x").write_text("x")
    with pytest.raises(OutputExists):
        improve_training(model, few, evaluate=few, out=tmp_path / "c")
