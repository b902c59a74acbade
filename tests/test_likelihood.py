"""Likelihood of references and of choices, and distributions along texts, against the sums written out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llm_moments as lm
from llm_moments.base.errors import DataError, EngineError, InputError, PlanError
from llm_moments.core import Example, Pipeline
from llm_moments.evaluate import evaluation
from llm_moments.evaluate.token_divergence import divergence_along, divergence_of
from llm_moments.steps.prompt import Dialogue
from llm_moments.tasks.likelihood import per_token
from tests.cli.command import moments
from tests.fakes_chat import make_chat

PROMPTS = ["the movie was", "a very boring", "plot and music", "the actor is not"]
TEXTS = [" good", " film", " great but long", " bad"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("likelihood")
    return make_chat(root / "a"), make_chat(root / "b", seed=1)


def opened(folder: Path, metric: str | None = "likelihood", task: str = "text-generation", **plan: Any) -> Pipeline:
    return lm.load(folder, task=task, metric=metric, plan=plan or None)


def by_hand(folder: Path, start: str, text: str) -> np.ndarray:
    """float64 [tokens]: log-probabilities of the tokens of the text after the start, by torch alone."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    first, told = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (start, text))
    ids = torch.tensor([first + told])
    with torch.inference_mode():
        logits = model(ids).logits[0].log_softmax(-1)
    rows = torch.arange(len(first), ids.shape[1])
    return np.asarray(logits[rows - 1, ids[0, rows]].numpy(), np.float64)


def test_the_score_is_the_mean_log_probability_of_the_references_tokens(folders: tuple[Path, Path]) -> None:
    pipe = opened(folders[0])
    part = evaluation.evaluation(pipe, [Example(p, t, n) for n, (p, t) in enumerate(zip(PROMPTS, TEXTS, strict=True))])
    outputs = pipe.outputs(part.values)
    expected = [by_hand(folders[0], p, t).mean() for p, t in zip(PROMPTS, TEXTS, strict=True)]
    assert part.metric == "likelihood"
    np.testing.assert_allclose(part.scores(outputs, outputs), expected, rtol=1e-5)


def test_a_reference_of_a_dialogue_is_the_assistants_answer(folders: tuple[Path, Path]) -> None:
    pipe = opened(folders[0], task="chat")
    part = evaluation.evaluation(pipe, [Example({"messages": [{"role": "user", "content": "the movie"}]}, "good film")])
    start = Dialogue(pipe.model.tokenizer).render((("user", "the movie"),))
    found = part.scores(pipe.outputs(part.values), pipe.outputs(part.values))
    np.testing.assert_allclose(found, [by_hand(folders[0], start, "good film").mean()], rtol=1e-5)


def test_prompt_and_text_are_joined_by_a_space_where_there_is_none(folders: tuple[Path, Path]) -> None:
    pipe = opened(folders[0])
    spaced, bare, after = (
        pipe.outputs([pipe.task.prepared(Example(p, t)).input])
        for p, t in [("the movie", " good"), ("the movie", "good"), ("the movie ", "good")]
    )
    assert spaced["logprob"].values.tolist() == bare["logprob"].values.tolist()
    assert np.isfinite(after["logprob"].values).all()


def test_the_likeliest_choice_is_the_answer_and_the_answer_may_be_a_number_or_a_text(
    folders: tuple[Path, Path],
) -> None:
    choices = ["good", "a very long and boring plot", "bad"]
    sums = [by_hand(folders[0], "the movie was", f" {c}") for c in choices]
    best, fairest = int(np.argmax([s.sum() for s in sums])), int(np.argmax([s.mean() for s in sums]))
    row = {"prompt": "the movie was", "choices": choices}
    for metric, right in (("accuracy", best), ("normalised accuracy", fairest)):
        pipe = opened(folders[0], metric)
        rows = [Example(row, a, n) for n, a in enumerate([right, choices[right], str(right), (right + 1) % 3])]
        part = evaluation.evaluation(pipe, rows)
        outputs = pipe.outputs(part.values)
        assert part.scores(outputs, outputs).tolist() == [1, 1, 1, 0]
        np.testing.assert_allclose(per_token(outputs)[0], [s.mean() for s in sums], rtol=1e-5)
    answer = lm.load(folders[0], task="multiple-choice")(row)
    assert answer.label == str(best)
    np.testing.assert_allclose(list(answer.scores.values()), [s.sum() for s in sums], rtol=1e-5)
    assert 1 / 3 < answer.score < 1


