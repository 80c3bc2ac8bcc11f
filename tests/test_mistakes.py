"""Which mistake a wrong answer makes: by its text, by its result, and by repairing it."""

import json
import random
import re
import sqlite3
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from spftcore.databases import Catalogue
from spftcore.metrics.records import Scored
from spftcore.mistakes import CLASSES, FAILURES, classify, describe, find_mistakes
from spftcore.mistakes.classify import compare_queries, read
from spftcore.mistakes.rows import result_mistakes
from spftcore.synthesis.sql_text import UNREADABLE
from spftcore.verify import Executor

GOLD = (
    "select c.name, count(*) from city as c join visit as v on c.city_id = v.city_id "
    "where v.nights >= 2 and c.country = 'Peru' group by c.city_id order by count(*) desc limit 1"
)


@pytest.fixture(scope="module")
def executor():
    with Executor(threads=2) as pool:
        yield pool


@pytest.fixture
def database(catalogue):
    return catalogue["travel"]


@pytest.mark.parametrize(
    ("old", "new", "mistake"),
    [
        ("c.name,", "c.country,", "column"),
        ("c.name, ", "", "missing columns"),
        ("c.name, ", "c.name, c.country, ", "extra columns"),
        ("c.name, count(*) from", "count(*), c.name from", "order of columns"),
        ("count(*) from", "sum(v.nights) from", "aggregate"),
        ("count(*) from", "count(distinct v.guest) from", "distinct"),
        ("c.city_id = v.city_id", "c.city_id = v.visit_id", "join"),
        ("join visit", "left join visit", "join"),
        ("nights >= 2", "nights >= 3", "value"),
        ("nights >= 2", "nights > 2", "condition"),
        ("nights >= 2", "visit_id >= 2", "column"),
        ("'Peru'", "'peru'", "value"),
        (" and c.country = 'Peru'", "", "condition"),
        (" and c.country", " or c.country", "condition"),
        ("where v.nights >= 2 and", "where v.nights >= 2 and v.guest = 'Ada' and", "condition"),
        ("group by c.city_id", "group by c.name", "grouping"),
        ("group by c.city_id ", "", "grouping"),
        (" desc", "", "order"),
        ("order by count(*) desc ", "", "order"),
        ("order by count(*)", "order by sum(nights)", "order"),
        ("limit 1", "limit 2", "limit"),
        (" limit 1", "", "limit"),
        ("select c.name", "select distinct c.name", "distinct"),
    ],
)
def test_one_change_is_named(database, old, new, mistake):
    assert old in GOLD
    assert classify(GOLD, GOLD.replace(old, new, 1), database) == (mistake,)


