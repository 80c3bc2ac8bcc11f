"""The value index ranks what a question may mean: other forms, typos, the right column; its file
is cached, never beside the user's, and follows the database."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from spftcore.databases import Catalogue, Database
from spftcore.errors import SpftError
from spftcore.linking import ValueIndex, ValueMatch
from spftcore.linking.dates import dates_in
from spftcore.linking.words import key_of, stem, within_one_edit

SHOP = """
create table customer (
    customer_id integer primary key, name text, country text, city text, member text);
create table product (code text primary key, product_name text, released date, price real);
create table employee (employee_id integer primary key, name text, city text, job text);
insert into customer values
    (1, 'Barack Obama', 'United States', 'Honolulu', 'Y'),
    (2, 'Zoë Müller', 'Germany', 'Köln', 'N'),
    (3, 'Ann Lee', 'France', 'New York', 'N');
insert into product values
    ('CIS-220', 'Gift Cards', '2018-03-14', 5.5), ('Q7', 'Walking Shoes', '2019-11-02', 12500);
insert into employee values (1, 'Zhang Wei', 'Paris', 'doctor'), (2, 'Ann Lee', 'Köln', 'cook');
"""


def database_of(folder: Path, script: str) -> Database:
    connection = sqlite3.connect(folder / "own.sqlite")
    connection.executescript(script)
    connection.close()
    return Catalogue.open(folder)["own"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> ValueIndex:
    folder = tmp_path_factory.mktemp("shop")
    return ValueIndex(database_of(folder, SHOP), folder / "cache")


def first(index: ValueIndex, question: str, evidence: str = "") -> tuple[str, str, object]:
    match = index.link(question, 1, evidence)[0]
    return match.table, match.column, match.value


@pytest.mark.parametrize(
    ("question", "found"),
    [
        ("Where does Obama live?", ("customer", "name", "Barack Obama")),  # a part of the name
        ("Where does BARACK OBAMA live?", ("customer", "name", "Barack Obama")),
        ("Where does zoe muller live?", ("customer", "name", "Zoë Müller")),  # accents
        ("Where does Barack Obma live?", ("customer", "name", "Barack Obama")),  # a typo
        ("What is a gift card for?", ("product", "product_name", "Gift Cards")),  # singular
        ("Which customers are doctors?", ("employee", "job", "doctor")),  # plural
        ("Name the French customers.", ("customer", "country", "France")),
        ("How many customers come from the USA?", ("customer", "country", "United States")),
        ("Who lives in NY?", ("customer", "city", "New York")),
        ("What was released on March 14, 2018?", ("product", "released", "2018-03-14")),
        ("What was released on 2 Nov 2019?", ("product", "released", "2019-11-02")),
        ("Which code has cis220?", ("product", "code", "CIS-220")),
        ("Which product has the price 5.5?", ("product", "price", 5.5)),
        ("Which product has the price 12,500?", ("product", "price", 12500.0)),
    ],
)
def test_a_value_is_proposed_first_however_it_is_said(
    shop: ValueIndex, question: str, found: tuple[str, str, object]
) -> None:
    assert first(shop, question) == found


def test_of_columns_that_hold_a_value_the_one_asked_about_comes_first(shop: ValueIndex) -> None:
    assert first(shop, "What is the job of the employee Ann Lee?")[0] == "employee"
    assert first(shop, "Which country does the customer Ann Lee come from?")[0] == "customer"
    both = {m.table for m in shop.link("Who is Ann Lee?") if m.value == "Ann Lee"}
    assert both == {"customer", "employee"}


def test_a_flag_is_proposed_when_its_column_is_named(shop: ValueIndex) -> None:
    assert first(shop, "How many customers are a member?") == ("customer", "member", "Y")
    assert first(shop, "How many customers are not a member?") == ("customer", "member", "N")


def test_evidence_takes_part(shop: ValueIndex) -> None:
    question = "How many of the customers are American?"
    assert not [m for m in shop.link("How many of them?") if m.value == "Honolulu"]
    found = shop.link("How many of them?", 5, "of them: city = 'Honolulu'")
    assert (found[0].column, found[0].value) == ("city", "Honolulu")
    assert shop.link(question, 5, "") == shop.link(question, 5)


def test_matches_are_ranked_by_probability_up_to_the_limit(shop: ValueIndex) -> None:
    question = "Did Obama meet Zhang Wei in Paris or Honolulu?"
    ranked = shop.link(question, 10)
    assert {"Barack Obama", "Zhang Wei", "Paris", "Honolulu"} <= {m.value for m in ranked}
    assert all(0 < match.score < 1 for match in ranked)
    assert shop.link(question, 2) == ranked[:2]


def test_two_spans_both_get_a_place_though_one_stands_in_many_columns(tmp_path: Path) -> None:
    tables = "".join(
        f"create table t{n} (place text); insert into t{n} values ('Springfield'), ('x{n}');"
        for n in range(8)
    )
    own = ValueIndex(
        database_of(tmp_path, tables + "insert into t3 values ('Ogdenville');"), tmp_path / "c"
    )
    found = own.link("From Springfield to Ogdenville", 5)
    assert {m.value for m in found} == {"Springfield", "Ogdenville"}


def test_nothing_is_asked_nothing_is_found(shop: ValueIndex) -> None:
    assert shop.link("") == []
    assert shop.link("?!") == []
    assert shop.link("How many?", 0) == []


# -- the file -----------------------------------------------------------------------------------


def test_the_index_lies_in_the_cache_and_the_users_folder_stays_as_it_was(tmp_path: Path) -> None:
    database = database_of(tmp_path, SHOP)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    cache = tmp_path.parent / f"{tmp_path.name}-cache"
    ValueIndex(database, cache).link("Obama")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert len(list(cache.rglob("*.sqlite"))) == 1
    assert not list(cache.rglob("*.new"))


def test_an_index_is_built_once_and_again_when_the_database_changes(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    database = database_of(tmp_path, SHOP)
    ValueIndex(database, cache).close()
    (file,) = cache.rglob("*.sqlite")
    stamp = file.stat().st_mtime_ns
    ValueIndex(database, cache).close()
    assert file.stat().st_mtime_ns == stamp

    connection = sqlite3.connect(database.path)
    connection.execute("update customer set name = 'Nelson Mandela' where customer_id = 1")
    connection.commit()
    connection.close()
    changed = ValueIndex(database, cache)
    assert [m.value for m in changed.link("Who is Mandela?", 1)] == ["Nelson Mandela"]
    assert [m for m in changed.link("Who is Obama?") if "Obama" in str(m.value)] == []
    assert list(cache.rglob("*.sqlite")) == [file]  # the old one is replaced, not kept


def test_a_file_rewritten_in_place_with_its_old_time_is_read_again(tmp_path: Path) -> None:
    database = database_of(tmp_path, "create table t (name text); insert into t values ('Lima');")
    before = database.path.stat()
    ValueIndex(database, tmp_path / "cache").close()
    content = database.path.read_bytes()
    with database.path.open("r+b") as file:
        file.write(content.replace(b"Lima", b"Oslo"))
    os.utime(database.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    index = ValueIndex(database, tmp_path / "cache")
    assert [match.value for match in index.mentions("Lima or Oslo")] == ["Oslo"]


def test_a_damaged_cache_is_built_anew(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    database = database_of(tmp_path, SHOP)
    ValueIndex(database, cache).close()
    (file,) = cache.rglob("*.sqlite")
    file.write_bytes(b"SQLite format 3\x00" + b"?" * 5000)
    assert first(ValueIndex(database, cache), "Where is Obama?")[2] == "Barack Obama"


def test_where_no_cache_can_be_written_the_index_is_held_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    index = ValueIndex(database_of(tmp_path, SHOP), tmp_path / "file" / "cache")
    assert first(index, "Where is Obama?")[2] == "Barack Obama"


def test_a_database_that_is_gone_is_named(tmp_path: Path) -> None:
    database = database_of(tmp_path, SHOP)
    database.path.unlink()
    with pytest.raises(SpftError, match=r"own\.sqlite cannot be read"):
        ValueIndex(database, tmp_path / "cache")


def test_a_damaged_page_costs_its_own_values_alone(tmp_path: Path) -> None:
    rows = ",".join(f"('word{n} {'x' * 50}')" for n in range(2000))
    database = database_of(
        tmp_path,
        "create table good (x text); insert into good values ('Quito');"
        f"create table bad (x text); insert into bad values {rows};",
    )
    with database.path.open("r+b") as file:
        file.seek(12 * 4096)
        file.write(b"\xff" * 4096)
    index = ValueIndex(database, tmp_path / "cache")
    assert [m.value for m in index.link("Is it Quito?", 1)] == ["Quito"]


def test_sensitive_columns_are_neither_kept_nor_linked(tmp_path: Path) -> None:
    database = database_of(tmp_path, SHOP)
    tables = tuple(
        replace(
            table,
            columns=tuple(replace(c, sensitive=c.name == "name") for c in table.columns),
        )
        for table in database.tables
    )
    hidden = Database("own", database.path, tables, database.foreign_keys)
    cache = tmp_path / "cache"
    assert not [
        m for m in ValueIndex(hidden, cache).link("Obama of Honolulu") if m.column == "name"
    ]
    (file,) = cache.rglob("*.sqlite")
    assert b"Obama" not in file.read_bytes()
    # The same file with the columns shown is another index.
    assert first(ValueIndex(database, cache), "Where is Obama?")[2] == "Barack Obama"


def test_odd_values_and_names_do_no_harm(tmp_path: Path) -> None:
    script = f"""
        create table "group by" ("a""b" text, "" text, "päss wörd" text);
        insert into "group by" values (cast(x'4cff' as text), 'x', 'Łódź');
        insert into "group by" values ('{"long " * 1000}', null, x'00ff'), ('', '!!!', '中文');
        create table empty (x text);
        create virtual table found using fts5(body);
        insert into found values ('needle in hay');
    """
    index = ValueIndex(database_of(tmp_path, script), tmp_path / "cache")
    assert first(index, "Is it in Łódź?")[2] == "Łódź"
    assert first(index, "What is 中文?")[2] == "中文"
    assert all(len(str(m.value)) < 200 for m in index.link("long long long needle", 20))


def test_a_number_of_many_columns_does_not_hide_a_text(tmp_path: Path) -> None:
    columns = ", ".join(f"m{n} integer" for n in range(120))
    database = database_of(
        tmp_path,
        f"create table a ({columns}); insert into a values ({', '.join(['2'] * 120)});"
        "create table singer (country text); insert into singer values ('France'), ('Peru');",
    )
    index = ValueIndex(database, tmp_path / "cache")
    question = "Which 2 singers come from France?"
    assert "France" in [match.value for match in index.link(question)]
    assert [match.value for match in index.mentions(question)] == ["France"]


@pytest.mark.parametrize("quoted", ["½", "aᦰb"])
def test_a_quoted_word_that_sqlite_parts_is_no_obstacle(quoted: str, tmp_path: Path) -> None:
    database = database_of(
        tmp_path, "create table t (name text); insert into t values ('Quasimodo'), ('½ litre');"
    )
    index = ValueIndex(database, tmp_path / "cache")
    assert index.link(f"Is there '{quoted}' or 'Quas'?", 1)[0].value == "Quasimodo"


def test_a_database_without_tables_has_an_empty_index(tmp_path: Path) -> None:
    index = ValueIndex(database_of(tmp_path, "pragma user_version = 1; vacuum;"), tmp_path / "c")
    assert index.link("Anything?") == []


def test_the_file_does_not_depend_on_who_builds_it_first(tmp_path: Path) -> None:
    database = database_of(tmp_path, SHOP)
    one, two = ValueIndex(database, tmp_path / "1"), ValueIndex(database, tmp_path / "2")
    question = "Did Ann Lee of Köln buy walking shoes?"
    assert one.link(question, 9) == two.link(question, 9)


# -- words and dates ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cities", "city"), ("boxes", "box"), ("named", "names"), ("planned", "planning"),
        ("taught", "teaches"), ("women", "woman"), ("students", "student"), ("hiring", "hired"),
    ],
)  # fmt: skip
def test_forms_of_a_word_share_their_stem(one: str, other: str) -> None:
    assert stem(one) == stem(other)


@pytest.mark.parametrize(("one", "other"), [("bus", "bu"), ("need", "nee"), ("car", "cart")])
def test_other_words_do_not(one: str, other: str) -> None:
    assert stem(one) != stem(other)


def test_a_key_forgets_case_accents_and_punctuation() -> None:
    assert key_of("  São-Paulo (Cities)! ") == key_of("sao paulo city")


def edit_distance(left: str, right: str) -> int:
    """Optimal string alignment (with swaps of neighbours), by the textbook recurrence."""
    table = {(i, 0): i for i in range(len(left) + 1)}
    table.update({(0, j): j for j in range(len(right) + 1)})
    for i in range(1, len(left) + 1):
        for j in range(1, len(right) + 1):
            cost = left[i - 1] != right[j - 1]
            best = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + cost)
            if i > 1 and j > 1 and left[i - 2 : i] == right[j - 1] + right[j - 2]:
                best = min(best, table[i - 2, j - 2] + 1)
            table[i, j] = best
    return table[len(left), len(right)]


@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
@hypothesis_settings(max_examples=300, deadline=None)
def test_within_one_edit_agrees_with_the_edit_distance(left: str, right: str) -> None:
    assert within_one_edit(left, right) == (edit_distance(left, right) <= 1)


@pytest.mark.parametrize(
    ("text", "dates"),
    [
        ("on 2018-03-14 10:00", ("2018-03-14",)),
        ("on 2018/3/4", ("2018-03-04",)),
        ("on 14.03.2018", ("2018-03-14",)),
        ("on 3/4/2018", ("2018-03-04", "2018-04-03")),  # day and month may be either way round
        ("March 14th, 2018", ("2018-03-14",)),
        ("14 March 2018", ("2018-03-14",)),
        ("the 14th of Mar 2018", ("2018-03-14",)),
        ("on 1/2/99", ("1999-01-02", "1999-02-01")),
    ],
)
def test_dates_are_read_in_the_forms_people_write(text: str, dates: tuple[str, ...]) -> None:
    assert [set(keys) for _, _, keys in dates_in(text)] == [set(dates)]


@pytest.mark.parametrize("text", ["version 1.2.3", "2018-99-99", "12345-67-890", "may 2018", ""])
def test_what_is_no_date_is_not_read_as_one(text: str) -> None:
    assert dates_in(text) == []


# -- real data ----------------------------------------------------------------------------------


def test_bird_values_are_found_with_their_column_by_evidence(data: Path) -> None:
    folder = data / "bird" / "dev_databases"
    if not folder.is_dir():
        pytest.skip("no BIRD database in the data folder")
    index = ValueIndex(Catalogue.open(folder)["superhero"])
    hint = "blue eyes refers to colour = 'Blue' WHERE eye_colour_id = colour.id"
    found = index.link("How many superheroes have blue eyes?", 5, hint)
    assert ValueMatch("colour", "colour", "Blue", found[0].score) == found[0]
