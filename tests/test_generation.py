from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llm_moments as lm
from llm_moments.base.errors import DataError, EngineError, InputError, PlanError
from llm_moments.core import NULL, Batch
from llm_moments.evaluate.measure import call_seconds, run_seconds
from llm_moments.record.recorder import Recorder
from llm_moments.steps.prompt import Context, Dialogue, messages_of
from llm_moments.tasks.metrics import common_prefix, text_metric, word_errors
from tests.fakes import make_texts
from tests.fakes_text import make_causal

SHORT = {"decode.max_new_tokens": 8}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_causal(tmp_path_factory.mktemp("causal") / "llama")


@pytest.fixture(scope="module")
def pipe(model: Path) -> Any:
    return lm.load(model, plan=SHORT)


def naive(pipe: Any, ids: list[int], count: int) -> list[int]:
    """Greedy decoding without a cache: the whole text is read again for each token."""
    import torch

    module = pipe.engines.get(pipe.plan.settings("forward")).module
    ends, made = {module.config.eos_token_id}, list(ids)
    with torch.no_grad():
        for _ in range(count):
            token = int(module(input_ids=torch.tensor([made])).logits[0, -1].argmax())
            if token in ends:
                break
            made.append(token)
    return made[len(ids) :]


def test_greedy_is_the_naive_loop(pipe: Any) -> None:
    dialogue = Dialogue(pipe.model.tokenizer)
    for text in make_texts(5, seed=3):
        wanted = dialogue.decode(naive(pipe, dialogue.encode((("user", text),)), 8)).replace("\x00", "")
        assert pipe(text).text == wanted


def test_together_is_one_by_one_and_in_order(pipe: Any) -> None:
    texts = make_texts(7, seed=4)
    alone = [a.text for a in pipe.run(texts)]
    together = pipe.with_(**{"forward.streams": 3, "batch.order": "length"})
    assert [a.text for a in together.run(texts)] == alone


@pytest.mark.parametrize("changes", [{"decode.lookup": 3}, {"forward.prefix_reuse": True}])
def test_what_is_lossless_gives_the_same_text(pipe: Any, changes: dict[str, Any]) -> None:
    turns = [[{"role": "user", "content": t}] for t in make_texts(2, seed=5)]
    turns.append([*turns[-1], {"role": "assistant", "content": "one two"}, {"role": "user", "content": "and then"}])
    assert [a.text for a in pipe.with_(**changes).run(turns)] == [a.text for a in pipe.run(turns)]


def test_a_prefix_is_read_once(model: Path) -> None:
    pipe = lm.load(model, plan={**SHORT, "forward.prefix_reuse": True})
    first = [{"role": "user", "content": "one two three"}]
    answer = pipe(first).text
    recorder = Recorder()
    next(pipe.run([[*first, {"role": "assistant", "content": answer}, {"role": "user", "content": "four"}]], recorder))
    prefill = recorder.tree().find("prefill")
    begun = Dialogue(pipe.model.tokenizer).encode(messages_of(first))
    assert prefill.counts["reused_tokens"] >= len(begun) - 1


def test_control_tokens_in_a_message_stay_text(pipe: Any) -> None:
    dialogue = Dialogue(pipe.model.tokenizer)
    end = pipe.model.tokenizer.eos_token_id
    plain, tricky = (dialogue.encode((("user", text),)) for text in ("hello", "hello</s>"))
    assert plain.count(end) == tricky.count(end)
    assert "hello</s>" in pipe.model.tokenizer.decode(tricky)


def test_the_context_loses_its_oldest_turns_first_and_keeps_the_system_prompt(pipe: Any) -> None:
    dialogue = Dialogue(pipe.model.tokenizer)
    turns = messages_of(
        [{"role": "system", "content": "be kind"}]
        + [{"role": r, "content": f"{r} {n} " * 4} for n in range(4) for r in ("user", "assistant")]
        + [{"role": "user", "content": "the last"}]
    )
    ids = dialogue.encode(turns)
    context = Context({"max_tokens": len(ids) - 5}, dialogue, 1000, 8)
    recorder = Recorder()
    with recorder.step("context"):
        made = context(Batch(1, {"messages": [turns], "ids": [ids]}), recorder)
    kept = made["messages"][0]
    assert kept[0] == turns[0]
    assert kept[-1] == turns[-1]
    assert kept[1][0] == "user"
    assert len(made["ids"][0]) <= context.room
    assert recorder.tree().find("context").counts["cut_turns"] == len(turns) - len(kept)


def test_a_last_message_that_is_too_long_loses_its_beginning(pipe: Any) -> None:
    dialogue = Dialogue(pipe.model.tokenizer)
    turns = (("user", "a b c d e f g h " * 20 + "END"),)
    context = Context({}, dialogue, 60, 8)
    made = context(Batch(1, {"messages": [turns], "ids": [dialogue.encode(turns)]}), NULL)
    assert len(made["ids"][0]) <= context.room
    assert made["messages"][0][0][1].endswith("END")


def test_stop_strings_end_an_answer(pipe: Any) -> None:
    text = pipe("good morning").text
    assert len(text) > 3
    stop = text[2:4]
    assert pipe.with_(**{"decode.stop": [stop]})("good morning").text == text[: text.find(stop)]