@pytest.mark.parametrize(
    ("gold", "answer", "mistake"),
    [
        ("select name from city", "select guest from visit", "table"),
        ("select count(*) from city", "select count(*) from visit", "table"),
        (
            "select name from city where country = 'Peru' union select name from city",
            "select name from city where country = 'Peru' intersect select name from city",
            "set operation",
        ),
        (
            "select name from city except select guest from visit",
            "select name from city",
            "set operation",
        ),
        (
            "select name from city except select guest from visit",
            "select guest from visit except select name from city",
            "set operation",
        ),
        (
            "select name from city where city_id not in (select city_id from visit)",
            "select name from city",
            "nesting",
        ),
        (
            "select name from city where city_id in (select city_id from visit where nights > 2)",
            "select name from city where city_id in (select city_id from visit where nights > 1)",
            "value",
        ),
        (
            "select name from city where city_id in (select city_id from visit)",
            "select name from city where city_id not in (select city_id from visit)",
            "condition",
        ),
        ("select count(distinct guest) from visit", "select count(guest) from visit", "distinct"),
        (
            "select guest from visit group by guest having count(*) > 1",
            "select guest from visit group by guest having sum(nights) > 1",
            "aggregate",
        ),
        (
            "select name from city where country = 'Peru' or country = 'Italy'",
            "select name from city where country = 'Peru' or name = 'Italy'",
            "column",
        ),
        ("select nights + 1 from visit", "select nights - 1 from visit", "expression"),
    ],
)
def test_what_differs_in_the_shape_is_named(database, gold, answer, mistake):
    assert classify(gold, answer, database)[0] == mistake


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (GOLD, GOLD.upper().replace("'PERU'", "'Peru'")),
        (
            GOLD,
            "SELECT name, count(visit_id) FROM visit, city WHERE 'Peru' = country AND "
            "visit.city_id = city.city_id AND 2 <= nights GROUP BY visit.city_id "
            'ORDER BY 2 DESC LIMIT "1"'.replace('"', ""),
        ),
        (
            "select guest from visit where nights between 2 and 5",
            "select guest from visit where nights <= 5 and nights >= 2",
        ),
        (
            "select guest from visit where not (nights < 2 or nights > 5)",
            "select guest from visit where nights between 2 and 5",
        ),
        (
            "select name from city where country in ('Peru', 'Italy')",
            "select name from city where country = 'Italy' or country = 'Peru'",
        ),
        ("select distinct guest from visit", "select guest from visit group by guest"),
        (
            'select name from city where country = "Peru"',
            "select name from city where country = 'Peru'",
        ),
        ("select name from city where city_id = '3'", "select name from city where city_id = 3"),
        ("select count(*) from city", "select count(name) from city"),
        ("select count(*) from city", "select count(1) from city"),
        (
            "select name from city intersect select guest from visit",
            "select guest from visit intersect select name from city",
        ),
        (
            "select a.guest from visit as a join visit as b on a.city_id = b.city_id "
            "where b.guest = 'Noor'",
            "select y.guest from visit as x join visit as y on x.city_id = y.city_id "
            "where x.guest = 'Noor'",
        ),
        ("select * from city", "select city_id, name, country, inhabitants from city"),
    ],
)
def test_the_same_written_otherwise_is_no_mistake(database, gold, answer):
    assert compare_queries(gold, answer, database).found == ()
    assert classify(gold, answer, database) == ("other",)


def test_counting_a_column_with_nulls_is_not_counting_rows(database):
    # `inhabitants` may be NULL, `name` may not.
    answer = "select count(inhabitants) from city"
    assert classify("select count(*) from city", answer, database) == ("aggregate",)


def test_several_mistakes_come_in_the_order_of_what_they_tell(database):
    answer = "select country from city where inhabitants > 3 order by name limit 5"
    found = classify("select name from city where inhabitants > 2", answer, database)
    assert found == ("column", "value", "limit", "order")


@pytest.mark.parametrize(
    ("sql", "mistake"),
    [
        ("", "no SQL"),
        (" ; ", "no SQL"),
        ("selec name from city", "syntax error"),
        ("select name from city where (", "syntax error"),
        ("select name from town", "no such table"),
        ("select population from city", "no such column"),
        ("select year(day) from visit", "no such function"),
        ("select city_id from city join visit", "ambiguous column"),
        ("select name from city where count(*) > 1", "misplaced aggregate"),
        ("select abs(1, 2) from city", "wrong arguments of a function"),
        ("select 1, 2 union select 1", "sides of different width"),
        ("select 1 from city where city_id = (select 1, 2)", "sub-query of many columns"),
        ("drop table city", "not allowed"),
        ("pragma table_info('city')", "not allowed"),
        (
            "with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) from n",
            "takes too long",
        ),
    ],
)
def test_what_does_not_run_says_why(database, executor, sql, mistake):
    (outcome,) = executor.execute([(database.path, sql)])
    assert not outcome.ran
    status = outcome.status.name.lower()
    found = classify("select name from city", sql, database, status=status, message=outcome.message)
    assert found == (mistake,)


