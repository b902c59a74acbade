"""Looks at certification examples are remembered for the model and the examples, whatever the folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import llm_moments as lm
from llm_moments.improve import ledger
from llm_moments.improve.certify import Look
from llm_moments.improve.ledger import Ledger, shared
from tests.fakes import make_texts

ROWS = [f"example {n}".encode() for n in range(900)]


def look_at(key: str, passed: bool = True, drop: float = 0.001) -> Look:
    return Look(key, passed, drop, drop + 0.005, 0.9, 0.901, 1, 0, None)


def opened(folder: Path, rows: list[bytes] = ROWS, model: str = "model", max_drop: float = 0.01) -> Ledger:
    return Ledger(model, rows, max_drop=max_drop, metric="accuracy", folder=folder)


FIRST = [look_at("sure"), look_at("bold", passed=False, drop=0.02)]


def test_the_same_looks_again_cost_nothing(tmp_path: Path) -> None:
    for _ in range(3):
        opened(tmp_path).note(FIRST[:1])
        opened(tmp_path).note(FIRST)
        assert len(opened(tmp_path).seen()) == 2
        assert opened(tmp_path).words(FIRST) == ""


@pytest.mark.parametrize(
    ("looks", "others", "failed"),
    [
        ([look_at("sure"), look_at("other")], "once", 1),  # the first look is shared
        ([look_at("other")], "2 times", 1),
        ([look_at("bold", passed=False, drop=0.02)], "2 times", 1),  # the same plan, in another order
        ([look_at("sure", drop=0.002), FIRST[1]], "once", 0),  # another outcome of the same plan
    ],
)
def test_looks_by_other_sequences_are_told(looks: list[Look], others: str, failed: int, tmp_path: Path) -> None:
    opened(tmp_path).note(FIRST)
    words = opened(tmp_path).words(looks)
    assert f"were looked at {others} before" in words
    assert f"({failed} of the looks failed" in words
    opened(tmp_path).note(looks)
    assert len(opened(tmp_path).others(FIRST)) == 1


def test_another_model_or_other_examples_were_not_looked_at(tmp_path: Path) -> None:
    opened(tmp_path).note(FIRST)
    assert opened(tmp_path, model="other").seen() == []
    assert opened(tmp_path, [b"new " + row for row in ROWS]).seen() == []


def test_a_split_of_another_size_or_order_is_known_by_its_rows(tmp_path: Path) -> None:
    opened(tmp_path).note(FIRST)
    other = [look_at("new")]
    assert "These certification examples were looked at 2 times" in opened(tmp_path, ROWS[::-1]).words(other)
    assert "These certification examples were looked at 2 times" in opened(tmp_path, ROWS[:200]).words(other)
    grown = opened(tmp_path, ROWS + [b"new %d" % n for n in range(900)]).words(other)
    assert 40 < int(grown.split("%")[0]) < 60


@pytest.mark.parametrize("sizes", [(5, 5, 3), (300, 400, 100), (2000, 700, 350), (4000, 4000, 4000), (1500, 1500, 0)])
def test_the_sketch_tells_the_share_of_common_rows(sizes: tuple[int, int, int], tmp_path: Path) -> None:
    """Against the sets themselves."""
    one, two, common = sizes
    a = [b"both %d" % n for n in range(common)] + [b"a %d" % n for n in range(one - common)]
    b = [b"both %d" % n for n in range(common)] + [b"b %d" % n for n in range(two - common)]
    first, second = opened(tmp_path, a), opened(tmp_path, b)
    found = shared(first.sketch, first.count, second.sketch, second.count)
    assert found == pytest.approx(len(set(a) & set(b)) / one, abs=0.08)
    assert shared((), 0, second.sketch, second.count) == 0


def test_what_cannot_be_remembered_or_read_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "looks").write_text("in the way")
    book = opened(tmp_path)
    book.note(FIRST)
    assert "not remembered" in capsys.readouterr().err
    assert book.seen() == []
    (tmp_path / "looks").unlink()
    book.note(FIRST)
    damaged, _ = sorted(book.folder.iterdir())
    damaged.write_text('{"kind": "look", "format": 1}')
    (book.folder / ".left").write_text("")
    assert len(book.seen()) == 1
    assert damaged.name in capsys.readouterr().err


def test_it_does_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "KEPT", 5)
    for n in range(9):
        book = opened(tmp_path)
        book.note([look_at(f"plan {n}")])
        for at, file in enumerate(sorted(book.folder.iterdir(), key=lambda f: f.stat().st_mtime_ns)):
            os.utime(file, ns=(at, at))
    assert len(list(book.folder.iterdir())) == 5
    assert {one.sequence[0] for one in book.seen()} >= {"plan 8"}


def test_improve_tells_of_looks_from_another_folder(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOMENTS_CACHE", str(tmp_path / "cache"))
    made = []
    for folder, length in (("one", 12), ("one", 12), ("two", 12), ("three", 10)):
        monkeypatch.setattr(
            "llm_moments.improve.run.strategies.run",
            lambda search, n=length: [search.try_plan(search.stock.plan.with_(**{"truncate.max_length": n}), "cut")],
        )
        made.append(lm.improve(tiny_model, make_texts(200), objective="size", budget="60s", out=tmp_path / folder))
    assert [one.certificate.looks for one in made] == [1, 1, 1, 1]
    assert ["looked at once before" in one.certificate.assumes for one in made] == [False, False, False, True]
