"""The command `moments`: one verb a file; nothing heavy is imported before a verb runs."""

from __future__ import annotations

import os
import sys
import traceback
import warnings

import typer

from llm_moments.base.errors import MomentsError
from llm_moments.base.notes import shown, tell_by
from llm_moments.cli import (
    certify,
    chat,
    compare,
    distill,
    doctor,
    embed,
    explain,
    improve,
    record,
    run,
    show,
    train,
    tune,
    weigh,
)
from llm_moments.cli.groups import Grouped
from llm_moments.cli.screen import screens
from llm_moments.cli.tell import waiting

INTERRUPTED = 130

app = typer.Typer(
    name="moments",
    help="What every step of a model's inference costs, what it is worth, and the same answers for less.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for verb in (run, chat, embed, record, weigh, explain, improve, certify, train, tune, distill, compare, doctor, show):
    name = verb.__name__.rpartition(".")[2]
    app.command(name, cls=Grouped, help=verb.__doc__)(getattr(verb, name))


def main() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.formatwarning = shown
    with screens():
        tell_by(waiting(sys.stderr))
        try:
            code = _code()
        finally:
            tell_by(None)
        sys.exit(code)


def _code() -> int:
    """The verb's exit code, when all that it has said is out."""
    try:
        try:
            app(standalone_mode=True)
        except SystemExit as stop:
            code = stop.code
            if code == INTERRUPTED:  # which typer makes of Ctrl-C without a word
                print("interrupted", file=sys.stderr)
        sys.stdout.flush()
    except MomentsError as error:
        return _said(error, error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _leave_stdout()
        return 1
    except OSError as error:
        _leave_stdout()
        return _said(error, 1)
    except Exception:  # a fault of the program: shown here, since names in its message are no more to be trusted
        traceback.print_exc()
        return 1
    return code if isinstance(code, int) else int(code is not None)


def _leave_stdout() -> None:
    """Nothing is tried again at the end with what could not be written."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _said(error: BaseException, code: int) -> int:
    """A message may hold names and texts of others: its further lines never stand where a line of the program's could."""
    if os.environ.get("MOMENTS_DEBUG"):
        raise error
    first, *more = str(error).split("\n")
    print("\n  ".join([f"error: {first}", *more]), file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
