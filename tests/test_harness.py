"""lm-eval's tasks on a plan: a tiny task of its own, offline, against what the likelihood task says."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llm_moments as lm
from llm_moments.base.errors import DataError, EngineError, InputError
from llm_moments.engines.generator import Prompt
from llm_moments.integrations import harness
from tests.fake_server import answer_to, serving
from tests.fakes_chat import make_chat

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="no lm-eval: pip install 'llm-moments[eval]'"
)
ROWS = [
    {"question": "the movie was", "choices": ["good", "a very bad plot"], "answer": 0},
    {"question": "boring actor and", "choices": ["music", "film", "great"], "answer": 2},
    {"question": "not a long", "choices": ["plot", "film"], "answer": 1},
    {"question": "the music is", "choices": ["really great", "awful"], "answer": 1},
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("harness")
    return make_chat(root / "a"), make_chat(root / "b", seed=1)


@pytest.fixture
def tasks(tmp_path: Path) -> list[dict[str, Any]]:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    source = {
        "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(tmp_path)},
        "test_split": "test", "doc_to_text": "{{question}}",
    }  # fmt: skip
    choice = {
        **source, "task": "tiny_choice", "output_type": "multiple_choice", "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }  # fmt: skip
    made = {
        **source, "task": "tiny_made", "output_type": "generate_until", "doc_to_target": "{{choices[answer]}}",
        "generation_kwargs": {"until": [" and"], "max_gen_toks": 5, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    }  # fmt: skip
    return [choice, made]


def test_choices_are_scored_as_the_likelihood_task_scores_them(
    folders: tuple[Path, Path], tasks: list[dict[str, Any]]
) -> None:
    pipe = lm.load(folders[0], task="text-generation")
    found = {(one.task, one.metric): one for one in harness.evaluate(pipe, tasks[:1])}
    acc = found["tiny_choice", "acc"]
    own = lm.load(folders[0], task="multiple-choice")
    answers = [own({"prompt": row["question"], "choices": row["choices"]}) for row in ROWS]
    assert acc.values.tolist() == [float(int(a.label) == r["answer"]) for a, r in zip(answers, ROWS, strict=True)]
    assert [one[0] for one in acc.ids] == [0, 1, 2, 3]


@pytest.mark.slow
def test_made_texts_follow_the_tasks_settings(
    folders: tuple[Path, Path], tasks: list[dict[str, Any]], tmp_path: Path
) -> None:
    from llm_moments.integrations.harness_model import MomentsLM

    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "tiny.yaml").write_text(json.dumps(tasks[1]))  # which is YAML, too
    found = harness.evaluate(folders[0], ["tiny_made"], limit=3, include_path=tmp_path / "own")
    assert [(one.task, one.metric, len(one.values)) for one in found] == [("tiny_made", "exact_match", 3)]
    model = MomentsLM(lm.load(folders[0], task="text-generation"))
    asked = {"until": [" and"], "max_gen_toks": 5, "do_sample": False}
    plain = lm.load(folders[0], task="text-generation", plan={"decode.max_new_tokens": 5, "decode.stop": [" and"]})
    assert model._generated(["the movie was"], model.decoding(asked)) == [plain("the movie was").text]


def test_two_plans_are_compared_example_by_example(folders: tuple[Path, Path], tasks: list[dict[str, Any]]) -> None:
    one, two = (harness.evaluate(folder, tasks[:1]) for folder in folders)
    held = harness.compare(one, two, max_drop=0.5)
    assert {h.metric for h in held} == {"tiny_choice acc", "tiny_choice acc_norm"}
    for h in held:
        assert h.drop == pytest.approx(h.score_a - h.score_b)
        assert h.drop_low <= h.drop <= h.drop_high
        assert h.speedup is None
    same = harness.compare(one, one)[0]
    assert (same.drop, same.harmful, same.beneficial) == (0, 0, 0)
    with pytest.raises(InputError, match="other examples"):
        harness.compare(one, harness.evaluate(folders[0], tasks[:1], limit=2))
    with pytest.raises(InputError, match="no metric"):
        harness.compare(one, [])


def test_rolling_likelihood_is_the_sum_over_all_tokens(folders: tuple[Path, Path]) -> None:
    from lm_eval.api.instance import Instance

    from llm_moments.integrations.harness_model import MomentsLM

    model = MomentsLM(folders[0])
    text = "the movie was good and the plot " * 12  # longer than the context of 128
    ids = model._ids(text)
    assert len(ids) > 128 - 1 or len(ids) > 60
    found = model.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)])[0]
    short = ids[:50]
    start = model._start()[:1]
    engine = model.engine
    table = engine.logprobs([*start, *short], 1)
    by_hand = table[np.arange(50), short].sum()
    one = model.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (model._dialogue().decode(short),), 0)])[0]
    assert one == pytest.approx(by_hand, rel=1e-4)
    assert found < one < 0


def test_whether_greedy_decoding_would_write_it(folders: tuple[Path, Path]) -> None:
    from llm_moments.integrations.harness_model import MomentsLM

    model = MomentsLM(lm.load(folders[0], task="text-generation", plan={"decode.max_new_tokens": 3}))
    made = model.engine.generate(
        [Prompt(tuple(model._context("the movie")))],
        model.decoding({"max_gen_toks": 3}),
    )[0]
    total, greedy = model._likelihood(model._context("the movie"), made.ids)
    assert greedy
    assert total < 0
    assert not model._likelihood(model._context("the movie"), [t + 1 for t in made.ids])[1]


def test_what_cannot_be_followed_is_refused(folders: tuple[Path, Path], tiny_model: Path) -> None:
    from llm_moments.integrations.harness_model import MomentsLM

    model = MomentsLM(folders[0])
    with pytest.raises(InputError, match="num_beams = 3"):
        model.decoding({"num_beams": 3})
    with pytest.raises(InputError, match="max_batch_size"):
        MomentsLM(folders[0], max_batch_size=4)
    with pytest.raises(InputError, match="makes no text"):
        MomentsLM(tiny_model)
    with pytest.raises(InputError, match="model=FOLDER"):
        MomentsLM()


def test_a_server_makes_texts_but_tells_no_likelihoods(tasks: list[dict[str, Any]]) -> None:
    with serving() as told:
        found = harness.evaluate(told.address, tasks[1:])
        assert told.questions == [row["question"] for row in ROWS]
        assert all("stop" in asked for asked in told.asked)
        with pytest.raises(EngineError, match="tokenizer elsewhere"):
            harness.evaluate(told.address, tasks[:1])
    assert answer_to({"prompt": ROWS[0]["question"]})
    assert found[0].values.tolist() == [0, 0, 0, 0]


def test_lower_is_better_is_turned_and_what_is_no_number_is_left_out() -> None:
    rows = [{"doc_id": n, "filter": "none", "metrics": ["wer", "words"], "wer": n / 4, "words": [1, 2]} for n in (1, 0)]
    found = harness.scores_of({"t": rows}, {"t": {"wer": False}})
    assert [(one.metric, one.values.tolist()) for one in found] == [("wer", [0, -0.25])]


def test_logged_samples_are_read(tmp_path: Path) -> None:
    file = tmp_path / "samples_tiny_2026.jsonl"
    file.write_text('{"doc_id": 0, "doc_hash": "x", "filter": "none", "metrics": ["acc"], "acc": 1.0}\n')
    assert harness.read(file)[0].ids == ((0, "x"),)
    file.write_text("nonsense\n")
    with pytest.raises(DataError, match="no samples"):
        harness.read(file)
