"""Texts from outside, shown as text: what would steer a terminal or turn a line round is written as an escape.

The escapes are JSON's. So JSON stays the same JSON when it is shown, and an escape says which character it stands for.
"""

from __future__ import annotations

import codecs
import re

# Control characters, halves of characters, separators of lines, marks that turn the direction or show nothing, tags.
_STEERING = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
ESCAPE = "moments-escape"  # the name of the handler of characters that an encoding lacks


def visible(thing: object, keep: str = "") -> str:
    """The text, with an escape in the place of each character that is no text. keep: those that may stay, as newlines."""
    return _STEERING.sub(lambda found: found[0] if found[0] in keep else _escape(found[0]), str(thing))


def _escape(char: str) -> str:
    code = ord(char)
    if code > 0xFFFF:  # two halves, as JSON has it
        high, low = divmod(code - 0x10000, 0x400)
        return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
    return _SHORT.get(char) or f"\\u{code:04x}"


def _lacking(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_escape, error.object[error.start : error.end])), error.end


codecs.register_error(ESCAPE, _lacking)
