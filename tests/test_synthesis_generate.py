"""Synthesised queries fit the schema, run, are new, and say something; the rest is counted."""

import random
import re
import sqlite3
from pathlib import Path

import pytest

from spftcore.databases import Catalogue, Database
from spftcore.errors import SpftError
from spftcore.synthesis import (
    FillError,
    Template,
    TemplatePool,
    canonical,
    extract,
    extract_bound,
    fill,
    normalise_sql,
    render,
    synthesize_sql,
)
from spftcore.synthesis.gates import literals, tie_variants
from spftcore.verify import Executor

LIBRARY = """
create table author (author_id integer primary key, name text, country text, born int);
create table book (book_id integer primary key, author_id int references author, title text,
  genre text, pages int, published date);
create table reader (reader_id integer primary key, name text, town text, friend int
  references reader);
create table loan (loan_id integer primary key, book_id int references book,
  reader_id int references reader, day date, fee real);
create table empty (empty_id integer primary key, name text);
create table alone (alone_id integer primary key, mark text, size int);
"""
MUSEUM = """
create table "wing of museum" ("wing id" integer primary key, "Name" text, floor int);
create table "group" (gid integer primary key, label text, "from" date);
create table exhibit (eid integer primary key, "wing id" int references "wing of museum",
  gid int references "group", title text, weight real, material text);
"""


def filled(folder: Path) -> Catalogue:
    rng = random.Random(5)
    connection = sqlite3.connect(folder / "library.sqlite")
    connection.executescript(LIBRARY)
    many = connection.executemany
    countries, towns = ["France", "Peru", "Mali", "O'Land"], ["Quito", "Lima", "Oslo"]
    genres = ["novel", "poem", "play"]
    many(
        "insert into author values (?, ?, ?, ?)",
        [(i, f"Author {chr(65 + i)}", rng.choice(countries), 1900 + 7 * i) for i in range(12)],
    )
    many(
        "insert into book values (?, ?, ?, ?, ?, ?)",
        [
            (i, rng.randrange(12), f"Title number{i}", rng.choice(genres), 50 + 13 * i,
             f"20{i:02d}-0{1 + i % 9}-11")
            for i in range(40)
        ],
    )  # fmt: skip
    many(
        "insert into reader values (?, ?, ?, ?)",
        [(i, f"Reader {i}", rng.choice(towns), rng.randrange(10)) for i in range(15)],
    )
    many(
        "insert into loan values (?, ?, ?, ?, ?)",
        [
            (i, rng.randrange(40), rng.randrange(15), f"2024-01-{1 + i % 28:02d}", i * 0.25)
            for i in range(60)
        ],
    )
    many("insert into alone values (?, ?, ?)", [(i, f"m{i % 3}", i) for i in range(9)])
    connection.commit()
    connection.close()
    connection = sqlite3.connect(folder / "museum.sqlite")
    connection.executescript(MUSEUM)
    connection.executemany(
        'insert into "wing of museum" values (?, ?, ?)', [(i, f"Wing {i}", i) for i in range(5)]
    )
    connection.executemany(
        'insert into "group" values (?, ?, ?)',
        [(i, f"label {i}", f"19{i}0-01-01") for i in (1, 2, 3)],
    )
    connection.executemany(
        "insert into exhibit values (?, ?, ?, ?, ?, ?)",
        [
            (i, i % 5, 1 + i % 3, f"Exhibit {i}", i * 1.5, ["wood", "clay"][i % 2])
            for i in range(20)
        ],
    )
    connection.commit()
    connection.close()
    return Catalogue.open(folder)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return filled(tmp_path_factory.mktemp("databases"))


@pytest.fixture(scope="module")
def library(catalogue: Catalogue) -> Database:
    return catalogue["library"]


