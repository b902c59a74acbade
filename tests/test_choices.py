"""What a plan chose, in words, and what else it could choose: of every task, from its knobs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import llm_moments as lm
from llm_moments.core import Plan
from llm_moments.improve.choices import taken_back
from llm_moments.tasks.base import TASKS, task_for
from llm_moments.weigh.changes import every_change
from tests.fakes import make_linear, make_texts
from tests.fakes_chat import make_chat
from tests.fakes_speech import make_whisper, tone
from tests.image_fakes import make_arrays, make_image_model

MODEL = SimpleNamespace(
    format="ctranslate2",
    max_length=512,
    path=Path("none"),
    config={},
    is_linear=False,
    trained_length=0,
    encoder=SimpleNamespace(keeps_end=False),
)


def plans(task: str, old: dict[str, Any], new: dict[str, Any]) -> tuple[Any, Any]:
    of = task_for(MODEL, task)
    return tuple(SimpleNamespace(task=of, model=MODEL, plan=Plan().with_(**one)) for one in (old, {**old, **new}))  # type: ignore[return-value]


SPEECH = {
    "vad.kind": "energy", "vad.gap": 1.0, "chunk.length": 20.0, "features.margin": 3.0, "fallback.temperatures": [0.2],
    "fallback.beams": 5, "decode.beams": 1, "speech.words": True, "forward.streams": 8, "batch.order": "length",
}  # fmt: skip


def test_every_choice_of_a_speech_plan_is_told_and_taken_back_alone() -> None:
    stock, now = plans("automatic-speech-recognition", {"decode.beams": 5}, SPEECH)
    taken = {back.name: back for back in taken_back(stock, now)}
    assert sorted(name for back in taken.values() for name in back.choices) == sorted(SPEECH)
    assert {"decode: beams 1, was 5", "chunks of 20 s, was 30", "silence left out (energy), was off"} <= set(taken)
    assert taken["decode: beams 1, was 5"].choices == {"decode.beams": 5}
    assert taken["fallback: temperatures 0.2, was none"].choices == {"fallback.temperatures": None}


@pytest.mark.parametrize("task", [name for name in TASKS if name not in ("image-classification", "feature-extraction")])
def test_no_knob_of_any_task_is_left_out(task: str) -> None:
    stock, _ = plans(task, {}, {})
    knobs = {f"{s}.{k.name}": k for s, ks in stock.task.knobs().items() for k in ks if s != "cascade"}
    for name, knob in knobs.items():
        for value in [v for v in knob.values if v != knob.default][:1]:
            _, now = plans(task, {}, {name: value})
            backs = list(taken_back(stock, now))
            assert backs, name
            assert all(name in back.choices for back in backs)
    same = next(name for name, knob in knobs.items() if knob.default)
    assert not list(taken_back(stock, plans(task, {}, {same: knobs[same].default})[1]))  # said, and as it is anyway


def names(pipe: Any, values: Any) -> set[str]:
    first, after = every_change(pipe, [pipe.task.normalise(value) for value in values])
    told = [one.name for one in (*first, *after)]
    assert len(told) == len(set(told))
    for change in (*first, *after):
        assert pipe.plan.with_(**change.choices).check(pipe.task.knobs()) != pipe.plan, change
    return set(told)


def test_speech_is_weighed_in_what_it_hears_and_how_it_searches(tmp_path: Path) -> None:
    pipe = lm.load(make_whisper(tmp_path / "w"))
    sounds = [{"array": tone(1.0), "sampling_rate": 16000}]
    told = names(pipe, sounds)
    assert {"silence left out (energy)", "2 beams, not 1", "bad answers drawn again", "speech: words yes"} <= told
    assert "chunks of 12 s" in told
    assert not [n for n in told if n.startswith(("vad: gap", "fallback: sure"))]  # idle beside what the plan has
    told = names(pipe.with_(**{"vad.kind": "energy", "fallback.beams": 5}), sounds)
    assert {"vad: gap 0.5", "fallback: sure -0.3"} <= told


def test_linear_and_image_models_are_weighed_in_their_own_steps(tmp_path: Path) -> None:
    told = names(lm.load(make_linear(tmp_path / "l")), make_texts(30))
    assert {"the first 16 words", "batch: order length"} <= told
    assert not [n for n in told if "streams" in n or "together" in n]  # torch follows none
    told = names(lm.load(make_image_model(tmp_path / "i")), make_arrays(4))
    assert {"channels 1", "batch: size 64"} <= told


def test_multiple_choice_is_weighed_in_what_it_reads(tmp_path: Path) -> None:
    pipe = lm.load(make_chat(tmp_path / "c"), task="multiple-choice")
    rows = [{"prompt": "the", "choices": ["good", "bad", "film"][:n]} for n in (2, 3)]
    told = names(pipe, rows)
    assert "transformers bf16" in told
    assert not [n for n in told if any(w in n for w in ("at most", "lookup", "together", "beams", "batch"))]
