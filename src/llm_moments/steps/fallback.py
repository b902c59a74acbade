"""Transcripts that the model is unsure of are asked for again: with beams, then drawn ever more freely.

The ladder and its thresholds are Whisper's own (Radford et al. 2022, section 4.5), as faster-whisper has them, but one
draw a temperature where that takes the best of five.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llm_moments.core import Knob, whole
from llm_moments.engines.generator import Decoding, Generated
from llm_moments.steps.decode import share


def _rising(value: Any) -> bool:
    fine = isinstance(value, list) and all(isinstance(t, int | float) and 0 < t <= 2 for t in value)
    return fine and list(value) == sorted(value)


FALLBACK = (
    Knob("temperatures", [], ([], [0.2, 0.4, 0.6, 0.8, 1.0]), False, _rising, "rising, such as [0.2, 0.4]: drawn with these where the answer is bad; []: never"),
    Knob("beams", 0, (0, 5), False, whole(0, 64), "0, or beams for answers whose mean log-probability is below `sure`"),
    Knob("sure", -0.5, (-0.3, -0.5, -0.7), False, share(-100, 0), "mean log-probability from which an answer is not asked for again with beams", {"beams": 0}),
    Knob("logprob", -1.0, (), False, share(-100, 0), "mean log-probability below which an answer is bad"),
    Knob("compression", 2.4, (), False, share(1, 1000), "an answer that zlib makes shorter by more than this factor is bad: it repeats itself"),
    Knob("silence", 0.6, (), False, share(0, 1), "above this probability of silence a bad answer is no speech"),
)  # fmt: skip

Ask = Callable[[Sequence[int], Decoding], list[Generated]]


class Ladder:
    def __init__(self, settings: Mapping[str, Any], first: Decoding, text: Callable[[Generated], str]):
        chosen = {knob.name: knob.default for knob in FALLBACK} | dict(settings)
        self.first, self.text = first, text
        self.beams, self.sure, self.temperatures = int(chosen["beams"]), chosen["sure"], chosen["temperatures"]
        self.logprob, self.compression, self.silence = chosen["logprob"], chosen["compression"], chosen["silence"]

    def climb(self, count: int, ask: Ask) -> tuple[list[Generated], int]:
        """Answers of `count` prompts, and how many were asked for again. ask(rows, decoding): their answers."""
        rows = list(range(count))
        made = ask(rows, self.first)
        again = 0
        if self.beams > self.first.beams:
            rows = [r for r in rows if self.unsure(made[r])]
            again += len(rows)
            for row, answer in zip(rows, ask(rows, replace(self.first, beams=self.beams)) if rows else [], strict=True):
                made[row] = answer
        tried: dict[int, list[Generated]] = {r: [made[r]] for r in range(count) if self.bad(made[r])}
        left = list(tried)
        for temperature in self.temperatures if left else ():
            again += len(left)
            for row, answer in zip(
                left, ask(left, replace(self.first, temperature=float(temperature), beams=1)), strict=True
            ):
                tried[row].append(answer)
            left = [row for row in left if self.bad(tried[row][-1])]
            if not left:
                break
        for row, answers in tried.items():
            made[row] = answers[-1] if row not in left else max(answers, key=self._worth)
        return made, again

    def silent(self, one: Generated) -> bool:
        return one.silence is not None and one.silence > self.silence and (one.score or 0.0) < self.logprob

    def unsure(self, one: Generated) -> bool:
        return not self.silent(one) and (self._repeats(one) or (one.score is not None and one.score < self.sure))

    def bad(self, one: Generated) -> bool:
        return not self.silent(one) and (self._repeats(one) or (one.score is not None and one.score < self.logprob))

    def _repeats(self, one: Generated) -> bool:
        return compression(self.text(one)) > self.compression

    def _worth(self, one: Generated) -> tuple[bool, float]:
        return not self._repeats(one), -1e9 if one.score is None else one.score


def compression(text: str) -> float:
    """How many times shorter zlib makes it."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw)) if raw else 0.0
