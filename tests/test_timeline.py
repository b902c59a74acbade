"""What ran when: each prompt and each decoding step in the trace, percentiles of their times, and what a page names."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import llm_moments as lm
from llm_moments.record.decoding import percentiles
from llm_moments.record.record import record
from llm_moments.record.session import Figure, Moment, Session, StepCost
from llm_moments.render.chrome_trace import chrome_trace
from llm_moments.render.html import report
from llm_moments.render.text import amount, figure, prompt_tokens
from tests.fakes_chat import make_chat


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    room = tmp_path_factory.mktemp("chat")
    (room / "asked.txt").write_text("one\ntwo words\nthree more words\n")
    pipe = lm.load(make_chat(room / "tiny"), plan={"decode.max_new_tokens": 6, "template.system": "be brief"})
    return record(pipe, room / "asked.txt", depth=0)


def test_each_prompt_and_each_step_is_where_it_ran(session: Session) -> None:
    events = [one for one in chrome_trace(session)["traceEvents"] if one.get("cat") == "ran"]
    prompts = [one for one in events if one["name"].startswith("prompt")]
    steps = [one for one in events if one["name"] == "decode step"]
    assert len(prompts) == 3
    tokens = sum(one["args"]["tokens"] for one in prompts)
    assert tokens <= len(steps) + 3 <= tokens + 3  # an end token is a step, too
    for prompt in prompts:  # one after the other, each with its prefill and its steps inside
        inside = [
            one for one in events if one["tid"] == 1 and prompt["ts"] <= one["ts"] + 1 < prompt["ts"] + prompt["dur"]
        ]
        assert [one["name"] for one in inside][0] == "prefill"
        assert sum(one["dur"] for one in inside) == pytest.approx(prompt["dur"], rel=0.5)
    assert prompts[0]["ts"] + prompts[0]["dur"] <= prompts[1]["ts"]
    total = session.root.find("decode").wall_s
    assert sum(one["dur"] for one in prompts) / 1e6 == pytest.approx(total, rel=0.5)


def test_prompts_that_ran_together_stand_on_lines_of_their_own() -> None:
    timeline = tuple(Moment("prompt", at, 2.0, {"tokens": 3.0}) for at in (0.0, 1.0, 2.0, 2.5))
    whole = Session(StepCost("run", 1, 5.0), {}, "m", "chat", {}, {}, timeline=timeline)
    events = [one for one in chrome_trace(whole)["traceEvents"] if one.get("cat") == "ran"]
    assert [one["tid"] for one in events] == [2, 3, 2, 4]
    for one, other in itertools.combinations(events, 2):
        assert one["tid"] != other["tid"] or one["ts"] + one["dur"] <= other["ts"]
    both = whole.combine(whole)
    assert [one.start for one in both.timeline[4:]] == [5.0, 6.0, 7.0, 7.5]


def test_percentiles_are_numpys_over_prompts() -> None:
    rng = np.random.default_rng(0)
    first, each = rng.uniform(0.1, 2, 200), rng.uniform(0.01, 0.1, 200)
    timeline = [
        Moment("prompt", 0.0, float(f + 9 * e), {"tokens": 10.0, "first_s": float(f)})
        for f, e in zip(first, each, strict=True)
    ]
    timeline += [Moment("decode step", 0.0, 9.0), Moment("prompt", 0.0, 1.0, {"tokens": 1.0})]
    found = percentiles(timeline)
    for name, some in (("ttft", first), ("tpot", each)):
        for at in (50, 95, 99):
            assert found[f"{name}_p{at}"].value == pytest.approx(np.percentile(some, at))
    assert percentiles([]) == {}


def test_a_page_names_model_plan_data_and_the_templates_tokens(session: Session, tmp_path: Path) -> None:
    page = report(session=session)
    for said in ("tiny", "asked.txt, 3 rows", "decode.max_new_tokens=6", "the template", "system prompts", "ttft p95"):
        assert said in page
    told = prompt_tokens(session)
    counts = session.root.find("context").counts
    assert told.startswith(f"{session.root.find('tokenize').counts['tokens']:,.0f} tokens: ")
    assert f"{counts['template_tokens']:,.0f} the template" in told
    again = Session.load(session.save(tmp_path / "s.json"))
    assert again == session
    old = {k: v for k, v in session.to_dict().items() if k not in ("data", "timeline")}
    assert Session.from_dict(old) == replace(session, data="", timeline=())


def test_small_numbers_are_not_rounded_to_nothing() -> None:
    assert [amount(v) for v in (None, 0.0, 0.18, 0.0004, 3.456, 99.96, 123.4, 12345.6)] == [
        "-", "0", "0.18", "0.0004", "3.46", "100", "123", "12,346",
    ]  # fmt: skip
    assert figure(Figure(2000.0, "bytes")) == "0.00191 MiB"
    slow = Session(StepCost("run", 1, 100.0, counts={"items": 18.0}), {}, "m", "chat", {}, {})
    assert "<td>0.18</td>" in report(session=slow).replace(' class="n"', "").replace(' style="text-align:right"', "")
