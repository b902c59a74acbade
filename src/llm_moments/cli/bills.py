"""What is told beside an answer: what was cut of its input, and its bill (core/usage.py)."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_moments.core import Pipeline
    from llm_moments.core.usage import Usage

LINES = (".jsonl", ".ndjson")  # files that hold the whole bill; tables do where it is asked for


def overflowing(pipe: Pipeline, choice: str) -> Pipeline:
    """The pipeline that cuts what is too long, or fails; InputError for one that takes inputs of any length."""
    from llm_moments.base.errors import InputError
    from llm_moments.core.pipeline import knobs_of
    from llm_moments.steps.overflow import CUT, FAIL, NAME

    if choice not in (CUT, FAIL):
        raise InputError(f"--on-overflow is {CUT} or {FAIL}, not {choice!r}")
    names = [name for name in knobs_of(pipe) if name.endswith(f".{NAME}")]
    if not names:
        raise InputError(f"{pipe.model.name}: nothing of an input is cut by {pipe.task.name}; leave out --on-overflow")
    return pipe.with_(**dict.fromkeys(names, choice))


def opened(seconds: float) -> None:
    """How long the model's folder, tokenizer and plan took; the engine opens with the first answer."""
    print(f"(opened in {_time(seconds)})", file=sys.stderr)


def row_of(answer: Any, *, bill: bool = True) -> dict[str, Any]:
    """The fields of an answer, whatever its task. bill: what it took, too."""
    from llm_moments.core.usage import Usage

    told = {one.name: getattr(answer, one.name) for one in fields(answer)}
    asked = {one.name for one in fields(answer) if one.metadata.get("asked")}  # told of where somebody asked for it
    return {
        name: value.to_dict() if isinstance(value, Usage) else value
        for name, value in told.items()
        if (bill or not isinstance(value, Usage)) and not (value is None and name in asked)
    }


def usage_of(answer: Any) -> Usage:
    """Its bill; of an answer without one, what it says of the cut."""
    from llm_moments.core.usage import Usage

    told = row_of(answer)
    return Usage(**told["usage"]) if "usage" in told else Usage(cut_tokens=told.get("cut_tokens"))


def tokens_told(answer: Any) -> str:
    """A line for each token of an answer whose log-probabilities were asked for; else nothing."""
    told = row_of(answer).get("logprobs") or ()
    return "".join(f"{_token(one)}\t{'  '.join(map(_token, one['top_logprobs']))}".rstrip() + "\n" for one in told)


def _token(one: Any) -> str:
    return f"{one['logprob']:8.4f} {json.dumps(one['token'], ensure_ascii=False)}"


@dataclass
class Cuts:
    """What was cut of many inputs, told once in the end."""

    schema: bool = False  # whether answers are to keep to one
    rows: int = 0
    all: int = 0
    broken: int = 0
    tokens: int = 0
    read: int = 0

    @classmethod
    def of(cls, pipe: Pipeline) -> Cuts:
        return cls(bool(pipe.plan.settings("decode").get("json_schema")))

    def add(self, answer: Any) -> None:
        bill = usage_of(answer)
        self.all += 1
        if bill.cut_tokens:
            self.rows += 1
            self.tokens += bill.cut_tokens
            self.read += bill.prompt_tokens or 0
        self.broken += self.schema and bill.finish_reason == "length"

    def tell(self, fmt: str) -> None:
        if self.broken and fmt != "quiet":
            print(
                f"note: {self.broken:,} of {self.all:,} answers ended before their JSON did (finish_reason length): "
                "give --max-new-tokens more",
                file=sys.stderr,
            )
        if self.rows and fmt != "quiet":
            of = f" of {self.tokens + self.read:,}" if self.read else ""
            which = "the input was" if self.all == 1 else f"{self.rows:,} of {self.all:,} inputs were"
            print(
                f"note: {which} longer than the plan takes: {self.tokens:,}{of} tokens were cut, and the model never saw them "
                "(--on-overflow fail refuses such rows)",
                file=sys.stderr,
            )  # fmt: skip


def line(bill: Usage) -> str:
    """One bill for a person; what the engine does not tell is left out."""
    shares = [("template", bill.template_tokens), ("system", bill.system_tokens), ("history", bill.history_tokens),
              ("user", bill.user_tokens)]  # fmt: skip
    own = ", ".join(f"{name} {count:,}" for name, count in shares if count)
    parts = [
        _said(bill.load_s or None, lambda s: f"load {_time(s)}"),
        _said(bill.prompt_tokens, lambda n: f"prompt {n:,} tokens{f' ({own})' if own else ''}"),
        _said(bill.cut_tokens, lambda n: f"cut {n:,}"),
        _said(bill.cached_tokens, lambda n: f"cached {n:,}"),
        _said(bill.prefill_s, lambda s: f"prefill {_time(s)}"),
        _said(bill.ttft_s, lambda s: f"first token {_time(s)}"),
        _said(bill.tpot_s, lambda s: f"{_time(s)} a token"),
        _said(bill.completion_tokens, lambda n: f"answer {n:,} tokens"),
        _said(bill.draft_accepted, lambda n: f"{n:,} of them guessed"),
        _said(bill.finish_reason, lambda why: f"ended by {_why(why, bill.stop_string)}"),
    ]
    return " · ".join(part for part in parts if part) or "nothing is told of this answer"


def _said(value: Any, told: Any) -> str:
    return "" if value is None else str(told(value))


def _why(reason: str, stop: str | None) -> str:
    if stop is not None:
        return f"the stop text {stop!r}"
    return "length (decode.max_new_tokens)" if reason == "length" else reason


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"
