"""Values as text that is safe to show, and as JSON has them."""

from __future__ import annotations

from typing import Any

from spftcore.printable import printable

BLOB_BYTES = 16  # of a blob that are shown


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
