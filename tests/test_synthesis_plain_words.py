"""The plain walk: every clause of any query is said, and another query is said in other words."""

from __future__ import annotations

import json
import random
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from spftcore.databases import Catalogue, Database
from spftcore.synthesis.queries_in_words import plain_question
from spftcore.synthesis.sql_text import styled
from spftcore.synthesis.verbalise import verbalise
from spftcore.verify import Executor, Verdict
from spftcore.verify.families.golds import read_gold
from spftcore.verify.families.mutants import mutants
from spftcore.verify.families.schema import read_schema
from spftcore.verify.families.values import value_space

SCHEMA = """
create table airport (code text primary key, name text not null, city text not null);
create table flight (
  flight_id integer primary key, source_id text not null references airport (code),
  target_id text not null references airport (code), price real, day date not null);
create table worker (
  worker_id integer primary key, name text not null, age integer, salary real,
  manager_id integer references worker (worker_id), active boolean not null);
insert into airport values ('LIM', 'Jorge', 'Lima'), ('UIO', 'Sucre', 'Quito');
insert into flight values
  (1, 'LIM', 'UIO', 90.5, '2024-05-01'), (2, 'UIO', 'LIM', 120, '2024-06-01');
insert into worker values (1, 'Ada', 50, 10.5, null, 1), (2, 'Bo', 30, 7.5, 1, 0);
"""

# A query, and a question that it gets for some state of the generator.
SAID = {
    "select flight.flight_id, airport.city from flight join airport"
    " on flight.target_id = airport.code": "What are the id of the flight and the city of the"
    " target airport for each flight and the target airport of the flight?",
    "select w.name from worker w join worker m on w.manager_id = m.worker_id where m.age > 40":
    "What are the name of the worker for each worker and the manager of the worker where"
    " the age of the manager is above 40?",
    "select a.name from worker a join worker b on a.age = b.age where a.name != b.name":
    "Name of the worker for each worker and each other worker whose age is the age of the worker"
    " where the name of the worker is not the name of the other worker",
    "select airport.name, count(flight.flight_id) from airport left join flight"
    " on flight.source_id = airport.code group by airport.code":
    "Name of the airport and the number of ids of the flight for each code of the airport over"
    " each airport and if there is one, each flight whose source id is the code of the airport",
    "select avg(n) from (select count(*) as n from flight group by source_id)":
    "What is the average number of flights among all results (the number of flights for each"
    " source id among all flights)?",
    "with old as (select name, age from worker where age > 40) select count(*) from old":
    "With olds being the name and age of workers whose age is above 40: show the number of olds.",
    "select name, rank() over (partition by active order by salary desc) from worker":
    "What are the name and the rank by salary from high to low within each active for all workers?",
    "select name, case when age >= 40 then 'senior' else 'junior' end from worker":
    "What are the name and senior where the age is at least 40 and otherwise junior for all"
    " workers?",
    "select max(salary) - min(salary) from worker":
    "What is the difference between the highest salary and the lowest salary among all workers?",
    "select name from worker where (age > 40 and salary < 9) or name = 'Bo'":
    "What are the names of workers for which either both the age is above 40 and the salary is"
    " below 9 or the name is Bo?",
    "select name from worker where name > 'B'":
    "What are the names of workers whose name comes after B in alphabetical order?",
    "select name from worker limit 3 offset 1":
    "What are the names of workers, leaving out the first 1 and taking the next 3?",
    "select name from worker union select city from airport order by 1 limit 2":
    "Show the names of workers together with the cities of airports, each once, all sorted by name"
    " in alphabetical order, only the first 2.",
    "select name from worker w where salary > (select avg(salary) from worker v"
    " where v.active = w.active)":
    "What are the names of workers whose salary is above the average salary among other workers"
    " whose active is the active of the worker?",
    "select name from worker where name like 'A_a%'":
    "What are the names of workers whose name matches the pattern A_a%?",
    "select name from worker where name = ''":
    "What are the names of workers whose name is an empty text?",
    "select sum(case when age > 40 then 1 else 0 end) * 100.0 / count(*) from worker":
    "What is the ratio of the product of the number of times that the age is above 40 and 100.0 to"
    " the number of workers among all workers?",
    "select strftime('%Y', day), count(*) from flight group by strftime('%Y', day)":
    "Year of the day and the number of flights for each year of the day among all flights",
}  # fmt: skip


def write(folder: Path, name: str, script: str) -> Database:
    connection = sqlite3.connect(folder / f"{name}.sqlite")
    connection.executescript(script)
    connection.close()
    return Catalogue.open(folder)[name]


@pytest.fixture(scope="module")
def air(tmp_path_factory: pytest.TempPathFactory) -> Database:
    return write(tmp_path_factory.mktemp("air"), "air", SCHEMA)


