"""Words of a query's text with the sub-query each stands in: what hardness and clauses count."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_WORD = re.compile(
    r"""(?P<space>[\s\ufeff]+|--[^\n]*|/\*.*?(?:\*/|\Z))
    |(?P<string>'(?:[^']|'')*'|"(?:[^"]|"")*"|\{v\d[^{}]*\})
    |(?P<name>`(?:[^`]|``)*`|\[[^\]]*\]|\{[^{}]*\}|[^\W\d][\w$]*)
    |(?P<number>(?:\d[\w.]*|\.\d\w*))
    |(?P<mark>\|\||<=|>=|<>|!=|==|.)""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Word:
    """One lexical element.

    Attributes:
        text: in lower case; a template's slot is one word.
        kind: `string` (in single or double quotes, or a slot for a value as `{v1 > a.2}`), `name`
            (keywords and other slots too), `number` or `mark`.
        selects: sub-queries it stands in; their parentheses belong to them.
        brackets: other open parentheses within its SELECT.
    """

    text: str
    kind: str
    selects: int
    brackets: int


def words(sql: str) -> list[Word]:
    """The words of a query, without white space and comments."""
    return list(_nested(sql))


def _nested(sql: str) -> Iterator[Word]:
    found = [match for match in _WORD.finditer(sql) if match.lastgroup != "space"]
    opened: list[int] = []  # for each open sub-query: the other parentheses open within it
    brackets = 0
    kinds: list[bool] = []  # for each open parenthesis: does it hold a sub-query
    for number, match in enumerate(found):
        text, kind = match.group().lower(), match.lastgroup or ""
        if text == "(":
            following = found[number + 1].group().lower() if number + 1 < len(found) else ""
            kinds.append(following in ("select", "with", "values"))
            if kinds[-1]:
                opened.append(brackets)
                brackets = 0
            else:
                brackets += 1
        yield Word(text, kind, len(opened), brackets)
        if text == ")" and kinds:
            if kinds.pop():
                brackets = opened.pop()
            else:
                brackets -= 1
