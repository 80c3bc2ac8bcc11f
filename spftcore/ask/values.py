"""Values, names and SQL as text that is safe to show: what a database or a model holds may be
anything, also what a terminal would obey."""

from __future__ import annotations

import re
from typing import Any

# Control characters, and the marks that turn the direction of writing round.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_KNOWN = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
BLOB_BYTES = 16  # of a blob that are shown


def printable(text: str) -> str:
    """A text on one line, with every character that steers a terminal written as an escape."""
    return _UNSAFE.sub(
        lambda sign: _KNOWN.get(sign[0], f"\\u{ord(sign[0]):04x}"),
        text,
    )


def shown(value: Any, width: int) -> str:
    """A value as text of at most `width` characters; what is cut ends in `…`."""
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        digits = value[:BLOB_BYTES].hex()
        more = f"… ({len(value):,} bytes)" if len(value) > BLOB_BYTES else ""
        return f"x'{digits}'{more}"
    text = value[: width + 1] if isinstance(value, str) else str(value)
    text = printable(text)
    return text if len(text) <= width else text[: width - 1] + "…"


def plain(value: Any) -> Any:
    """A value as JSON has it: a blob as {"hex": digits}; what is no number in JSON as text."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value
