"""What kind of value a column holds, from its declaration, its name and its values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from spftcore.catalogue.schema import Kind, natural_name

Counted = tuple[Any, int]  # a value and how often it occurs; None is a text too long to fetch

_CLOCK = r"\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?( ?[ap]\.?m\.?)?"
_ZONE = r"( ?(Z|UTC|GMT|[+-]\d{2}:?\d{2}))?"
_MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.?"
_WEEKDAY = r"((mon|tue|wed|thu|fri|sat|sun)[a-z]{0,6}\.?,? )?"
_NUMERIC_DATES = (
    rf"(?P<y>[12]\d{{3}})(?P<s>[-/.])(?P<m>\d{{1,2}})(?P=s)(?P<d>\d{{1,2}})([ T]{_CLOCK}{_ZONE})?",
    r"(?P<y>[12]\d{3})[-/](?P<m>\d{1,2})",
    rf"(?P<m>\d{{1,2}})(?P<s>[-/.])(?P<d>\d{{1,2}})(?P=s)(?P<y>\d{{4}}|\d{{2}})( {_CLOCK})?",
)
_NUMERIC_DATE = [re.compile(pattern, re.IGNORECASE) for pattern in _NUMERIC_DATES]
_WORDED_DATE = re.compile(
    rf"{_CLOCK}"
    rf"|{_WEEKDAY}\d{{1,2}}(st|nd|rd|th)?( of)?[ -]{_MONTH}([ ,-]{{1,2}}'?\d{{2,4}})?( {_CLOCK})?"
    rf"|{_WEEKDAY}{_MONTH}[ -]\d{{1,4}}(st|nd|rd|th)?(,? ?\d{{4}})?( {_CLOCK})?",
    re.IGNORECASE,
)
_COMPACT_DATE = re.compile(r"[12]\d{3}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(T?\d{6})?")
_NUMBER = re.compile(r"[+-]?(0|[1-9]\d{0,14})?(\.\d{1,15})?")
_DATE_NAME = re.compile(r"\b(date|datetime|day|time|timestamp|epoch|created|updated|modified)\b")
_LABEL_NAME = re.compile(
    r".*\b(id|ids|phone|telephone|mobile|fax|zip|postcode|code|isbn|issn|ssn|iban|number|no|serial"
    r"|gender|sex|type|status|class|section|room|extension|version|label|name)( \d+)?"
)
_FLAG_NAME = re.compile(r"(is|has|was|can|should|did|does)\b.+|.*\b(flag|yn|enabled|active)")
_TRUTH = (("true", "false"), ("yes", "no"), ("t", "f"), ("y", "n"))
# What people write where they have no value. It says nothing about the kind.
_NOTHING = frozenset(("", "null", "none", "nil", "nan", "n/a", "na", "-", "--", "?", "unknown"))
_SECONDS = (315_532_800, 4_102_444_800)  # unix times from 1980 to 2100


def infer_kind(declared: str, values: Sequence[Counted], name: str = "") -> Kind:
    """The kind of a column from its declared type, its most frequent values and its name.

    The values win over the declaration when nine of ten of them say otherwise: SQLite stores
    whatever it is given, and much real data calls numbers, dates and flags text or nothing.
    Numbers kept as text count as numbers, unless they look like codes (by name, leading zeros, or
    all of one length). Whole numbers are dates only where declaration or name speak of a date and
    every value is a unix time or a YYYYMMDD.

    Args:
        values: with their counts; bytes are blobs (or malformed text), None is a long text.
    """
    said = _declared_kind(declared)
    told = [(value, count) for value, count in values if not _is_nothing(value)]
    if not told:
        return said or "text"
    words = natural_name(name)
    if _is_truth(said, told, words):
        return "boolean"
    if (said == "date" or _DATE_NAME.search(words)) and _are_numeric_dates(told):
        return "date"
    codes = bool(_LABEL_NAME.fullmatch(words)) or _look_like_codes(told)
    seen: Counter[Kind] = Counter()
    for value, count in told:
        seen[_value_kind(value, codes)] += count
    total = seen.total()
    kind, count = max(seen.items(), key=lambda item: item[1])
    if said == "number" and seen["number"] == 0 and kind == "text":
        return "text"
    if kind == said or count >= 0.9 * total:
        return kind
    return said if said and seen[said] else kind


def sorts_as_text(kind: Kind, values: Sequence[Counted]) -> bool:
    """Whether a column of numbers keeps them as text in an order that is not the numbers' ('9'
    comes after '10'), so that SQLite's `<`, `max` and ORDER BY mislead."""
    if kind != "number":
        return False
    numbers = [text for text in _texts(values) if _is_number(text.strip())]
    return sorted(numbers) != sorted(numbers, key=float)


