"""A machine that others use: with processor times that are only said."""

from __future__ import annotations

import time

import pytest

from llm_moments.base.busy import Ticks, Watch, ticks
from llm_moments.record.overhead import measured


def watched(*told: Ticks, cores: int = 2) -> Watch:
    return Watch(iter(told).__next__, cores)


BEGIN = Ticks(wall=100.0, used=50.0, own=20.0, stolen=1.0)


def test_what_this_process_uses_itself_is_nobody_elses() -> None:
    quiet = watched(BEGIN, Ticks(110.0, 70.0, 40.0, 1.0))
    assert quiet.words() == ""


def test_cores_of_others_are_told_with_what_a_hypervisor_took() -> None:
    busy = watched(BEGIN, Ticks(110.0, 70.0, 27.0, 4.0), Ticks(110.0, 70.0, 27.0, 4.0))
    assert busy.others() == pytest.approx((1.3, 0.3))
    assert "1.3 of 2 cores were used by others, 0.3 of them by other machines" in busy.words()


def test_too_short_a_time_tells_nothing() -> None:
    assert watched(BEGIN, Ticks(100.1, 50.2, 20.0, 1.0)).others() is None


def test_the_machines_own_times_go_up_by_what_this_process_does() -> None:
    begin, end = ticks(), time.process_time() + 0.3
    while time.process_time() < end:
        pass
    now = ticks()
    assert now.own - begin.own > 0.2
    assert now.used - begin.used > 0.2  # which is among what was used


def test_an_overhead_below_nothing_is_no_measurement() -> None:
    slow, quick = (lambda: 1.0), (lambda: 0.2)
    found = measured(slow, quick, seconds=0.0)
    assert found.value is None
    assert found.kind == "unavailable"
    assert "-80%" in found.note
    assert measured(quick, quick, seconds=0.0).kind == "measured"