def test_rows_with_more_and_fewer_choices_go_together(folders: tuple[Path, Path]) -> None:
    pipe = opened(folders[0], "accuracy")
    rows = [{"prompt": "the", "choices": ["film", "plot", "actor"]}, {"prompt": "the", "choices": ["bad", "good"]}]
    both = pipe.outputs(rows)
    alone = pipe.outputs(rows[1:])
    assert both["logprob"].row(1).tolist() == alone["logprob"].row(0).tolist()
    assert both["tokens"].lengths.tolist() == [3, 2]
    assert len(pipe.task.answers(both)[1].scores) == 2
    assert pipe.task.divergence(both, both).tolist() == [0, 0]
    assert pipe.task.close(both, both, 0).all()


@pytest.mark.parametrize(
    ("example", "said"),
    [
        (Example({"prompt": "a", "choices": ["x"]}, 0, 7), "2 to"),
        (Example({"prompt": "a", "choices": ["x", "y"]}, 2, 7), "row 7: the answer 2 is none of its 2"),
        (Example({"prompt": "a", "choices": ["x", "y"]}, "z", 7), "'z' is none"),
        (Example({"prompt": "a", "choices": ["x", 5]}, 0, 7), "a choice is a text, not 5"),
        (Example({"prompt": "a", "choices": "x, y"}, 0, 7), "list of texts, not 'x, y'"),
        (Example("a", 0, 7), "needs rows with `choices`"),
    ],
)
def test_bad_rows_are_named(folders: tuple[Path, Path], example: Example, said: str) -> None:
    with pytest.raises(DataError, match=said):
        evaluation.evaluation(opened(folders[0], "accuracy"), [example])


def test_likelihood_needs_references_and_an_engine_that_tells(folders: tuple[Path, Path]) -> None:
    with pytest.raises(DataError, match="needs a reference"):
        evaluation.evaluation(opened(folders[0]), [Example("a")])
    with pytest.raises(DataError, match="none"):
        opened(folders[0])("a")
    with pytest.raises(PlanError, match="server"):
        lm.load("http://127.0.0.1:9/v1#x", metric="likelihood").outputs([{"given": "a", "texts": ["b"]}])


def test_a_text_longer_than_the_context_is_cut(folders: tuple[Path, Path]) -> None:
    pipe = opened(folders[0])
    outputs = pipe.outputs([{"given": "the movie", "texts": ["good " * 200]}])
    assert 0 < outputs["tokens"].row(0)[0] < 128


# -- distributions along texts


def test_divergence_of_two_distributions() -> None:
    p, q = np.log([[0.5, 0.5, 1e-12], [0.2, 0.3, 0.5]]), np.log([[0.5, 0.5, 1e-12], [0.5, 0.3, 0.2]])
    expected = [0, 0.2 * np.log(0.2 / 0.5) + 0.5 * np.log(0.5 / 0.2)]
    np.testing.assert_allclose(divergence_of(p, q), expected, atol=1e-9)
    with np.errstate(divide="ignore"):
        assert divergence_of(np.log([[0.0, 1.0]]), np.log([[0.5, 0.5]]))[0] == pytest.approx(np.log(2))


def test_an_engine_does_not_diverge_from_itself_and_another_model_does(folders: tuple[Path, Path]) -> None:
    one, two = (opened(folder, None, "chat") for folder in folders)
    same = divergence_along(one, one, PROMPTS, TEXTS)
    assert (same.kl, same.top1) == (0, 1)
    apart = divergence_along(one, two, PROMPTS, TEXTS)
    assert apart.kl > 0.1
    assert apart.top1 < 1
    assert apart.tokens == same.tokens
    assert len(apart.by_text) == 4
    half = divergence_along(one, one.with_(**{"forward.precision": "bf16"}), PROMPTS, TEXTS)
    assert 0 < half.kl < apart.kl / 10


def test_other_tokens_and_servers_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    one = opened(folders[0], None, "chat")
    with pytest.raises(EngineError, match="tokenizer elsewhere"):
        divergence_along(one, lm.load("http://127.0.0.1:9/v1#x"), ["a"], ["b"])
    with pytest.raises(InputError, match="empty"):
        divergence_along(one, one, ["a"], [""])


