"""Models that make texts, weighed along their own answers: the figures are transformers' own, and few prompts decide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llm_moments as lm
from llm_moments.core.change import Change
from llm_moments.evaluate.evaluation import evaluation
from llm_moments.weigh.changes import acting
from llm_moments.weigh.clock import Clock
from llm_moments.weigh.texts import Texts
from llm_moments.weigh.verdict import with_verdicts
from llm_moments.weigh.worth import Worth
from tests.fakes import make_texts
from tests.fakes_text import make_causal

SHORT = {"decode.max_new_tokens": 6}
HALF = Change("half", {"forward.precision": "bf16"})
PAIRS = Change("2 together", {"forward.streams": 2}, lossless=True)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return lm.load(make_causal(tmp_path_factory.mktemp("lm") / "llama"), plan=SHORT)


@pytest.fixture(scope="module")
def texts(pipe: Any) -> Texts:
    return Texts.begun(pipe, evaluation(pipe, [lm.Example(t, None, n) for n, t in enumerate(make_texts(5))]), Clock())


def reference(folder: Path, ids: list[int], told: list[int], without: int | None = None) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM

    module = AutoModelForCausalLM.from_pretrained(folder)
    if without is not None:
        del module.model.layers[without]
    with torch.inference_mode():
        logits = module(torch.tensor([[*ids, *told]]), use_cache=False).logits[0, len(ids) - 1 : -1]
        return torch.log_softmax(logits.float(), -1).double().numpy()  # type: ignore[no-any-return]


def test_a_change_is_as_far_from_the_baseline_as_transformers_says(pipe: Any, texts: Texts) -> None:
    worth = texts.price(Change("without", {"forward.skip_layers": [1]}), 1e9)
    assert texts.whole is not None
    kl, other, lost = [], 0, []
    for ids, told in zip(texts.whole.prompts, texts.whole.told, strict=True):
        whole, now = (reference(pipe.model.path, ids, told, layer) for layer in (None, 1))
        kl += (np.exp(whole) * (whole - now)).sum(1).tolist()
        other += int((whole.argmax(1) != now.argmax(1)).sum())
        lost += (whole - now)[np.arange(len(told)), told].tolist()
    assert worth.kl == pytest.approx(np.mean(kl), rel=1e-3)
    assert worth.nll == pytest.approx(np.mean(lost), rel=1e-3)
    assert worth.tokens_changed == pytest.approx(other / len(kl))
    assert worth.kl_low is not None
    assert worth.kl_high is not None
    assert 0 < worth.kl_low < np.mean(kl) < worth.kl_high


def test_what_changes_no_distribution_is_judged_by_its_answers(texts: Texts) -> None:
    looked = texts.price(Change("lookup", {"decode.lookup": 3}, lossless=True), 1e9)
    assert (looked.kl, looked.answers, looked.answers_changed) == (None, 5, 0.0)
    together = texts.price(PAIRS, 1e9)
    assert together.kl == pytest.approx(0, abs=1e-9)
    assert [w.verdict for w in with_verdicts([looked, together], 0.01, by_token=True, labelled=False)] == [
        "free",
        "free",
    ]


def test_few_prompts_decide(pipe: Any) -> None:
    found = {w.name: w for w in lm.weigh(pipe, make_texts(6, seed=2), max_drop=0.01)}
    assert found["transformers bf16"].verdict in ("free", "cheap")  # a few thousandths of a nat
    assert found["skip layer 1"].verdict == "needed"
    assert not any(w.verdict == "unclear" and w.needs is not None and w.needs > 100 for w in found.values())


def test_limits_above_all_that_there_is_are_no_changes(pipe: Any) -> None:
    values = make_texts(4)
    amounts = pipe.task.amounts(pipe, values, pipe.outputs(values))
    limits = [Change(f"most {n}", {"decode.max_new_tokens": n}) for n in (2, 64, 128)]
    rooms = [Change(f"context {n}", {"context.max_tokens": n}) for n in (12, 2048)]
    together = [Change(f"{n} together", {"forward.streams": n}) for n in (2, 4, 8)]
    names = [one.name for one in acting(pipe, [*limits, *rooms, *together, HALF], amounts)]
    # Answers end at 6 tokens: with 64 they would be longer, with 128 no longer than with 64 for all that is known.
    assert names == ["most 2", "most 64", "context 12", "2 together", "4 together", "half"]
    assert acting(pipe, limits, {**amounts, "answer": 5}) == limits[:1]


def test_a_budget_is_kept_and_what_does_not_fit_is_named(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    part = evaluation(pipe, [lm.Example(t, None, n) for n, t in enumerate(make_texts(6))])
    clock = Clock(40.0, now=lambda: now[0])
    texts = Texts.begun(pipe, part, clock)
    texts.opening, texts.seconds = 1.0, np.full(len(texts.seconds), 1.0)

    def price(change: Change, share: float) -> Worth:
        now[0] += min(share, texts.foretold(change))
        return Worth(change.name, "forward", change.choices, "unclear")

    monkeypatch.setattr(texts, "price", price)
    worths = texts.all([Change(f"c{n}", {"forward.precision": "bf16"}) for n in range(30)])
    measured = [w for w in worths if w.verdict != "unavailable"]
    assert worths[: len(measured)] == measured  # what comes first in the order
    assert len(measured) > 5
    assert clock.spent < clock.allowed
    assert set(clock.missing) == {w.name for w in worths[len(measured) :]}


@pytest.mark.parametrize(
    ("figures", "verdict"),
    [
        ({"kl": 1e-4, "kl_low": 0.0, "kl_high": 2e-4, "tokens_changed": 0.0, "answers_changed": 0.0}, "free"),
        ({"kl": 4e-3, "kl_low": 3e-3, "kl_high": 6e-3, "tokens_changed": 0.02, "answers_changed": 0.4}, "cheap"),
        ({"kl": 0.03, "kl_low": 0.02, "kl_high": 0.04, "tokens_changed": 0.08, "answers_changed": 0.75}, "needed"),
        ({"kl": 0.008, "kl_low": 0.004, "kl_high": 0.012, "tokens_changed": 0.0}, "unclear"),
        ({"drop": 0.5, "drop_low": 0.3, "drop_high": 0.7, "answers_changed": 1.0, "harmful": 4, "n": 4}, "needed"),
    ],
)  # fmt: skip
def test_verdicts_of_texts(figures: dict[str, Any], verdict: str) -> None:
    worth = Worth("c", "forward", {}, "unclear", **{"n": 8, **figures})
    assert with_verdicts([worth], 0.01, by_token=True, labelled=False)[0].verdict == verdict


def test_references_decide_where_they_can() -> None:
    far = {"kl": 0.03, "kl_low": 0.02, "kl_high": 0.04}
    better = Worth("c", "forward", {}, "unclear", drop=-0.5, drop_low=-0.8, drop_high=-0.2, harmful=0, beneficial=20, n=30, **far)  # fmt: skip
    open_ = Worth("c", "forward", {}, "unclear", drop=0.0, drop_low=-0.1, drop_high=0.1, harmful=1, beneficial=1, n=30, **far)  # fmt: skip
    assert with_verdicts([better], 0.01, by_token=True, labelled=True)[0].verdict == "harmful"
    assert with_verdicts([open_], 0.01, by_token=True, labelled=True)[0].verdict == "needed"


def test_threads_of_one_plan_do_not_stay_with_the_next(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    before = torch.get_num_threads()
    try:
        pipe.with_(**{"forward.threads": 1})("hello")
        assert torch.get_num_threads() == 1
        pipe("hello")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_what_an_engine_refuses_is_known_from_the_header(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from llm_moments.engines import generating

    monkeypatch.setattr(generating, "loaded", None)  # nothing may be loaded
    refused = {"openvino-genai": "fp16", "llama.cpp": "as-is", "ctranslate2": "fp32"}
    for engine, precision in refused.items():
        settings = pipe.with_(**{"forward.engine": engine, "forward.precision": precision}).engine_settings
        with pytest.raises(lm.MomentsError):
            pipe.engines.check(settings)
    pipe.engines.check(pipe.engine_settings)
