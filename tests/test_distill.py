"""Students of a teacher's layers, over architectures; shares of layers; where none can be made, the reason."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from llm_moments.assembly.load import load
from llm_moments.base.errors import EngineError, InputError
from llm_moments.data.readers import read
from llm_moments.evaluate.evaluation import split
from llm_moments.improve.heal import STUDENTS, Healer, name_of
from llm_moments.improve.search import Search
from llm_moments.improve.strategies import ladder as stages
from llm_moments.improve.strategies.ladder import HEALS
from llm_moments.improve.study import Study
from llm_moments.train.distill import distill
from llm_moments.train.problems import imitation
from llm_moments.train.students import kept
from llm_moments.train.students.spec import share_of as layers_of
from llm_moments.train.students.stages import chosen_layers
from tests.fakes import make_model, make_texts


@pytest.mark.parametrize("arch", ["distilbert", "roberta", "deberta-v2", "modernbert", "electra", "mpnet"])
def test_a_student_of_two_layers_can_be_made_of_many_architectures(arch: str, tmp_path: Path) -> None:
    teacher = make_model(tmp_path / "t", arch)
    done = distill(teacher, make_texts(24), tmp_path / "s", student="layers=2", epochs=1, max_length=16)
    small = load(done.folder)
    assert small.outputs(["a good film"])["logits"].shape == load(teacher).outputs(["a good film"])["logits"].shape
    from llm_moments.engines.torch_eager import load_module
    from llm_moments.models.blocks import layer_count

    assert layer_count(load_module(small.model)) == 2


def test_layers_that_are_shared_are_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="shares its layers"):
        distill(make_model(tmp_path / "t", "albert"), make_texts(8), tmp_path / "s", student="layers=2", epochs=1)
    assert not (tmp_path / "s").exists()


def test_a_share_of_the_layers_is_at_least_one() -> None:
    assert [layers_of(total, "third") for total in (1, 2, 3, 6, 12)] == [1, 1, 1, 2, 4]
    assert [layers_of(total, "half") for total in (1, 2, 3, 6, 12)] == [1, 1, 1, 3, 6]
    assert [layers_of(6, word) for word in ("one", "4")] == [1, 4]
    assert tuple(HEALS) == tuple(STUDENTS)[: len(HEALS)]
    assert name_of("third") == "healed-third"


def test_layers_are_chosen_at_the_student_s_own_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def watched(base: object, *rest: object) -> list[int]:
        seen.append(base.plan["truncate"]["max_length"])  # type: ignore[attr-defined]
        return chosen_layers(base, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(kept, "chosen_layers", watched)
    teacher = make_model(tmp_path / "t")
    done = distill(teacher, make_texts(16), tmp_path / "s", student="layers=third", epochs=1, max_length=16)
    assert seen == [16]
    assert load(done.folder).model.config["num_hidden_layers"] == 1
    with pytest.raises(InputError, match="layers=third"):
        distill(teacher, make_texts(16), tmp_path / "w", student="layers=quarter")


def test_the_stage_teaches_one_layer_and_tries_it_at_its_lengths(
    trained_model: Path, toy_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = load(trained_model)
    study = Study(None, {})
    search = Search(
        pipe, split(pipe, list(read(toy_csv)))["search"], study, max_drop=0.2, n_certify=400, objective="throughput",
        deadline=time.monotonic() + 1000, tick=lambda done, said: None,
    )  # fmt: skip
    study.note("stock_cost", {"stock": 1e-3, "sorted": 1e-3})
    search.answer_as_stock()
    stages.heal(search)  # without a healer nothing is done
    assert "layers" not in study.notes
    monkeypatch.setattr(stages, "variants", lambda search, *_: [("torch", "fp32")])
    monkeypatch.setattr(imitation, "MOST_EPOCHS", 1)
    search.try_plan(search.plan_of("torch", "fp32", 64), "lossy")
    search.heal = Healer(pipe, study, make_texts(60), tmp_path, search.tick)
    stages.heal(search)
    healed = [t for t in study.trials.values() if t.stage == "healed"]
    assert {t.plan["forward"]["weights"] for t in healed} == {"healed-one"}  # a third and half of 3 layers are one, too
    assert study.notes["heal"]["students"]["one"] > 0
    again = Healer(pipe, Study(None, {}), [], tmp_path, search.tick)
    assert again._known("one")
