"""Spider's hardness classes, against a parser written from the official rules, and by hand."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, reject, settings
from hypothesis import strategies as st

from spftcore.metrics.features import features
from spftcore.metrics.hardness import CLASSES, hardness

# -- the reference: Spider's own grammar, read by recursive descent into counts per SELECT --------

AGGREGATES = {"max", "min", "count", "sum", "avg"}
SET_OPERATIONS = {"intersect", "union", "except"}
KEYWORDS = {"select", "from", "where", "group", "order", "limit"} | SET_OPERATIONS


@dataclass
class Condition:
    negated: bool
    operator: str
    nested: int


@dataclass
class Select:
    tables: int = 0
    items: list[bool] = field(default_factory=list)  # is it an aggregate
    on: list[Condition | str] = field(default_factory=list)  # conditions and connectives
    where: list[Condition | str] = field(default_factory=list)
    group: int = 0
    having: list[Condition | str] = field(default_factory=list)
    order: list[int] = field(default_factory=list)  # aggregates of each term
    limit: bool = False
    set_operation: bool = False


class Parser:
    """Raises ValueError on what Spider's grammar does not hold."""

    def __init__(self, sql: str) -> None:
        text = sql.replace("'", '"').lower()
        self.tokens = re.findall(r'"[^"]*"|[<>!]=|[\w.]+|[^\s\w]', text)
        self.at = 0

    @property
    def next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, *wanted: str) -> str:
        token = self.next
        if wanted and token not in wanted:
            raise ValueError(f"{token!r} where {wanted} should be")
        self.at += 1
        return token

    def accept(self, token: str) -> bool:
        if self.next == token:
            self.at += 1
            return True
        return False

    def query(self) -> Select:
        select = Select()
        self.take("select")
        self.accept("distinct")
        while True:
            aggregate = self.next in AGGREGATES
            if aggregate:
                self.take()
            self.arithmetic()
            select.items.append(aggregate)
            if not self.accept(","):
                break
        self.take("from")
        while True:
            if self.accept("("):
                self.query()
                self.take(")")
                if self.accept("as"):
                    self.take()
            else:
                self.take()
                if self.accept("as"):
                    self.take()
            select.tables += 1
            if self.accept("on"):
                select.on += self.conditions()
            if not self.accept("join"):
                break
        if self.accept("where"):
            select.where = self.conditions()
        if self.accept("group"):
            self.take("by")
            select.group = 1
            self.column()
            while self.accept(","):
                select.group += 1
                self.column()
        if self.accept("having"):
            select.having = self.conditions()
        if self.accept("order"):
            self.take("by")
            while True:
                select.order.append(self.arithmetic())
                if self.next in ("asc", "desc"):
                    self.take()
                if not self.accept(","):
                    break
        if self.accept("limit"):
            self.take()
            select.limit = True
        self.accept(";")
        if self.next in SET_OPERATIONS:
            self.take()
            self.query()
            select.set_operation = True
        return select

    def arithmetic(self) -> int:
        """A column, an aggregate, or two of them with a sign between; how many aggregates."""
        block = self.accept("(")
        count = self.column()
        if self.next in ("-", "+", "*", "/"):
            self.take()
            count += self.column()
        if block:
            self.take(")")
        return count

    def column(self) -> int:
        block = self.accept("(")
        aggregate = self.next in AGGREGATES
        if aggregate:
            self.take()
            self.take("(")
            self.accept("distinct")
            self.take()
            self.take(")")
        else:
            self.accept("distinct")
            if not re.match(r"[\w.*]", self.next) or self.next in KEYWORDS:
                raise ValueError(f"{self.next!r} where a column should be")
            self.take()
        if block:
            self.take(")")
        return int(aggregate)

    def conditions(self) -> list[Condition | str]:
        found: list[Condition | str] = []
        while True:
            self.arithmetic()
            negated = self.accept("not")
            operator = self.take(
                "between", "=", ">", "<", ">=", "<=", "!=", "in", "like", "is", "exists"
            )
            nested = self.value()
            if operator == "between":
                self.take("and")
                nested += self.value()
            found.append(Condition(negated, operator, nested))
            if self.next not in ("and", "or"):
                return found
            found.append(self.take())

    def value(self) -> int:
        block = self.accept("(")
        nested = 0
        if self.next == "select":
            self.query()
            nested = 1
        elif self.next.startswith('"') or re.fullmatch(r"[\d.]+", self.next):
            self.take()
        elif self.next == "-":
            self.take()
            self.take()
        else:
            # A column: everything is skipped up to the next comma, bracket, AND or keyword.
            stops = {",", ")", "and", "join", "on", "as", ""} | KEYWORDS
            while self.next not in stops:
                self.take()
            if self.next == "select":
                raise ValueError("the rest of the query is lost here")
        if block:
            self.take(")")
        return nested


