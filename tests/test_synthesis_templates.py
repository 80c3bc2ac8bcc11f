"""Templates say what a query asks without its names, joins and values, and can be edited."""

import json
import os
import random
import sqlite3
from pathlib import Path

import pytest

from spftcore.databases import Catalogue, Database
from spftcore.synthesis import (
    Binding,
    Template,
    TemplateError,
    TemplatePool,
    extract,
    extract_bound,
    normalise_sql,
    render,
)

DATA = Path(os.environ.get("SPFT_DATA", "../shared/data"))

SCHEMA = """
create table author (author_id integer primary key, name text, country text, born int);
create table book (book_id integer primary key, author_id int references author, title text,
  pages int, published date);
create table reader (reader_id integer primary key, name text, friend int references reader);
create table loan (loan_id integer primary key, book_id int references book,
  reader_id int references reader, day date, fee real);
create table shelf (label text);
insert into author values (1, 'Ann', 'France', 1950), (2, 'Bob', 'Peru', 1960),
  (3, 'Cid', 'France', 1970);
insert into book values (1, 1, 'Red', 100, '2001-01-01'), (2, 1, 'Sea', 200, '2002-01-01'),
  (3, 2, 'Sky', 300, '2003-01-01');
insert into reader values (1, 'Dan', null), (2, 'Eve', 1), (3, 'Fay', 1);
insert into loan values (1, 1, 1, '2020-01-01', 1.5), (2, 1, 2, '2020-01-02', 2.5),
  (3, 3, 2, '2020-01-03', 0.5), (4, 2, 3, '2020-01-04', 1.0);
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Database:
    folder = tmp_path_factory.mktemp("databases")
    connection = sqlite3.connect(folder / "library.sqlite")
    connection.executescript(SCHEMA)
    connection.close()
    return Catalogue.open(folder)["library"]


GOLDS = [
    (
        "select T1.title from book as T1 where T1.pages > 150 order by T1.published desc limit 3",
        "select {a.1: text} from {a} where {a.2: number} > {v1 > a.2} "
        "order by {a.3: date} desc limit {v2 limit}",
    ),
    (  # keys are marked, and the join is left to the foreign key
        "select a.name, count(*) from author a join book b on a.author_id = b.author_id "
        "group by a.author_id having count(*) >= 2",
        "select {a.1: text}, count(*) from {a} join {b} group by {a.2: pk} "
        "having count(*) >= {v1 count}",
    ),
    (  # a table that is only on the way is left out
        "select reader.name from author join book on author.author_id = book.author_id join loan "
        "on loan.book_id = book.book_id join reader on loan.reader_id = reader.reader_id "
        "where author.country = 'France'",
        "select {a.1: text} from {b} join {a} where {b.1: text} = {v1 = b.1}",
    ),
    (  # a key that refers to another slot's table says so
        "select name from author where author_id not in "
        '(select author_id from book where title = "Red")',
        "select {a.1: text} from {a} where {a.2: pk} not in "
        "(select {b.1: fk a} from {b} where {b.2: text} = {v1 = b.2})",
    ),
    (  # a self-join spells its condition out
        "select x.name from reader x join reader y on x.friend = y.reader_id where y.name = 'Dan'",
        "select {a.1: text} from {a} join {a#2} on {a.2: fk a} = {a#2.3: pk} "
        "where {a#2.1} = {v1 = a.1}",
    ),
    (
        "select name from author except select name from reader",
        "select {a.1: text} from {a} except select {b.1: text like a.1} from {b}",
    ),
    (
        "select title from book where title like '%e%' and pages between 50 and 250 "
        "or title like 'S%'",
        "select {a.1: text} from {a} where {a.1} like {v1 contains a.1} and "
        "{a.2: number} between {v2 low a.2} and {v3 high a.2} or {a.1} like {v4 starts a.1}",
    ),
    (  # one literal twice is one value
        "select title from book where author_id in (select author_id from author where born > 1955"
        ") union select title from book where author_id in "
        "(select author_id from author where born > 1955)",
        "select {a.1: text} from {a} where {a.2: fk b} in (select {b.1: pk} from {b} where "
        "{b.2: number} > {v1 > b.2}) union select {a.1} from {a} where {a.2} in "
        "(select {b.1} from {b} where {b.2} > {v1})",
    ),
    (  # a left join keeps its direction and condition
        "select author.name from author left join book on author.author_id = book.author_id "
        "where book.book_id is null",
        "select {a.1: text} from {a} left join {b} on {a.2: pk} = {b.1: fk a} "
        "where {b.2: pk} is null",
    ),
    (  # a derived table
        "select avg(n) from (select count(*) as n from loan group by reader_id)",
        "select avg(n) from (select count(*) as n from {a} group by {a.1: fk})",
    ),
    (
        "with big as (select title, pages from book where pages > 100) select title from big",
        "with big as (select {a.1: text}, {a.2: number} from {a} where {a.2} > {v1 > a.2}) "
        "select {a.1} from big",
    ),
    (
        "select title, rank() over (partition by author_id order by pages desc) from book",
        "select {a.1: text}, rank() over (partition by {a.2: fk} order by {a.3: number} desc) "
        "from {a}",
    ),
    (
        "select title from book o where pages > (select avg(pages) from book i "
        "where i.author_id = o.author_id)",
        "select {a.1: text} from {a} where {a.2: number} > (select avg({a#2.2}) from {a#2} "
        "where {a#2.3: fk} = {a.3})",
    ),
]


@pytest.mark.parametrize(("sql", "text"), GOLDS)
def test_template_text_and_identity(sql: str, text: str, library: Database) -> None:
    template, binding = extract_bound(sql, library)
    assert template.text == text
    again = render(template.compiled, binding, library)
    with sqlite3.connect(library.path) as connection:
        assert connection.execute(again).fetchall() == connection.execute(sql).fetchall()
    assert Template(text).id == template.id


def test_equal_questions_of_different_schemas_share_a_template(library: Database) -> None:
    one = extract("SELECT count(*) FROM book WHERE pages > 100", library)
    other = extract("select COUNT(*) from author as a where a.born > 1960", library)
    assert one == other


def test_own_names_and_values_give_the_normalised_query_back(library: Database) -> None:
    sql = "select B.title from author A join book B on A.author_id=B.author_id where A.name='Ann'"
    template, binding = extract_bound(sql, library)
    assert binding == Binding(
        {"a": "book", "b": "author"}, {"a.1": "title", "b.1": "name"}, {"v1": "'Ann'"}
    )
    assert render(template.compiled, binding, library) == normalise_sql(sql, library)


@pytest.mark.parametrize(
    ("sql", "cause"),
    [
        ("select nothing from book", "unknown column"),
        ("select * from nowhere", "unknown table"),
        ("selec title from book", "does not parse"),
        ("select title from book where (", "does not parse"),
        ("select 1", "no table"),
        ("select rowid from shelf", "rowid"),
        ("delete from book", "not one SELECT"),
        ("select title from book natural full join author", "outer join by USING or NATURAL"),
        ("select '{a}' from book", "braces in the query"),
    ],
)
def test_what_gives_no_template_has_a_cause(sql: str, cause: str, library: Database) -> None:
    with pytest.raises(TemplateError) as error:
        extract(sql, library)
    assert error.value.cause == cause


@pytest.mark.parametrize(
    "text",
    [
        "no slots",
        "select {a.1} from {a}",
        "select {a.1: colour} from {a}",
        "select {b.1: text} from {a}",
        "select {a.1: text} from {a} where {a.1} = {v1}",
        "select {a.1: text} from {a} where {a.1} = {v1 about a.1}",
        "select {a.1: text} from {a} where {a.1} = {v1 = a.2}",
        "select {a.1: text}) from {a}",
        "select {?} from {a}",
    ],
)
def test_a_malformed_template_is_refused(text: str) -> None:
    with pytest.raises(TemplateError):
        _ = Template(text).compiled


def test_pool_counts_draws_by_weight_and_survives_the_store() -> None:
    pool = TemplatePool()
    one, two = Template("select count(*) from {a}"), Template("select {a.1: text} from {a}")
    for _ in range(3):
        pool.add(one, "seed")
    pool.add(two, "seed")
    assert pool.weights() == {one.id: 0.75, two.id: 0.25}
    rng = random.Random(0)
    drawn = [pool.draw(rng).id for _ in range(2000)]
    assert abs(drawn.count(one.id) / 2000 - 0.75) < 0.05
    again = TemplatePool.from_dicts(json.loads(json.dumps(pool.to_dicts())))
    assert again.weights() == pool.weights()
    assert again[one.id].sources == {"seed": 3}


def test_reweight_leans_to_wrong_answers_and_lets_no_template_die() -> None:
    pool = TemplatePool()
    one, two = Template("select count(*) from {a}"), Template("select {a.1: text} from {a}")
    pool.add(one, "seed", 3)
    pool.add(two, "seed", 1)
    pool.reweight([two.id, two.id, "unknown"], floor=0.2)
    # 0.2 × 3/4 + 0.8 × 0/2 and 0.2 × 1/4 + 0.8 × 2/2
    assert pool.weights() == pytest.approx({one.id: 0.15, two.id: 0.85})
    pool.reweight([], floor=0.2)
    assert pool.weights() == pytest.approx({one.id: 0.75, two.id: 0.25})


@pytest.mark.skipif(not (DATA / "spider").is_dir(), reason="Spider data not found (SPFT_DATA)")
def test_spider_golds_survive_extraction_and_rendering() -> None:
    catalogue = Catalogue.open(DATA / "spider" / "database")
    pairs = json.loads((DATA / "spider" / "train_spider.json").read_text())
    pairs = [pair for pair in pairs if pair["db_id"] in catalogue]
    extracted = same = ran = 0
    for pair in random.Random(1).sample(pairs, 250):
        database = catalogue[pair["db_id"]]
        connection = sqlite3.connect(f"file:{database.path}?mode=ro&immutable=1", uri=True)
        connection.text_factory = bytes
        try:
            gold = connection.execute(pair["query"]).fetchall()
        except sqlite3.Error:
            continue
        ran += 1
        try:
            template, binding = extract_bound(pair["query"], database)
        except TemplateError:
            continue
        extracted += 1
        rows = connection.execute(render(template.compiled, binding, database)).fetchall()
        same += sorted(map(repr, rows)) == sorted(map(repr, gold))
        connection.close()
    assert extracted >= 0.98 * ran
    assert same >= 0.97 * ran