def test_every_class_says_what_it_means():
    assert all(describe(name) for name in (*CLASSES, *FAILURES))
    assert not CLASSES.keys() & FAILURES.keys()


# -- results ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gold", "answer", "ordered", "proved"),
    [
        ([(1,), (2,)], [(2,), (1,)], True, ("order",)),
        ([(1,), (2,)], [(2,), (1,)], False, ()),
        ([(1,), (2,)], [(1,), (2,), (2,)], False, ("distinct",)),
        ([(1, "a"), (2, "b")], [("a", 1), ("b", 2)], False, ("order of columns",)),
        ([(1, "a"), (2, "b")], [("b", 1), ("a", 2)], False, ()),
        ([(1,), (2,)], [("x", 1), ("y", 2)], False, ("extra columns",)),
        ([("x", 1), ("y", 2)], [(1,), (2,)], False, ("missing columns",)),
        ([("x", 1), ("y", 2)], [(1,), (3,)], False, ()),
        ([], [(1,)], False, ()),
        ([(0.1 + 0.2,)], [(0.3,), (0.3,)], False, ("distinct",)),
    ],
)
def test_results_prove_mistakes(gold, answer, ordered, proved):
    assert result_mistakes(gold, answer, ordered) == proved


def test_columns_that_all_hold_the_same_are_tried_in_bounded_time():
    rows = [(1,) * 26 for _ in range(50)]
    assert result_mistakes(rows, [(*row, 2) for row in rows], False) == ("extra columns",)
    other = [(1,) * 25 + (i % 2,) for i in range(50)]
    assert result_mistakes(other, other[::-1], True) == ("order",)


# -- with the executor --------------------------------------------------------------------------


def scored(gold, sql, **values):
    values = {"scores": {"bag": 0.0}, "status": "ok", "id": "1", "database": "travel"} | values
    return Scored(question="?", gold=gold, sql=sql, **values)


def explain(records, travel, executor, metric="bag"):
    files = {"travel": travel / "travel.sqlite"}
    return [one.mistakes for one in find_mistakes(records, files, executor, metric)]


def test_a_difference_that_changes_nothing_is_no_mistake(travel, executor):
    # No city lies in Chile: the further condition is harmless on these rows, the column is not.
    gold = "select name from city where inhabitants > 100"
    answer = "select country from city where inhabitants > 100 and country != 'Chile'"
    assert explain([scored(gold, answer)], travel, executor) == [("column",)]


def test_the_mistake_whose_repair_suffices_comes_first(travel, executor):
    # With the gold's LIMIT the answer is right; its own ORDER BY only breaks a tie otherwise.
    gold = "select guest from visit order by nights desc, guest limit 1"
    answer = "select guest from visit order by nights desc limit 3"
    assert explain([scored(gold, answer)], travel, executor)[0][0] == "limit"
    # By text alone the column tells more than LIMIT.
    gold = "select city_id from visit where guest = 'Noor' limit 5"
    answer = "select city_id from visit where guest like 'Noor' order by nights limit 0"
    assert explain([scored(gold, answer, status="empty")], travel, executor) == [("limit",)]


def test_rows_that_come_too_often_are_named_where_the_queries_say_nothing(travel, executor):
    gold = "select name from city where city_id in (select city_id from visit)"
    answer = "select name from city join visit on city.city_id = visit.city_id"
    found = explain([scored(gold, answer)], travel, executor)[0]
    assert set(found) <= {"nesting", "join", "condition"}


def test_right_excluded_and_unknown_answers_have_no_mistakes(travel, executor):
    wrong = scored("select name from city", "select country from city")
    records = [
        replace(wrong, scores={"bag": 1.0}),
        replace(wrong, excluded="gold does not run"),
        replace(wrong, scores={}),
        replace(wrong, database="nowhere"),
        wrong,
    ]
    assert explain(records, travel, executor) == [(), (), (), (), ("column",)]


