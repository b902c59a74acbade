"""Back-translation: what it makes of texts, that it is done once and can be repeated, and where it must not be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llm_moments.assembly.load import load
from llm_moments.base.errors import InputError
from llm_moments.core import Batch, Example, Outputs, Pipeline, Plan
from llm_moments.core.outputs import texts as outputs_of
from llm_moments.train import back_translation
from llm_moments.train.augment import Augment
from llm_moments.train.back_translation import BackTranslation
from llm_moments.train.place import run_folder
from llm_moments.train.train import train
from llm_moments.train.trainer import Trainer
from llm_moments.weigh.training import weigh_training
from tests import fakes_seq
from tests.fakes import label_of, make_model, make_texts

QUICK: dict[str, Any] = {"max_length": 16, "batch_size": 8, "learning_rate": 1e-3, "precision": "fp32", "epochs": 2}
TEXTS = [source for source, _ in fakes_seq.toy_pairs(12, seed=3)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("marian")
    return str(fakes_seq.make_marian(folder / "there")), str(fakes_seq.make_marian(folder / "back", seed=1))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "m")


class Fake:
    """A translator that changes words by a function; a word is a token, and 6 are the most."""

    def __init__(self, change: Callable[[str], str]):
        self.change, self.asked = change, []
        languages = SimpleNamespace(encode=lambda texts, source: [text.split() for text in texts])
        self.model = SimpleNamespace(digest="fake", max_length=6, _languages=languages)
        self.plan, self.engines = Plan({}), SimpleNamespace(close=lambda: None)

    def outputs(self, texts: list[str], recorder: Any) -> Outputs:
        self.asked += texts
        return outputs_of([self.change(text) for text in texts])


def faked(monkeypatch: pytest.MonkeyPatch, there: Callable[[str], str], back: Callable[[str], str], **more: Any) -> Any:
    pipes = {"there": Fake(there), "back": Fake(back)}
    monkeypatch.setattr(back_translation, "_translator", lambda folder, pair: pipes[folder])
    return BackTranslation("there", "back", **more)


def test_what_comes_back_and_what_is_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def back(text: str) -> str:
        return text.lower().replace("car", "auto") if "lost" not in text.lower() else ""

    made = faked(monkeypatch, str.upper, back)
    texts = ["a red car. It is new!", "A  tree", "lost here. a car", "one two three four five six seven", "", "car"]
    assert made.of([*texts, ("car", "A  tree"), "car"]) == {
        "a red car. It is new!": "a red auto. it is new!",
        "car": "auto",
    }
    assert made.counts(dict.fromkeys(texts)) == {"reworded": 2, "same": 1, "empty": 2, "too_long": 1}
    assert made.why["A  tree"] == "same"  # but for case and spaces
    asked = made.pipes[0].asked
    assert len(asked) == len(set(asked))  # the same sentence is not asked for twice in a chunk
    made.of(texts)
    assert made.pipes[0].asked == asked


def test_it_is_both_models_one_after_the_other(models: tuple[str, str]) -> None:
    there, back = (load(folder) for folder in models)
    made = BackTranslation(*models)
    found = made.of(TEXTS)
    for text in TEXTS:
        middle = str(there.outputs([text])["text"][0])
        expected = str(back.outputs([middle])["text"][0]).strip() if middle.strip() else ""
        assert found.get(text, "") == expected or made.why[text] in ("same", "too_long")
    assert sum(made.counts(TEXTS).values()) == len(set(TEXTS))
    assert BackTranslation(*models).of(TEXTS) == found


def test_what_was_translated_before_an_interruption_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(back_translation, "CHUNK", 3)
    whole = faked(monkeypatch, str.upper, lambda t: f"{t} again")
    expected = whole.of(TEXTS)
    first = faked(monkeypatch, str.upper, lambda t: f"{t} again", folder=tmp_path)
    outputs = first.pipes[1].outputs

    def killed(texts: list[str], recorder: Any) -> Any:
        if len(first.known) >= 6:
            raise KeyboardInterrupt
        return outputs(texts, recorder)

    monkeypatch.setattr(first.pipes[1], "outputs", killed)
    with pytest.raises(KeyboardInterrupt):
        first.of(TEXTS)
    second = faked(monkeypatch, str.upper, lambda t: f"{t} again", folder=tmp_path)
    assert len(second.known) == 6
    assert second.of(TEXTS) == expected
    assert not set(second.pipes[0].asked) & set(list(second.known)[:6])


def test_each_time_a_row_comes_the_dice_are_thrown_anew(classifier: Path) -> None:
    task, words = load(classifier).task, {text: f"{text} again" for text in TEXTS}
    augment = Augment({"back-translation": 0.5}, task, 0, reworded=words)
    batch = Batch(len(TEXTS), {"input": TEXTS})
    seen = [augment(batch, epoch, 0)["input"] for epoch in (0, 1, 0)]
    assert seen[0] == seen[2] != seen[1]
    share = np.mean([text in words for made in [augment(batch, e, 0)["input"] for e in range(80)] for text in made])
    assert 0.42 < share < 0.58
    assert augment.worded((TEXTS[0], "unknown"), 0, 0) in ((TEXTS[0], "unknown"), (words[TEXTS[0]], "unknown"))
    alone = Augment({"swap": 0.5}, task, 0)(batch, 0, 0)["input"]
    with_it = Augment({"swap": 0.5, "back-translation": 1e-9}, task, 0, reworded=words)(batch, 0, 0)["input"]
    assert alone == with_it  # other changes are drawn as they were


def test_a_training_is_repeatable_and_only_its_own_texts_change(
    classifier: Path, models: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.numpy import load_file

    data = [Example(t, label_of(t)) for t in make_texts(24, longest=8)]
    judged = [Example(t, label_of(t)) for t in make_texts(20, seed=9, longest=8)]
    asked: list[Any] = []
    outputs = Trainer.outputs
    monkeypatch.setattr(Trainer, "outputs", lambda self, values: (asked.extend(values), outputs(self, values))[1])
    settings = {
        **QUICK, "augment": {"back-translation": 0.7}, "translate_there": models[0], "translate_back": models[1],
        "checkpoint_every": 2,
    }  # fmt: skip
    whole = train(classifier, data, tmp_path / "whole", evaluate=judged, **settings)
    assert set(asked) == {e.input for e in judged}
    step = whole.session.root.find("augment")  # type: ignore[union-attr]
    counts = step.find("back-translation").counts
    assert counts["items"] == len({e.input for e in data})
    assert counts["reworded"] > 0
    assert sum(counts[n] for n in ("reworded", "same", "empty", "too_long")) == counts["items"]
    assert whole.session.root.wall_s >= step.find("back-translation").wall_s  # type: ignore[union-attr]

    class Ended(Exception):
        pass

    def end(loop: Trainer) -> None:
        if loop.position.updates == 3:
            raise Ended

    with pytest.raises(Ended):
        train(classifier, data, tmp_path / "parts", evaluate=judged, on_update=end, **settings)
    assert list(run_folder(tmp_path / "parts").glob("back-translation/*/*.json"))
    monkeypatch.setattr(BackTranslation, "_chunk", lambda *_: pytest.fail("it was translated again"))
    parts = train(classifier, data, tmp_path / "parts", evaluate=judged, **settings)
    one, two = (load_file(t.folder / "model.safetensors") for t in (whole, parts))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not run_folder(tmp_path / "parts").exists()


def test_weighing_prices_it_where_there_are_models(classifier: Path, models: tuple[str, str]) -> None:
    data = [Example(t, label_of(t)) for t in make_texts(60, longest=8)]
    judged = [Example(t, label_of(t)) for t in make_texts(30, seed=9, longest=8)]
    settings = {**QUICK, "epochs": 1, "translate_there": models[0], "translate_back": models[1]}
    found = weigh_training(classifier, data, evaluate=judged, budget="20m", seeds=2, **settings)
    priced = {w.name: w for w in found.worths}["augment back-translation"]
    assert priced.drop is not None
    assert priced.step == "augment"


def test_what_does_not_go_together_is_said(classifier: Path, models: tuple[str, str], tmp_path: Path) -> None:
    data = [Example(t, label_of(t)) for t in make_texts(8, longest=8)]
    there, back = models
    wanted = {"augment": {"back-translation": 0.5}}
    for more, said in (
        ({**wanted}, "takes two models"),
        ({**wanted, "translate_there": there}, "takes two models"),
        ({"translate_languages": "en,de"}, "takes two models"),
        ({"translate_there": there, "translate_back": back}, "say nothing without --augment"),
        ({**wanted, "translate_there": there, "translate_back": str(classifier)}, "no translating model"),
        ({**wanted, "translate_there": there, "translate_back": "/no/such"}, "no such folder"),
        ({**wanted, "translate_there": there, "translate_back": back, "translate_languages": "en"}, "two codes"),
        ({**wanted, "translate_there": there, "translate_back": back, "translate_languages": "en,de"}, "one pair of"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            train(classifier, data, tmp_path / "out", **{**QUICK, **more})
    assert not (tmp_path / "out").exists()


def test_a_model_of_many_languages_is_told_which(tmp_path: Path) -> None:
    folder = str(fakes_seq.make_m2m100(tmp_path / "m2m"))
    with pytest.raises(InputError, match="translate-languages"):
        BackTranslation(folder, folder)
    made = BackTranslation(folder, folder, "en,de")
    assert [p.plan["translate"] for p in made.pipes] == [
        {"source_lang": "en", "target_lang": "de"}, {"source_lang": "de", "target_lang": "en"}
    ]  # fmt: skip
    assert len(made.of(TEXTS[:3])) + sum(map(bool, made.why.values())) == 3
    assert isinstance(made.pipes[0], Pipeline)