SEEDS = [
    "select count(*) from book",
    "select title from book where pages > 100",
    "select name, country from author order by born desc limit 3",
    "select author.name from author join book on author.author_id = book.author_id "
    "where book.genre = 'poem'",
    "select genre, count(*) from book group by genre having count(*) > 2",
    "select author.name, count(*) from author join book on author.author_id = book.author_id "
    "group by author.author_id order by count(*) desc limit 1",
    "select avg(pages), max(pages) from book where genre != 'play'",
    "select name from author where author_id not in (select author_id from book)",
    "select title from book where title like '%1%' or pages between 60 and 300",
    "select country from author where born > 1930 intersect select country from author "
    "where born < 1960",
    "select title from book where pages > (select avg(pages) from book)",
    "select t1.name from reader as t1 join reader as t2 on t1.friend = t2.reader_id "
    "where t2.town = 'Oslo'",
    "select distinct reader.town from reader join loan on reader.reader_id = loan.reader_id",
]


def pool_of(library: Database, seeds: list[str]) -> TemplatePool:
    pool = TemplatePool()
    for sql in seeds:
        pool.add(extract(sql, library), "seed")
    return pool


def run(database: Database, sql: str) -> list[tuple]:
    with sqlite3.connect(database.path) as connection:
        return connection.execute(sql).fetchall()


@pytest.mark.parametrize("seed_sql", SEEDS)
@pytest.mark.parametrize("name", ["library", "museum"])
def test_every_template_fills_in_its_own_and_in_another_schema(
    seed_sql: str, name: str, catalogue: Catalogue, library: Database
) -> None:
    template, database = extract(seed_sql, library), catalogue[name]
    if name == "museum" and " as t2 " in seed_sql:
        pytest.skip("no table of this schema refers to itself")
    queries, causes = set(), set()
    for number in range(20):
        try:
            queries.add(fill(template, database, random.Random(number)))
        except FillError as error:  # a draw may lead nowhere
            causes.add(error.cause)
    assert queries
    assert causes <= {"no column fits", "nonsense: groups of one row"}
    for sql in queries:
        run(database, sql)
        assert normalise_sql(sql, database) == sql  # it is in the one style


def test_joins_are_rebuilt_through_foreign_keys(library: Database) -> None:
    template = Template("select {a.1: text} from {a} join {b} where {b.1: text} = {v1 = b.1}")
    seen = {fill(template, library, random.Random(number)) for number in range(200)}
    ways = {re.sub(r" where .*|select \S+ ", "", sql) for sql in seen}
    assert "from reader join loan on reader.reader_id = loan.reader_id join book " \
        "on loan.book_id = book.book_id" in ways  # fmt: skip
    assert not any("alone" in way or "empty" in way for way in ways)


def test_equalities_of_one_select_come_from_rows_that_join(library: Database) -> None:
    template = Template(
        "select {b.1: number} from {a} join {b} where {a.1: text} = {v1 = a.1} "
        "and {b.2: text} = {v2 = b.2}"
    )
    empty = sum(not run(library, fill(template, library, random.Random(n))) for n in range(50))
    assert empty == 0


def test_literals_follow_their_operator(library: Database) -> None:
    template = Template(
        "select {a.1: text} from {a} where {a.2: number} between {v1 low a.2} and {v2 high a.2} "
        "or {a.3: text} like {v3 starts a.3} or {a.3} like {v4 contains a.3} or {a.3} = {v5 = a.3}"
    )
    for number in range(50):
        sql = fill(template, library, random.Random(number))
        low, high = map(float, re.search(r"between (\S+) and (\S+)", sql).groups())
        assert low < high
        starts, contains = re.findall(r"like '([^']*)'", sql)
        assert re.fullmatch(r"[^%]+%", starts)
        assert re.fullmatch(r"%[^%]+%", contains)
        run(library, sql)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("select avg({a.1: pk}) from {a}", "nonsense: AVG or SUM of a key"),
        ("select sum({a.1: text}) from {a}", "nonsense: AVG or SUM of text"),
        ("select {a.1: text} from {a} order by {a.2: fk}", "nonsense: ORDER BY a foreign key"),
        ("select {a.1: text} from {a} limit {v1 limit}", "nonsense: LIMIT without ORDER BY"),
        ("select {a.1: text} from {a} order by {a.2: pk} limit 1", "nonsense: first rows by a key"),
        (
            "select {a.1: text} from {a} where {a.2: number pk} > {v1 > a.2}",
            "nonsense: range over a key",
        ),
        (
            "select {a.1: text} from {a} where {a.2: number pk} = {v1 = a.2}",
            "nonsense: condition on a numeric key",
        ),
        ("select sum(case when {a.1: text} = {v1 = a.1} then 1 else 0 end) from {a}", ""),
        ("select count(*) from {a} group by {a.1: pk}", "nonsense: groups of one row"),
        (
            "select {a.1: number}, count(*) from {a} group by {a.2: text}",
            "nonsense: column not fixed by GROUP BY",
        ),
        ("select {a.1: boolean} from {a}", "no table fits"),
        ("select {a.1: text} from {a} join {b} join {c} join {d} join {e}", "no table fits"),
    ],
)
def test_nonsense_and_misfits_have_a_cause(text: str, cause: str, library: Database) -> None:
    try:
        fill(Template(text), library, random.Random(0))
        found = ""
    except FillError as error:
        found = error.cause
    assert found == cause


