"""What docs/extend.md shows is what works: its blocks are run, and what they register is asked for by name."""

from __future__ import annotations

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
from llm_moments.engines import base as engines
from llm_moments.tasks import base as tasks
from tests.fakes import make_texts

PAGE = Path(__file__).parent.parent / "docs" / "extend.md"


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    before = [dict(registry) for registry in (tasks.TASKS, engines.ENGINES, views.VIEWS)]
    module = types.ModuleType("my.house")
    monkeypatch.setitem(sys.modules, "my.house", module)
    text = PAGE.read_text(encoding="utf-8").replace("my_house:", "my.house:")
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(block, module.__dict__)
    yield module
    for registry, was in zip((tasks.TASKS, engines.ENGINES, views.VIEWS), before, strict=True):
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
