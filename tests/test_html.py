"""The report, opened in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from llm_moments.improve.certify import Certificate
from llm_moments.improve.study import Trial
from llm_moments.record.session import Figure, Session, StepCost
from llm_moments.render.html import report
from llm_moments.render.notebook import certificate_html, session_html, worths_html
from llm_moments.weigh.worth import Worth, Worths

HOSTILE = "<script>alert(1)</script>"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PLAN = {"truncate": {"max_length": 64}, "forward": {"engine": "openvino", "precision": "bf16"}}

SESSION = Session(
    StepCost("run", 1, 2.0, 3.9, {"items": 10}, None, (
        StepCost("tokenize", 1, 0.5, 0.9, {"items": 10, "tokens": 300}),
        StepCost("forward", 1, 1.4, 2.9, {}, Figure(0.5, "share", "modelled"), (StepCost("layer 0", 3, 0.7), StepCost(HOSTILE, 3, 0.6))),
    )),
    {"energy": Figure.none("J", "no counter"), "overhead": Figure(0.004, "share")}, HOSTILE, "text-classification", PLAN, {"cpu": HOSTILE},
)  # fmt: skip
WORTHS = Worths(
    [
        Worth("cut at 64", "truncate", {}, "free", 0.5, 0.4, 0.6, 0.0, -0.01, 0.009, 1, 1, 0.01),
        Worth(HOSTILE, "forward", {}, "unavailable", reason=HOSTILE),
    ],
    metric="accuracy",
)
CERTIFICATE = Certificate(
    True, "", "accuracy", 0.01, 0.95, 0.001, 0.008, 0.96, 0.959, 1200, 9, 8, "throughput", 62.5, 60.6, 2.7, 8.0, 1, True, None,
    PLAN, {"truncate": {"max_length": 512}}, HOSTILE, "d", "data.csv", {"cpu": "x", "flags": ["a"]},
)  # fmt: skip
STUDY = [
    Trial(PLAN, "a", "lossy", n=600, cost=0.001, gain=60.0, score=0.95, drop=0.001, drop_low=-0.01, drop_high=0.01),
    Trial({}, "b", "lossless", n=600, cost=0.02, gain=3.0, score=0.96, drop=0.0, drop_low=-0.005, drop_high=0.005),
    Trial(PLAN, "c", "engines", "unavailable", HOSTILE),
]


@pytest.fixture(scope="module")
def page() -> str:
    return report(session=SESSION, worths=WORTHS, study=STUDY, certificate=CERTIFICATE, title=HOSTILE)


def test_nothing_from_the_data_becomes_markup(page: str) -> None:
    assert HOSTILE not in page
    for fragment in (session_html(SESSION), worths_html(WORTHS), certificate_html(CERTIFICATE)):
        assert HOSTILE not in fragment


def test_the_page_asks_for_nothing_outside(page: str) -> None:
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r"""(?:src|href)=["']?https?:|url\(\s*["']?https?:|@import""", own)


def test_what_is_missing_is_not_shown_as_nothing(page: str) -> None:
    assert "not measured (no counter)" in page
    refused = report(
        certificate=replace(
            CERTIFICATE, certified=False, reason="too few", speedup=None, drop=None, drop_high=None, needs=500
        )
    )
    assert "about 500" in refused.lower()
    assert "0.0×" not in refused
    assert report(study=[]).startswith("<!doctype html>")


@pytest.mark.chromium
@pytest.mark.skipif(BROWSER is None, reason="no chromium here: apt-get install chromium")
def test_it_opens_without_an_error(page: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    quiet = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
    done = subprocess.run(
        [
            str(BROWSER), *quiet.split(), "--enable-logging=stderr", "--v=0", f"--user-data-dir={tmp_path / 'profile'}",
            f"--log-net-log={tmp_path / 'net.json'}", "--virtual-time-budget=8000", "--dump-dom", file.as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.count("main-svg") >= 4
    assert "CONSOLE" not in done.stderr
    asked = re.findall(r'"url":"(https?://[^"]+)"', (tmp_path / "net.json").read_text())
    assert not [url for url in asked if "plot" in url or "cdn" in url or "mathjax" in url.lower()]
