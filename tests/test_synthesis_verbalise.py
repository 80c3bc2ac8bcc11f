"""The verbaliser: what each construct of SQL becomes in English, and what it leaves unsaid."""

from __future__ import annotations

import json
import random
import sqlite3
from importlib.resources import files
from pathlib import Path

import pytest

from spftcore.databases import Catalogue, Database
from spftcore.synthesis import TemplatePool, extract, synthesize_sql
from spftcore.synthesis.placeholders import mask_literals
from spftcore.synthesis.sql_text import spoken
from spftcore.synthesis.verbalise import verbalise
from spftcore.synthesis.wording import article, plural, singular
from spftcore.verify import Executor

SCHEMA = """
create table author (author_id integer primary key, name text not null, country text not null,
  birth_year integer);
create table book (book_id integer primary key, title text not null,
  author_id integer not null references author (author_id), genre text not null,
  pages integer not null, price real not null, printed date not null);
create table member (member_id integer primary key, name text not null, city text not null,
  age integer not null, active boolean not null, sponsor text);
create table loan (loan_id integer primary key, book_id integer not null references book (book_id),
  member_id integer references member (member_id), loan_date date not null, fine real);
insert into author values (1, 'Ada Hess', 'Chile', 1950), (2, 'Bo Lund', 'Norway', 1980);
insert into book values (1, 'Foo', 1, 'Fantasy', 300, 9.5, '2021-03-04'),
  (2, 'Bar', 2, 'Horror', 120, 5.0, '2019-01-02');
insert into member values (1, 'Cy Roe', 'Porto', 31, 1, null), (2, 'Di Voss', 'Lima', 64, 0, 'X');
insert into loan values (1, 1, 1, '2022-05-06', 2.5), (2, 1, 2, '2023-05-06', null);
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Database:
    folder = tmp_path_factory.mktemp("library")
    connection = sqlite3.connect(folder / "library.sqlite")
    connection.executescript(SCHEMA)
    connection.close()
    return Catalogue.open(folder)["library"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    folder = tmp_path_factory.mktemp("demo")
    for script in files("spftcore.demo").joinpath("databases").iterdir():
        if script.name.endswith(".sql"):
            connection = sqlite3.connect(folder / f"{Path(script.name).stem}.sqlite")
            connection.executescript(script.read_text(encoding="utf-8"))
            connection.close()
    return Catalogue.open(folder)


def seeds() -> list[dict[str, str]]:
    text = files("spftcore.demo").joinpath("seeds.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def wordings(sql: str, database: Database, draws: int = 100) -> set[str]:
    texts = {verbalise(sql, database, random.Random(seed)) for seed in range(draws)}
    assert None not in texts, sql
    return {text for text in texts if text is not None}


def literals_of(sql: str) -> list[str]:
    """Literals as a question writes them; 0, 1 and `limit 1` may be put into words."""
    return [spoken(literal) for literal in mask_literals(sql)[2]]


# What a query asks for, and a few of the wordings that a person would write for it.
EXPECTED = {
    "select title from book": {"List all books.", "Titles of books"},
    "select title from book where genre = 'Fantasy'": {
        "List the Fantasy books.",
        "Which books have the genre Fantasy?",
        "Titles of the books whose genre is Fantasy",
    },
    "select title, price from book where pages > 300": {
        "What are the title and price of each book with more than 300 pages?",
        "Books with over 300 pages, with their price",
    },
    "select price from book where title = 'Foo'": {
        "How much does Foo cost?",
        "What is the price of the book Foo?",
        "Price of Foo",
    },
    "select age from member where name = 'Cy Roe'": {"How old is Cy Roe?", "Age of Cy Roe"},
    "select city from member where name = 'Cy Roe'": {"Which city is Cy Roe from?"},
    "select distinct genre from book": {"Different genres of books"},
    "select * from author": {"Show all details of the authors."},
    "select count(*) from book": {
        "How many books are there?",
        "Number of books",
        "Count the books.",
    },
    "select count(distinct genre) from book": {"Number of different genres of books"},
    "select avg(price) from book": {"Average price of books", "What is the mean price of books?"},
    "select sum(pages) from book": {"Total number of pages of books"},
    "select min(price), max(price) from book": {"Lowest and highest price of books"},
    "select max(loan_date) from loan": {"Latest loan date of loans"},
    "select name from member where city = 'Lima'": {
        "Who are the members from Lima?",
        "Members living in Lima",
        "Which members are from Lima?",
    },
    "select name from member where age >= 40": {
        "Which members are at least 40 years old?",
        "Members aged 40 or more",
    },
    "select name from member where age < 40": {"Members younger than 40"},
    "select title from book where price between 5 and 9": {"Books costing between 5 and 9"},
    "select name from author where birth_year > 1960": {"Which authors were born after 1960?"},
    "select loan_id from loan where loan_date like '2022%'": {"Ids of loans in 2022"},
    "select title from book where title like 'Fo%'": {"Books whose title starts with Fo"},
    "select title from book where title like '%oo%'": {"Which books have oo in their title?"},
    "select title from book where title not like '%oo%'": {"Books whose title does not contain oo"},
    "select name from member where sponsor is null": {"Members with no sponsor recorded"},
    "select name from member where sponsor is not null": {"Which members have a known sponsor?"},
    "select count(*) from loan where member_id is null": {"How many loans have no member?"},
    "select title from book where genre != 'Horror'": {
        "Books with a genre other than Horror",
        "Books whose genre is not Horror",
    },
    "select name from member where not age > 40": {"Members aged 40 or less"},
    "select name from member where city = 'Lima' or city = 'Porto'": {"Members from Lima or Porto"},
    "select name from member where city in ('Lima', 'Porto')": {"Members living in Lima or Porto"},
    "select name from member where city = 'Lima' or age > 40": {
        "Members that are from Lima or are older than 40",
        "Which members either live in Lima or have an age above 40?",
    },
    "select name from member where active = 1": {"Which members are active?"},
    "select name from member where active = 0": {"Which members are not active?"},
    "select title from book order by price desc limit 1": {
        "Which book is the most expensive?",
        "What is the title of the book with the highest price?",
    },
    "select genre from book order by pages desc limit 1": {"Genre of the book with the most pages"},
    "select title from book order by pages limit 3": {"Which 3 books have the fewest pages?"},
    "select title from book where pages > 100 order by price desc limit 1": {
        "The book with the highest price among those with more than 100 pages",
        "Which book with more than 100 pages has the highest price?",
    },
    "select name from author where birth_year is not null order by birth_year limit 1": {
        "Who is the oldest author?"
    },
    "select title from book order by pages desc": {
        "Titles of books, sorted by number of pages from high to low"
    },
    "select title from book order by title": {
        "Name all books, ordered by title in alphabetical order."
    },
    "select genre, count(*) from book group by genre": {
        "How many books are there for each genre?",
        "Number of books by genre",
    },
    "select genre, avg(price) from book group by genre": {"Average price by genre"},
    "select genre from book group by genre having count(*) > 5": {
        "Which genres have more than 5 books?",
        "Genres with over 5 books",
    },
    "select genre from book group by genre having avg(price) > 7": {
        "Which genres have an average price above 7?"
    },
    "select genre from book group by genre order by count(*) desc limit 1": {
        "Which genre has the most books?"
    },
    "select genre, count(*) from book group by genre order by count(*) desc limit 2": {
        "Which 2 genres have the most books, and what is their number of books?"
    },
    "select book.title from book join author on author.author_id = book.author_id "
    "where author.name = 'Ada Hess'": {
        "Books by Ada Hess",
        "Which books are by the author Ada Hess?",
    },
    "select book.title from book join author on author.author_id = book.author_id "
    "where author.country = 'Chile'": {"Books by authors from Chile"},
    "select book.title, author.name from book join author on author.author_id = book.author_id": {
        "What are the title and author name of each book?"
    },
    "select author.name, count(*) from author join book on author.author_id = book.author_id "
    "group by author.author_id": {
        "How many books does each author have?",
        "Number of books per author",
    },
    "select author.name from author join book on author.author_id = book.author_id "
    "group by book.author_id having count(*) >= 2": {"Authors with at least 2 books"},
    "select member.name from member join loan on member.member_id = loan.member_id "
    "join book on loan.book_id = book.book_id where book.title = 'Foo'": {
        "Members with the book Foo"
    },
    "select count(*) from loan join book on loan.book_id = book.book_id "
    "where book.genre = 'Horror'": {"How many loans of Horror books are there?"},
    "select author.name from author join book on author.author_id = book.author_id "
    "order by book.price desc limit 1": {"Author name of the most expensive book"},
    "select name from member where member_id not in (select member_id from loan)": {
        "Members without any loan",
        "Which members have no loan?",
    },
    "select name from author where author_id in (select author_id from book where pages > 200)": {
        "Authors with at least one book with more than 200 pages"
    },
    "select name from author where not exists "
    "(select * from book where book.author_id = author.author_id)": {"Authors without any book"},
    "select title from book where price > (select avg(price) from book)": {
        "Books with a price above average",
        "Which books cost more than the average price?",
    },
    "select title from book where price = (select max(price) from book)": {
        "Most expensive books",
        "Books with the highest price",
    },
    "select title from book where price < (select price from book where title = 'Foo')": {
        "Which books cost less than the price of Foo?"
    },
    "select country from author except select country from author where birth_year < 1960": {
        "Show the countries of authors except the countries of authors born before 1960."
    },
}


@pytest.mark.parametrize("sql", EXPECTED)
def test_each_construct_is_said_as_people_say_it(sql: str, library: Database) -> None:
    missing = set(EXPECTED[sql])
    for seed in range(2000):
        text = verbalise(sql, library, random.Random(seed))
        assert text is not None
        assert all(literal in text for literal in literals_of(sql)), text
        missing.discard(text)
        if not missing:
            return
    raise AssertionError(f"never said: {missing}")


def test_equal_random_states_give_equal_questions(library: Database) -> None:
    for sql in EXPECTED:
        assert verbalise(sql, library, random.Random(5)) == verbalise(
            sql, library, random.Random(5)
        )


def test_a_simple_filter_is_asked_in_many_ways(library: Database) -> None:
    assert len(wordings("select title from book where pages > 300", library, 50)) >= 10


@pytest.mark.parametrize("sql", ["this is no query", "select nothing from book"])
def test_what_cannot_be_read_against_the_schema_gets_no_question(
    sql: str, library: Database
) -> None:
    assert verbalise(sql, library, random.Random(0)) is None


def test_null_first_is_not_called_the_lowest(library: Database) -> None:
    """`fine` may be NULL, and NULL is first in ascending order: no loan with the lowest fine."""
    for text in wordings("select loan_id from loan order by fine limit 1", library):
        assert "lowest fine" not in text
        assert "by fine from low to high, only the first" in text
    guarded = "select loan_id from loan where fine is not null order by fine limit 1"
    assert wordings(guarded, library) >= {"Id of the loan with the lowest fine"}


def test_a_condition_is_not_taken_for_the_one_asked_about(library: Database) -> None:
    sql = "select title from book where pages > 100 order by price desc limit 1"
    asked = {text for text in wordings(sql, library) if text.startswith("Which")}
    assert asked
    for text in asked:
        assert text.endswith((" has the highest price?", "largest price?", "most expensive?")), text


def test_rows_behind_a_join_are_not_counted_as_other_rows(library: Database) -> None:
    """COUNT(*) over member ⋈ loan counts loans, whatever stands first."""
    sql = "select count(*) from member join loan on member.member_id = loan.member_id"
    for text in wordings(sql, library):
        assert text.split(" with ")[0].split(" have ")[0] in (
            "How many loans",
            "Number of loans",
            "Count the loans",
            "What is the number of loans",
        )


def test_every_seed_of_the_demo_is_said_with_its_literals(demo: Catalogue) -> None:
    said = 0
    records = seeds()
    for number, record in enumerate(records):
        text = verbalise(record["sql"], demo[record["database"]], random.Random(number))
        said += text is not None
        if text is not None:
            assert all(literal in text for literal in literals_of(record["sql"])), text
            assert "select" not in text.lower()
            assert "  " not in text
    assert said == len(records)


def test_every_synthesized_query_is_said(demo: Catalogue) -> None:
    pool = TemplatePool()
    for record in seeds():
        pool.add(extract(record["sql"], demo[record["database"]]), source="seed")
    with Executor() as executor:
        queries = synthesize_sql(pool, list(demo.values()), executor, 400, random.Random(0)).queries
    said = [verbalise(q.sql, demo[q.database], random.Random(0)) for q in queries]
    assert None not in said


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("book", "books"),
        ("company", "companies"),
        ("branch", "branches"),
        ("diagnosis", "diagnoses"),
        ("address", "addresses"),
        ("bus", "buses"),
        ("day", "days"),
        ("country code", "country codes"),
        ("person", "people"),
    ],
)
def test_plurals_and_singulars(one: str, many: str) -> None:
    assert plural(one) == many
    assert plural(many) == many
    assert singular(many) == one
    assert singular(one) == one


def test_articles() -> None:
    assert [article(w) for w in ("age", "unit", "hour", "user", "price", "umbrella")] == [
        "an age",
        "a unit",
        "an hour",
        "a user",
        "a price",
        "an umbrella",
    ]


def test_names_without_words_are_said_as_they_are(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "odd.sqlite")
    connection.executescript(
        'create table t (_ integer, "" text, b int); create table "_" (id integer primary key);'
        "insert into t values (1, 'x', 2); insert into _ values (1);"
    )
    connection.close()
    odd = Catalogue.open(tmp_path)["odd"]
    for sql in (
        "select _ from t",
        "select max(_) from t",
        "select _, count(*) from t group by _ order by count(*) desc limit 1",
        "select b from t where _ > 1 order by _ desc",
        "select count(*) from _",
    ):
        assert any("_" in text for text in wordings(sql, odd, 10)), sql
    # sqlglot reads no empty name: there is no question, and no error either.
    assert verbalise('select "" from t', odd, random.Random(0)) is None
