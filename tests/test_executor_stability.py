"""`stable`: which results the data determine, and what shows that another does not."""

from __future__ import annotations

import itertools
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spftcore.verify import Executor, Limits
from spftcore.verify.stability import Stability, only_rounding, stable

# Ben and Cy tie in points; Ada and Ben play for one team, Cy and Dee for the other.
GAMES = """
create table player (
    id integer primary key, name text not null, team text, points integer, height real,
    joined date, nick text collate nocase);
create table hit (player_id integer references player (id), minute integer);
insert into player values
    (1, 'Ada', 'red', 9, 1.5, '2020-01-01', 'ace'),
    (2, 'Ben', 'red', 7, 1.25, '2021-06-01', 'ACE'),
    (3, 'Cy', 'blue', 7, 1.75, '2999-01-01', 'b'),
    (4, 'Dee', 'blue', 5, 1.5, '2019-01-01', 'b');
insert into hit values (1, 10), (2, 10), (3, 20), (3, 30);
create view first_hit as select player_id from hit limit 1;
create view scorer as select distinct player_id from hit;
"""


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with Executor(threads=1) as executor:
        yield executor


@pytest.fixture(scope="module")
def games(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("stability") / "games.sqlite", GAMES)


def make(path: Path, script: str) -> Path:
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()
    return path


def bag(path: Path, sql: str) -> Counter[tuple[object, ...]]:
    connection = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    connection.text_factory = bytes  # some of Spider's texts are not UTF-8
    try:
        return Counter(connection.execute(sql).fetchall())
    finally:
        connection.close()


UNSTABLE = {
    # Ben and Cy tie for the second place.
    "select name from player order by points desc limit 2": "ties",
    "select name from player order by points desc limit 1 offset 1": "ties",
    "select name from player order by points desc limit 1, 1": "ties",
    "select name from player order by points desc limit 2 -- the best": "ties",
    "SELECT name FROM player ORDER BY points DESC LIMIT 2 ;": "ties",
    "select team from player group by team order by count(*) limit 1": "ties",
    "select points, name from player union all select 9, 'Eve' order by points limit 2": "ties",
    # Ben or Cy decides whether the red or the blue team is counted.
    "select count(*), team from player where id in"
    " (select id from player order by points desc limit 2) group by team": "ties",
    "with best as (select team from player order by points desc limit 2)"
    " select count(distinct team) from best": "ties",
    "select name from player limit 2": "limit",
    "select distinct minute from hit limit 1": "limit",
    "select name from player where id = (select player_id from hit)": "subquery",
    "select (select minute from hit where minute >= player.points) from player": "subquery",
    "select name from player where id = (select player_id from hit order by minute)": "subquery",
    "select name, team from player group by team": "bare column",
    "select name, count(*) from player": "bare column",
    "select substr(name, 2), team from player group by team": "bare column",
    "select name, count(*) from player group by length(name)": "bare column",
    "select p.team, h.minute from player p join hit h on 1 group by p.team": "bare column",
    "select * from player group by team": "bare column",
    "select team from player group by team having points > 7": "bare column",
    # Ben and Cy both have the 7 points that are the least above 5.
    "select name, min(points) from player where points > 5": "bare column",
    "select group_concat(name) from player": "group_concat",
    "select group_concat(name) from (select name from player order by points)": "group_concat",
    "select name, row_number() over (order by points) from player": "window",
    "select name, lag(name) over (order by points) from player": "window",
    "select distinct nick from player": "collation",
    "select player_id from first_hit": "view",
    "select rowid, minute from hit where minute = 30": "rowid",
    "select name from player where joined < date('now')": "clock",
    "select count(*) from player where joined < CURRENT_DATE": "clock",
    "select julianday() - julianday(joined) from player": "clock",
}

