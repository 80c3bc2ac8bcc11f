"""Kinds of columns: what the values say wins over a wrong or missing declaration."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spftcore.catalogue.kinds import sorts_as_text
from spftcore.databases import infer_kind


def counted(*values: Any) -> list[tuple[Any, int]]:
    return [(value, 1) for value in values]


@pytest.mark.parametrize(
    "values",
    [
        ("2020-01-31", "1999-12-01 10:30:00", "2020-01-31T10:30:00.5Z"),
        ("2003/01/04", "2003/12/31"),
        ("31.12.2020", "1.2.2021"),
        ("12/31/2020", "1/2/21", "03/04/2019 10:15 PM"),
        ("August 16, 1963", "Aug 3, 2015"),
        ("18 February 2011", "1st of March 2012", "3-Jan-14"),
        ("Monday, January 5, 2020", "Tue, 6 Jan 2020"),
        ("2020-01", "2020-02"),
        ("10:30", "23:59:59"),
    ],
)
def test_dates_are_known_however_they_are_written(values: tuple[str, ...]) -> None:
    assert infer_kind("TEXT", counted(*values)) == "date"
    assert infer_kind("", counted(*values)) == "date"


@pytest.mark.parametrize(
    "values",
    [
        ("1999.12", "2001.5"),  # numbers with a decimal point
        ("2019-20", "2020-21"),  # seasons
        ("21-14-16", "25-23-19"),  # sets of a match
        ("555-0199", "555-0123"),
        ("Mayor", "August Macke"),
        ("12 monkeys", "7 samurai"),
    ],
)
def test_what_only_resembles_a_date_is_none(values: tuple[str, ...]) -> None:
    assert infer_kind("TEXT", counted(*values)) != "date"


def test_whole_numbers_are_dates_only_where_a_name_or_declaration_says_so() -> None:
    unix = counted(1_588_291_200, 946_684_800)
    assert infer_kind("INTEGER", unix, "amount") == "number"
    assert infer_kind("INTEGER", unix, "created_at") == "date"
    assert infer_kind("TIMESTAMP", unix, "x") == "date"
    assert infer_kind("INTEGER", counted(1_588_291_200_000), "eventTimestamp") == "date"
    assert infer_kind("INTEGER", counted(1_588_291_200, 12), "created_at") == "number"
    assert infer_kind("INTEGER", counted(20200131, 19991201), "day") == "date"
    assert infer_kind("INTEGER", counted(20201331, 19991201), "day") == "number"  # no 13th month


def test_a_year_is_a_number() -> None:
    assert infer_kind("YEAR", counted(1999, 2006), "release_year") == "number"
    assert infer_kind("TEXT", counted("1999", "2006"), "release_year") == "number"
    assert infer_kind("DATE", counted(1999, 2006), "founded") == "number"


def test_numbers_kept_as_text_are_numbers_and_codes_are_not() -> None:
    assert infer_kind("TEXT", counted("9", "130", "-2.5"), "horsepower") == "number"
    assert infer_kind("TEXT", counted("9", "130", "null", ""), "horsepower") == "number"
    assert infer_kind("TEXT", counted("00501", "94107"), "area") == "text"  # leading zeros
    assert infer_kind("TEXT", counted("94107", "10115"), "area") == "text"  # all of one length
    assert infer_kind("TEXT", counted("9", "130"), "zip_code") == "text"
    assert infer_kind("TEXT", counted("1", "2"), "gender") == "text"
    assert infer_kind("TEXT", counted("12e4567", "1e5"), "mark") == "text"


@given(st.lists(st.integers(-999, 9999), min_size=2, max_size=8, unique=True))
def test_sorts_as_text_says_whether_sqlite_would_sort_otherwise(numbers: list[int]) -> None:
    texts = [str(number) for number in numbers]
    misleading = [int(text) for text in sorted(texts)] != sorted(numbers)
    assert sorts_as_text("number", counted(*texts)) == misleading
    assert not sorts_as_text("number", counted(*numbers))


def test_truth_values_in_words_and_numbers() -> None:
    assert infer_kind("TEXT", counted("Yes", "no")) == "boolean"
    assert infer_kind("TEXT", counted("true")) == "boolean"
    assert infer_kind("TEXT", counted("F", "T")) == "boolean"
    assert infer_kind("CHAR(1)", counted("F")) == "text"  # one letter alone may be a grade
    assert infer_kind("BOOL", counted("F")) == "boolean"
    assert infer_kind("INTEGER", counted(0, 1), "is_active") == "boolean"
    assert infer_kind("VARCHAR(1)", counted("0", "1"), "returned_yn") == "boolean"
    assert infer_kind("INTEGER", counted(0, 1), "children") == "number"


def test_placeholders_for_nothing_say_nothing() -> None:
    assert infer_kind("TEXT", counted("N/A", "-", "2020-01-02")) == "date"
    assert infer_kind("INTEGER", counted("unknown", "?")) == "number"


def test_a_text_too_long_to_read_is_a_text() -> None:
    assert infer_kind("", [(None, 3)]) == "text"
    assert infer_kind("DATE", [(None, 3)], "day") == "text"