def test_a_near_miss_is_classed_by_its_text(travel, executor):
    # Both give Lima here; only the texts differ.
    gold = "select name from city where country = 'Peru'"
    answer = "select name from city where inhabitants > 5000"
    near = scored(gold, answer, scores={"bag": 1.0, "ts": 0.0}, near_miss=True)
    assert explain([near], travel, executor) == [("condition",)]


def test_by_spiders_rule_distinct_is_no_mistake(travel, executor):
    gold = "select guest from visit where nights > 0"
    answer = "select distinct name from city"
    records = [scored(gold, answer, scores={"bag": 0.0, "spider": 0.0})]
    assert "distinct" in explain(records, travel, executor)[0]
    assert "distinct" not in explain(records, travel, executor, "spider")[0]


def test_neither_order_nor_threads_change_what_is_found(travel, catalogue, executor):
    answers = [GOLD.replace(old, new) for old, new in (("desc", ""), ("count(*)", "sum(nights)"))]
    answers += ["select 1", "select name from city", "selec", "select * from city, visit"]
    records = [scored(GOLD, sql, id=str(i)) for i, sql in enumerate(answers)]
    once = explain(records, travel, executor)
    with Executor(threads=1) as single:
        assert explain(records[::-1], travel, single)[::-1] == once


# -- anything a model may write -----------------------------------------------------------------

PIECES = [
    *re.findall(r"\w+|'[^']*'|.", GOLD),
    *"()[]'\"`;*?@$\x00\ud800é",
    *("--", "/*", "||", "1e999", "with x as (", "over (", "case when", "union all", "values ("),
    *("cast(", "filter (where", "natural join", "recursive", "in ()"),
]


@hypothesis_settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=25), st.integers(0, len(GOLD)))
def test_any_text_gets_a_class(catalogue, pieces, place):
    sql = GOLD[:place] + " ".join(pieces) + GOLD[place:]
    assert classify(GOLD, sql, catalogue["travel"])
    assert classify(sql, GOLD, catalogue["travel"])
    with suppress(*UNREADABLE):  # and nothing else comes out of our own code
        compare_queries(GOLD, sql, catalogue["travel"])


@pytest.mark.parametrize(
    "sql",
    [
        "select " + "(" * 3000 + "1" + ")" * 3000,
        "select 1 where " + " and ".join(["1 = 1"] * 3000),
        "select 1" + " union select 1" * 2000,
        "select " + ", ".join(["name"] * 2000) + " from city",
        "select * from " + ", ".join(f"visit as v{i}" for i in range(40)),
        "select \x00",
        "\ufeffselect name from city",
    ],
)
def test_huge_and_odd_texts_get_a_class(database, sql):
    assert classify(GOLD, sql, database)
    assert classify(sql, sql, database)


def test_real_golds_do_not_differ_from_themselves_or_from_each_others_texts(data):
    """Every tenth gold of Spider against itself, lower-cased outside of strings and shuffled."""
    folder = data / "spider"
    names = (
        "concert_singer",
        "pets_1",
        "car_1",
        "flight_2",
        "world_1",
        "student_transcripts_tracking",
    )
    pairs = json.loads((folder / "dev.json").read_text())
    chosen = [pair for pair in pairs if pair["db_id"] in names][::5]
    databases = {}
    for name in names:
        databases |= Catalogue.open(folder / "database" / name)
    draw = random.Random(1)
    for pair in chosen:
        gold, database = pair["query"], databases[pair["db_id"]]
        assert read(gold, gold, database).found == ()
        other = draw.choice([p for p in chosen if p["db_id"] == pair["db_id"]])["query"]
        named = classify(gold, other, database)
        if named == ("other",):  # no difference seen: then the results are the same
            with sqlite3.connect(f"file:{database.path}?mode=ro", uri=True) as connection:
                rows = [sorted(map(repr, connection.execute(sql))) for sql in (gold, other)]
            assert rows[0] == rows[1], (gold, other)