STABLE = (
    "select name from player",
    "select name from player order by points",  # the order of rows is not the bag
    "select name from player order by points desc, id limit 2",
    "select name from player order by id limit 3",
    "select name from player order by height desc limit 1",
    "select name from player order by points desc limit 3",  # both of those that tie
    "select points from player order by points desc limit 2",  # they tie, and look alike
    "select name from player limit 4",
    "select name from player limit 100 offset 0",
    "select count(*) from player limit 1",
    "select max(points) from player order by name limit 1",
    "select exists (select 1 from hit limit 1)",
    "select name from player where id in (select player_id from hit order by minute)",
    "select name from player where points = (select max(points) from player)",
    "select name from player where points = (select points from player where name = 'Cy')",
    # `id` determines the name, though it is not said so.
    "select p.name, count(*) from player p join hit h on h.player_id = p.id group by h.player_id",
    "select team, count(*) n from player group by team order by n",
    "select length(name) n, count(*) from player group by length(name) having n > 2",
    "select length(name) + 1 from player group by length(name)",
    "select length(name) as n, max(points) from player group by n",
    "select upper(team), count(*) from player group by team having count(*) > 1".replace(
        "n >", "count(*) >"
    ),
    "select name, max(points) from player",  # Ada alone has the most
    "select group_concat(name) from (select name from player order by id)",
    "select group_concat(name order by id) from player",
    "select name, row_number() over (order by points, id) from player",
    "select name, rank() over (order by points) from player",
    "select name from (select name from player order by id) limit 1",
    "select distinct team from player",
    "select player_id from scorer",
    "select rowid from player",  # here the rowid is the key
    "select avg(height), sum(height), total(height) from player",
    'select name from player where team = "red"',
    "select date('2020-01-01'), strftime('%Y', joined) from player where name = 'now'",
    "with recursive n(i) as (select 1 union all select i + 1 from n limit 5) select i from n",
    "values (1), (2)",
)


def test_names_what_the_result_hangs_on(executor: Executor, games: Path) -> None:
    results = stable(executor, [(games, sql) for sql in UNSTABLE])
    assert {sql: (r.verdict, r.cause) for sql, r in zip(UNSTABLE, results, strict=True)} == {
        sql: (False, cause) for sql, cause in UNSTABLE.items()
    }


def test_raises_no_alarm_where_the_data_determine_the_bag(executor: Executor, games: Path) -> None:
    results = stable(executor, [(games, sql) for sql in STABLE])
    assert {sql: r for sql, r in zip(STABLE, results, strict=True) if r.verdict is not True} == {}


def test_a_probe_in_sql_gives_another_bag_in_plain_sqlite(executor: Executor, games: Path) -> None:
    wanted = [sql for sql, cause in UNSTABLE.items() if cause in ("ties", "limit", "subquery")]
    for sql, result in zip(wanted, stable(executor, [(games, s) for s in wanted]), strict=True):
        assert bag(games, result.probe) != bag(games, sql), sql


def test_a_query_that_cannot_be_judged_is_unknown(executor: Executor, games: Path) -> None:
    queries = ["select nothing from player", "select random()", "delete from player", ""]
    results = stable(executor, [(games, sql) for sql in queries])
    assert [r.verdict for r in results] == [None] * 4
    assert all(r.message and not r.cause and not r.probe for r in results)
    missing = stable(executor, [(games.with_name("no.sqlite"), "select 1")])
    assert missing[0].verdict is None


def test_a_probe_that_runs_out_of_budget_leaves_the_query_unknown(tmp_path: Path) -> None:
    rows = ", ".join(f"({i}, {i % 7})" for i in range(400))
    script = f"create table t (a integer primary key, b); insert into t values {rows};"
    path = make(tmp_path / "t.sqlite", script)
    # A copy has no key, so the join has to build an index first.
    sql = "select group_concat(y.b) from t x join t y on y.a = x.a"
    with Executor(threads=1) as executor:
        steps = executor.execute([(path, sql)])[0].steps
        assert stable(executor, [(path, sql)])[0].verdict is False
    with Executor(threads=1, limits=Limits(steps=steps + 1000)) as executor:
        [result] = stable(executor, [(path, sql)])
    assert result.verdict is None
    assert "undecided" in result.message


def test_texts_of_no_sensible_size_are_unknown_and_harm_nothing(
    executor: Executor, games: Path
) -> None:
    deep = "select " + "(" * 400 + "1" + ")" * 400
    wide = "select " + ", ".join(["(select minute from hit order by player_id, minute)"] * 40)
    results = stable(executor, [(games, deep), (games, wide), (games, "select 1")])
    assert [r.verdict for r in results] == [True, None, True]


def test_answers_come_in_the_order_asked_and_repeats_agree(executor: Executor, games: Path) -> None:
    queries = [(games, "select name from player limit 1"), (str(games), "select 1")] * 2
    results = stable(executor, queries)
    assert [r.verdict for r in results] == [False, True, False, True]
    assert results[0] == results[2]
    assert stable(executor, []) == []