def _declared_kind(declared: str) -> Kind | None:
    name = declared.upper()
    if "BOOL" in name or name == "BIT":
        return "boolean"
    if any(word in name for word in ("DATE", "TIME")):
        return "date"
    if any(word in name for word in ("INT", "REAL", "FLOA", "DOUB", "NUM", "DEC", "YEAR", "MONEY")):
        return "number"
    if any(word in name for word in ("CHAR", "CLOB", "TEXT", "STRING")):
        return "text"
    if "BLOB" in name or "BINARY" in name:
        return "other"
    return None


def _is_nothing(value: Any) -> bool:
    return isinstance(value, str) and value.strip().lower() in _NOTHING


def _is_truth(said: Kind | None, told: Sequence[Counted], words: str) -> bool:
    seen = {str(value).strip().lower() for value, _ in told}
    for pair in _TRUTH:
        # One letter alone may be a grade or a gender.
        if seen <= set(pair) and (len(seen) == 2 or len(pair[0]) > 1 or said == "boolean"):
            return True
    if seen <= {"0", "1"}:
        return said == "boolean" or (len(seen) == 2 and bool(_FLAG_NAME.fullmatch(words)))
    return False


def _are_numeric_dates(told: Sequence[Counted]) -> bool:
    return all(_is_unix_time(value) for value, _ in told) or all(
        value is not None and _COMPACT_DATE.fullmatch(str(value)) for value, _ in told
    )


def _is_unix_time(value: Any) -> bool:
    if isinstance(value, str | bytes) or value is None:
        return False
    low, high = _SECONDS
    return low <= value <= high or 1000 * low <= value <= 1000 * high


def _look_like_codes(told: Sequence[Counted]) -> bool:
    """Whether texts of digits name things: leading zeros, or one length of five and more."""
    texts = [value.strip() for value in _texts(told)]
    if any(re.fullmatch(r"0\d+", text) for text in texts):
        return True
    lengths = {len(text) for text in texts}
    return len(texts) > 1 and len(lengths) == 1 and min(lengths) >= 5 and "." not in texts[0]


def _texts(told: Sequence[Counted]) -> Iterator[str]:
    return (value for value, _ in told if isinstance(value, str))


def _value_kind(value: Any, codes: bool) -> Kind:
    if isinstance(value, bytes):
        return "other"
    if value is None:
        return "text"
    if not isinstance(value, str):
        return "number"
    text = value.strip()
    if _is_date(text):
        return "date"
    return "number" if not codes and _is_number(text) else "text"


def _is_number(text: str) -> bool:
    return bool(_NUMBER.fullmatch(text)) and any(sign.isdigit() for sign in text)


def _is_date(text: str) -> bool:
    if len(text) > 40 or not any(sign.isdigit() for sign in text):
        return False
    for pattern in _NUMERIC_DATE:
        found = pattern.fullmatch(text)
        if found:
            parts = found.groupdict()
            month, day = int(parts["m"]), int(parts.get("d") or parts["m"])
            return 1 <= min(month, day) <= 12 and 1 <= max(month, day) <= 31
    return bool(_WORDED_DATE.fullmatch(text))
