"""Where a SELECT turns the order of rows into content, found in its text.

Only tokens and parentheses are read, and edits are insertions at a token's edge: the rest of the
query keeps its bytes, so text in double quotes, odd names and whatever a parser may not know stay
what SQLite took them for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

_TOKEN = re.compile(
    r"""(?P<space>[\s\ufeff]+|--[^\n]*|/\*.*?(?:\*/|\Z))
    |(?P<string>'(?:[^']|'')*')
    |(?P<quoted>"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\])
    |(?P<number>0[xX][0-9a-fA-F]+|(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][+-]?\d+)?)
    |(?P<name>[^\W\d][\w$]*)
    |(?P<mark>\|\||<=|>=|<>|!=|==|<<|>>|->>|->|.)""",
    re.VERBOSE | re.DOTALL,
)

# Words that are never a column or an alias; they are the syntax around columns.
_KEYWORD_LIST = """
    ALL AND AS ASC BETWEEN BY CASE CAST COLLATE CROSS CURRENT DESC DISTINCT ELSE END ESCAPE
    EXCEPT EXISTS FILTER FROM FULL GLOB GROUP HAVING IN INNER INTERSECT IS ISNULL JOIN LEFT
    LIKE LIMIT MATCH MATERIALIZED NATURAL NOT NOTNULL NULL NULLS OFFSET ON OR ORDER OUTER
    OVER PARTITION REGEXP RIGHT SELECT THEN UNION USING VALUES WHEN WHERE WINDOW WITH
    RECURSIVE TRUE FALSE
