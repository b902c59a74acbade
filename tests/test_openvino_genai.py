"""OpenVINO GenAI: its answers are the plain decode loop's, whatever is done to make them faster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llm_moments.base.errors import EngineError
from llm_moments.engines.generator import Decoding, Prompt
from llm_moments.record.recorder import Recorder
from tests.tiny_lm import KINDS, engine, naive, some_prompts, tiny_lm

pytest.importorskip("openvino_genai")
NEW = 16
FOUR = Decoding(max_new_tokens=NEW)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_lm(tmp_path_factory.mktemp("lm") / "llama")


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    repeated = [17, 30, 45, 60, 75, 90] * 6  # something to look up
    return [Prompt(tuple(ids)) for ids in [*some_prompts(4), repeated]]


@pytest.fixture(scope="module")
def expected(llama: Path, prompts: list[Prompt]) -> list[list[int]]:
    return [naive(llama, list(p.ids), NEW) for p in prompts]


def _ids(engine: object, prompts: list[Prompt], decoding: Decoding = FOUR) -> list[list[int]]:
    return [one.ids for one in engine.generate(prompts, decoding)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "llama"])
def test_greedy_is_the_naive_loop(tmp_path: Path, kind: str) -> None:
    folder = tiny_lm(tmp_path / kind, kind)
    asked = some_prompts(2, seed=3)
    made = engine(folder, "openvino-genai", streams=2).generate([Prompt(tuple(ids)) for ids in asked], FOUR)
    assert [one.ids for one in made] == [naive(folder, ids, NEW) for ids in asked]
    assert all((one.finish == "length") == (len(one.ids or ()) == NEW) for one in made)


@pytest.mark.parametrize(
    "settings", [{}, {"streams": 3}, {"streams": 2, "prefix_reuse": True}, {"threads": 1}, {"kv_precision": "fp16"}]
)
def test_settings_that_keep_the_answer(llama: Path, prompts: list[Prompt], expected: list, settings: dict) -> None:
    one = engine(llama, "openvino-genai", **settings)
    assert _ids(one, prompts) == expected
    if settings.get("prefix_reuse"):
        assert _ids(one, prompts) == expected  # now from the cache


def test_what_is_forgotten_is_read_again(llama: Path, prompts: list[Prompt], expected: list) -> None:
    one, plain = (engine(llama, "openvino-genai", prefix_reuse=kept) for kept in (True, False))
    fresh = one.pipeline(lookup=False)
    one.forget()
    assert one.pipeline(lookup=False) is fresh  # nothing was asked: there is nothing to forget
    assert _ids(one, prompts) == expected
    one.forget()
    assert one.pipeline(lookup=False) is not fresh
    made = one.generate(prompts, FOUR)
    assert [m.ids for m in made] == expected
    assert {m.reused for m in made} == {None}  # it does not tell, which is not 0
    assert {m.reused for m in plain.generate(prompts, FOUR)} == {0}


def test_guessing_keeps_the_answer(llama: Path, prompts: list[Prompt], expected: list, tmp_path: Path) -> None:
    guessing = engine(llama, "openvino-genai", streams=2)
    assert _ids(guessing, prompts, Decoding(max_new_tokens=NEW, lookup=3)) == expected
    other = tiny_lm(tmp_path / "draft", seed=5)
    for draft in (llama, other):  # one that is always right, one that is not
        drafted = engine(llama, "openvino-genai", draft=str(draft))
        assert _ids(drafted, prompts) == expected
    with pytest.raises(EngineError, match=r"lookup or forward\.draft"):
        drafted.generate(prompts[:1], Decoding(lookup=3))


def test_the_end_token_ends(tmp_path: Path, llama: Path, prompts: list[Prompt], expected: list) -> None:
    end = expected[0][5]
    folder = tiny_lm(tmp_path / "ends", end=end)
    made = engine(folder, "openvino-genai", streams=4).generate(prompts, FOUR)
    for one, whole in zip(made, expected, strict=True):
        cut = whole.index(end) if end in whole else None
        assert one.ids == whole[:cut]
        assert one.finish == ("length" if cut is None else "stop")


def test_what_is_told_and_recorded(llama: Path, prompts: list[Prompt], expected: list) -> None:
    one = engine(llama, "openvino-genai", streams=2)
    recorder, told = Recorder(), dict.fromkeys(range(len(prompts)), "")

    def tell(at: int, piece: str) -> None:
        told[at] += piece

    made = one.generate(prompts, FOUR, recorder, tell)
    decoded = [one.tokenizer.decode(ids, skip_special_tokens=True) for ids in expected]
    assert list(told.values()) == decoded
    assert all(m.first_s is not None and m.first_s > 0 and m.later_s is not None for m in made)
    costs = {step.name: step for step in recorder.tree().children}
    assert costs["prefill"].counts["tokens"] == sum(len(p.ids) for p in prompts)
    assert costs["decode"].counts["tokens"] == sum(map(len, expected))


def test_stop_strings(llama: Path, prompts: list[Prompt], expected: list) -> None:
    one = engine(llama, "openvino-genai")
    text = one.tokenizer.decode(expected[1], skip_special_tokens=True)
    stop = text[4:7]
    told: list[str] = []
    made = one.generate(
        prompts[1:2], Decoding(max_new_tokens=NEW, stop=(stop,)), on_text=lambda _, piece: told.append(piece)
    )
    assert made[0].finish == "stop"
    assert len(made[0].ids or ()) < NEW
    assert "".join(told) == text[: text.index(stop)]


def test_drawn_answers_come_again_with_their_seed(llama: Path, prompts: list[Prompt]) -> None:
    one = engine(llama, "openvino-genai")
    drawn = [
        _ids(one, prompts[:2], Decoding(max_new_tokens=NEW, temperature=20.0, top_k=50, seed=s)) for s in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_log_probabilities(llama: Path, prompts: list[Prompt]) -> None:
    ids = list(prompts[0].ids) + [7, 8, 9, 10]
    start = len(ids) - 4
    ours, theirs = (engine(llama, name).logprobs(ids, start) for name in ("openvino-genai", "transformers"))
    assert ours.shape == (4, 400)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    with pytest.raises(EngineError, match="second token"):
        engine(llama, "openvino-genai").logprobs(ids, 0)


@pytest.mark.parametrize(("precision", "near"), [("bf16", 0.05), ("int8", 0.05), ("int4", 1.5), ("as-is", 0.05)])
def test_fewer_bits_stay_near(tmp_path: Path, precision: str, near: float) -> None:
    folder = tiny_lm(tmp_path / "soft", sharp=1)
    ids = some_prompts(1, seed=8, longest=40)[0] + [5, 6]
    exact = engine(folder, "transformers").logprobs(ids, 1)
    found = engine(folder, "openvino-genai", precision=precision).logprobs(ids, 1)
    assert (np.exp(exact) * (exact - found)).sum(-1).mean() < near


def test_what_it_cannot_is_refused(llama: Path, prompts: list[Prompt], tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no precision 'fp16'"):
        engine(llama, "openvino-genai", precision="fp16")
    with pytest.raises(EngineError, match="keeps no bf16"):
        engine(llama, "openvino-genai", kv_precision="bf16")
    with pytest.raises(EngineError, match="at least one token"):
        engine(llama, "openvino-genai").generate([Prompt()], FOUR)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_graph_made_from_the_one_in_float_is_the_same(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """Tracing a module takes most of an export: it is done once for all precisions."""
    from llm_moments.engines import genai_graph

    ids, told, traced = some_prompts(1, seed=8, longest=40)[0] + [5, 6], [], []
    own = genai_graph._exported
    monkeypatch.setattr(genai_graph, "_exported", lambda *args: traced.append(1) or own(*args))
    for name, before in (("alone", ()), ("after", ("fp32",))):
        monkeypatch.setenv("MOMENTS_CACHE", str(tmp_path / name))
        for kind in (*before, precision):
            one = engine(llama, "openvino-genai", precision=kind)
        told.append(one.logprobs(ids, 1))
        assert one.generate([Prompt(tuple(ids))], FOUR)[0].ids is not None
    assert len(traced) == 2
    np.testing.assert_array_equal(*told)
