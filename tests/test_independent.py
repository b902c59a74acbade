"""What is near-equal or of one group is found, stays in one split, counts once, and is told."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llm_moments as lm
from llm_moments import stats
from llm_moments.core import Example
from llm_moments.data import readers as data
from llm_moments.data.images import Image
from llm_moments.data.independent import input_key, normalised, units
from llm_moments.evaluate.evaluation import Evaluation, earlier, evaluation, gather, split
from llm_moments.improve.certify import look
from llm_moments.weigh.price import judged
from tests.fakes import label_of, make_texts

TEXT = "The film was long, and the plot was not good"


def same(*inputs: object) -> bool:
    return len({input_key(value) for value in inputs}) == 1


@pytest.mark.parametrize(
    "near",
    [
        f"{TEXT} 17", f"{TEXT} #0042", f"17: {TEXT}", f"{TEXT} (copy 3)".replace("copy ", ""), TEXT.upper(), f"  {TEXT}.\n",
        TEXT.replace(" ", "\u00a0"), TEXT.replace("film", "fi\u200blm"), f"{TEXT} a3f9-77c0", f"2026-11-28T14:00 {TEXT}",
        TEXT.replace("film", "film 5"), f"“{TEXT}”", "".join(chr(ord(c) + 0xFEE0) if "a" <= c <= "z" else c for c in TEXT),
        f"{TEXT} ٤٢", f"{TEXT} 17th",
    ],
)  # fmt: skip
def test_near_equal_texts_are_one(near: str) -> None:
    assert same(TEXT, near)
    assert same((TEXT, "yes"), (near, "yes"))
    assert same({"messages": [{"role": "user", "content": TEXT}]}, {"messages": [{"content": near, "role": "user"}]})
    assert same({"prompt": TEXT, "choices": ["a", "b"]}, {"prompt": near, "choices": ["a", "b"]})
    assert same({"messages": [{"role": "user", "content": [{"type": "text", "text": near}]}]},
                {"messages": [{"role": "user", "content": [{"type": "text", "text": TEXT}]}]})  # fmt: skip


def test_other_texts_are_others() -> None:
    others = [
        TEXT, TEXT.replace("long", "short"), (TEXT, ""), (TEXT, "a"), ("", TEXT), (TEXT + " a", ""), [TEXT], {"prompt": TEXT},
        "12 + 7", "12 + 8", "!!!", "???", "第3章天气很好", "第3章天气不好", "good 😀", "good 😡", "É1", "È1",
    ]  # fmt: skip
    assert len({input_key(other) for other in others}) == len(others)
    assert same("第3章天气很好", "第12章天气很好")
    assert normalised("a" * 1_000_000 + " 1") == "a" * 1_000_000  # and in no time


def test_images_and_sounds_are_their_content(tmp_path: Path) -> None:
    for name, content in (("img_1.png", b"x" * 99), ("img_2.png", b"x" * 99), ("img_3.png", b"y" * 99)):
        (tmp_path / name).write_bytes(content)
    one, two, three = (tmp_path / f"img_{i}.png" for i in (1, 2, 3))
    assert same(Image(path=one), Image(path=two), Image(data=b"x" * 99))
    assert not same(Image(path=one), Image(path=three))
    assert same(str(one), str(two))
    assert not same(str(one), str(three))
    assert not same("none_1.png", "none_2.png")  # files that are not there are not text with a number
    (tmp_path / "a1.wav").write_bytes(b"s")
    (tmp_path / "a2.wav").write_bytes(b"s")
    assert same({"audio": str(tmp_path / "a1.wav")}, {"audio": str(tmp_path / "a2.wav")})
    assert same({"audio": {"bytes": b"s", "path": "1.wav"}}, {"audio": {"bytes": b"s", "path": "2.wav"}})
    assert not same({"audio": {"bytes": b"s", "path": "1.wav"}}, {"audio": {"bytes": b"t", "path": "1.wav"}})
    grey = np.zeros((4, 4), np.uint8)
    assert same(grey, grey.copy())
    assert not same(grey, grey + 1, grey.reshape(2, 8))


def test_groups_hang_together_and_near_equal_rows_tie_them() -> None:
    rows = [
        ("red", "a"),
        ("dog", "a"),
        ("sun", "b"),
        ("SUN 2", "c"),
        ("sea", None),
        ("sea", ""),
        ("sky", "d"),
        ("dog 7", None),
    ]
    found = units([Example(text, None, None, group) for text, group in rows])
    assert found[0] == found[1] == found[7]
    assert found[2] == found[3]
    assert found[4] == found[5]
    assert len(set(found.tolist())) == 4
    numbers = units([Example(t, group=g) for t, g in (("red", 1), ("sun", 1.0), ("sea", "1"))])
    assert numbers[0] == numbers[2]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.one_of(st.none(), st.integers(0, 6))), min_size=1, max_size=25))
def test_units_are_what_hangs_together_by_the_plain_way(rows: list[tuple[int, int | None]]) -> None:
    examples = [Example("abcdefghij"[text], group=group) for text, group in rows]
    kin = [{i} for i in range(len(rows))]
    for i, (text, group) in enumerate(rows):
        for j, (other, theirs) in enumerate(rows[:i]):
            if text == other or (group is not None and group == theirs):
                both = kin[i] | kin[j]
                for k in both:
                    kin[k] = both
    found = units(examples)
    assert [set(np.flatnonzero(found == u)) for u in found] == kin
    assert units(examples[::-1]).tolist() == found[::-1].tolist()


def test_splits_keep_units_together_in_any_order_near_their_shares() -> None:
    texts = sorted(set(make_texts(800, seed=4)))
    examples = [
        Example(f"{t} {i}", group=at // 2 if at < 400 else None) for at, t in enumerate(texts) for i in range(3)
    ]
    fractions = {"a": 0.05, "b": 0.35, "c": 0.6}
    parts = data.split(examples, fractions=fractions)
    mixed = data.split(random.Random(1).sample(examples, len(examples)), fractions=fractions)
    assert {name: {e.input for e in part} for name, part in parts.items()} == {
        name: {e.input for e in part} for name, part in mixed.items()
    }
    seen = [set(units(part).tolist()) for part in parts.values()]
    total = len(set(units(examples).tolist()))
    assert sum(map(len, seen)) == total
    assert [len(s) / total for s in seen] == pytest.approx(list(fractions.values()), abs=0.06)
    groups = [{e.group for e in part} - {None} for part in parts.values()]
    assert not groups[0] & groups[1] | groups[1] & groups[2] | groups[0] & groups[2]


def test_a_column_of_groups_is_neither_text_nor_label(tmp_path: Path) -> None:
    file = tmp_path / "d.csv"
    file.write_text("document,text\n" + "".join(f"d{i // 4},{t}\n" for i, t in enumerate(make_texts(40, seed=2))))
    rows = list(data.read(file, group="document"))
    assert [e.group for e in rows[:5]] == ["d0"] * 4 + ["d1"]
    assert all(e.reference is None for e in rows)  # it repeats as labels do
    only = tmp_path / "o.csv"
    only.write_text("document,words\n" + "".join(f"d{i // 4} of the many,{t}\n" for i, t in enumerate(make_texts(9))))
    assert next(iter(data.read(only, group="document"))).input == make_texts(1)[0]
    with pytest.raises(lm.errors.DataError, match="--group-column.*document"):
        data.read(file, group="documents")
    assert gather([{"text": "a film", "label": "pos", "group": "u1"}])[0][0].group == "u1"


@pytest.fixture(scope="module")
def copied(tiny_model: Path) -> Evaluation:
    """60 texts, each 20 times with a running number."""
    texts = sorted(set(make_texts(90, seed=8, longest=30)))[:60]
    rows = [Example(f"{t} {i}", label_of(t)) for i in range(20) for t in texts]
    return evaluation(lm.load(tiny_model), rows)


def test_copies_count_once_in_every_claim(copied: Evaluation) -> None:
    assert (len(copied), copied.independent) == (1200, len(set(map(normalised, copied.values))))
    n = copied.independent
    assert copied.told.startswith(f"1,200 rows, {n} independent inputs")
    before = np.ones(1200)
    first = copied.units == copied.units[0]
    after = np.where(first, 0.0, 1.0)
    assert copied.drop(before, after) == stats.paired_flip_bound(1, 0, n)
    assert copied.flips(before, after) == (1, 0)
    assert copied.needs(before, before, 0.01) == 299
    found = judged(copied, before, after)
    assert (found["n"], found["harmful"], found["drop_high"]) == (n, 1, stats.paired_flip_bound(1, 0, n).high)


def test_a_look_at_copies_proves_no_more_than_a_look_at_one_of_each(copied: Evaluation) -> None:
    outputs = copied.pipe.outputs(copied.values)
    seen = look(copied, outputs, outputs, "same", 0.01)
    assert not seen.passed
    assert seen.drop_high == stats.paired_flip_bound(0, 0, copied.independent).high
    assert seen.needs == 299


def test_few_rows_are_of_as_many_units_as_there_are(copied: Evaluation) -> None:
    n = copied.independent
    ordered = copied.take(np.argsort(copied.units, kind="stable"))
    assert ordered.take(range(n)).independent < 5
    assert ordered.few(n).independent == n
    assert ordered.few(2 * n).independent == n
    assert len(ordered.few(2 * n)) == 2 * n
    assert earlier(np.array([5, 3, 5, 5, 3])).tolist() == [0, 0, 1, 2, 1]
    own = Evaluation(copied.pipe, list("abc"), None, np.arange(3, dtype=np.uint64))
    assert own.few(2).values == ["a", "b"]


def test_splits_of_evaluations_know_their_units(tiny_model: Path) -> None:
    texts = sorted(set(make_texts(300, seed=6)))
    rows = [Example(f"{t} {i}", label_of(t), group=f"u{at % 50}") for at, t in enumerate(texts) for i in range(2)]
    parts = split(lm.load(tiny_model), rows)
    assert 0 < parts["certify"].independent <= 50
    assert parts["certify"].grouped
    assert "groups" in parts["certify"].told


def test_compare_counts_copies_once(tiny_model: Path) -> None:
    rows = [Example(f"{t} {i}", label_of(t)) for t in make_texts(12, seed=3) for i in range(30)]
    found = lm.compare(tiny_model, tiny_model, rows, max_drop=0.02, rounds=2)
    assert found.independent < 13
    assert found.n == 360
    assert not found.within
    assert found.drop_high == stats.paired_flip_bound(0, 0, found.independent).high
    assert f"{found.independent} independent" in found.counted
