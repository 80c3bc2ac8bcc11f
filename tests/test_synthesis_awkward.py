"""Any SELECT of SQLite gives a template that says the same, or is refused by a named cause."""

import random
import re
import sqlite3
from collections import Counter

import pytest
from awkward_queries import SCHEMA, queries

from spftcore.databases import Catalogue, Database
from spftcore.synthesis import FillError, TemplateError, extract_bound, normalise_sql, render
from spftcore.synthesis.mentions import Mentions
from spftcore.synthesis.resolve import ResolveError, resolve


@pytest.fixture(scope="module")
def travel(tmp_path_factory: pytest.TempPathFactory) -> Database:
    folder = tmp_path_factory.mktemp("databases")
    connection = sqlite3.connect(folder / "travel.sqlite")
    connection.executescript(SCHEMA)
    connection.close()
    return Catalogue.open(folder)["travel"]


@pytest.fixture(scope="module")
def connection(travel: Database) -> sqlite3.Connection:
    connection = sqlite3.connect(travel.path)
    connection.create_function(
        "regexp", 2, lambda pattern, text: text is not None and bool(re.search(pattern, text))
    )
    return connection


def bag(connection: sqlite3.Connection, sql: str) -> list[str] | None:
    """The rows of a query in any order, None when it does not run here."""
    try:
        return sorted(map(repr, connection.execute(sql).fetchall()))
    except sqlite3.Error:
        return None


def test_own_names_and_values_give_the_same_rows(
    travel: Database, connection: sqlite3.Connection
) -> None:
    refused: dict[str, str] = {}
    ran = 0
    for sql in queries():
        gold = bag(connection, sql)
        if gold is None:  # written for a newer SQLite than this one, or wrong on purpose
            continue
        ran += 1
        assert bag(connection, normalise_sql(sql, travel)) == gold, sql
        try:
            template, binding = extract_bound(sql, travel)
        except TemplateError as error:
            refused[sql] = error.cause
            continue
        again = render(template.compiled, binding, travel)
        assert bag(connection, again) == gold, (sql, template.text, again)
    assert ran > 215
    assert Counter(refused.values()) == {
        "no table": 2,  # a recursion over numbers, and a table of constants
        "not one SELECT": 1,  # VALUES by itself
        "does not parse": 1,  # sqlglot knows no expression with a subquery as LIMIT
    }


_TOKEN = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|\w+|\s+|.")
_STRANGE = ("{a}", "{v1}", "\x01", "'", '"', "é", "(", ")", "日本", ";", "--", "/*")
# Two texts side by side: SQLite takes the second for a name, sqlglot glues them together.
_TEXT_AS_NAME = re.compile(r"['\)]\s*'")
_CLOCK = re.compile(r"day\s*\(\s*\)")  # julianday() is the present time


def mutated(rng: random.Random, corpus: list[list[str]]) -> str:
    """A query with up to two changes, most of which break it."""
    tokens = list(rng.choice(corpus))
    for _ in range(rng.randint(1, 2)):
        place = rng.randrange(len(tokens))
        other = rng.choice(corpus)
        change = rng.choice(("delete", "word", "word", "word", "splice", "strange"))
        if change == "word":
            alike = [token for token in other if token.isidentifier()]
            places = [number for number, token in enumerate(tokens) if token.isidentifier()]
            if alike and places:
                tokens[rng.choice(places)] = rng.choice(alike)
        elif change == "splice":
            start = rng.randrange(len(other))
            tokens[place : place + rng.randint(0, 8)] = other[start : start + rng.randint(1, 8)]
        else:
            tokens[place : place + 1] = [rng.choice(_STRANGE)] if change == "strange" else [" "]
    return "".join(tokens)


def test_mutated_queries_are_read_rightly_or_refused(
    travel: Database, connection: sqlite3.Connection
) -> None:
    rng = random.Random(20)
    corpus = [_TOKEN.findall(sql) for sql in queries()]
    causes: Counter[str] = Counter()
    same = 0
    for _ in range(2500):
        sql = mutated(rng, corpus)
        try:
            template, binding = extract_bound(sql, travel)
            again = render(template.compiled, binding, travel)
        except (TemplateError, FillError) as error:
            causes[error.cause] += 1
            continue
        gold = bag(connection, sql)
        if gold is None or _CLOCK.search(sql) or _TEXT_AS_NAME.search(sql):
            continue
        assert bag(connection, again) == gold, (sql, template.text, again)
        same += 1
    assert same > 100
    assert causes.keys() <= {
        "alias of a subquery",
        "braces in the query",
        "column qualified by schema",
        "control character in the query",
        "does not parse",
        "join by USING or NATURAL",
        "no table",
        "not one SELECT",
        "ORDER BY of a set operation",
        "outer join by USING or NATURAL",
        "rowid",
        "too deep or not printable",
        "unknown column",
        "unknown table",
        "unsupported FROM",
        "unsupported query",
    }


def test_a_very_deep_query_is_refused(travel: Database) -> None:
    deep = "select name from city where " + "(" * 2000 + "1" + ")" * 2000
    with pytest.raises(TemplateError):
        extract_bound(deep, travel)


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        (
            "select t.*, p.name from trip t join person p using (person_id)",
            "select {a.*}, {b.1: text} from {a} join {b}",
        ),
        (  # a cycle of keys: the tree brings two conditions back, the third stays
            "select c.name from city c join trip t on t.city_id = c.city_id "
            "join person p on p.person_id = t.person_id and p.home = c.city_id",
            "select {a.1: text} from {a} join {b} join {c} where {b.1: fk c} = {c.1: pk}",
        ),
        (
            "select name, value from person, json_each(person.tags)",
            "select {a.1: text}, json_each.value from {a} cross join json_each({a.2: text})",
        ),
        ("select rowid from trip where oid > 3", "select {a.1: pk} from {a} where {a.1} > 3"),
    ],
)
def test_template_texts(sql: str, text: str, travel: Database) -> None:
    template, _ = extract_bound(sql, travel)
    assert re.sub(r"number (?=pk)|\{v1 > a\.1\}", "", template.text) == re.sub(r" 3$", " ", text)


def test_a_very_long_expression_is_refused(travel: Database) -> None:
    long = "select " + "+".join(["1"] * 3000) + " from city"
    with pytest.raises(ResolveError, match="too deep"):
        resolve(long, travel)
    assert Mentions([("How much?", long, travel)]).fault("How much?", long, travel) is None
