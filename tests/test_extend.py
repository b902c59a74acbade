"""What docs/extend.md shows is what works: its blocks are run, and what they register is asked for by name."""

from __future__ import annotations

import json
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llm_moments as lm
from llm_moments.base import views
from llm_moments.core import Example
from llm_moments.data import formats
from llm_moments.engines import base as engines
from llm_moments.steps import augment
from llm_moments.tasks import base as tasks
from llm_moments.tasks import metrics
from llm_moments.train import losses, optimisers
from tests.cli.command import moments
from tests.fakes import label_of, make_texts

REGISTRIES: list[dict[str, Any]] = [
    tasks.TASKS, engines.ENGINES, views.VIEWS, metrics.METRICS, formats.READERS, losses.LOSSES, optimisers.KNOWN, augment.TEXT,
]  # fmt: skip
PAGE = Path(__file__).parent.parent / "docs" / "extend.md"


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    before = [dict(registry) for registry in REGISTRIES]
    module = types.ModuleType("my.house")
    monkeypatch.setitem(sys.modules, "my.house", module)
    text = PAGE.read_text(encoding="utf-8").replace("my_house:", "my.house:")
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(block, module.__dict__)
    yield module
    for registry, was in zip(REGISTRIES, before, strict=True):
        registry.clear()
        registry.update(was)


def test_its_blocks_do_what_it_says(house: Any, tiny_model: Path) -> None:
    texts = make_texts(12, seed=4)
    plain = lm.load(tiny_model)
    turned = lm.load(tiny_model, task="backwards")
    np.testing.assert_allclose(turned.outputs([text[::-1] for text in texts]), plain.outputs(texts), atol=1e-6)
    np.testing.assert_allclose(
        plain.with_(**{"forward.engine": "plain"}).outputs(texts), plain.outputs(texts), atol=1e-5
    )
    loud = lm.load(tiny_model, task="shouting", plan={"shout.loud": True})
    np.testing.assert_allclose(loud.outputs(texts), plain.outputs([text.upper() for text in texts]), atol=1e-6)
    changes = {one.name for one in lm.weigh(lm.load(tiny_model, task="shouting"), texts, budget="20s")}
    assert any("loud" in name for name in changes)
    assert views.drawn("line", lm.record(plain, texts)).endswith(" s")


def test_the_smaller_things_are_known_by_their_names(house: Any, tiny_model: Path, tmp_path: Path) -> None:
    assert metrics.text_metric("same length")("abc", "xyz") == 1.0
    (tmp_path / "rows.paragraphs").write_text("a good film\n\na bad\nfilm\n")
    said = moments("run", tiny_model, "--data", tmp_path / "rows.paragraphs", "--json").stdout
    assert len(json.loads(said)) == 2 if said.startswith("[") else len(said.splitlines()) == 2
    texts = make_texts(24)
    done = lm.train(
        tiny_model, [Example(text, label_of(text)) for text in texts], tmp_path / "model", epochs=1, loss="focal",
        optimizer="sign-sgd", learning_rate=1e-4, augment={"turned": 0.5}, label_smoothing=0.0,
    )  # fmt: skip
    assert {"augment", "loss", "update"} <= {step.name for step in done.session.root.children}  # type: ignore[union-attr]
    with pytest.raises(lm.MomentsError, match="label smoothing goes with cross-entropy only"):
        lm.train(
            tiny_model, [Example(t, label_of(t)) for t in texts], tmp_path / "no", loss="focal", label_smoothing=0.1
        )
    with pytest.raises(lm.MomentsError, match="class weights go with cross-entropy and binary-cross-entropy only"):
        lm.train(
            tiny_model,
            [Example(t, label_of(t)) for t in texts],
            tmp_path / "no",
            loss="focal",
            class_weights="balanced",
        )
