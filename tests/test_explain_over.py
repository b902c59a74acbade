"""Explanations of many rows: each is that of its row alone, what is summed up is counted by hand, and a call goes on."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import llm_moments as lm
from llm_moments.explain import over
from llm_moments.explain.explanation import PartWorth
from llm_moments.explain.over import Over
from llm_moments.explain.overview import row_of, summed_up, where
from tests.cli.command import moments
from tests.fakes import make_texts

TEXTS = make_texts(6)


@pytest.fixture(scope="module")
def pipe(trained_model: Path) -> Any:
    return lm.load(trained_model)


@pytest.fixture(scope="module")
def one_by_one(pipe: Any) -> list[lm.Explanation]:
    return [lm.explain(pipe, text, depth=0) for text in TEXTS]


def test_rows_are_explained_as_each_alone(pipe: Any, one_by_one: list[lm.Explanation]) -> None:
    found = list(Over(pipe, None, depth=0)(TEXTS))
    assert [example.id for example, _ in found] == [1, 2, 3, 4, 5, 6]
    for (_, one), alone in zip(found, one_by_one, strict=True):
        assert one.answer == alone.answer
        assert one.turns == alone.turns
        assert one.session is None
        assert [p.worth for p in one.parts] == pytest.approx([p.worth for p in alone.parts], abs=1e-4)
    summary = summed_up([row_of(one) for _, one in found], model=pipe, data="made", seconds=1.0, notes=())
    assert summary.answers == dict(Counter(one.answer for one in one_by_one).most_common())
    assert summary.holds == sum(one.test.holds for one in one_by_one)
    first = Counter(one.strongest(1)[0].name for one in one_by_one if (one.strongest(1)[0].worth or 0) > 0)
    assert {word.name: word.rows for word in summary.words} == dict(first)
    assert summary.alone == sum(one.turns is not None and len(one.turns) == 1 for one in one_by_one)


def test_where_a_part_stands(one_by_one: list[lm.Explanation]) -> None:
    found = one_by_one[0]
    assert where(found, found.parts[0]) == "tenth 1"
    assert where(found, found.parts[-1]) in ("tenth 9", "tenth 10", "tenth 8")
    boxes = tuple(PartWorth("p", ("image", x, y, x + 10, y + 10), 1.0) for y in (0, 10, 20) for x in (0, 10, 20))
    image = found.__class__(**{**vars(found), "parts": boxes})
    assert [where(image, box) for box in boxes[:5]] == [
        "upper left", "upper centre", "upper right", "middle left", "middle centre",
    ]  # fmt: skip


def test_the_budget_ends_it_and_bad_rows_are_told(pipe: Any, tmp_path: Path) -> None:
    short = Over(pipe, None, depth=0, budget=0.001)
    assert len(list(short(TEXTS))) == 1
    assert short.left


def test_from_the_command_line_with_a_page_and_a_table(trained_model: Path, tmp_path: Path, one_by_one: Any) -> None:
    data, out, page = tmp_path / "d.csv", tmp_path / "why.parquet", tmp_path / "why.html"
    data.write_text("id,text\n" + "".join(f"r{n},{text}\n" for n, text in enumerate(TEXTS)) + "bad,\n")
    words = ("explain", trained_model, "--data", data, "--depth", 0, "--out", out, "--html", page)
    assert "row 7" in moments(*words, code=2).stderr  # the six before it are kept
    told = moments(*words, "--on-error", "skip", "--json")
    assert "going on after 6 finished rows" in told.stderr
    assert "1 empty text" in told.stderr
    summary = json.loads(told.stdout)
    assert (summary["kind"], summary["rows"]) == ("explanations", 6)
    table = pq.read_table(out).to_pylist()
    assert [row["id"] for row in table] == [f"r{n}" for n in range(6)]
    for row, alone in zip(table, one_by_one, strict=True):
        assert row["answer"] == alone.answer
        assert lm.Explanation.load(tmp_path / row["explanation"]).answer == alone.answer
    shown = page.read_text()
    for n in range(1, 7):
        assert f'href="why.rows/{n}.html"' in shown
        assert "What the answer rests on" in (tmp_path / "why.rows" / f"{n}.html").read_text()
    assert "--overwrite" in moments(*words, code=2).stderr
    human = moments("explain", trained_model, "--data", data, "--limit", 2, "--depth", 0).stdout
    assert "2 rows of" in human
    assert "--data FILE" in moments("explain", trained_model, code=2).stderr


def test_it_goes_on_after_an_interruption(
    trained_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    data, out, real, asked = tmp_path / "d.txt", tmp_path / "why.jsonl", over.explain, []
    data.write_text("".join(f"{text}\n" for text in TEXTS[:4]))

    def stops(*args: Any, **more: Any) -> Any:
        asked.append(args)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return real(*args, **more)

    monkeypatch.setattr(over, "explain", stops)
    words = ("explain", trained_model, "--data", data, "--depth", 0, "--out", out)
    moments(*words, code=130)
    assert "going on after 2 finished rows" in moments(*words).stderr
    assert len(asked) == 5  # two, the one that was stopped, and two more
    assert len(out.read_text().splitlines()) == 4
