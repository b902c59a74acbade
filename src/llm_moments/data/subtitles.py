"""What was said and when, as subtitles: SubRip (.srt) and WebVTT (.vtt), in cues that can be read as they pass.

Libraries that write both formats (pysubs2, webvtt-py) do not cut speech into cues, which is all the work there is here."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

WIDTH = 42  # columns of a line; a wide character, as of Chinese, has two
LINES = 2
MOST_S, LEAST_MS = 7.0, 1000  # a cue stands no longer, and no shorter where the next one leaves room
PAUSE_S, SILENCE_S = 0.3, 1.0  # a good place to cut at; what no cue should stand over
SENTENCE = re.compile(r"[.!?…。！？]['\"”’)\]]*$")
CLAUSE = re.compile(r"[,;:—–、，；：]['\"”’)\]]*$")
WIDE = ("W", "F")
NEXT = 60  # words that a cue may have at most, and more than fit


@dataclass(frozen=True)
class Word:
    """glued: no space stands before it."""

    start: float
    end: float
    text: str
    glued: bool = False


@dataclass(frozen=True)
class Cue:
    """start, end: milliseconds; of a file's cues none overlap, and each ends after it begins."""

    start: int
    end: int
    lines: tuple[str, ...]


def srt(cues: Sequence[Cue]) -> str:
    """SubRip. An arrow in a text would be read as times, and SubRip has no escapes: it becomes another arrow."""
    told = ("\n".join(cue.lines).replace("-->", "→") for cue in cues)
    blocks = (
        f"{number}\n{_time(cue.start, ',')} --> {_time(cue.end, ',')}\n{text}\n"
        for number, (cue, text) in enumerate(zip(cues, told, strict=True), 1)
    )
    return "\n".join(blocks)


def vtt(cues: Sequence[Cue]) -> str:
    """WebVTT, whose texts escape what would be markup (www.w3.org/TR/webvtt1)."""
    blocks = (f"{_time(cue.start, '.')} --> {_time(cue.end, '.')}\n{_escaped(cue.lines)}\n" for cue in cues)
    return "\n".join(["WEBVTT\n", *blocks])


