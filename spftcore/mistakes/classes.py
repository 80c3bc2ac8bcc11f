"""The classes of mistake, in the order in which they tell most, with a sentence for each."""

from __future__ import annotations

# Of answers that run. What decides which rows and values there are comes before what shows them.
CLASSES: dict[str, str] = {
    "set operation": "UNION, INTERSECT or EXCEPT is missing, not needed, or another one",
    "nesting": "a query inside the query is missing or not needed",
    "table": "another table is read",
    "join": "a joined table is missing or not needed, or it is joined on other columns or sides",
    "aggregate": "another function over groups, or one is missing or not needed",
    "column": "another column is used",
    "expression": "the columns are right and what is computed from them is not",
    "missing columns": "the result lacks a column",
    "extra columns": "the result has a column that was not asked for",
    "condition": "a condition is missing, not needed, or compares otherwise",
    "value": "a value that is compared with, or computed with, is another",
    "grouping": "GROUP BY is missing, not needed, or by other columns",
    "distinct": "DISTINCT is missing or not needed, or rows come too often",
    "limit": "LIMIT is missing, not needed, or another number",
    "order": "ORDER BY is missing, by something else, or in the other direction",
    "order of columns": "the columns are right and stand in another order",
    "other": "the queries could not be compared part by part",
}

# Of answers that do not run.
FAILURES: dict[str, str] = {
    "no SQL": "the answer is empty",
    "syntax error": "SQLite cannot read it",
    "no such table": "it names a table that the database does not have",
    "no such column": "it names a column that its tables do not have",
    "no such function": "it calls a function that SQLite does not have",
    "no such name": "it names something else that is not there",
    "ambiguous column": "a column could be of more than one table",
    "misplaced aggregate": "an aggregate or window function where none may stand",
    "wrong arguments of a function": "a function with too many or too few arguments",
    "sides of different width": "UNION, INTERSECT or EXCEPT of different numbers of columns",
    "sub-query of many columns": "a query of several columns where one value is wanted",
    "other error": "another error of SQLite",
    "not allowed": "it does more than read the database's own tables",
    "takes too long": "it was stopped at its budget of steps or time",
    "result too large": "its result, or a value in it, was over the limit",
    "database error": "the file could not be read",
    "crashed": "the process that ran it died",
}
_ORDER = {name: number for number, name in enumerate((*FAILURES, *CLASSES))}


def rank(name: str) -> int:
    """Place of a class among all, the most telling first."""
    return _ORDER.get(name, len(_ORDER))


def describe(name: str) -> str:
    """The sentence of a class; empty for an unknown one."""
    return CLASSES.get(name) or FAILURES.get(name, "")
