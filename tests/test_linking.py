"""Exact mentions: the values whose very words stand in a question, as the database spells them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from spftcore.databases import Catalogue
from spftcore.linking import ValueIndex, ValueMatch, words


@pytest.fixture(scope="module")
def index(catalogue: Catalogue) -> ValueIndex:
    return ValueIndex(catalogue["travel"])


def index_of(folder: Path, script: str) -> ValueIndex:
    connection = sqlite3.connect(folder / "own.sqlite")
    connection.executescript(script)
    connection.close()
    return ValueIndex(Catalogue.open(folder)["own"])


def test_words_are_lower_case_and_ended_by_punctuation() -> None:
    assert words("L'Aquila, São-Paulo_2 (5.5)!") == ["l", "aquila", "são", "paulo", "2", "5", "5"]


def test_a_value_is_found_in_any_case_and_spelled_as_stored(index: ValueIndex) -> None:
    assert index.mentions("how many guests saw QUITO?") == [ValueMatch("city", "name", "Quito")]
    assert index.mentions("visits to l'aquila") == [ValueMatch("city", "name", "L'Aquila")]


def test_values_of_several_words_are_found_whole(index: ValueIndex) -> None:
    assert index.mentions("Who went to Santa Cruz?") == [ValueMatch("city", "name", "Santa Cruz")]
    assert index.mentions("Who went to Santa?") == []


def test_a_value_of_two_columns_is_named_once_for_each(index: ValueIndex) -> None:
    assert index.mentions("Who saw Lima?") == [
        ValueMatch("city", "name", "Lima"),
        ValueMatch("visit", "guest", "Lima"),
    ]


def test_matches_stand_in_the_order_of_the_question_up_to_the_limit(index: ValueIndex) -> None:
    question = "Did Noor or Ada see Peru, Italy or Quito?"
    assert [m.value for m in index.mentions(question)] == ["Noor", "Ada", "Peru", "Italy", "Quito"]
    assert [m.value for m in index.mentions(question, limit=2)] == ["Noor", "Ada"]


def test_part_of_a_word_is_no_mention(index: ValueIndex) -> None:
    assert index.mentions("Which Peruvian city is in limabean?") == []
    assert index.mentions("") == []


def test_the_longest_value_wins_over_one_inside_it(tmp_path: Path) -> None:
    own = index_of(
        tmp_path, "create table t (x text); insert into t values ('York'), ('New York City');"
    )
    assert [m.value for m in own.mentions("flights from New York City")] == ["New York City"]
    assert [m.value for m in own.mentions("flights from York to New York")] == ["York", "York"]


def test_digits_and_long_texts_are_no_mentions(tmp_path: Path) -> None:
    own = index_of(
        tmp_path,
        f"create table t (code text, long text, n integer);"
        f"insert into t values ('1200', '{'word ' * 30}', 7), ('A7', 'short', 8);",
    )
    assert own.mentions("1200 or 7 or word word word") == []
    assert [m.value for m in own.mentions("a7")] == ["A7"]


def test_names_that_need_quotes_are_read(tmp_path: Path) -> None:
    own = index_of(
        tmp_path,
        'create table "order" ("group by" text, "a""b" text);'
        "insert into \"order\" values ('north', 'south');",
    )
    assert own.mentions("north and south") == [
        ValueMatch("order", "group by", "north"),
        ValueMatch("order", 'a"b', "south"),
    ]


def test_text_that_is_not_utf8_hides_only_itself(tmp_path: Path) -> None:
    # Old databases hold Latin-1 under the name of text; 4c ff is no UTF-8.
    own = index_of(
        tmp_path,
        "create table t (x text); insert into t values (cast(x'4cff' as text)), ('Quito');",
    )
    assert [m.value for m in own.mentions("is it quito?")] == ["Quito"]


def test_flags_and_dates_are_no_exact_mentions(tmp_path: Path) -> None:
    own = index_of(
        tmp_path,
        "create table t (member boolean, day date, name text);"
        "insert into t values ('Y', '2024-05-01', 'Quito'), ('N', '2024-05-02', 'Lima');",
    )
    assert [m.value for m in own.mentions("y n 2024 05 01 lima")] == ["Lima"]
    assert {m.value for m in own.link("Who in Lima came on May 1, 2024?")} >= {"2024-05-01"}
