"""Literals kept out of a model's way when it writes a question: masked before, put back after."""

from __future__ import annotations

import re

from spftcore.synthesis.sql_text import spoken

_LITERAL = re.compile(r"'(?:[^']|'')*'|(?<![\w.])\d+(?:\.\d+)?(?![\w.])")


def mask_literals(sql: str, question: str | None = None) -> tuple[str, str, list[str]]:
    """Replaces literals by `value1`, `value2`, … so that a model need not copy them.

    With a question (training), a literal is masked in both only where the question writes it.
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
        if question is None:
            if literal in ("0", "1") or not spoken(literal):
                return literal
        else:
            said = re.escape(spoken(literal))
            pattern = re.compile(rf"(?<![\w.]){said}(?![\w]|\.\d)", re.IGNORECASE)
            if literal in ("0", "1") or not spoken(literal) or not pattern.search(text):
                return literal
            text = pattern.sub(f"value{len(literals) + 1}", text, count=1)
        literals.append(literal)
        return f"value{len(literals)}"

    masked = _LITERAL.sub(replace, sql)
    return masked, text, literals


def unmask_question(question: str, literals: list[str]) -> str | None:
    """Puts the literals back into a question; None when one was lost or invented."""
    found = re.findall(r"value(\d+)", question)
    if sorted(found, key=int) != [str(i + 1) for i in range(len(literals))]:
        return None
    return re.sub(r"value(\d+)", lambda m: spoken(literals[int(m.group(1)) - 1]), question)