def test_the_database_is_left_as_it_was(executor: Executor, games: Path) -> None:
    before, names = games.read_bytes(), sorted(games.parent.iterdir())
    stable(executor, [(games, sql) for sql in UNSTABLE])
    assert games.read_bytes() == before
    assert sorted(games.parent.iterdir()) == names


def test_copies_keep_affinities_collations_and_odd_names(
    executor: Executor, tmp_path: Path
) -> None:
    script = """
    create table "odd ""name" ("a b" varchar(3) collate rtrim, [select] float, c any, d blob,
        e integer generated always as (length(d)) virtual, primary key ("a b")) without rowid;
    insert into "odd ""name" values ('x', 1, '1', x'00'), ('y', 2.5, 2, null);
    create table strict_one (k text primary key, v any) strict;
    insert into strict_one values ('p', '01'), ('q', 1);
    """
    path = make(tmp_path / "odd.sqlite", script)
    queries = [
        'select group_concat("a b" || typeof([select]) || e) from "odd ""name"',
        "select group_concat(typeof(v)) from strict_one",
        'select count("a b" = \'x  \'), max([select]), e from "odd ""name" where e = 1',
    ]
    results = stable(executor, [(path, sql) for sql in queries])
    assert [(r.verdict, r.cause) for r in results] == [
        (True, ""),  # NULL for y: one value to join
        (False, "group_concat"),
        (True, ""),
    ]


def test_rounding_alone_is_no_alarm(executor: Executor, games: Path) -> None:
    """Another order of adding changes last digits, here put in the text of two queries."""
    # Either side of an edge of the rounding to 12 digits: a half, and just below it.
    one, other = "select 123456789013.5, 'x'", "select 123456789013.49998, 'x'"
    prints = {o.fingerprint for o in executor.execute([(games, one), (games, other)])}
    assert len(prints) == 2
    assert only_rounding(executor, (str(games), one), (str(games), other))
    assert not only_rounding(executor, (str(games), one), (str(games), "select 123456.5, 'x'"))
    assert not only_rounding(executor, (str(games), one), (str(games), f"{one} union all {one}"))
    assert not only_rounding(executor, (str(games), "select 'x'"), (str(games), "select 'y'"))


rows_of_three = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([None, 1, 2, "1", "a", "A"])), max_size=6
)
quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def table(path: Path, rows: list[tuple[int, object]]) -> Path:
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    connection.execute("create table t (k, v)")
    connection.executemany("insert into t values (?, ?)", rows)
    connection.commit()
    connection.close()
    return path


@quick
@given(rows=rows_of_three, limit=st.integers(0, 4))
def test_a_limit_is_unstable_exactly_when_some_order_of_ties_gives_another_bag(
    executor: Executor, tmp_path: Path, rows: list[tuple[int, object]], limit: int
) -> None:
    bags = {
        tuple(
            sorted(Counter(repr(v) for _, v in sorted(order, key=lambda r: r[0])[:limit]).items())
        )
        for order in itertools.permutations(rows)
    }
    path = table(tmp_path / "t.sqlite", rows)
    [result] = stable(executor, [(path, f"select v from t order by k limit {limit}")])
    assert result.verdict is (len(bags) == 1)


@quick
@given(rows=rows_of_three)
def test_a_subquery_as_a_value_is_unstable_exactly_when_its_rows_differ(
    executor: Executor, tmp_path: Path, rows: list[tuple[int, object]]
) -> None:
    path = table(tmp_path / "t.sqlite", rows)
    [result] = stable(executor, [(path, "select (select v from t)")])
    assert result.verdict is (len({repr(v) for _, v in rows}) <= 1)


@quick
@given(rows=rows_of_three)
def test_a_bare_column_is_unstable_exactly_when_it_differs_within_a_group(
    executor: Executor, tmp_path: Path, rows: list[tuple[int, object]]
) -> None:
    differs = any(len({repr(v) for g, v in rows if g == k}) > 1 for k, _ in rows)
    path = table(tmp_path / "t.sqlite", rows)
    [result] = stable(executor, [(path, "select v, count(*) from t group by k")])
    assert result.verdict is not differs


# ---- Spider


