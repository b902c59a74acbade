"""Talk with a model: the history is kept, the answer comes as it is made. /help lists what else there is.

Example: moments chat my-model --system "Answer in one sentence." --temperature 0.7"""

from __future__ import annotations

import sys
from typing import Any

from llm_moments.cli import options as o
from llm_moments.cli import tell
from llm_moments.cli.bills import line as bill_line
from llm_moments.cli.messages import messages
from llm_moments.cli.sparing import sparing
from llm_moments.cli.verb import verb

HELP = """/reset  forget what was said
/undo   forget the last question and its answer
/steps  where the last answer's time went
/explain  which turns the last answer rests on
/help   this
/quit   end (or Ctrl-D); Ctrl-C stops an answer
\"\"\"     begins a message of several lines, and ends it; what is pasted is one message as it is"""


@verb
def chat(
    model: o.ModelArg,
    opened: o.Chatting,
    config: o.Config = None,
) -> None:
    from llm_moments.record.stream import Conversation

    pipe = opened.open(model, "chat")
    pipe.steps  # noqa: B018  (a model that cannot be talked with is refused now, not at the first message)
    if opened.plan is None:
        pipe = sparing(pipe, o.named_values(opened.set_, "--set"), dialogue=True)
    talk = Conversation(pipe)
    if sys.stdin.isatty():
        print(f"{model}: /help lists the commands, Ctrl-D ends", file=sys.stderr)
    for message in messages():
        if message == "/quit":
            return
        if not _command(message, talk):
            _answer(talk, message, opened.timings)


def _command(line: str, talk: Any) -> bool:
    """Whether the line was a command; it is done then."""
    if line == "/reset":
        talk.reset()
        print("(forgotten)", file=sys.stderr)
    elif line == "/undo":
        print("(forgotten)" if talk.undo() else "(nothing was said yet)", file=sys.stderr)
    elif line == "/steps":
        _steps(talk)
    elif line == "/explain":
        _explain(talk)
    elif line == "/help":
        print(HELP)
    elif line.startswith("/") and not any(map(str.isspace, line)):
        print(f"there is no command {line}\n{HELP}", file=sys.stderr)
    else:
        return False
    return True


def _steps(talk: Any) -> None:
    from llm_moments.render.tree import lines

    session = talk.session
    print("(nothing was answered yet)" if session is None else "\n".join(lines(session)))


def _explain(talk: Any) -> None:
    """The last answer, as it was given, held against the dialogue without each of its turns."""
    from llm_moments.base.errors import MomentsError
    from llm_moments.explain.explain import explain
    from llm_moments.render.console import terminal
    from llm_moments.render.explanation import show

    if not talk.turns:
        print("(nothing was answered yet)")
        return
    *before, (_, answer) = talk.turns
    try:
        with tell.progress("human") as tick:
            found = explain(talk.pipe, before, answer=answer, depth=0, budget="30s", progress=tick)
        show(found, terminal())
    except KeyboardInterrupt:
        print("\n(stopped)", file=sys.stderr)
    except MomentsError as error:
        print(f"error: {error}", file=sys.stderr)


def _answer(talk: Any, line: str, timings: bool) -> None:
    from llm_moments.base.errors import MomentsError

    try:
        tell.pieces(talk.say(line))
    except KeyboardInterrupt:
        print("\n(stopped)", file=sys.stderr)
    except MomentsError as error:
        if not sys.stdin.isatty():  # a script should not go on as if there had been an answer
            raise
        print(f"error: {error}", file=sys.stderr)
    bill = talk.usage
    if talk.dropped:
        print(f"(the context was full: {talk.dropped} of the oldest turns were left out)", file=sys.stderr)
    elif bill.cut_tokens:
        print(f"(the context was full: the first {bill.cut_tokens:,} tokens of your message were cut)", file=sys.stderr)
    if timings:
        print(f"({bill_line(bill)})", file=sys.stderr)