def reference(sql: str) -> str:
    """Hardness from the official definition of its three counts."""
    parser = Parser(sql)
    select = parser.query()  # what is left over behind it is ignored
    every = select.on + select.where + select.having
    conditions = [one for one in every if isinstance(one, Condition)]
    first = bool(select.where) + bool(select.group) + bool(select.order) + select.limit
    first += select.tables - 1 + every.count("or")
    first += sum(one.operator == "like" for one in conditions)
    second = sum(one.nested for one in conditions) + select.set_operation
    # "Aggregates": whatever is true where an aggregate's number would stand.
    aggregates = sum(select.items) + sum(select.order)
    aggregates += sum(isinstance(one, Condition) and one.negated for one in select.where)
    aggregates += sum(isinstance(one, str) or one.negated for one in select.having)
    others = (aggregates > 1) + (len(select.items) > 1)
    others += (len(select.where) > 1) + (select.group > 1)
    if first <= 1 and others == 0 and second == 0:
        return "easy"
    if second == 0 and ((others <= 2 and first <= 1) or (first <= 2 and others < 2)):
        return "medium"
    if second == 0 and ((others > 2 and first <= 2) or (2 < first <= 3 and others <= 2)):
        return "hard"
    if first <= 1 and others == 0 and second <= 1:
        return "hard"
    return "extra"


# -- Spider -------------------------------------------------------------------------------------


def golds(data: Path, name: str) -> list[tuple[str, str]]:
    records = json.loads((data / "spider" / name).read_text(encoding="utf-8"))
    return [(record["db_id"], record["query"]) for record in records]


def test_the_official_counts_of_spider_dev_come_out(data: Path) -> None:
    pairs = golds(data, "dev.json")
    # As the official evaluation prints them for all of dev.
    assert Counter(hardness(sql) for _, sql in pairs) == {
        "easy": 248, "medium": 446, "hard": 174, "extra": 166,
    }  # fmt: skip
    there = [sql for name, sql in pairs if (data / "spider" / "database" / name).is_dir()]
    assert Counter(map(hardness, there)) == {"easy": 232, "medium": 416, "hard": 160, "extra": 164}


@pytest.mark.parametrize("name", ["dev.json", "train_spider.json"])
def test_every_gold_has_the_class_of_the_reference(data: Path, name: str) -> None:
    for _, sql in golds(data, name):
        assert hardness(sql) == reference(sql), sql


# -- any query of Spider's grammar --------------------------------------------------------------


@st.composite
def queries(draw: st.DrawFn, depth: int = 2) -> str:
    """A query as Spider's grammar has it; names need not exist."""
    column = st.sampled_from(["t1.a", "b", "t2.c"])

    def value() -> str:
        kinds = ["5", "'x or y'", '"like"', draw(column)]
        if depth:
            kinds.append(f"({draw(queries(depth - 1))})")
        return draw(st.sampled_from(kinds))

    def condition() -> str:
        operator = draw(st.sampled_from(["=", ">", "!=", "like", "not like", "not in", "between"]))
        if operator == "between":
            return f"{draw(column)} between 1 and 2"
        return f"{draw(column)} {operator} {value()}"

    def conditions() -> str:
        text = condition()
        for _ in range(draw(st.integers(0, 2))):
            text += f" {draw(st.sampled_from(['and', 'or']))} {condition()}"
        return text

    def item() -> str:
        name = draw(column)
        return draw(st.sampled_from([name, f"count({name})", f"max({name})", "count(*)"]))

    def items(function: Callable[[], str]) -> str:
        return " , ".join(function() for _ in range(draw(st.integers(1, 3))))

    parts = [f"SELECT {items(item)} FROM"]
    if depth and draw(st.booleans()):
        parts.append(f"({draw(queries(depth - 1))})")
    else:
        parts.append("t as t1")
        for _ in range(draw(st.integers(0, 2))):
            parts.append("JOIN u AS t2")
            if draw(st.booleans()):
                parts.append(f"ON t1.a = {draw(column)}")
    if draw(st.booleans()):
        parts.append(f"WHERE {conditions()}")
    if draw(st.booleans()):
        parts.append(f"GROUP BY {items(lambda: draw(column))}")
        if draw(st.booleans()):
            parts.append(f"HAVING count(*) > {draw(st.integers(0, 9))}")
            if draw(st.booleans()):
                parts.append(f"{draw(st.sampled_from(['and', 'or']))} {condition()}")
    if draw(st.booleans()):
        parts.append(f"ORDER BY {items(item)} DESC")
    if draw(st.booleans()):
        parts.append("LIMIT 3")
    if depth and draw(st.integers(0, 3)) == 0:
        parts.append(draw(st.sampled_from(["UNION", "EXCEPT", "INTERSECT"])))
        parts.append(draw(queries(depth - 1)))
    return " ".join(parts)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(queries())