@pytest.fixture(scope="module")
def spider(data: Path, executor: Executor) -> dict[str, list[tuple[str, str, Stability]]]:
    folder = data / "spider"
    if not folder.is_dir():
        pytest.skip(f"no Spider in {data}")
    judged = {}
    for split, name in (("dev", "dev.json"), ("train", "train_spider.json")):
        pairs = json.loads((folder / name).read_text(encoding="utf-8"))
        files = [str(folder / "database" / p["db_id"] / f"{p['db_id']}.sqlite") for p in pairs]
        found = [(f, p["query"]) for f, p in zip(files, pairs, strict=True) if Path(f).exists()]
        results = stable(executor, found)
        judged[split] = [(f, sql, r) for (f, sql), r in zip(found, results, strict=True)]
    return judged


Judged = dict[str, list[tuple[str, str, Stability]]]


@pytest.mark.parametrize(("split", "ties", "bare"), [("dev", 46, 4), ("train", 241, 24)])
def test_spider_golds_that_hang_on_ties_or_bare_columns(
    spider: Judged, split: str, ties: int, bare: int
) -> None:
    causes = Counter(result.cause for _, _, result in spider[split])
    assert causes["ties"] >= ties
    assert causes["bare column"] >= bare


def test_every_alarm_on_ties_is_real_in_plain_sqlite(spider: Judged) -> None:
    alarms = [
        (file, sql, result)
        for judged in spider.values()
        for file, sql, result in judged
        if result.cause in ("ties", "limit", "subquery")
    ]
    assert alarms
    for file, sql, result in {(f, s): (f, s, r) for f, s, r in alarms}.values():
        assert bag(Path(file), sql) != bag(Path(file), result.probe), sql


def test_every_alarm_on_bare_columns_is_real(spider: Judged, tmp_path: Path) -> None:
    """The tables written again in reverse by Python give another bag."""
    alarms = {
        (file, sql)
        for judged in spider.values()
        for file, sql, result in judged
        if result.cause == "bare column"
    }
    assert alarms
    for i, (file, sql) in enumerate(sorted(alarms)):
        assert bag(reversed_copy(Path(file), tmp_path / f"{i}.sqlite", sql), sql) != bag(
            Path(file), sql
        ), sql


def reversed_copy(source: Path, target: Path, sql: str) -> Path:
    """The tables that the text names, without keys, their rows in reverse."""
    old, new = sqlite3.connect(source), sqlite3.connect(target)
    old.text_factory = bytes
    tables = [
        n.decode() for (n,) in old.execute("select name from sqlite_master where type='table'")
    ]
    for name in tables:
        if not re.search(rf"\b{re.escape(name)}\b", sql, re.IGNORECASE):
            continue
        info = old.execute(f'pragma table_info("{name}")').fetchall()
        columns = ", ".join(f'"{c[1].decode()}" {c[2].decode()}' for c in info)
        new.execute(f'create table "{name}" ({columns})')
        rows = old.execute(f'select * from "{name}"').fetchall()
        marks = ", ".join("?" for _ in info)
        texts = [
            [v.decode(errors="replace") if isinstance(v, bytes) else v for v in r] for r in rows
        ]
        new.executemany(f'insert into "{name}" values ({marks})', reversed(texts))
    new.commit()
    new.close()
    old.close()
    return target


def test_no_alarm_where_the_order_is_total(spider: Judged) -> None:
    """One table, ORDER BY a column without NULL whose values all differ, LIMIT."""
    total = []
    for judged in spider.values():
        for file, sql, result in judged:
            match = re.fullmatch(
                r"(?is)select (?:(?!\bselect\b|\bjoin\b|\bgroup\b|\().)* from (\w+)"
                r"(?: where (?:(?!\bselect\b|\bgroup\b).)*)?"
                r" order by (\w+)(?: asc| desc)? limit .*",
                re.sub(r"\s+", " ", sql).strip(),
            )
            if match and match.group(2).lower() in unique_columns(file, match.group(1)):
                total.append((sql, result.verdict))
    assert len(total) >= 50
    assert [sql for sql, verdict in total if verdict is not True] == []


def unique_columns(file: str, table_name: str) -> set[str]:
    """Columns whose values are all there and all different."""
    connection = sqlite3.connect(f"file:{file}?mode=ro&immutable=1", uri=True)
    connection.text_factory = bytes
    names = [c[1].decode() for c in connection.execute(f'pragma table_info("{table_name}")')]
    unique = set()
    for name in names:
        query = f'select count(*) = count(distinct "{name}") from "{table_name}"'
        if connection.execute(query).fetchone()[0]:
            unique.add(name.lower())
    connection.close()
    return unique
