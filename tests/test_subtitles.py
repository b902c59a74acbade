"""Subtitles: valid SubRip and WebVTT whatever was said, cues that can be read, files where they are asked for."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_moments.data.subtitles import cues, phrases, srt, vtt, width
from tests.cli.command import moments
from tests.fakes_speech import make_whisper, silence, tone, write

SRT_TIMES = re.compile(r"(\d{2,}):([0-5]\d):([0-5]\d),(\d{3}) --> (\d{2,}):([0-5]\d):([0-5]\d),(\d{3})")
VTT_TIMES = re.compile(SRT_TIMES.pattern.replace(r",(\d{3})", r"\.(\d{3})"))
Read = list[tuple[int, int, list[str]]]


def strict_srt(text: str) -> Read:
    """As SubRip has it: number, times, one or more lines, an empty line; nothing else."""
    blocks = text.split("\n\n") if text else []
    assert not text or text.endswith("\n")
    found = []
    for number, block in enumerate(blocks, 1):
        head, times, *lines = block.removesuffix("\n").split("\n")
        assert head == str(number)
        found.append(_block(times, lines, SRT_TIMES))
    return found


def strict_vtt(text: str) -> Read:
    """As the W3C has it (4.1 and 4.2 of the syntax): header, an empty line, blocks; no arrow and no markup in texts."""
    head, *blocks = text.split("\n\n")
    assert head.strip("\n") == "WEBVTT"
    found = []
    for block in blocks:
        times, *lines = block.removesuffix("\n").split("\n")
        assert all(re.fullmatch(r"(?:[^&<>]|&(?:amp|lt|gt);)*", line) for line in lines)
        start, end, lines = _block(times, lines, VTT_TIMES)
        found.append((start, end, [html.unescape(line) for line in lines]))
    return found


def _block(times: str, lines: list[str], pattern: Any) -> tuple[int, int, list[str]]:
    told = pattern.fullmatch(times)
    assert told, times
    a, b, c, d, *rest = map(int, told.groups())
    start, end = (((x * 60 + y) * 60 + z) * 1000 + w for x, y, z, w in ((a, b, c, d), rest))
    assert lines
    assert all(line.strip() and "-->" not in line for line in lines)
    return start, end, lines


def said(text: str, start: float = 0.0, each: float = 0.3, pauses: dict[int, float] | None = None) -> dict[str, Any]:
    words, at = [], start
    for number, word in enumerate(text.split()):
        at += (pauses or {}).get(number, 0.0)
        words.append({"start": at, "end": at + each, "word": word})
        at += each
    return {"start": start, "end": at, "text": text, "words": words}


def readable(read: Read) -> None:
    for before, (start, end, lines) in zip([None, *read], read, strict=False):
        assert end > start
        assert before is None or before[1] <= start
        assert len(lines) <= 2
        assert all(width(line) <= 42 for line in lines)
        assert end - start <= 7000


TEXT = (
    "Good morning, everyone. Today we talk about the railway in northern England, which began, as most people know, with "
    "one line. Why did it matter? Because coal could be moved at a fraction of the price. Before that, horses pulled."
)


def test_cues_are_readable_and_hold_every_word() -> None:
    for segments in ([said(TEXT)], [{"start": 0.0, "end": 20.0, "text": TEXT}]):
        for read in (strict_srt(srt(cues(segments))), strict_vtt(vtt(cues(segments)))):
            readable(read)
            assert " ".join(line for _, _, lines in read for line in lines) == TEXT
        assert len(read) >= 3
        ends = [lines[-1][-1] for _, _, lines in read]
        assert sum(end in ".,?" for end in ends) >= len(ends) - 1  # cut where something ends
    assert " ".join(one["text"] for one in phrases([said(TEXT)])) == TEXT


def test_a_cue_does_not_stand_over_silence() -> None:
    segments = [said("one two three four", pauses={2: 3.0})]
    read = strict_srt(srt(cues(segments)))
    assert [(start, lines) for start, _, lines in read] == [(0, ["one two"]), (3600, ["three four"])]
    assert read[0][1] == 1000  # long enough to be read, and no longer


def test_ugly_texts_and_times() -> None:
    arrows = [said("a --> b <i>&amp; x</i> \u200b{\\an8}", 3_725.5)]
    assert strict_srt(srt(cues(arrows)))[0][0] == 3_725_500
    assert strict_vtt(vtt(cues(arrows)))[0][2] == ["a --> b <i>&amp; x</i> \u200b{\\an8}"]
    assert srt(cues([said("x", 360_000)])).startswith("1\n100:00:00,000 --> ")
    address = "https://example.org/" + "a" * 120
    for odd in (
        [said(address)],
        [said(f"see {address} now", each=9.0)],
        [said("the same", each=0.0)],
        [said("two\nlines\r\n\n here")],
        [said("late", 5.0), said("early", 1.0)],
        [{"start": 1.0, "end": 1.0, "text": "no time", "words": []}],
        [{"start": 0.0, "end": 30.0, "text": "日本語の文章は、空白がありません。" * 8}],
    ):
        readable(strict_srt(srt(cues(odd))))
        readable(strict_vtt(vtt(cues(odd))))
    for nothing in ([], [{"start": 0.0, "end": 1.0, "text": " "}]):
        assert srt(cues(nothing)) == ""
        assert strict_vtt(vtt(cues(nothing))) == []


def test_words_without_spaces_stay_so() -> None:
    text = "日本語の文章"
    words = [{"start": float(at), "end": at + 1.0, "word": c} for at, c in enumerate(text)]
    (cue,) = cues([{"start": 0.0, "end": 6.0, "text": text, "words": words}])
    assert cue.lines == (text,)


SPOKEN = st.lists(
    st.tuples(st.text(st.characters(blacklist_categories=["Cs"]), max_size=60), st.floats(0, 20), st.floats(0, 20)),
    max_size=12,
)


@given(SPOKEN, st.booleans())
def test_whatever_was_said_is_a_valid_file(spoken: list[tuple[str, float, float]], timed: bool) -> None:
    at, segments = 0.0, []
    for text, before, long in spoken:
        at += before
        one: dict[str, Any] = {"start": at, "end": at + long, "text": text}
        segments.append({**said(text, at, long / 9)} if timed else one)
        at += long
    readable(strict_srt(srt(cues(segments))))
    readable(strict_vtt(vtt(cues(segments))))


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_whisper(tmp_path_factory.mktemp("whisper") / "tiny")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    room = tmp_path_factory.mktemp("sounds")
    (room / "b").mkdir()
    for name, pitch in (("one.wav", 300.0), ("two.wav", 500.0), ("b/one.wav", 700.0)):
        write(room / name, np.concatenate([tone(1.5, pitch), silence(0.2)]))
    return room


def test_one_sound_and_a_folder_of_them(whisper: Path, sounds: Path, tmp_path: Path) -> None:
    one, short = sounds / "one.wav", ("--max-new-tokens", 20)
    shown = moments("run", whisper, one, "--format", "srt", *short).stdout
    told = json.loads(moments("run", whisper, one, "--json", *short).stdout)
    assert shown == srt(cues(told["segments"]))
    readable(strict_srt(shown))
    assert all(segment["words"] for segment in told["segments"])
    file = tmp_path / "one.vtt"
    moments("run", whisper, one, "--out", file, *short)
    assert len(strict_vtt(file.read_text())) == len(strict_srt(shown))
    assert "--overwrite" in moments("run", whisper, one, "--out", file, code=2).stderr
    assert "several sounds" in moments("run", whisper, one, sounds / "two.wav", "--format", "vtt", code=2).stderr
    names = (one, sounds / "two.wav", sounds / "b" / "one.wav")
    run = ("run", whisper, *names, "--format", "srt", "--out", tmp_path / "subs", *short)
    assert "3 srt files" in moments(*run).stdout
    found = sorted(file.name for file in (tmp_path / "subs").iterdir())
    assert found == ["one-2.srt", "one.srt", "two.srt"]
    assert (tmp_path / "subs" / "one.srt").read_text() == shown
    (tmp_path / "subs" / "two.srt").unlink()
    assert "2 were there already" in moments(*run).stderr  # gone on with
    text = moments("run", whisper, one, "--format", "txt", *short).stdout
    assert text == told["text"] + "\n"


def test_what_has_no_times_is_refused(tiny_model: Path, whisper: Path, sounds: Path, tmp_path: Path) -> None:
    assert "has no times" in moments("run", tiny_model, "a film", "--format", "srt", code=2).stderr
    told = moments("run", whisper, sounds / "one.wav", "--format", "srt", "--out", tmp_path / "a.vtt", code=2).stderr
    assert "do not go together" in told
    assert "--format is" in moments("record", whisper, "--data", "x", "--format", "srt", code=2).stderr