def test_any_query_of_spiders_grammar_has_the_class_of_the_reference(sql: str) -> None:
    try:
        expected = reference(sql)
    except ValueError:
        reject()  # reading on behind a column, Spider's parser can lose its way for good
    assert hardness(sql) == expected


# -- by hand ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT count(*) FROM t", "easy"),  # nothing
        ("SELECT a FROM t WHERE b = 1", "easy"),  # one part
        ("SELECT a, b FROM t", "medium"),  # one extra
        ("SELECT a FROM t WHERE b = 1 ORDER BY c", "medium"),  # two parts
        ("SELECT a FROM t JOIN u JOIN v ON t.x = u.x", "medium"),  # two joins
        ("SELECT a FROM t JOIN u ON t.x = u.x WHERE u.y LIKE 'z'", "hard"),  # three parts
        ("SELECT a FROM t WHERE b IN (SELECT c FROM u)", "hard"),  # a part and a sub-query
        ("SELECT a FROM t UNION SELECT b FROM u, v WHERE c = 1 OR d = 2", "hard"),  # of the
        # second SELECT nothing counts
        ("SELECT a, b FROM t UNION SELECT c, d FROM u", "extra"),  # an extra and a set operation
        ("SELECT avg(n) FROM (SELECT count(*) AS n FROM t GROUP BY a)", "easy"),  # FROM is free
        # NOT stands where an aggregate would: two of them are one extra.
        ("SELECT a FROM t WHERE b NOT IN (SELECT c FROM u)", "hard"),
        ("SELECT count(*) FROM t WHERE b NOT IN (SELECT c FROM u)", "extra"),
        # Aggregates of HAVING do not count, its AND does.
        ("SELECT max(a) FROM t GROUP BY b HAVING count(*) > 2", "easy"),
        ("SELECT max(a) FROM t GROUP BY b HAVING count(*) > 2 AND sum(c) > 3", "medium"),
        # Behind `= column` Spider's parser does not see an OR.
        ("SELECT a FROM t WHERE b = c OR d = 1", "easy"),
        ("SELECT a FROM t WHERE b = 1 OR d = 1", "medium"),
        ("SELECT a FROM t WHERE b BETWEEN 1 AND 2", "easy"),
        ("SELECT a FROM t WHERE b = 'like or ('", "easy"),  # words in strings
        ("SELECT a FROM t -- where x order by y\nLIMIT 1", "easy"),  # and in comments
        # Beyond Spider's grammar.
        ("SELECT a, (SELECT max(b) FROM u) FROM t", "extra"),
        ("SELECT a FROM t WHERE (b = 1 OR c = 2) AND d = 3", "medium"),
        ("SELECT a FROM t, u WHERE b = 1", "medium"),
        ("WITH x AS (SELECT a FROM t) SELECT a FROM x", "extra"),
        ("SELECT rank() OVER (ORDER BY a) FROM t", "medium"),
        ("SELECT CASE WHEN a > 1 THEN 2 END FROM t", "medium"),
        ("", "easy"),
    ],
)  # fmt: skip
def test_classes_worked_by_hand(sql: str, expected: str) -> None:
    assert hardness(sql) == expected


@given(st.text() | st.text(alphabet="(),;'\"`[]{}selctfromwhr andor"))
@example("select ((((" * 50)
@example(")))) union")
def test_any_text_has_a_class(text: str) -> None:
    assert hardness(text) in CLASSES
    assert features(text).joins >= 0
