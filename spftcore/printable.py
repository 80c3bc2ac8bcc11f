"""Text that is safe to show on a terminal: what a database, a model or a file holds may be
anything, also what a terminal would obey."""

from __future__ import annotations

import re

# Control characters, and the marks that turn the direction of writing round.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_KNOWN = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str) -> str:
    """A text on one line, with every character that steers a terminal, and every half of a
    surrogate pair, which no encoding has, written as an escape."""
    return _UNSAFE.sub(
        lambda sign: _KNOWN.get(sign[0], f"\\u{ord(sign[0]):04x}"),
        text,
    )
