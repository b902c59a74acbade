"""Training from a stream whose end nobody knows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import llm_moments as lm
from llm_moments.base.errors import DataError, InputError
from llm_moments.core import Example
from llm_moments.train.place import run_folder
from llm_moments.train.trainer import Trainer
from tests.fakes import label_of, make_texts
from tests.fakes_chat import make_chat
from tests.image_fakes import make_arrays

FEW = {"batch_size": 8, "learning_rate": 1e-3, "max_length": 48}


def labelled(count: int, seed: int = 0) -> list[Example]:
    return [Example(text, label_of(text)) for text in make_texts(count, seed=seed)]


class Endless:
    """Examples again and again; how many were taken in the last pass."""

    def __init__(self, examples: list[Example]):
        self.examples, self.taken = examples, 0

    def __iter__(self) -> Iterator[Example]:
        self.taken = 0
        while True:
            for one in self.examples:
                self.taken += 1
                yield one


def written(folder: Path, examples: list[Example], *more: dict[str, object]) -> Path:
    rows = [{"text": e.input, "label": e.reference} for e in examples]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, [*rows, *more])), encoding="utf-8")
    return folder / "rows.jsonl"


def weights(folder: Path) -> str:
    return str(lm.load(folder).model.digest)


def test_a_stream_of_one_window_teaches_what_the_same_rows_in_memory_do(tiny_model: Path, tmp_path: Path) -> None:
    file = written(tmp_path, labelled(64))
    whole = lm.train(tiny_model, file, tmp_path / "whole", epochs=2, updates=14, **FEW)
    stream = lm.train(tiny_model, file, tmp_path / "stream", epochs=2, updates=14, stream=True, **FEW)
    assert weights(stream.folder) == weights(whole.folder)
    assert stream.history == whole.history
    assert stream.history[-1]["update"] == 14


def test_an_endless_stream_is_not_held_and_ends_after_its_updates(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_moments.train.train.LOOKED", 40)
    source = Endless(labelled(60))
    done = lm.train(tiny_model, source, tmp_path / "m", updates=5, stream=True, evaluate=labelled(20, 3), **FEW)
    assert source.taken == 50 * FEW["batch_size"]  # one window
    assert done.evaluation is not None
    assert done.evaluation["n"] == 20
    assert max(entry["update"] for entry in done.history) == 5


def test_a_stream_goes_on_where_it_was_ended(tiny_model: Path, tmp_path: Path) -> None:
    file = written(tmp_path, labelled(40))
    settings = {**FEW, "updates": 9, "epochs": 5, "checkpoint_every": 2, "stream": True}
    whole = lm.train(tiny_model, file, tmp_path / "whole", **settings)

    def end(trainer: Trainer) -> None:
        if trainer.position.updates == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lm.train(tiny_model, file, tmp_path / "parts", on_update=end, **settings)
    assert run_folder(tmp_path / "parts").exists()
    again = lm.train(tiny_model, file, tmp_path / "parts", **settings)
    assert weights(again.folder) == weights(whole.folder)


def test_bad_rows_of_a_stream_are_named_or_left_out(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_moments.train.train.LOOKED", 30)
    file = written(
        tmp_path, labelled(40), {"text": "a film", "label": "nobody knows it"}, {"text": "good", "label": None}
    )
    with pytest.raises(DataError, match=r"row 41.*nobody knows it"):
        lm.train(tiny_model, file, tmp_path / "m", updates=6, stream=True, **FEW)
    from llm_moments.data.readers import read

    data = read(file, on_error="skip")
    done = lm.train(tiny_model, data, tmp_path / "n", updates=5, epochs=1, stream=True, **FEW)
    assert done.history[-1]["loss"] > 0
    assert data.errors == {"unknown label": 2}


def test_texts_are_learnt_from_a_stream(tmp_path: Path) -> None:
    chat = make_chat(tmp_path / "chat")
    rows = [Example("the movie", "good film"), Example("who", "a good dog"), Example("hi", "hi film")] * 8
    settings = {"task": "text-generation", "batch_size": 4, "updates": 8, "epochs": 3}
    whole = lm.train(chat, rows, tmp_path / "whole", **settings)
    stream = lm.train(chat, rows, tmp_path / "stream", stream=True, **settings)
    assert weights(stream.folder) == weights(whole.folder)


def test_images_of_a_stream_are_not_alone_in_a_batch(tmp_path: Path) -> None:
    rows = [Example(array, "ab"[n % 2]) for n, array in enumerate(make_arrays(17))]
    done = lm.train("cnn", rows, tmp_path / "m", stream=True, updates=3, epochs=2, batch_size=8)
    assert done.folder.is_dir()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "no known end"),
        ({"updates": 3, "balance": True}, "balance needs all examples in memory"),
        ({"updates": 3, "class_weights": "balanced"}, "balanced class weights needs all"),
        ({"updates": 3, "unlabelled": ["a film"]}, "pseudo-labels needs all"),
    ],
)
def test_what_needs_all_rows_is_refused_of_a_stream(
    more: dict[str, object], said: str, tiny_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        lm.train(tiny_model, labelled(20), tmp_path / "m", stream=True, **{**FEW, **more})


def test_what_can_be_gone_through_only_once_is_learnt_once(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_moments.train.train.LOOKED", 10)
    rows = labelled(40)
    once = lm.train(tiny_model, iter(rows), tmp_path / "once", stream=True, updates=99, epochs=3, **FEW)
    assert once.history[-1]["update"] <= 5
    assert once.session is not None
    whole = lm.train(tiny_model, rows, tmp_path / "again", stream=True, updates=99, epochs=1, **FEW)
    assert weights(once.folder) == weights(whole.folder)


def test_a_stream_whose_end_has_changed_is_another_and_its_warnings_are_of_what_was_seen(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_moments.train.train.LOOKED", 10)
    file = written(tmp_path, labelled(20))
    settings = {**FEW, "stream": True, "updates": 2}
    done = lm.train(tiny_model, file, tmp_path / "m", **settings)
    assert all(said.startswith("among the first 10 rows: ") for said in done.warnings)
    assert done.warnings
    assert lm.train(tiny_model, file, tmp_path / "m", **settings).history == done.history  # the same once more
    written(tmp_path, labelled(20) + labelled(4, 9))
    with pytest.raises(lm.MomentsError, match="exists already"):
        lm.train(tiny_model, file, tmp_path / "m", **settings)