"""
_KEYWORDS = frozenset(_KEYWORD_LIST.split())
_COMPOUND = frozenset(("UNION", "INTERSECT", "EXCEPT"))
_CLAUSES = frozenset(("SELECT", "FROM", "WHERE", "HAVING", "WINDOW", "LIMIT"))

_ORDERED_AGGREGATES = frozenset(
    (
        "group_concat",
        "string_agg",
        "json_group_array",
        "json_group_object",
        "jsonb_group_array",
        "jsonb_group_object",
    )
)
_PLAIN_AGGREGATES = frozenset(("avg", "count", "max", "min", "sum", "total", "median"))
_PERCENTILES = frozenset(("percentile", "percentile_cont", "percentile_disc"))
_AGGREGATES = _ORDERED_AGGREGATES | _PLAIN_AGGREGATES | _PERCENTILES

Role = Literal["outer", "scalar", "table", "set", "exists", "cte"]


@dataclass(frozen=True, slots=True)
class Token:
    """One lexical element of the text, at [start, end); `kind` is the group of `_TOKEN`."""

    kind: str
    text: str
    start: int
    end: int

    @property
    def word(self) -> str:
        """Upper case of an unquoted word, else ''."""
        return self.text.upper() if self.kind == "name" else ""

    @property
    def plain(self) -> str:
        """A name in lower case without its quotes; '' for anything else."""
        if self.kind == "name":
            return self.text.lower()
        if self.kind != "quoted":
            return ""
        mark = self.text[-1]
        return self.text[1:-1].replace(mark * 2, mark).lower()


@dataclass(slots=True)
class Core:
    """One SELECT between set operators: token indices at which each clause begins and ends."""

    clauses: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(slots=True)
class Query:
    """A whole SELECT statement, the outermost one or one in parentheses.

    Attributes:
        role: what its rows are used for; `scalar` means SQLite takes the first row alone.
        start, end: its tokens, parentheses excluded.
        edit_at: character offset at which an ordering term, or ORDER BY itself, can be inserted.
        order, limit, offset: whether it has these clauses itself; `LIMIT 2, 3` has an offset.
        recursive: a member of WITH RECURSIVE.
    """

    role: Role
    start: int
    end: int = 0
    edit_at: int = 0
    order: bool = False
    limit: bool = False
    offset: bool = False
    recursive: bool = False
    cores: list[Core] = field(default_factory=list)

    @property
    def editable(self) -> bool:
        """ORDER BY may follow: a SELECT, not VALUES."""
        return bool(self.cores)


@dataclass(frozen=True, slots=True)
class Bare:
    """A column outside aggregates at [start, end) of the text; name '*' or '(' for a subquery."""

    clause: str
    qualifier: str
    name: str
    start: int
    end: int

    def same(self, other: Bare) -> bool:
        """Both may be one column: a name that two tables have needs its table in front."""
        unqualified = not self.qualifier or not other.qualifier
        return self.name == other.name and (unqualified or self.qualifier == other.qualifier)


class Unreadable(Exception):
    """The text is not one SELECT with balanced parentheses."""


class Structure:
    """Tokens and queries of one text.

    Raises:
        Unreadable: parentheses do not match, or the text does not begin as a SELECT.
    """

    def __init__(self, sql: str) -> None:
        self.sql = sql
        self.tokens = [
            Token(str(m.lastgroup), m.group(), m.start(), m.end())
            for m in _TOKEN.finditer(sql)
            if m.lastgroup != "space"
        ]
        while self.tokens and self.tokens[-1].text == ";":
            self.tokens.pop()
        self.closing = self._pairs()
        self.queries: list[Query] = []
        if not self.tokens or self.tokens[0].word not in ("SELECT", "WITH", "VALUES"):
            raise Unreadable("the text does not begin with SELECT, WITH or VALUES")
        self._read_query(0, len(self.tokens), "outer", False)
        self.by_start = {query.start: query for query in self.queries}

    @property
    def outer(self) -> Query:
        """The outermost query."""
        return self.by_start[0]

    def _pairs(self) -> dict[int, int]:
        pairs: dict[int, int] = {}
        opened: list[int] = []
        for i, token in enumerate(self.tokens):
            if token.text == "(":
                opened.append(i)
            elif token.text == ")":
                if not opened:
                    raise Unreadable("a closing parenthesis has no opening one")
                pairs[opened.pop()] = i
        if opened:
            raise Unreadable("a parenthesis is not closed")
        return pairs

    def _word(self, i: int) -> str:
        return self.tokens[i].word if 0 <= i < len(self.tokens) else ""

    def _read_query(self, start: int, end: int, role: Role, recursive: bool) -> None:
        query = Query(role, start, end, recursive=recursive)
        self.queries.append(query)
        clause, begun, core = "", start, None
        recursion = self._word(start) == "WITH" and self._word(start + 1) == "RECURSIVE"
        query.edit_at = self.tokens[end - 1].end if end > start else 0

        def close(at: int) -> None:
            if core is not None and clause:
                core.clauses[clause] = (begun, at)

        i = start
        while i < end:
            token = self.tokens[i]
            word = token.word
            if token.text == "(":
                i = self._read_parentheses(i, clause == "FROM", recursion)
                continue
            opens = word if self._opens_clause(i) else ""
            if opens or word in _COMPOUND:
                close(i)
                clause, begun = opens, i + (2 if opens in ("GROUP", "ORDER") else 1)
            if opens == "SELECT":
                core = Core()
                query.cores.append(core)
            elif opens == "ORDER":
                query.order = True
            elif opens == "LIMIT":
                query.limit = True
                query.edit_at = self.tokens[i - 1].end
            elif clause == "LIMIT" and (word == "OFFSET" or token.text == ","):
                query.offset = True
            i += 1
        close(end)

    def _opens_clause(self, i: int) -> bool:
        word = self._word(i)
        if word in ("GROUP", "ORDER"):
            return self._word(i + 1) == "BY"
        if word == "FROM" and self._word(i - 1) == "DISTINCT":
            return self._word(i - 2) not in ("IS", "NOT")
        return word in _CLAUSES

    def _read_parentheses(self, i: int, in_from: bool, recursion: bool) -> int:
        """Reads what stands in the parentheses opened at i; returns the index behind them."""
        close = self.closing[i]
        before = self._word(i - 1)
        is_source = in_from and (
            before in ("FROM", "JOIN") or self.tokens[i - 1].text in (",", "(")
        )
        if self._word(i + 1) in ("SELECT", "WITH", "VALUES"):
            role: Role = "scalar"
            if before == "EXISTS":
                role = "exists"
            elif before == "IN":
                role = "set"
            elif before in ("AS", "MATERIALIZED"):
                role = "cte"
            elif is_source:
                role = "table"
            self._read_query(i + 1, close, role, recursion and role == "cte")
            return close + 1
        j = i + 1
        while j < close:
            if self.tokens[j].text == "(":
                j = self._read_parentheses(j, is_source, recursion)
            else:
                j += 1
        return close + 1

    def walk(self, start: int, end: int) -> Iterator[int]:
        """Indices of the tokens in [start, end) that belong to no nested query."""
        i = start
        while i < end:
            yield i
            nested = self.by_start.get(i + 1) if self.tokens[i].text == "(" else None
            i = nested.end if nested is not None else i + 1

    def is_call(self, i: int) -> bool:
        """A function's name stands at i."""
        return (
            self.tokens[i].kind in ("name", "quoted")
            and self.tokens[i].word not in _KEYWORDS
            and i + 1 in self.closing
        )

    def is_aggregate(self, i: int) -> bool:
        """An aggregate is called at i, not as a window function."""
        name = self.tokens[i].plain
        if name not in _AGGREGATES or not self.is_call(i):
            return False
        close = self.closing[i + 1]
        if name in ("min", "max"):  # with two arguments they are ordinary functions
            depth = 0
            for token in self.tokens[i + 2 : close]:
                depth += (token.text == "(") - (token.text == ")")
                if depth == 0 and token.text == ",":
                    return False
        after = close + 1
        if self._word(after) == "FILTER" and after + 1 in self.closing:
            after = self.closing[after + 1] + 1
        return self._word(after) != "OVER"

    def aggregated(self, core: Core) -> bool:
        """The core groups its rows, or has an aggregate among its outputs or in its order."""
        if "GROUP" in core.clauses or "HAVING" in core.clauses:
            return True
        return any(
            self.is_aggregate(i)
            for clause in ("SELECT", "ORDER")
            for i in self.walk(*core.clauses.get(clause, (0, 0)))
        )

    def one_row(self, query: Query) -> bool:
        """Without data it is plain that the query gives at most one row."""
        if len(query.cores) != 1:
            return False
        core = query.cores[0]
        if "FROM" not in core.clauses:
            return True
        return "GROUP" not in core.clauses and self.aggregated(core)

    def bare_columns(self, query: Query, core: Core) -> list[Bare]:
        """Columns an aggregated core shows, filters or cuts by although it does not group by them.

        A column counts as grouped by when GROUP BY names it, with the same qualifier or with none
        on one side. The list may hold columns that the grouped ones determine: it says what needs
        a probe, not what is unstable. A subquery among the outputs counts as one, since it may
        read such a column.
        """
        if not self.aggregated(core):
            return []
        group_items = self._items(core.clauses.get("GROUP", (0, 0)))
        grouped = [c for i, j in group_items for c in self._columns((i, j), "GROUP", whole=True)]
        keys = {self._spelling(i, j) for i, j in group_items}
        bare = []
        for clause in ("SELECT", "HAVING", "ORDER"):
            if clause == "ORDER" and (not query.limit or self.one_row(query)):
                continue  # the order of rows is not part of the result
            for i, j in self._items(core.clauses.get(clause, (0, 0))):
                if self._spelling(i, j) in keys:
                    continue
                for column in self._columns((i, j), clause):
                    if not any(column.same(other) for other in grouped):
                        bare.append(column)
        aliases = self._aliases(core)
        if any(column.clause == "SELECT" for column in bare):
            return bare
        return [c for c in bare if c.qualifier or c.name not in aliases]

    def shows_bare(self, query: Query) -> list[Bare]:
        """Bare columns of a query of which every group is a row that shows them, and only shows.

        For these it can be said exactly whether they differ within a group that the result holds:
        replace each by its least and by its greatest value and compare. Empty where a bare column
        also decides which rows there are, where rows are merged, or for `*` and subqueries.
        """
        if len(query.cores) != 1:
            return []
        core = query.cores[0]
        bare = self.bare_columns(query, core)
        start, end = core.clauses["SELECT"]
        numbered = query.limit and any(
            self.tokens[i].kind == "number" for i in self.walk(*core.clauses.get("ORDER", (0, 0)))
        )
        items = self._items((start, end))
        whole = {c.start for i, j in items for c in self._columns((i, j), "SELECT", whole=True)}
        plain = all(c.clause == "SELECT" and c.start in whole for c in bare)
        merged = self._word(start) == "DISTINCT"
        return bare if plain and not merged and not numbered else []

    def _items(self, span: tuple[int, int]) -> list[tuple[int, int]]:
        """Token ranges of the expressions between the commas of a clause, aliases left out."""
        start, end = span
        items, begun, i = [], start, start
        while i < end:
            if self.tokens[i].text == ",":
                items.append((begun, i))
                begun = i + 1
            i = self.closing[i] + 1 if i in self.closing else i + 1
        items.append((begun, end))
        return [(i, self._before_alias(i, j)) for i, j in items if i < j]

    def _before_alias(self, start: int, end: int) -> int:
        if end - start > 2 and self._word(end - 2) == "AS":
            return end - 2
        return end - 1 if self._is_implicit_alias(end - 1, start) else end

    def _spelling(self, start: int, end: int) -> tuple[str, ...]:
        return tuple(t.plain or t.text for t in self.tokens[start:end])

    def _aliases(self, core: Core) -> set[str]:
        span = core.clauses.get("SELECT", (0, 0))
        return {
            self.tokens[i].plain
            for i in range(*span)
            if i > span[0] and (self._word(i - 1) == "AS" or self._is_implicit_alias(i, span[0]))
        }

    def _is_implicit_alias(self, i: int, start: int) -> bool:
        """A name right behind the end of an expression: `count(*) n`."""
        if i <= start or self.tokens[i].kind not in ("name", "quoted"):
            return False
        before = self.tokens[i - 1]
        ends = before.kind in ("string", "quoted", "number") or before.text == ")"
        ends = ends or (before.kind == "name" and before.word not in _KEYWORDS - {"END", "NULL"})
        return ends and self.tokens[i].word not in _KEYWORDS

    def _columns(self, span: tuple[int, int], clause: str, whole: bool = False) -> Iterator[Bare]:
        """Each column outside aggregates in tokens [start, end) of a clause.

        With `whole` only a column that is all there is, with or without its table's name.
        """
        start, end = span
        if whole and not (
            end - start == 1 or (end - start == 3 and self.tokens[start + 1].text == ".")
        ):
            return
        skip_to = start
        for i in self.walk(start, end):
            if i < skip_to:
                continue
            token = self.tokens[i]
            if token.text == "*" and not whole and self._is_star(i, start):
                yield Bare(clause, "", "*", token.start, token.end)
            elif token.text == "(" and i + 1 in self.by_start:
                yield Bare(clause, "", "(", token.start, token.end)
            if token.kind not in ("name", "quoted") or token.word in _KEYWORDS:
                continue
            if self.is_call(i):
                if self.is_aggregate(i):
                    skip_to = self.closing[i + 1]
                continue
            if i > start and self._word(i - 1) in ("AS", "COLLATE"):
                continue
            if self._is_implicit_alias(i, start):
                continue
            if i + 1 < end and self.tokens[i + 1].text == ".":
                continue
            qualified = i - 1 > start and self.tokens[i - 1].text == "."
            first = self.tokens[i - 2] if qualified else token
            qualifier = first.plain if qualified else ""
            yield Bare(clause, qualifier, token.plain, first.start, token.end)

    def _is_star(self, i: int, start: int) -> bool:
        before = self.tokens[i - 1]
        return i == start or before.text in (",", ".") or before.word in ("DISTINCT", "ALL")

    def has_window(self) -> bool:
        """Some function is called OVER a window."""
        return any(
            t.word == "OVER" and i and self.tokens[i - 1].text == ")"
            for i, t in enumerate(self.tokens)
        )

    def ordered_aggregates(self) -> list[str]:
        """Aggregates in the text whose value hangs on the order of their rows."""
        found = []
        for i, token in enumerate(self.tokens):
            if token.plain in _ORDERED_AGGREGATES and self.is_call(i):
                found.append(token.plain)
        return found

    def merges_equal_values(self) -> bool:
        """Rows or values that compare equal are merged into one of them."""
        return any(
            token.word in ("DISTINCT", "GROUP", "UNION", "INTERSECT", "EXCEPT")
            or (token.plain in ("min", "max") and self.is_call(i))
            for i, token in enumerate(self.tokens)
        )

    def words(self) -> frozenset[str]:
        """Every name in the text, in lower case without quotes."""
        return frozenset(t.plain for t in self.tokens if t.plain)

    def takes_extreme_row(self) -> bool:
        """An aggregate min or max: SQLite then reads bare columns in the row that has it."""
        return any(
            t.plain in ("min", "max") and self.is_aggregate(i) for i, t in enumerate(self.tokens)
        )

    def with_extremes(self, columns: list[Bare], function: str) -> str:
        """The text with `function(quote(column))` in place of each column.

        `quote` maps NULL to a text too, which `min` and `max` would pass over.
        """
        sql = self.sql
        for column in sorted(columns, key=lambda c: -c.start):
            text = sql[column.start : column.end]
            sql = f"{sql[: column.start]}{function}(quote({text})){sql[column.end :]}"
        return sql

    def with_order(self, query: Query, terms: str) -> str:
        """The text with `terms` as the last ordering terms of `query`."""
        insertion = f", {terms}" if query.order else f" ORDER BY {terms}"
        return f"{self.sql[: query.edit_at]}{insertion}{self.sql[query.edit_at :]}"
