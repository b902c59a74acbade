"""Layers of models that make texts, weighed along their own answers: the same figures as from models without them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import llm_moments as lm
from llm_moments.evaluate.token_divergence import divergence_of, told_after
from llm_moments.tasks.metrics import common_prefix
from tests.fakes import make_texts
from tests.fakes_text import make_causal

SHORT = {"decode.max_new_tokens": 8}


@pytest.fixture(scope="module", params=["llama", "gpt2", "qwen2"])
def pipe(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    deeper = {"n_layer": 5} if request.param == "gpt2" else {"num_hidden_layers": 5}
    return lm.load(make_causal(tmp_path_factory.mktemp("lm") / request.param, request.param, **deeper), plan=SHORT)


@pytest.fixture(autouse=True)
def layers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_moments.weigh.weigh.every_change", lambda base, some, layers: ([], []))


def test_figures_are_those_of_the_model_without_the_layer(pipe: Any) -> None:
    texts = make_texts(6, seed=2)
    found = [w for w in lm.weigh(pipe, texts) if w.name.startswith("skip layer")]
    layers = pipe.model.config.get("num_hidden_layers") or pipe.model.config["n_layer"]
    assert [w.change["forward.skip_layers"] for w in found] == [[at] for at in range(layers)]
    outputs = pipe.outputs(texts)
    for at, worth in enumerate(found):
        without = pipe.with_(**{"forward.skip_layers": [at]})
        kl, nll = [], []
        for ids, told in told_after(pipe, texts, outputs["text"].tolist()):
            engines = [one.engines.get(one.engine_settings) for one in (pipe, without)]
            whole, now = (engine.logprobs([*ids, *told], len(ids)) for engine in engines)
            kl += divergence_of(whole, now).tolist()
            nll += (whole - now)[np.arange(len(told)), told].tolist()
        assert worth.kl == pytest.approx(np.mean(kl), abs=1e-4)
        assert worth.nll == pytest.approx(np.mean(nll), abs=1e-4)
        if not worth.ablated:  # its agreement is known from where its greedy answer leaves the original's
            made = [
                common_prefix(str(a), str(b))
                for a, b in zip(without.outputs(texts)["text"], outputs["text"], strict=True)
            ]
            assert worth.drop == pytest.approx(1 - np.mean(made), abs=0.15)


def test_with_references_only_some_are_made_anew(pipe: Any) -> None:
    rows = [lm.Example(text, pipe(text).text, n) for n, text in enumerate(make_texts(6, seed=3))]
    found = [w for w in lm.weigh(pipe, rows) if w.name.startswith("skip layer")]
    assert all((w.drop is not None) == w.ablated for w in found)
    assert any(w.ablated for w in found)


def test_a_plan_without_a_layer_runs_and_what_cannot_follow_says_so(pipe: Any) -> None:
    assert pipe.with_(**{"forward.skip_layers": [1]})("hello").text is not None
    without_any = pipe.with_(**{"forward.skip_layers": list(range(5))})
    with pytest.raises(lm.MomentsError, match="not all of them can be skipped"):
        without_any("hello")