def test_compare_shows_the_next_tokens_divergence_and_the_drop_in_nats(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    data = tmp_path / "rows.jsonl"
    rows = zip(PROMPTS, TEXTS, strict=True)
    data.write_text("".join(json.dumps({"prompt": p, "reference": t}) + "\n" for p, t in rows))
    one = lm.load(folders[0], plan={"decode.max_new_tokens": 6})
    found = lm.compare(one, lm.load(folders[1], plan={"decode.max_new_tokens": 6}), data, rounds=2)
    assert found.kl is not None
    assert found.kl > 0.1
    assert found.along_tokens is not None
    likely = lm.compare(one, folders[1], data, rounds=2, metric="likelihood")
    assert likely.metric == "likelihood"
    assert likely.kl is None
    assert likely.drop == pytest.approx(likely.score_a - likely.score_b)
    shown = moments("compare", *folders, "--data", data, "--metric", "likelihood", "--json").stdout
    assert json.loads(shown)["drop"] == pytest.approx(likely.drop, rel=1e-4)


def test_files_of_choices_are_read_and_judged(folders: tuple[Path, Path], tmp_path: Path) -> None:
    words = ["good", "bad"]
    rows = [{"question": p, "choices": words, "answer": n % 2} for n, p in enumerate(PROMPTS)]
    lines, table = tmp_path / "rows.jsonl", tmp_path / "rows.csv"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table.write_text(
        "question,choices,answer\n" + "".join(f'{p},"[""good"", ""bad""]",{n % 2}\n' for n, p in enumerate(PROMPTS))
    )
    out = tmp_path / "out.jsonl"
    moments("run", folders[0], "--task", "multiple-choice", "--data", lines, "--out", out)
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert {a["label"] for a in answers} <= {"0", "1"}
    from_lines, from_table = (
        lm.compare(folders[0], folders[1], file, rounds=2, task="multiple-choice") for file in (lines, table)
    )
    assert from_lines.metric == "accuracy"
    assert from_lines.score_a == from_table.score_a
    expected = [int(a["label"]) == row["answer"] for a, row in zip(answers, rows, strict=True)]
    assert from_lines.score_a == np.mean(expected)


def test_a_bad_row_of_a_file_is_named_or_skipped(folders: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"question": p, "choices": ["good", "bad"], "answer": "bad"} for p in PROMPTS]
    rows[2]["answer"] = "neither"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"row 3.*'neither' is none of its 2 choices"):
        lm.compare(folders[0], folders[1], file, rounds=2, task="multiple-choice")
    assert lm.compare(folders[0], folders[1], file, rounds=2, task="multiple-choice", on_error="skip").n == 3


@pytest.mark.parametrize("labelled", [True, False])
def test_rows_of_two_three_and_four_choices_are_compared_and_weighed(
    folders: tuple[Path, Path], labelled: bool
) -> None:
    rows = [
        Example({"prompt": prompt, "choices": [text.strip() for text in TEXTS[:count]]}, 0 if labelled else None, at)
        for at, (prompt, count) in enumerate(zip(PROMPTS, (2, 3, 4, 2), strict=True))
    ]
    if labelled:
        rows[1] = Example(rows[1].input, 1, 1)
    task = {"task": "multiple-choice"}
    answers = [[lm.load(folder, **task)(row.input).label for row in rows] for folder in folders]  # one row at a time
    found = lm.compare(*folders, rows, **task, rounds=5)
    assert found.agreement == np.mean([a == b for a, b in zip(*answers, strict=True)])
    assert np.isfinite([found.drop, found.drop_low, found.drop_high, found.divergence]).all()
    same = lm.compare(folders[0], folders[0], rows, **task, rounds=5)
    assert (same.drop, same.agreement, same.divergence) == (0, 1, 0)
    pipe = lm.load(folders[0], **task)
    worths = {w.name: w for w in lm.weigh(pipe, rows)}
    without = [pipe.with_(**{"forward.skip_layers": [0]})(row.input).label for row in rows]
    truth = [str(row.reference) for row in rows] if labelled else answers[0]
    lost = np.mean([a == t for a, t in zip(answers[0], truth, strict=True)]) - np.mean(
        [a == t for a, t in zip(without, truth, strict=True)]
    )
    assert worths["skip layer 0"].drop == pytest.approx(lost)
    assert all(np.isfinite(w.divergence) for w in worths.values() if w.verdict != "unavailable")


@pytest.mark.parametrize("metric", ["accuracy", "normalised accuracy"])
def test_an_answer_among_choices_is_explained_by_what_its_prompt_gives(folders: tuple[Path, Path], metric: str) -> None:
    """Against the sums written out: how much likelier the chosen text is than the next one, with and without a sentence."""
    pipe = lm.load(folders[0], task="multiple-choice", metric=metric)
    told = ["the movie was good. ", "a very boring plot. ", "the actor is"]
    row = {"prompt": "".join(told), "choices": [text.strip() for text in TEXTS[:3]]}

    def ahead(prompt: str, best: int | None = None) -> tuple[float, int]:
        by = []
        for text in TEXTS[:3]:
            tokens = by_hand(folders[0], prompt, text)
            by.append(tokens.mean() if metric.startswith("normalised") else tokens.sum())
        best = int(np.argmax(by)) if best is None else best
        return by[best] - max(np.delete(by, best)), best

    found = lm.explain(pipe, row, parts="sentences", depth=0)
    whole, best = ahead("".join(told).strip())
    assert found.answer == f"choice {best}"
    assert found.support == pytest.approx(whole, abs=1e-3)
    without = ahead("".join(told[1:]).strip(), best)[0]
    assert found.parts[0].worth == pytest.approx(whole - without, abs=1e-3)
    assert found.said
