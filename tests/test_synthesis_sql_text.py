"""SQL text has one style, keeps its meaning in it, and has one canonical form."""

import json
import os
import random
import sqlite3
from pathlib import Path

import pytest

from spftcore.databases import Catalogue, Database
from spftcore.synthesis import canonical, normalise_sql

DATA = Path(os.environ.get("SPFT_DATA", "../shared/data"))

SCHEMA = """
create table author (author_id integer primary key, Name text, country text, boss int
  references author);
create table book (book_id integer primary key, author_id int references author, title text,
  pages int, "Home Town" text, "order" int);
insert into author values (1, 'Ann', 'France', null), (2, 'Bob', 'Peru', 1);
insert into book values (1, 1, 'A', 10, 'Quito', 3), (2, 1, 'B', 20, 'Lima', 2),
  (3, 2, 'C', 30, 'France', 1);
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Database:
    folder = tmp_path_factory.mktemp("databases")
    connection = sqlite3.connect(folder / "library.sqlite")
    connection.executescript(SCHEMA)
    connection.close()
    return Catalogue.open(folder)["library"]


@pytest.mark.parametrize(
    ("written", "printed"),
    [
        (
            "SELECT T1.TITLE FROM Book AS T1 JOIN Author T2 ON T2.author_id=T1.author_id "
            'WHERE T2.country = "France" ORDER BY T1.pages DESC LIMIT 3;',
            "select book.title from book join author on book.author_id = author.author_id "
            "where author.country = 'France' order by book.pages desc limit 3",
        ),
        (  # one table: bare columns, whatever they were qualified with
            "select B.title , COUNT( * ) from book b group by B.TITLE order by b.pages asc",
            "select title, count(*) from book group by title order by pages",
        ),
        (  # a name in double quotes that is a column is a column
            'select "title" from book where "Home Town" <> "Lima" and "order" = 1',
            'select title from book where "Home Town" != \'Lima\' and "order" = 1',
        ),
        (  # two copies of one table need aliases
            "select x.name from author x join author y on x.boss = y.author_id",
            "select t1.Name from author as t1 join author as t2 on t1.boss = t2.author_id",
        ),
        (  # conditions move to the join they belong to
            "select name from book, author where book.author_id = author.author_id and pages > 5",
            "select author.Name from book join author on book.author_id = author.author_id "
            "where book.pages > 5",
        ),
        (  # an alias of a result column is replaced by what it stands for
            "select country, count(*) as n from author group by country having n > 1 order by n",
            "select country, count(*) from author group by country having count(*) > 1 "
            "order by count(*)",
        ),
        (  # a correlated name must not be shadowed by the inner table of the same name
            "select title from book as o where pages > (select avg(i.pages) from book as i "
            "where i.author_id = o.author_id)",
            "select title from book as t1 where pages > (select avg(pages) from book as t2 "
            "where author_id = t1.author_id)",
        ),
        (
            "select name from author where not country is null and author_id not in "
            "(select author_id from book where title not like '%a%')",
            "select Name from author where country is not null and author_id not in "
            "(select author_id from book where title not like '%a%')",
        ),
        (
            "select name from author a left outer join book b on a.author_id = b.author_id "
            "where b.book_id is null",
            "select author.Name from author left join book on author.author_id = book.author_id "
            "where book.book_id is null",
        ),
        (
            "select title from book union select name from author order by title desc",
            "select title from book union select Name from author order by 1 desc",
        ),
    ],
)
def test_one_style(written: str, printed: str, library: Database) -> None:
    assert normalise_sql(written, library) == printed
    assert normalise_sql(printed, library) == printed
    with sqlite3.connect(library.path) as connection:
        assert connection.execute(written).fetchall() == connection.execute(printed).fetchall()


@pytest.mark.parametrize(
    "sql",
    [
        "select nothing from book",
        "select * from nowhere",
        "this is not sql",
        "select 1; select 2",
        "delete from book",
        "select * from book natural full join author",
        "select title from (((",
    ],
)
def test_what_cannot_be_read_is_left_as_it_is(sql: str, library: Database) -> None:
    assert normalise_sql(sql, library) == sql
    assert isinstance(canonical(sql, library), str)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SELECT Title FROM BOOK where pages>3", 'select "title" from book as b where b.pages > 3'),
        (
            "select title from book where pages > 3 and title = 'A'",
            'select title from book where title = "A" and pages > 3',
        ),
        (
            "select b.title from book b join author a on a.author_id = b.author_id",
            "select title from author, book where book.author_id = author.author_id",
        ),
        ("select title from book where pages = '10'", "select title from book where 10.0 = pages"),
        (
            "select title from book where pages in (1, 2)",
            "select title from book where pages in (2, 1)",
        ),
        (
            "select title from book where pages = 1 or (pages = 2 and title = 'B')",
            "select title from book where (title = 'B' and pages = 2) or pages = 1",
        ),
    ],
)
def test_canonical_forms_agree(one: str, other: str, library: Database) -> None:
    assert canonical(one, library) == canonical(other, library)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("select title from book where title = 'a'", "select title from book where title = 'A'"),
        ("select title, pages from book", "select pages, title from book"),
        ("select title from book where pages > 3", "select title from book where pages >= 3"),
        ("select title from book", "select distinct title from book"),
        (
            "select title from book where pages = 1 or pages = 2 and title = 'B'",
            "select title from book where (pages = 1 or pages = 2) and title = 'B'",
        ),
    ],
)
def test_canonical_forms_differ(one: str, other: str, library: Database) -> None:
    assert canonical(one, library) != canonical(other, library)


def test_canonical_without_a_schema_takes_names_as_written() -> None:
    assert canonical('SELECT T1.a FROM x AS T1 WHERE T1.b = "v"') == canonical(
        "select a from X where B = 'v'"
    )


@pytest.mark.skipif(not (DATA / "spider").is_dir(), reason="Spider data not found (SPFT_DATA)")
def test_normalised_spider_golds_give_the_same_rows() -> None:
    catalogue = Catalogue.open(DATA / "spider" / "database")
    pairs = json.loads((DATA / "spider" / "dev.json").read_text())
    pairs = [pair for pair in pairs if pair["db_id"] in catalogue]
    different = []
    for pair in random.Random(0).sample(pairs, 200):
        database = catalogue[pair["db_id"]]
        connection = sqlite3.connect(f"file:{database.path}?mode=ro&immutable=1", uri=True)
        connection.text_factory = bytes
        rows = [
            sorted(map(repr, connection.execute(sql).fetchall()))
            for sql in (pair["query"], normalise_sql(pair["query"], database))
        ]
        connection.close()
        if rows[0] != rows[1]:
            different.append(pair["query"])
    assert different == []
