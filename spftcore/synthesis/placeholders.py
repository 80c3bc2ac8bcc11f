"""Literals kept out of a model's way when it writes a question: masked before, put back after."""

from __future__ import annotations

import re
from datetime import date

from spftcore.synthesis.sql_text import spoken

# Quoted names and blobs are passed over: what stands in them is no literal of its own.
_LITERAL = re.compile(
    r"""(?P<name>"(?:[^"]|"")*"|\b[xX]'[0-9a-fA-F]*')"""
    r"""|'(?:[^']|'')*'|(?<![\w.])\d+(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.])"""
)
_PLACEHOLDER = re.compile(r"value(\d+)")
_ONES_TEXT = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen
"""
_ONES = _ONES_TEXT.split()
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_MONTHS_TEXT = """
    January February March April May June July August September October November December
"""
_MONTHS = _MONTHS_TEXT.split()


def mask_literals(sql: str, question: str | None = None) -> tuple[str, str, list[str]]:
    """Replaces literals by `value1`, `value2`, … so that a model need not copy them.

    With a question (training), a literal is masked in both only where the question writes it: as
    it stands, as a number in words or with grouped digits, or as a date with the month's name.
    Without one (synthesis), all are masked but 0 and 1, which stand for truth values and
    for "the most …" and are put into words.

    Args:
        sql: a query.
        question: its question, if known.

    Returns:
        (masked SQL, masked question or '', the masked literals in order).
    """
    literals: list[str] = []
    text = question or ""

    def replace(match: re.Match[str]) -> str:
        nonlocal text
        literal = match.group()
        if match.group("name") or literal in ("0", "1") or not spoken(literal).strip():
            return literal
        if question is not None:
            masked = _put(text, literal, f"value{len(literals) + 1}")
            if masked is None:
                return literal
            text = masked
        literals.append(literal)
        return f"value{len(literals)}"

    masked_sql = _LITERAL.sub(replace, sql)
    return masked_sql, text, literals


def mask_draft(draft: str, literals: list[str]) -> str:
    """A question by rule with the placeholders of its query; a literal that it does not write
    stays out."""
    # The longest first: 'New York' before 'York'.
    for place, literal in sorted(enumerate(literals, 1), key=lambda item: -len(item[1])):
        draft = _put(draft, literal, f"value{place}") or draft
    return draft


def unmask_question(question: str, literals: list[str]) -> str | None:
    """Puts the literals back into a question; None when one was lost or invented."""
    found = _PLACEHOLDER.findall(question)
    if sorted(found, key=int) != [str(i + 1) for i in range(len(literals))]:
        return None
    return _PLACEHOLDER.sub(lambda m: spoken(literals[int(m.group(1)) - 1]), question)


def writes(question: str, literal: str) -> bool:
    """Whether a question writes a literal in one of the ways that people do."""
    said = question.lower()
    return any(form.strip().lower() in said for form in forms(spoken(literal)))


def _put(text: str, literal: str, placeholder: str) -> str | None:
    """The text with the first mention of a literal replaced, or None where there is none."""
    for form in forms(spoken(literal)):
        pattern = re.compile(rf"(?<![\w.]){re.escape(form)}(?!\w|\.\d)", re.IGNORECASE)
        if pattern.search(text):
            return pattern.sub(placeholder, text, count=1)
    return None


def forms(said: str) -> list[str]:
    """How people write a literal, the plainest way first."""
    forms = [said]
    if said.isascii() and said.isdigit() and len(said) < 16:
        number = int(said)
        if number < len(_ONES):
            forms.append(_ONES[number])
        elif number < 100:
            ten, one = _TENS[number // 10 - 2], number % 10
            forms += [f"{ten}-{_ONES[one]}", f"{ten} {_ONES[one]}"] if one else [ten]
        elif number >= 1000:
            forms.append(f"{number:,}")
    elif re.fullmatch(r"\d{4}-\d{2}-\d{2}", said):
        try:
            day = date.fromisoformat(said)
        except ValueError:
            return forms
        month = _MONTHS[day.month - 1]
        forms += [f"{month} {day.day}, {day.year}", f"{day.day} {month} {day.year}"]
    return forms
