"""llama.cpp: the decode loop over its C level gives the plain loop's answers, however they are made faster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llm_moments.base.errors import EngineError, MomentsError
from llm_moments.engines.generator import Decoding, Prompt
from llm_moments.record.recorder import Recorder
from tests.tiny_lm import engine, naive, same_but_for_ties, some_prompts, tiny_gguf, tiny_lm

pytest.importorskip("llama_cpp")
NEW = 16
PLAIN = Decoding(max_new_tokens=NEW)
LOOP = [17, 30, 45, 60, 75, 90] * 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_lm(tmp_path_factory.mktemp("lm") / "llama")


@pytest.fixture(scope="module")
def file(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(folder, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    shared = some_prompts(1, seed=9, longest=60)[0]
    return [Prompt(tuple(ids)) for ids in [*some_prompts(4), LOOP, [*shared, 8, 9], [*shared, 10]]]


@pytest.fixture(scope="module")
def expected(folder: Path, prompts: list[Prompt]) -> list[list[int]]:
    return [naive(folder, list(p.ids), NEW) for p in prompts]


def llama(file: Path, **settings: object):
    return engine(file, "llama.cpp", precision="as-is", **settings)


def _holds(folder: Path, prompts: list[Prompt], made: list, expected: list[list[int]]) -> None:
    for prompt, one, right in zip(prompts, made, expected, strict=True):
        assert same_but_for_ties(folder, prompt.ids, one.ids, right)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"streams": 3},
        {"threads": 1},
        {"streams": 2, "prefix_reuse": True},
        {"kv_precision": "fp32"},
        {"kv_precision": "bf16"},
    ],
)
def test_greedy_is_the_naive_loop(folder: Path, file: Path, prompts: list, expected: list, settings: dict) -> None:
    one = llama(file, **settings)
    made = one.generate(prompts, PLAIN)
    _holds(folder, prompts, made, expected)
    assert all(m.finish == ("length" if len(m.ids) == NEW else "stop") for m in made)
    assert (sum(m.reused for m in made) > 0) == bool(settings.get("prefix_reuse"))  # the last two begin alike
    if settings.get("prefix_reuse"):
        again = one.generate(prompts[-2:], PLAIN)
        _holds(folder, prompts[-2:], again, expected[-2:])
        assert [m.reused for m in again] == [len(p.ids) - 1 for p in prompts[-2:]]


def test_turns_read_only_what_is_new(folder: Path, file: Path) -> None:
    one, ids = llama(file, prefix_reuse=True), some_prompts(1, seed=4, longest=60)[0]
    for _ in range(3):
        made = one.generate([Prompt(tuple(ids))], PLAIN)[0]
        assert same_but_for_ties(folder, ids, made.ids or [], naive(folder, ids, NEW))
        before = len(ids) + len(made.ids or ()) - 1
        ids = [*ids, *(made.ids or ()), 20, 21, 22]
    assert made.reused == before - NEW - 3


@pytest.mark.parametrize("streams", [1, 2])
def test_what_is_forgotten_is_read_again(folder: Path, file: Path, prompts: list, expected: list, streams: int) -> None:
    one = llama(file, prefix_reuse=True, streams=streams)
    first = [m.reused for m in one.generate(prompts, PLAIN)]
    kept = [m.reused for m in one.generate(prompts[-1:], PLAIN)]
    assert kept == [len(prompts[-1].ids) - 1]
    one.forget()
    made = one.generate(prompts, PLAIN)
    assert [m.reused for m in made] == first
    _holds(folder, prompts, made, expected)


def test_what_is_kept_moves_into_a_larger_context(folder: Path, file: Path) -> None:
    one, ids = llama(file, prefix_reuse=True, streams=2), some_prompts(1, seed=4, longest=60)[0]
    one.generate([Prompt(tuple(ids))], PLAIN)
    room, longer = one.sequences.context.room, [*ids, *some_prompts(1, seed=5, longest=40)[0]]
    made = one.generate([Prompt(tuple(longer))], Decoding(max_new_tokens=room))[0]
    assert one.sequences.context.room > room
    assert made.reused >= len(ids)
    assert same_but_for_ties(folder, longer, made.ids[:NEW], naive(folder, longer, NEW))


@pytest.mark.parametrize("streams", [1, 3])
def test_guessing_keeps_the_answer(
    folder: Path, file: Path, prompts: list, expected: list, streams: int, tmp_path: Path
) -> None:
    recorder = Recorder()
    made = llama(file, streams=streams).generate(prompts, Decoding(max_new_tokens=NEW, lookup=4), recorder)
    _holds(folder, prompts, made, expected)
    assert recorder.tree().counts["guessed_tokens"] > 0
    other = tiny_gguf(tiny_lm(tmp_path / "other", seed=5), tmp_path / "other.gguf")
    for draft, all_right in ((file, True), (other, False)):
        recorder = Recorder()
        made = llama(file, streams=streams, draft=str(draft)).generate(prompts, PLAIN, recorder)
        _holds(folder, prompts, made, expected)
        counts = recorder.tree().counts
        assert (counts["guessed_right"] > 0.8 * counts["guessed_tokens"]) == all_right


def test_drawn_answers(folder: Path, file: Path, prompts: list) -> None:
    def drawn(seed: int, **more: object) -> list:
        decoding = Decoding(max_new_tokens=NEW, temperature=2.0, top_k=50, top_p=0.9, seed=seed, **more)
        return [m.ids for m in llama(file).generate(prompts[:2], decoding)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert drawn(1, lookup=3) == drawn(1)  # guesses do not change what is drawn


def test_penalty_is_that_of_transformers(folder: Path, file: Path, prompts: list) -> None:
    decoding = Decoding(max_new_tokens=8, repetition_penalty=1.5)
    ours, theirs = (e.generate([prompts[4]], decoding)[0].ids for e in (llama(file), engine(folder, "transformers")))
    assert ours == theirs


def test_what_is_told_and_recorded(file: Path, prompts: list) -> None:
    one, recorder = llama(file, streams=2), Recorder()
    told = dict.fromkeys(range(len(prompts)), "")

    def tell(at: int, piece: str) -> None:
        told[at] += piece

    made = one.generate(prompts, PLAIN, recorder, tell)
    assert list(told.values()) == [one.tokenizer.decode(m.ids, skip_special_tokens=True) for m in made]
    costs = {step.name: step for step in recorder.tree().children}
    assert costs["prefill"].counts["tokens"] == sum(len(p.ids) for p in prompts)
    assert costs["decode"].counts["tokens"] == sum(len(m.ids) for m in made)
    assert all(m.first_s > 0 and m.later_s > 0 for m in made)
    text = told[1]
    stopped = one.generate(prompts[1:2], Decoding(max_new_tokens=NEW, stop=(text[3:6],)))[0]
    assert stopped.finish == "stop"
    assert len(stopped.ids) < NEW


def test_log_probabilities(folder: Path, file: Path) -> None:
    ids = some_prompts(1, seed=2, longest=60)[0] + [7, 8, 9, 10]
    for start in (1, len(ids) - 4):
        ours, theirs = (
            llama(file, kv_precision="fp32").logprobs(ids, start),
            engine(folder, "transformers").logprobs(ids, start),
        )
        assert ours.shape == theirs.shape
        assert (np.exp(theirs) * (theirs - ours)).sum(-1).max() < 1e-3


def test_bad_input(folder: Path, file: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"reads \.gguf files"):
        llama(folder)
    with pytest.raises(EngineError, match=r"takes a \.gguf file"):
        llama(file, draft=str(folder))
    with pytest.raises(EngineError, match="at least one token"):
        llama(file).generate([Prompt()], PLAIN)
    strange = tmp_path / "strange.gguf"
    strange.write_bytes(
        file.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lambs").replace(b"llama.", b"lambs.")
    )
    with pytest.raises(MomentsError, match="lambs"):
        llama(strange)
