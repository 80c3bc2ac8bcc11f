"""Beside GROUP BY stands only what has one value in every group of the data."""

import random
import re
import sqlite3

import pytest

from spftcore.databases import Catalogue, Database
from spftcore.synthesis import Template, TemplatePool, synthesize_sql
from spftcore.synthesis.gates import hangs_on_more_than_ties
from spftcore.verify import Executor

# Two keys between two tables; a composite key; a key to a column that rows share.
LEAGUE = """
create table team (id integer primary key, name text, city text);
create table game (id integer primary key, home_id int references team (id),
  away_id int references team (id));
create table seat (hall int, number int, colour text, primary key (hall, number));
create table ticket (id integer primary key, hall int, number int, buyer text,
  foreign key (hall, number) references seat (hall, number));
create table region (code text, ruler text);
create table village (id integer primary key, region text references region (code), kind text);
"""


@pytest.fixture(scope="module")
def league(tmp_path_factory: pytest.TempPathFactory) -> Database:
    folder = tmp_path_factory.mktemp("databases")
    connection = sqlite3.connect(folder / "league.sqlite")
    connection.executescript(LEAGUE)
    rng = random.Random(5)
    for n in range(9):
        connection.execute("insert into team values (?, ?, ?)", (n, f"T{n}", f"City {n % 4}"))
        connection.execute(
            "insert into seat values (?, ?, ?)", (n // 3, n % 3, ["red", "blue"][rng.randrange(2)])
        )
        connection.execute("insert into region values (?, ?)", (f"r{n % 3}", f"ruler {n}"))
    for n in range(70):
        home, away = rng.sample(range(9), 2)
        connection.execute("insert into game values (?, ?, ?)", (n, home, away))
        connection.execute(
            "insert into ticket values (?, ?, ?, ?)",
            (n, rng.randrange(3), rng.randrange(3), f"b{n % 8}"),
        )
        connection.execute(
            "insert into village values (?, ?, ?)", (n, f"r{rng.randrange(3)}", f"kind {n % 4}")
        )
    connection.commit()
    connection.close()
    return Catalogue.open(folder)["league"]


def kept(database: Database, *texts: str) -> list[str]:
    pool = TemplatePool()
    for text in texts:
        pool.add(Template(text), "test")
    with Executor(threads=1) as executor:
        result = synthesize_sql(pool, [database], executor, 60, random.Random(0))
    return [query.sql for query in result.queries]


def most_values_in_a_group(database: Database, sql: str) -> int:
    shown, rest = re.fullmatch(r"select (.+?), count\(\*\) (from .+)", sql).groups()  # type: ignore
    connection = sqlite3.connect(database.path)
    try:
        return max(n for (n,) in connection.execute(f"select count(distinct {shown}) {rest}"))
    finally:
        connection.close()


def test_a_key_fixes_a_row_only_where_the_join_goes_through_it(league: Database) -> None:
    queries = kept(
        league,
        "select {a.1: text}, count(*) from {a} join {b} group by {b.1: fk a}",
        "select upper({a.1: text}), count(*) from {a} join {b} group by {b.1: fk a}",
        "select {a.1: text}, count(*) from {a} join {b} group by {b.1: fk a}, {b.2: fk a}",
    )
    for sql in queries:
        assert most_values_in_a_group(league, sql) == 1, sql
    text = "\n".join(queries)
    assert re.search(r"team\.id = game\.home_id group by game\.home_id$", text, re.MULTILINE)
    assert "upper(" in text
    # Both columns of the composite key fix a seat.
    assert re.search(r"seat\.colour, .* group by ticket\.\w+, ticket\.\w+$", text, re.MULTILINE)
    assert "region.code" in text  # equal to what is grouped by
    assert "ruler" not in text


def test_a_copy_of_a_table_is_not_fixed_by_the_other(league: Database) -> None:
    joined = (
        "from {a#1} join {b} on {a#1.2: pk} = {b.1: fk a} join {a#2} on {a#2.2} = {b.2: fk a} "
        "group by {a#1.2}"
    )
    queries = kept(
        league,
        "select {a#1.1: text}, count(*) " + joined,
        "select {a#2.1: text}, count(*) " + joined,
    )
    assert queries
    assert all(most_values_in_a_group(league, sql) == 1 for sql in queries)


@pytest.mark.parametrize(
    ("sql", "hangs"),
    [
        ("select a, count(*) from t group by b", False),  # filling has looked at `a`
        ("select upper(a), count(*) from t group by b", True),
        ("select upper(a), count(*) from t group by upper(a)", False),
        ("select b, avg(a + c) from t group by b", False),
    ],
)
def test_expressions_beside_group_by_are_probed(sql: str, hangs: bool) -> None:
    assert hangs_on_more_than_ties(sql) is hangs