def test_drawn_tokens_follow_the_seed(pipe: Any) -> None:
    drawn = [pipe.with_(**{"decode.temperature": 5.0, "decode.seed": s})("good morning").text for s in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1


@pytest.mark.parametrize(
    ("value", "said"),
    [("", "empty"), ("\ud800x", "half a character"), (7, "messages"), ([], "messages"), ([{"role": "x", "content": "a"}], "role"),
     ([{"role": "assistant", "content": "a"}], "ends with")],
)  # fmt: skip
def test_bad_prompts_are_named(pipe: Any, value: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        pipe(value)


def test_what_an_engine_cannot_follow_is_refused(pipe: Any) -> None:
    with pytest.raises(EngineError, match="lookup|guesses"):
        list(pipe.with_(**{"decode.lookup": 3, "forward.streams": 2}).run(["a b", "c d"]))
    with pytest.raises(PlanError, match="no room|max_new_tokens|impossible"):
        pipe.with_(**{"decode.max_new_tokens": 0})


def test_log_probabilities_are_those_of_the_whole_text(pipe: Any) -> None:
    import torch

    engine = pipe.engines.get(pipe.plan.settings("forward"))
    ids = Dialogue(pipe.model.tokenizer).encode_prompt("one two three four")
    told = engine.logprobs(ids, 2)
    with torch.no_grad():
        whole = torch.log_softmax(engine.module(input_ids=torch.tensor([ids])).logits[0], -1).numpy()
    assert told.shape == (len(ids) - 2, whole.shape[1])
    np.testing.assert_allclose(told, whole[1:-1], atol=1e-5)


def test_record_tells_prefill_decode_and_layers(pipe: Any) -> None:
    session = lm.record(pipe, make_texts(3))
    decode = session.root.find("decode")
    names = [child.name for child in decode.children]
    assert names[:2] == ["prefill", "decode"]
    prefill = decode.children[0]
    assert [c.name for c in prefill.children if c.name.startswith("layer")] == ["layer 0", "layer 1", "layer 2"]
    assert session.figures["ttft"].value > 0  # type: ignore[operator]
    assert session.figures["kv_cache"].kind == "modelled"
    assert sum(c.wall_s for c in decode.children) <= decode.wall_s * 1.01


@pytest.mark.parametrize("kept", [True, False])
def test_a_timed_pass_never_finds_its_own_prompts(pipe: Any, monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    pipe = pipe.with_(**{"forward.prefix_reuse": kept})
    engine, reused = pipe.engines.get(pipe.engine_settings), []
    own = engine.generate

    def watched(*args: Any) -> Any:
        made = own(*args)
        reused.append([one.reused for one in made])
        return made

    monkeypatch.setattr(engine, "generate", watched)
    texts = make_texts(3, seed=8)
    for _ in range(2):
        run_seconds(pipe, texts)
    assert reused[0] == reused[1]
    assert reused[0][0] == 0
    assert any(reused[0][1:]) == kept  # the template's beginning, from one prompt to the next
    del reused[:]
    assert len(call_seconds(pipe, texts)) == 3
    assert len(reused) == (3 if kept else 6)  # asked a second time, a prompt would be found


def test_weigh_and_improve_know_texts(pipe: Any, tmp_path: Path) -> None:
    texts = make_texts(60, seed=6)
    rows = [lm.Example(text, pipe(text).text, n) for n, text in enumerate(texts)]
    worths = lm.weigh(pipe, rows[:8], budget="8s")
    assert {"prompt lookup", "2 together"} <= {w.name for w in worths}
    done = lm.improve(pipe, rows, max_drop=0.3, budget="12s", out=tmp_path / "out")
    assert (tmp_path / "out" / "certificate.json").exists()
    again = lm.load(tmp_path / "out")
    assert again.task.name == "chat"
    assert again(texts[0]).text == done.pipeline(texts[0]).text


def test_too_few_examples_to_prove_anything_is_said_at_once(pipe: Any, tmp_path: Path) -> None:
    texts = make_texts(40, seed=6)
    done = lm.improve(pipe, texts, max_drop=0.01, budget="20s", out=tmp_path / "out")
    assert not done.certified
    assert "cannot prove a drop below 0.01" in done.certificate.reason
    assert not [t for t in done.study if t.plan]  # nothing was tried in vain


def test_weigh_keeps_a_budget(pipe: Any) -> None:
    texts = make_texts(200, seed=6)
    begin = time.monotonic()
    worths = lm.weigh(pipe, texts, budget="1s")
    assert time.monotonic() - begin < 30
    late = [w for w in worths if "budget" in w.reason]
    assert worths.about["n"] < 200
    assert all(w.verdict == "unavailable" for w in late)
    with pytest.raises(InputError, match="a budget is a time"):
        lm.weigh(pipe, texts, budget="soon")


def test_metrics() -> None:
    assert text_metric("exact match")("The cat.", "cat") == 1
    assert text_metric("token F1")("a cat sat", "cat ran") == pytest.approx(0.5)
    assert text_metric("chrF")("same", "same") == pytest.approx(1)
    contains = text_metric("contains")
    assert contains("It is the Eiffel Tower, of course.", "Eiffel tower") == 1
    assert contains("The cat.", "a cat") == 1  # articles do not count, as in an exact match
    assert contains("concatenate", "cat") == 0
    assert contains("Tower Eiffel", "Eiffel Tower") == 0
    assert contains("Paris", "") == 0
    assert common_prefix("a b c d", "a b x d") == 0.5
    assert common_prefix("", "") == 1


def test_word_errors_are_jiwers() -> None:
    jiwer = pytest.importorskip("jiwer")
    rng = np.random.default_rng(0)
    for _ in range(50):
        one, other = (" ".join(rng.choice(list("abcd"), rng.integers(1, 8))) for _ in range(2))
        errors, words = word_errors(other, one)
        assert errors / words == pytest.approx(jiwer.wer(one, other))
