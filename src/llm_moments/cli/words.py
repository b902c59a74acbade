"""The words of a command line beside what stands on stdin: which are texts, which is a file, and what `-` stands for."""

from __future__ import annotations

import io
import os
import select
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_moments.base.errors import DataError, InputError
from llm_moments.base.visible import visible
from llm_moments.cli import paths

STDIN = "-"
PATIENCE_S = 1.0  # without a byte on stdin, before it is said what is waited for
LONGEST_S = 8.0  # after that a pipe that nobody asked for is let be: many a parent leaves one open that never ends


def taken(task: Any, words: Sequence[str], data: str | None) -> tuple[list[str], str | None]:
    """(texts to answer, file to read in their place): one of the two is empty.

    A model that goes on with prompts takes words as instructions about the text on stdin, if there is one there. A word
    that names a file is read as `--data` would be; models of sounds and images are given names of files as they are.
    Raises InputError where it is not clear what was meant.
    """
    if data or not words:
        return [], data
    if task.files:
        named = [paths.text(word) for word in words]
        return ([], named[0]) if len(named) == 1 and _is_of_rows(named[0]) else _apart(task, named)
    texts = [_typed(word) for word in words]
    if len(texts) == 1 and texts[0] != STDIN and _is_file(words[0]):
        return [], paths.text(words[0])
    if task.prompted:
        _no_files(words)
        about = _about(texts)
        texts = [text for text in texts if text != STDIN]
        return ([f"{about}\n\n{text}" if about else text for text in texts], None) if texts else ([], STDIN)
    return _apart(task, texts)


def _apart(task: Any, words: list[str]) -> tuple[list[str], str | None]:
    """Of models that answer each word for itself."""
    if STDIN not in words:
        return words, None
    if len(words) > 1:
        raise InputError(
            f"- is all that stands on stdin, a row a line: {task.name} takes it alone, not beside other words"
        )
    return [], STDIN


def _typed(word: str) -> str:
    """A text as it was typed, whatever the locale takes its bytes for."""
    try:
        return os.fsencode(word).decode("utf-8")
    except UnicodeError:
        return word


def _is_file(word: str) -> bool:
    """Whether the only word is the name of a file of examples. One without a suffix may be a text as well: who sits there
    is asked, and else it is taken for a text, which is said."""
    if not _exists(word):
        return False
    if Path(word).suffix or os.sep in word:
        print(f"{visible(word)} is a file, so it is read as --data", file=sys.stderr)
        return True
    if _sits_there():
        print(f"{visible(word)} is a file, too. Read it as --data? [y/N] ", end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().casefold() in ("y", "yes")
    print(f"{visible(word)} is a file, too; it was taken for a text (--data {visible(word)} reads it)", file=sys.stderr)
    return False


def _is_of_rows(word: str) -> bool:
    """Whether a name is that of a table of files, or of a folder of them, rather than of a sound or an image."""
    from llm_moments.data.formats import READERS

    return _exists(word) and (Path(word).is_dir() or Path(word.removesuffix(".gz")).suffix.lower() in READERS)


def _no_files(words: Sequence[str]) -> None:
    """InputError for an instruction beside the name of a file, whose text is meant, not its name."""
    for word in words:
        if len(words) > 1 and word != STDIN and Path(word[:4096]).suffix and _exists(word):
            raise InputError(
                f"{word} is a file: for an instruction about its text write `moments run MODEL INSTRUCTION - < {word}`"
            )


def _exists(word: str) -> bool:
    try:
        return Path(paths.text(word)).exists()
    except (OSError, ValueError, InputError):  # longer than a name may be, a NUL in it
        return False


def _sits_there() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def _about(texts: Sequence[str]) -> str:
    """What stands on stdin, where there is something: a pipe or a file, or whatever it is where `-` asks for it."""
    asked = STDIN in texts
    if all(text == STDIN for text in texts) or not (asked or _piped()):
        return ""
    if not _something(asked):
        return ""
    raw = sys.stdin.buffer.read()
    try:
        text = raw.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"stdin is not UTF-8 (byte 0x{raw[error.start]:02x} at {error.start:,})") from None
    if asked and not text:
        raise InputError("there is no text on stdin, which - stands for")
    return text


def _piped() -> bool:
    """Whether stdin was put there by someone: /dev/null and a terminal were not."""
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        return False
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, io.UnsupportedOperation):  # no file of the system's
        return True
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _something(asked: bool) -> bool:
    """Whether stdin has something to tell, or has ended. What was asked for is waited for as long as it takes; it is said
    what is waited for, and what is not."""
    try:
        stdin = sys.stdin.fileno()
    except (OSError, ValueError, io.UnsupportedOperation):
        return True
    if select.select([stdin], [], [], PATIENCE_S)[0]:
        return True
    print("waiting for text on stdin (where there is none: < /dev/null)", file=sys.stderr)
    if asked or select.select([stdin], [], [], LONGEST_S)[0]:
        return True
    print("nothing came on stdin: the words are answered alone (- waits for it)", file=sys.stderr)
    return False
