"""Properties of the steps: none of the lossless ones ever changes an answer."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_moments.assembly.load import load
from llm_moments.base.errors import EngineError, PlanError
from llm_moments.core import NULL, Batch, Outputs, Pipeline, Plan
from llm_moments.models.encoder import Encoder
from llm_moments.steps.batch import MakeBatches, unique
from llm_moments.steps.precut import Precut
from llm_moments.steps.tokenize import Tokenize
from llm_moments.steps.truncate import Truncate, longest_first
from tests.fakes import WORDS, byte_level, make_texts, spaces_before, unigram, word_piece

ENCODER = Encoder(word_piece())
texts = st.lists(st.sampled_from([*WORDS, "unseen", "x" * 300, "漢字", "a.b", "  ", "\n", "\u00a0"]), max_size=80).map(
    " ".join
)
anything = st.text(max_size=200)


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> Pipeline:
    return load(tiny_model)


def _rows(inputs: list, length: int, side: str = "head", chars: int = 0, encoder: Encoder = ENCODER) -> list[list[int]]:
    batch = Batch(len(inputs), {"input": inputs})
    for step in (
        Precut({"chars_per_token": chars}, encoder, length, side),
        Tokenize(encoder, length),
        Truncate({"max_length": length, "side": side}, encoder),
    ):
        batch = step(batch, NULL)
    return batch["ids"]


@given(st.lists(st.one_of(texts, anything), min_size=1, max_size=5), st.integers(4, 40))
@settings(max_examples=80, deadline=None)
def test_truncation_is_hugging_face_s(inputs: list[str], length: int) -> None:
    expected = ENCODER.tokenizer(inputs, truncation=True, max_length=length)["input_ids"]
    assert _rows(inputs, length) == expected


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=4), st.integers(6, 40))
@settings(max_examples=80, deadline=None)
def test_truncation_of_pairs_is_hugging_face_s(pairs: list[tuple[str, str]], length: int) -> None:
    firsts, seconds = zip(*pairs, strict=True)
    row = ENCODER.tokenizer(list(firsts), list(seconds), truncation="longest_first", max_length=length)
    assert _rows(pairs, length) == row["input_ids"]


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 50))
def test_longest_first_keeps_what_there_is_room_for(one: int, two: int, room: int) -> None:
    a, b = longest_first(one, two, room)
    if one + two > room:
        assert a + b == room or a + b <= room
        assert a <= max(one, room)


KINDS = {
    "wordpiece": ENCODER,
    "byte-level": Encoder(byte_level()),
    "unigram": Encoder(unigram()),
    "spaces before": Encoder(spaces_before()),
    "across words": Encoder(spaces_before(across=True)),
}
ODD = [
    *"\x0b\x0c\x1c\x1f\x85\u00a0\u2028\u3000\t\r\u200b\u0308\u0300\u00a8\ufdfa",
    "  ", "\r\n", "漢字漢字", "!!!", "é", "e\u0301", "x" * 60, "ﬁ", "\u1100\u1161", "[SEP]", "</s>", "▁", "Ġ", "🎬",
]  # fmt: skip
odd = st.lists(st.one_of(st.sampled_from([*WORDS, *ODD, " ", " "]), st.characters(codec="utf-8")), max_size=90).map(
    "".join
)
spaced = st.lists(st.sampled_from([*WORDS, *ODD]), max_size=60).map(" ".join)


@pytest.mark.parametrize("kind", sorted(KINDS))
@given(
    st.lists(st.one_of(odd, spaced), min_size=1, max_size=3),
    st.integers(4, 24),
    st.sampled_from(["head", "tail", "head+tail"]),
    st.integers(1, 12),
)
@settings(max_examples=120, deadline=None)
def test_precutting_never_changes_the_tokens(kind: str, inputs: list[str], length: int, side: str, chars: int) -> None:
    encoder = KINDS[kind]
    assert _rows(inputs, length, side, chars, encoder) == _rows(inputs, length, side, encoder=encoder)


@pytest.mark.parametrize("mark", [*"\x0b\x0c\x1c\x1d\x1e\x1f\x85", " \x0b", "\x0c ", "\x0b \x0b"])
def test_no_text_is_cut_beside_what_a_normaliser_deletes(mark: str) -> None:
    """Two words of 63 letters make pieces each, joined they are too long and become one unknown token."""
    word = "boringgoodmusicandplot" * 3
    text = f"{word}{mark}{word} " * 20
    for side, chars in itertools.product(("head", "tail"), range(1, 9)):
        assert _rows([text], 16, side, chars) == _rows([text], 16, side)


def test_the_first_word_of_a_tail_is_not_trusted() -> None:
    """A space put before a text changes every token of its first word here, however long that is."""
    from tokenizers import Tokenizer, models, normalizers

    pieces = ["▁", "o", "▁▁", "▁o", "oo", "<s>", "</s>"]
    model = models.BPE({piece: i for i, piece in enumerate(pieces)}, [("▁", "▁"), ("▁", "o"), ("o", "o")])
    encoder = Encoder(spaces_before())
    encoder.backend = Tokenizer(model)
    encoder.backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    assert encoder.splits_at_spaces
    text = "o " * 60 + "o" * 39
    whole, cut = ({"chars_per_token": chars} for chars in (0, 4))
    inputs = Batch(1, {"input": [text]})
    tokens = [Tokenize(encoder, 10)(Precut(c, encoder, 10, "tail")(inputs, NULL), NULL)["first"] for c in (whole, cut)]
    assert tokens[0][0][-8:] == tokens[1][0][-8:]


def test_only_tokenizers_that_split_at_spaces_see_less_of_a_text() -> None:
    assert [name for name, encoder in KINDS.items() if not encoder.splits_at_spaces] == ["across words"]
    step = Precut({"chars_per_token": 8}, KINDS["across words"], 16, "head")
    assert step(Batch(1, {"input": ["good movie " * 99]}), NULL)["shortened"] == {}


def test_texts_and_pairs_in_one_window_are_as_they_are_alone(pipe: Pipeline) -> None:
    inputs = ["good movie", ("good movie", "bad plot"), {"text": "a", "text_pair": "b"}, "bad plot " * 40, ("", "a")]
    for order in (inputs, inputs[::-1]):
        alone = np.concatenate([pipe.outputs([value]) for value in order])
        np.testing.assert_allclose(pipe.outputs(order), alone, atol=1e-5)


def test_rows_are_equal_only_if_their_types_are_too(pipe: Pipeline) -> None:
    """The same tokens in all, the second text begins at another place."""
    inputs = [("good [SEP] bad", "plot"), ("good", "bad [SEP] plot"), ("good", "bad [SEP] plot")]
    reuse = pipe.with_(**{"batch.reuse": True})
    assert len(reuse.arrays(inputs)[0]["input_ids"]) == 2
    outputs = pipe.outputs(inputs)
    assert np.ptp(outputs["logits"], axis=0).max() > 1e-4
    np.testing.assert_allclose(reuse.outputs(inputs), outputs, atol=1e-5)


def test_precutting_a_huge_text_is_done_on_its_head() -> None:
    text = "good movie " * 100_000
    cut = Precut({"chars_per_token": 8}, ENCODER, 16, "head")(Batch(1, {"input": [text]}), NULL)
    assert len(cut["text"][0]) <= 128
    assert _rows([text], 16, chars=8) == _rows([text[:2000]], 16)


@given(
    st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=9), min_size=1, max_size=40),
    st.sampled_from(["input", "length"]),
    st.integers(1, 7),
    st.integers(0, 40),
    st.booleans(),
    st.sampled_from([1, 8]),
)
@settings(max_examples=120, deadline=None)
def test_batches_hold_every_row_once(
    ids: list[list[int]], order: str, size: int, tokens: int, reuse: bool, multiple: int
) -> None:
    knobs = {"order": order, "size": size, "tokens": tokens, "reuse": reuse, "multiple": multiple}
    batch = Batch(len(ids), {"ids": ids, "types": [[0] * len(r) for r in ids]})
    made = MakeBatches(knobs, ENCODER, 16)(batch, NULL)
    rows = [int(r) for part, _ in made["batches"] for r in part]
    assert sorted(rows) == sorted(unique(ids, [[0] * len(r) for r in ids])[0].tolist() if reuse else range(len(ids)))
    for part, arrays in made["batches"]:
        assert len(part) <= size
        assert len(part) == 1 or not tokens or arrays["input_ids"].size <= tokens
        for row, values, mask in zip(part, arrays["input_ids"], arrays["attention_mask"], strict=True):
            assert values[mask == 1].tolist() == ids[row]
    if reuse:
        assert [ids[i] for i in made["same_as"]] == ids


@pytest.mark.parametrize(
    "knobs",
    [
        {"batch.order": "length"},
        {"batch.order": "length", "batch.tokens": 100},
        {"batch.size": 1},
        {"batch.multiple": 8},
        {"batch.reuse": True},
        {"precut.chars_per_token": 2},
        {"forward.threads": 1},
    ],
)
def test_lossless_knobs_change_no_answer(pipe: Pipeline, knobs: dict) -> None:
    inputs = make_texts(50, seed=8) + make_texts(10, seed=8)
    np.testing.assert_allclose(pipe.with_(**knobs).outputs(inputs), pipe.outputs(inputs), atol=2e-5)


def test_windows_change_no_answer_and_keep_the_order(pipe: Pipeline) -> None:
    inputs = make_texts(23, seed=9)
    whole, parts = list(pipe.run(inputs)), list(pipe.run(iter(inputs), window=5))
    assert [a.label for a in whole] == [a.label for a in parts]
    assert [a.score for a in whole] == pytest.approx([a.score for a in parts], abs=1e-5)


def test_cascade_between_its_stages(pipe: Pipeline) -> None:
    inputs = make_texts(40, seed=10)
    cheap = {"truncate.max_length": 6}
    cascade = {"cheap": cheap, "threshold": 0.0}

    def outputs(threshold: float) -> Outputs:
        plan = {**pipe.plan.to_dict(), "cascade": {**cascade, "threshold": threshold}}
        return pipe.with_(type(pipe.plan)(plan)).outputs(inputs)

    np.testing.assert_allclose(outputs(0.0), pipe.with_(**cheap).outputs(inputs), atol=1e-5)
    np.testing.assert_allclose(outputs(1e9), pipe.outputs(inputs), atol=1e-5)
    margins = pipe.task.margins(outputs(0.0))
    middle = float(np.median(margins))
    asked = margins < middle
    assert 0 < asked.sum() < len(inputs)
    np.testing.assert_allclose(outputs(middle)[~asked], outputs(0.0)[~asked], atol=1e-5)
    np.testing.assert_allclose(outputs(middle)[asked], pipe.outputs(inputs)[asked], atol=1e-5)


@pytest.mark.parametrize("strange", ["\x0b", "\x0c", "\x1c", "\x85", "\u200b", "\u3000"])
def test_a_text_is_cut_only_where_every_tokenizer_ends_a_word(strange: str) -> None:
    long = [strange.join(WORDS[:2]) * 30, f"good{strange}" * 40 + " bad " + "movie " * 40]
    for side in ("head", "tail"):
        assert _rows(long, 8, side, chars=6) == _rows(long, 8, side)


def test_texts_and_pairs_go_together(pipe: Pipeline) -> None:
    mixed = ["good movie", ("bad movie", "good plot"), "bad", ("a", "b")]
    together = pipe.outputs(mixed)
    alone = np.concatenate([pipe.outputs([one]) for one in mixed])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_rows_of_the_same_tokens_but_other_types_are_two() -> None:
    batch = Batch(2, {"ids": [[1, 2, 3], [1, 2, 3]], "types": [[0, 0, 1], [0, 1, 1]], "second": [[3], [2, 3]]})
    made = MakeBatches({"reuse": True}, ENCODER, 64)(batch, NULL)
    assert sum(len(rows) for rows, _ in made["batches"]) == 2
    same = batch.with_(types=[[0, 0, 1], [0, 0, 1]])
    assert sum(len(rows) for rows, _ in MakeBatches({"reuse": True}, ENCODER, 64)(same, NULL)["batches"]) == 1


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"threshold": 1.0}, "needs cheap"),
        ({"cheap": {}}, "needs cheap and threshold"),
        ({"threshold": 1.0, "cheap": {"truncate.max_len": 8}}, "max_length"),
        ({"threshold": 1.0, "cheap": {"cascade.threshold": 2.0}}, "needs cheap"),
    ],
)
def test_an_impossible_cascade_is_named(pipe: Pipeline, choices: dict, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        pipe.with_(Plan({**pipe.plan.to_dict(), "cascade": choices}))


@pytest.mark.parametrize(
    ("settings_", "said"),
    [
        ({"engine": "openvino", "bf16_layers": ["layer 0"]}, "openvino in fp32 cannot follow"),
        ({"engine": "openvino", "keep_float": ["layer 0"]}, "only onnxruntime, openvino can in int8"),
        ({"engine": "torch", "bf16_layers": ["layer 99"]}, "no layer"),
        ({"engine": "openvino", "precision": "int8-dynamic", "keep_float": ["layer 99"]}, "99"),
        ({"engine": "onnxruntime", "precision": "int8-dynamic", "keep_float": ["layer 99"]}, "99"),
    ],
)
def test_a_setting_that_does_nothing_is_refused(pipe: Pipeline, settings_: dict, said: str) -> None:
    with pytest.raises(EngineError, match=said):
        pipe.with_(**{f"forward.{name}": value for name, value in settings_.items()}).outputs(["good"])
