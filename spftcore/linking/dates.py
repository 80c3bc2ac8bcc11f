"""Dates in the forms people write, as one form that can be compared."""

from __future__ import annotations

import re

_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_NAME = r"(?P<{0}>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_DATE = re.compile(
    r"(?<!\d)(?:"
    r"(?P<y1>\d{4})[-/.](?P<m1>\d{1,2})[-/.](?P<d1>\d{1,2})"
    r"|(?P<a>\d{1,2})[-/.](?P<b>\d{1,2})[-/.](?P<y2>\d{4}|\d{2})"
    r"|" + _NAME.format("n1") + r"\s+(?P<d3>\d{1,2})(?:st|nd|rd|th)?,?\s+(?P<y3>\d{4})"
    r"|(?P<d4>\d{1,2})(?:st|nd|rd|th)?[\s-](?:of\s+)?"
    + _NAME.format("n2")
    + r",?[\s-](?P<y4>\d{4})"
    r")(?!\d)",
    re.IGNORECASE,
)
CENTURY = 30  # two-digit years below it are of this century


def dates_in(text: str) -> list[tuple[int, int, tuple[str, ...]]]:
    """(start, end, ISO dates it may mean) of every date written in a text.

    `3/4/2018` may be the third of April or the fourth of March: both are given.
    """
    found = []
    for match in _DATE.finditer(text):
        part = match.groupdict()
        readings: list[tuple[str, str, str]] = []
        if part["y1"]:
            readings = [(part["y1"], part["m1"], part["d1"])]
        elif part["y2"]:
            year = part["y2"]
            if len(year) == 2:
                year = ("20" if int(year) < CENTURY else "19") + year
            readings = [(year, part["a"], part["b"]), (year, part["b"], part["a"])]
        else:
            for name, day, year in (("n1", "d3", "y3"), ("n2", "d4", "y4")):
                if part[name]:
                    month = _MONTHS.index(part[name].lower()) + 1
                    readings = [(part[year], str(month), part[day])]
        dates = dict.fromkeys(
            f"{year}-{int(month):02}-{int(day):02}"
            for year, month, day in readings
            if 1 <= int(month) <= 12 and 1 <= int(day) <= 31
        )
        if dates:
            found.append((match.start(), match.end(), tuple(dates)))
    return found


def date_keys(value: str) -> tuple[str, ...]:
    """The ISO dates that a value, up to its time of day, may mean."""
    dates = dates_in(value[:30])
    return dates[0][2] if dates and dates[0][0] == 0 else ()