def test_kept_queries_run_and_are_new(catalogue: Catalogue, library: Database) -> None:
    pool = pool_of(library, SEEDS)
    with Executor(threads=1) as executor:
        result = synthesize_sql(pool, list(catalogue.values()), executor, 300, random.Random(3))
    assert len(result.queries) == 300
    assert result.draws == 300 + result.rejections.total()
    forms = {(q.database, canonical(q.sql, catalogue[q.database])) for q in result.queries}
    assert len(forms) == 300
    for query in result.queries:
        assert run(catalogue[query.database], query.sql)
        assert query.template_id in pool
        assert all(literal in query.sql for literal in query.literals)
    assert {query.database for query in result.queries} == {"library", "museum"}


def test_same_seed_same_queries(catalogue: Catalogue, library: Database) -> None:
    databases = list(catalogue.values())
    with Executor(threads=2) as executor:
        one, two = (
            synthesize_sql(pool_of(library, SEEDS), databases, executor, 80, random.Random(9))
            for _ in range(2)
        )
    assert one.queries == two.queries
    assert one.rejections == two.rejections


def test_excluded_queries_never_come_out(library: Database) -> None:
    seeds = ["select count(*) from book where genre = 'poem'"]
    with Executor(threads=1) as executor:
        free = synthesize_sql(pool_of(library, seeds), [library], executor, 60, random.Random(1))
        evaluation = {query.sql for query in free.queries[::2]}
        forms = {canonical(sql.replace("select", "SELECT  "), library) for sql in evaluation}
        exclude = {("library", form) for form in forms}
        held = synthesize_sql(
            pool_of(library, seeds), [library], executor, 60, random.Random(1), exclude
        )
    assert evaluation
    assert not {canonical(query.sql, library) for query in held.queries} & forms
    assert held.rejections["excluded"] > 0


def test_a_query_excluded_in_one_database_comes_out_in_another(tmp_path: Path) -> None:
    for name, shift in (("one", 0), ("other", 5)):
        connection = sqlite3.connect(tmp_path / f"{name}.sqlite")
        connection.execute("create table pet (id integer primary key, name text)")
        connection.executemany(
            "insert into pet values (?, ?)", [(n, f"Pet {n}") for n in range(shift + 4)]
        )
        connection.commit()
        connection.close()
    databases = Catalogue.open(tmp_path)
    pool = TemplatePool()
    pool.add(Template("select count(*) from {a}"), "test")
    exclude = {("one", canonical("select count(*) from pet", databases["one"]))}
    with Executor(threads=1) as executor:
        result = synthesize_sql(
            pool, list(databases.values()), executor, 5, random.Random(0), exclude
        )
    assert [(q.database, q.sql) for q in result.queries] == [("other", "select count(*) from pet")]


def test_weights_by_database(catalogue: Catalogue, library: Database) -> None:
    with Executor(threads=1) as executor:
        result = synthesize_sql(
            pool_of(library, SEEDS),
            list(catalogue.values()),
            executor,
            30,
            random.Random(0),
            per_database={"museum": 1.0},
        )
    assert {query.database for query in result.queries} == {"museum"}


