"""The command `moments`: one verb a file; nothing heavy is imported before a verb runs."""

from __future__ import annotations

import os
import sys
import warnings

import typer

from llm_moments.cli import chat, compare, distill, doctor, improve, record, run, show, train, weigh
from llm_moments.errors import MomentsError
from llm_moments.notes import shown

INTERRUPTED = 130

app = typer.Typer(
    name="moments",
    help="What every step of a model's inference costs, what it is worth, and the same answers for less.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for verb in (run, chat, record, weigh, improve, train, distill, compare, doctor, show):
    name = verb.__name__.rpartition(".")[2]
    app.command(name, help=verb.__doc__)(getattr(verb, name))


def main() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.formatwarning = shown
    try:
        app(standalone_mode=True)
    except MomentsError as error:
        sys.exit(_said(error, error.exit_code))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except OSError as error:
        sys.exit(_said(error, 1))


def _said(error: BaseException, code: int) -> int:
    if os.environ.get("MOMENTS_DEBUG"):
        raise error
    print(f"error: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
