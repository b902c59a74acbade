"""The messages that a person types or pastes, or that a script writes on stdin."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

LONG = '"""'  # begins a message of several lines, and ends it
AT_ONCE = 0.05  # seconds within which the lines of a pasted text come, where a terminal does not say what is pasted


def messages() -> Iterator[str]:
    """Each without blanks around it; empty ones say nothing."""
    typed = sys.stdin.isatty()
    read = _terminal() if typed else _piped()
    try:
        while True:
            try:
                message = _message(read, typed)
            except KeyboardInterrupt:
                print("\n(Ctrl-D or /quit ends)", file=sys.stderr)
                continue
            if message:
                yield message
    except EOFError:
        if typed:
            print()


def _message(read: Callable[[str], str], typed: bool) -> str:
    """The next one; EOFError where there is none."""
    said = read("> ").strip()
    if not said.startswith(LONG):
        return said
    said = said.removeprefix(LONG)
    while not said.rstrip().endswith(LONG):
        try:
            said += "\n" + read("… ")
        except EOFError:
            if typed:
                raise
            from llm_moments.base.errors import DataError

            raise DataError(f"stdin ends inside of a message that {LONG} began: end it with {LONG}") from None
    return said.rstrip().removesuffix(LONG).strip()


def _terminal() -> Callable[[str], str]:
    """Reads what was typed before Enter; what is pasted comes whole, lines and all."""
    try:
        import readline  # input() has a history and arrow keys then

        readline.parse_and_bind("set enable-bracketed-paste on")  # which Python turns off
    except ImportError:
        pass

    def read(prompt: str) -> str:
        said = input(prompt)
        while _more():
            said += "\n" + input()
        return said

    return read


def _more() -> bool:
    """Whether further lines are there already: faster than anybody types."""
    try:
        import select

        return bool(select.select([sys.stdin], [], [], AT_ONCE)[0]) and not _at_end()
    except (ImportError, OSError, ValueError):  # no such thing on this system
        return False


def _at_end() -> bool:
    """Whether what is there is the end (Ctrl-D, a terminal that is gone) and no line."""
    import array
    import fcntl
    import termios

    waiting = array.array("i", [0])
    fcntl.ioctl(sys.stdin.fileno(), termios.FIONREAD, waiting)
    return waiting[0] == 0


def _piped() -> Callable[[str], str]:
    """Reads a line of stdin; DataError for one that is not UTF-8."""
    from llm_moments.base.errors import DataError

    lines = enumerate(sys.stdin.buffer, 1)

    def read(prompt: str) -> str:
        number, line = next(lines, (0, b""))
        if not number:
            raise EOFError
        try:
            return line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"line {number} of stdin is not UTF-8: {error}") from None

    return read