def _escaped(lines: Sequence[str]) -> str:
    return "\n".join(lines).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _time(ms: int, point: str) -> str:
    seconds, rest = divmod(ms, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{point}{rest:03d}"


def phrases(segments: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The segments of an answer, cut as subtitles are: {"start", "end", "text"} in seconds, with the words of each where
    there are some."""
    found = []
    timed = all("words" in one for one in segments)
    for words in _cut(_words(segments)):
        inner = [{"start": w.start, "end": w.end, "word": w.text} for w in words]
        one = {"start": words[0].start, "end": max(w.end for w in words), "text": _text(words)}
        found.append({**one, "words": inner} if timed else one)
    return found


def cues(segments: Sequence[Mapping[str, Any]]) -> list[Cue]:
    """Cues of an answer's segments (tasks/speech.py), in seconds: at most two lines of 42 columns and 7 s each, cut at the
    ends of sentences, pauses and commas. Without words a segment's time is shared out over its characters."""
    found: list[Cue] = []
    for words in _cut(_words(segments)):
        start = max(round(words[0].start * 1000), found[-1].end if found else 0)
        end = max(round(max(w.end for w in words) * 1000), start + 1)
        if found and found[-1].end - found[-1].start < LEAST_MS:  # there is room up to this one
            last = found[-1]
            found[-1] = replace(last, end=max(last.end, min(last.start + LEAST_MS, start)))
        found.append(Cue(start, end, tuple(_lines(words) or (_text(words),))))
    if found and found[-1].end - found[-1].start < LEAST_MS:
        found[-1] = replace(found[-1], end=found[-1].start + LEAST_MS)
    return found


# ------------------------------------------------------------------------------------ words of segments


def _words(segments: Sequence[Mapping[str, Any]]) -> list[Word]:
    """All words, none wider than a line, none longer than a cue, in order of time."""
    found: list[Word] = []
    for segment in segments:
        for word in _timed(segment) if segment.get("words") else _shared_out(segment):
            for piece in _pieces(word):
                start = max(piece.start, found[-1].start if found else 0.0)
                found.append(replace(piece, start=start, end=min(max(piece.end, start), start + MOST_S)))
    return found


def _plain(text: Any) -> str:
    """On one line, without control characters."""
    told = " ".join(str(text).split())
    return told if told.isprintable() else "".join(c for c in told if unicodedata.category(c) != "Cc")


def _timed(segment: Mapping[str, Any]) -> Iterator[Word]:
    """Its words, with the spaces that its text has between them."""
    text, at = _plain(segment["text"]), 0
    for word in segment["words"]:
        told = _plain(word["word"])
        place = text.find(told, at)
        glued = place > 0 and place == at and not text[place - 1].isspace()
        at = place + len(told) if place >= 0 else at
        if told:
            yield Word(float(word["start"]), float(word["end"]), told, glued)


def _shared_out(segment: Mapping[str, Any]) -> Iterator[Word]:
    text = _plain(segment["text"])
    begin, end = float(segment["start"]), float(segment["end"])
    each = (end - begin) / max(len(text), 1)
    for found in re.finditer(r"\S+", text):
        yield Word(begin + each * found.start(), begin + each * found.end(), found[0])


def _pieces(word: Word) -> Iterator[Word]:
    """A word that is wider than a line, as of languages that write no spaces, or an address, in pieces."""
    if width(word.text) <= WIDTH:
        yield word
        return
    rows, most = [""], WIDTH if width(word.text[:1]) == 1 else 2  # a wide character is a word of its own
    for char in word.text:
        if rows[-1] and width(rows[-1] + char) > most and not CLAUSE.match(char) and not SENTENCE.match(char):
            rows.append("")
        rows[-1] += char
    each, at = (word.end - word.start) / len(word.text), 0
    for number, row in enumerate(rows):
        yield Word(word.start + each * at, word.start + each * (at + len(row)), row, word.glued or number > 0)
        at += len(row)


def width(text: str) -> int:
    """Columns that a text takes."""
    return sum(2 if unicodedata.east_asian_width(c) in WIDE else 0 if unicodedata.combining(c) else 1 for c in text)


def _text(words: Sequence[Word]) -> str:
    return "".join(w.text if w.glued or not at else f" {w.text}" for at, w in enumerate(words))


# ---------------------------------------------------------------------------------------- where to cut


def _cut(words: Sequence[Word]) -> list[Sequence[Word]]:
    """The words as cues: the cheapest way to cut them all, by what each cut and each cue costs."""
    best: list[tuple[float, int]] = [(0.0, 0)]  # up to each word: the cost, and where the last cue begins
    for stop in range(1, len(words) + 1):
        ways = []
        for begin in range(stop - 1, max(stop - NEXT, 0) - 1, -1):
            some = words[begin:stop]
            if len(some) > 1 and (some[-1].end - some[0].start > MOST_S or _lines(some) is None):
                break
            ways.append((best[begin][0] + _cost(words, begin, stop), begin))
        best.append(min(ways))
    found, stop = [], len(words)
    while stop:
        begin = best[stop][1]
        found.append(words[begin:stop])
        stop = begin
    return found[::-1]


def _cost(words: Sequence[Word], begin: int, stop: int) -> float:
    """Of a cue: 1, more where it ends in the middle of something, goes on over an end, or is soon gone."""
    some = words[begin:stop]
    ends = 0.0 if stop == len(words) else _bad_end(words[stop - 1], words[stop])
    over = sum(_good_end(a, b) for a, b in zip(some, some[1:], strict=False))
    short = 1.0 if some[-1].end - some[0].start < LEAST_MS / 1000 else 0.0
    return 1.0 + ends + over + short


def _bad_end(last: Word, after: Word) -> float:
    pause = after.start - last.end
    if pause >= SILENCE_S or SENTENCE.search(last.text):
        return 0.0
    return 1.0 if pause >= PAUSE_S or CLAUSE.search(last.text) else 4.0


def _good_end(last: Word, after: Word) -> float:
    """What it costs not to cut there."""
    if after.start - last.end >= SILENCE_S:
        return 5.0
    return 0.8 if SENTENCE.search(last.text) else 0.0


def _lines(words: Sequence[Word]) -> list[str] | None:
    """A cue's lines, of like width and cut at a comma where that can be; None where they are too wide."""
    text = _text(words)
    if width(text) <= WIDTH:
        return [text]
    if width(text) > LINES * WIDTH:
        return None
    ways = []
    for at in range(1, len(words)):
        one, other = _text(words[:at]), _text(words[at:])
        if max(width(one), width(other)) <= WIDTH:
            at_comma = CLAUSE.search(words[at - 1].text) or SENTENCE.search(words[at - 1].text)
            ways.append((abs(width(one) - width(other)) - (12 if at_comma else 0), [one, other]))
    return min(ways)[1] if ways else None