def test_a_small_pool_ends_with_fewer_queries(library: Database) -> None:
    pool = pool_of(library, ["select count(*) from book"])
    with Executor(threads=1) as executor:
        result = synthesize_sql(pool, [library], executor, 100, random.Random(0))
    assert {query.sql for query in result.queries} == {
        f"select count(*) from {name}" for name in ("author", "book", "reader", "loan", "alone")
    }
    assert result.rejections["duplicate"] > 0


def test_limit_among_ties_is_refused(library: Database) -> None:
    # `genre` has three values over forty books: any three books with the smallest one will do.
    text = "select {a.1: text} from {a} order by {a.2: text} limit 1"
    pool = TemplatePool()
    pool.add(Template(text), "seed")
    with Executor(threads=1) as executor:
        result = synthesize_sql(pool, [library], executor, 40, random.Random(0))
    assert result.rejections["LIMIT among ties"] > 0
    assert "select title from book order by genre limit 1" not in {q.sql for q in result.queries}
    assert "select genre from book order by title limit 1" in {q.sql for q in result.queries}


def test_tie_variants_break_ties_both_ways() -> None:
    assert tie_variants("select a, b from t where c = 'order by x limit 1'", 2) == []
    assert tie_variants("select a, b from t order by c desc limit 3", 2) == [
        "select a, b from t order by c desc, 1, 2 limit 3",
        "select a, b from t order by c desc, 1 desc, 2 desc limit 3",
    ]
    nested = "select a, b from t where c = (select d from u order by e limit 1) order by a"
    assert tie_variants(nested, 2) == [
        "select a, b from t where c = (select d from u order by e, 1 limit 1) order by a",
        "select a, b from t where c = (select d from u order by e, 1 desc limit 1) order by a",
    ]


def test_literals_agree_with_canonical_forms(library: Database) -> None:
    for sql in [
        "select title from book where pages = '120' and genre = \"poem\"",
        "select title from book where pages > 12.50 and title = 'It''s 3' and pages > -4",
    ]:
        assert literals(normalise_sql(sql, library)) == literals(canonical(sql, library))


def test_nothing_to_draw_from_is_an_error(library: Database) -> None:
    with Executor(threads=1) as executor:
        with pytest.raises(SpftError, match="gave a template"):
            synthesize_sql(TemplatePool(), [library], executor, 1, random.Random(0))
        with pytest.raises(SpftError, match="none of the 0 databases"):
            synthesize_sql(pool_of(library, SEEDS), [], executor, 1, random.Random(0))


def test_odd_schemas_are_filled_and_never_end_the_run(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "odd.db")
    wide = ", ".join(f"c{number} int" for number in range(500))
    connection.executescript(
        f"""create table "tab le" ("i""d" integer primary key, "Größe" real, "select" text);
        create table "日本" (id integer primary key, ref int references "tab le", "a.b" text);
        create table wide ({wide}); insert into wide (c0, c1) values (1, 2), (3, 4);
        create table one (only_one); insert into one values ('x'), (x'00'), (null), (7);
        create table bytes (t text); insert into bytes values (cast(x'ff' as text));
        create view broken as select * from nowhere;"""
    )
    for number in range(20):
        connection.execute(
            'insert into "tab le" values (?, ?, ?)', (number, number * 1.5, f"v'{number % 4}")
        )
        connection.execute(
            'insert into "日本" values (?, ?, ?)', (number, number % 7, f"é {number % 5}")
        )
    connection.commit()
    connection.close()
    database = Catalogue.open(tmp_path)["odd"]
    pool = TemplatePool()
    for text in (
        "select {a.1: text} from {a} where {a.2: number} > {v1 > a.2}",
        "select {a.1: text}, count(*) from {a} join {b} group by {a.1}",
        "select {b.1: text} from {a} join {b} where {a.1: text} = {v1 = a.1}",
        "select count(*) from {a}",
    ):
        pool.add(Template(text), "library")
    with Executor(threads=1) as executor:
        result = synthesize_sql(pool, [database], executor, 40, random.Random(0))
    queries = {query.sql for query in result.queries}
    assert any('"tab le"."i""d" = "日本".ref' in sql for sql in queries)
    assert "does not run" not in result.rejections
    for sql in queries:
        template, binding = extract_bound(sql, database)
        assert run(database, render(template.compiled, binding, database)) == run(database, sql)