@pytest.mark.parametrize("sql", SAID)
def test_each_construct_has_plain_words(sql: str, air: Database) -> None:
    resolved = styled(sql, air)
    for state in range(400):
        if plain_question(resolved, air, random.Random(state)) == SAID[sql]:
            return
    raise AssertionError(
        f"never said; for example {plain_question(resolved, air, random.Random(0))}"
    )


def test_names_with_blanks_quotes_and_other_scripts_are_said(tmp_path: Path) -> None:
    odd = write(
        tmp_path,
        "odd",
        """create table "order ""items"
          ("unit price" real, "Größe" text, "価格" integer, "select" text);
        insert into "order ""items" values (1.5, 'klein', 7, 'x');""",
    )
    sql = 'select "unit price", "価格", "select" from "order ""items" where "Größe" = \'klein\''
    for state in range(20):
        text = (verbalise(sql, odd, random.Random(state)) or "").lower()
        assert all(name in text for name in ("unit price", "価格", "select", "größe", "klein"))


def test_columns_and_tables_with_one_name_in_words_stay_apart(tmp_path: Path) -> None:
    """`student.name` and `student.student_name` both read "name" without the table."""
    twins = write(
        tmp_path,
        "twins",
        """create table student (name text, student_name text, languages text, language text);
        insert into student values ('a', 'b', 'c', 'd');""",
    )
    columns = ("name", "student_name", "languages", "language")
    texts = [verbalise(f"select {c} from student", twins, random.Random(0)) for c in columns]
    assert len(set(texts)) == len(texts)


def test_a_subquery_does_not_swallow_the_conditions_around_it(air: Database) -> None:
    start = "select name from worker where age > (select avg(age) from worker where active = 1"
    inside, outside = f"{start} and salary > 5)", f"{start}) and salary > 5"
    for state in range(20):
        texts = [
            plain_question(styled(sql, air), air, random.Random(state)) for sql in (inside, outside)
        ]
        assert texts[0] != texts[1]


def confused(queries: list[str], database: Database) -> tuple[int, list[tuple[str, str, str]]]:
    """(mutants with another result, those of them with the question of their query)."""
    schema = read_schema(database.path)
    golds = [read_gold(sql, schema) for sql in queries]
    space = value_space(schema, golds)
    count, same = 0, []
    changed = [(gold.sql, mutant.sql) for gold in golds for mutant in mutants(gold, schema, space)]
    with Executor(threads=1) as executor:
        judged = executor.verify([(database.path, sql, [other]) for sql, other in changed])
    for (sql, other), (verdict,) in zip(changed, judged, strict=True):
        if verdict.candidate.ran and verdict.verdict is Verdict.WRONG:
            texts = [verbalise(s, database, random.Random(3)) for s in (sql, other)]
            count += 1
            if None in texts or texts[0] == texts[1]:
                same.append((sql, other, str(texts[0])))
    return count, same


def test_a_change_of_one_operator_column_or_literal_changes_the_question(air: Database) -> None:
    queries = [sql for sql in SAID if not sql.startswith("with")]
    queries += [
        "select name from worker where age >= 40 order by salary desc limit 1",
        "select distinct city from airport where city != 'Lima'",
        "select active, avg(salary) from worker group by active having count(*) > 1",
        "select count(*) from flight where price between 5 and 100",
        "select name from worker where age > 30 and salary < 9",
    ]
    count, same = confused(queries, air)
    assert count > 100
    assert not same


def test_mutants_of_real_queries_get_other_questions(data: Path) -> None:
    """Spider's dev golds of three databases."""
    catalogue = Catalogue.open(data / "spider" / "database")
    golds: dict[str, dict[str, None]] = {}
    for record in json.loads((data / "spider" / "dev.json").read_text()):
        golds.setdefault(record["db_id"], {})[record["query"]] = None
    totals: Counter[str] = Counter()
    for name in ("concert_singer", "pets_1", "flight_2"):
        count, same = confused(list(golds[name])[:8], catalogue[name])
        totals["mutants"] += count
        totals["same"] += len(same)
    assert totals["mutants"] > 100
    assert not totals["same"]


@pytest.mark.parametrize("missing", [False, True])
def test_a_join_that_loses_rows_is_said_where_nothing_is_declared_but_null_is_there(
    tmp_path: Path, missing: bool
) -> None:
    path = tmp_path / "shop.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "create table customer (customer_id integer primary key, name text);"
            "create table item (item_id integer primary key, title text,"
            " customer_id integer references customer (customer_id));"
            "insert into customer values (1, 'Ada'), (2, 'Bo');"
            f"insert into item values (1, 'pen', 1), (2, 'cup', {'null' if missing else 2});"
        )
    connection.close()
    database = Catalogue.open(tmp_path)["shop"]
    query = "select count(*) from customer join item on customer.customer_id = item.customer_id"
    questions = {verbalise(query, database, random.Random(seed)) or "" for seed in range(8)}
    assert all(questions)
    assert all(("customer" in question) is missing for question in questions)
