"""Is a query's result determined by the data, or also by what SQL leaves open?

SQL does not say which of several tied rows come first, which rows a LIMIT without ORDER BY keeps,
or from which row of a group a bare column is taken. A query that hangs on such a choice may give
another result on another version, machine or copy of the data; as a gold it is fit neither for
training nor for judging. The probes make the other choice and look whether the result changes;
`docs/stability.md` lists them.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from spftcore.errors import SpftError
from spftcore.verify.outcomes import Outcome
from spftcore.verify.stability_clock import INSTANTS, at_instant, clock_readings
from spftcore.verify.stability_copies import ORDERS, Uncopied, reordered_copies
from spftcore.verify.stability_text import Query, Structure, Unreadable

if TYPE_CHECKING:
    from spftcore.verify.executor import Executor


@dataclass(frozen=True, slots=True)
class Stability:
    """What is known about one query.

    Attributes:
        verdict: True when no probe changed the result, False when one did, None when that cannot
            be said: the query does not run or cannot be read, or a probe ended undecided.
        cause: what the result hangs on: 'ties', 'limit', 'subquery', 'bare column', 'group_concat',
            'window', 'collation', 'view', 'rowid', 'clock'; '' unless unstable.
        message: one sentence.
        probe: what showed it: the SQL whose result differs on the same database, or the order in
            which the rows were inserted into a copy of it; '' unless unstable.
    """

    verdict: bool | None
    cause: str = ""
    message: str = ""
    probe: str = ""


_MESSAGES = {
    "ties": "LIMIT cuts through rows that tie under ORDER BY.",
    "limit": "LIMIT without ORDER BY keeps whichever rows come first.",
    "subquery": "A subquery used as one value has several rows, and the first one is taken.",
    "bare column": "A column that is not grouped by differs within a group.",
    "group_concat": "An aggregate joins values in the order in which the rows come.",
    "window": "Rows tie under the ORDER BY of a window.",
    "collation": "Texts that are equal under a collation differ, and one of them is shown.",
    "view": "A view that the query reads hangs on the order of rows.",
    "rowid": "The query shows rowids that are not a key of the table.",
    "clock": "The result depends on the current date or time.",
}

# No SELECT has that many columns: SQLite answers with the number there are.
_TOO_FAR = 30_000
_RANGE = re.compile(r"ORDER BY term out of range - should be between 1 and (\d+)")
# SQLite allows 2,000 terms; a result this wide is told apart by its first columns.
_MOST_TERMS = 100
# Each costs some executions; no sensible query has more.
_MOST_CUTS = 30

_ROWIDS = frozenset(("rowid", "oid", "_rowid_"))
_SCHEMA_TABLES = frozenset(("sqlite_master", "sqlite_schema"))


@dataclass(slots=True)
class _Case:
    """One query on its way through the probes."""

    database: str
    sql: str
    structure: Structure | None = None
    result: Stability | None = None
    outcome: Outcome | None = None
    undecided: str = ""
    # (cause, SQL with other ordering terms)
    variants: list[tuple[str, str]] = field(default_factory=list)
    # SQL in which the bare columns' greatest values give another result than the least
    groups_differ: str = ""
    # causes that only rows in another order can show
    order_causes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Schema:
    """Lower-case CREATE texts of a database by name, and whether one names a collation."""

    views: dict[str, str]
    tables: dict[str, str]
    collates: bool


def stable(executor: Executor, queries: Sequence[tuple[str | Path, str]]) -> list[Stability]:
    """Whether each (database file, SQL) has a result that the data alone determine.

    The result is a bag of rows: the order of the rows under an ORDER BY is not part of it. Equal
    pairs are probed once. A verdict True means that the probes found nothing, not a proof.

    Args:
        executor: runs the queries and the probes, under its limits.
        queries: what to judge.

    Returns:
        One result per query, in the order given.
    """
    cases = {(str(path), sql): _Case(str(path), sql) for path, sql in queries}
    todo = list(cases.values())
    _run(executor, todo)
    _probe_clock(executor, [c for c in todo if c.result is None])
    _probe_texts(executor, [c for c in todo if c.result is None])
    _probe_groups(
        executor, [c for c in todo if c.result is None and "bare column" in c.order_causes]
    )
    _probe_copies(executor, [c for c in todo if c.result is None and c.order_causes])
    for case in todo:
        if case.result is None:
            if case.groups_differ:
                case.result = _unstable("bare column", case.groups_differ)
            elif case.undecided:
                case.result = Stability(None, message=f"A probe is undecided: {case.undecided}")
            else:
                case.result = Stability(True, message="The data determine the result.")
    return [_known(cases[str(path), sql]) for path, sql in queries]


def _known(case: _Case) -> Stability:
    assert case.result is not None
    return case.result


def _unstable(cause: str, probe: str) -> Stability:
    return Stability(False, cause, _MESSAGES[cause], probe)


def _run(executor: Executor, cases: list[_Case]) -> None:
    """The queries as they are; those that do not run or cannot be read are settled."""
    outcomes = executor.execute([(case.database, case.sql) for case in cases])
    for case, outcome in zip(cases, outcomes, strict=True):
        case.outcome = outcome
        if not outcome.ran:
            case.result = Stability(None, message=f"The query does not run: {outcome.message}")
            continue
        try:
            case.structure = Structure(case.sql)
        except (Unreadable, RecursionError) as error:
            case.result = Stability(None, message=f"The query cannot be read: {error}.")


def _probe_clock(executor: Executor, cases: list[_Case]) -> None:
    """Other instants in place of 'now'; afterwards the case goes on at a fixed one."""
    probes = []
    for case in cases:
        edits = list(clock_readings(_structure(case)))
        if edits:
            probes.append((case, [at_instant(case.sql, edits, now) for now in INSTANTS]))
    outcomes = iter(executor.execute([(c.database, sql) for c, texts in probes for sql in texts]))
    for case, texts in probes:
        results = [next(outcomes) for _ in texts]
        _settle(executor, case, [("clock", text) for text in texts], results)
        if case.result is None:
            case.sql, case.outcome = texts[-1], results[-1]
            case.structure = Structure(case.sql)


def _structure(case: _Case) -> Structure:
    assert case.structure is not None
    return case.structure


def _probe_texts(executor: Executor, cases: list[_Case]) -> None:
    """Opposite last ordering terms wherever a query cuts its rows."""
    schemas = _schemas(executor, cases)
    asked = []
    for case in cases:
        cut = list(_cut_queries(case, schemas[case.database]))
        if len(cut) > _MOST_CUTS:
            case.undecided = f"more than {_MOST_CUTS} subqueries cut their rows"
        for query in cut[:_MOST_CUTS]:
            text = _structure(case).with_order(query, str(_TOO_FAR))
            asked.append((case, query, text))
    widths = executor.execute([(case.database, text) for case, _, text in asked])
    for (case, query, _), outcome in zip(asked, widths, strict=True):
        found = _RANGE.search(outcome.message)
        if found is None:
            case.undecided = case.undecided or outcome.message
            continue
        if query.limit:
            cause = "ties" if query.order else "limit"
        else:
            cause = "subquery" if query.role == "scalar" else case.order_causes[0]
        texts = _variants(_structure(case), query, int(found.group(1)))
        case.variants += [(cause, text) for text in texts]
    jobs = [(case.database, sql) for case in cases for _, sql in case.variants]
    outcomes = iter(executor.execute(jobs))
    for case in cases:
        _settle(executor, case, case.variants, [next(outcomes) for _ in case.variants])


def _cut_queries(case: _Case, schema: _Schema) -> Iterator[Query]:
    """Queries of the case of which only the first rows count; notes what copies must show."""
    structure = _structure(case)
    causes = _order_causes(structure, schema)
    inner_order_counts = bool(causes)
    for query in structure.queries:
        if not query.editable or query.role == "exists" or structure.one_row(query):
            continue
        cut = query.limit or query.role == "scalar"
        if cut and not query.order and (query.recursive or _reads_ordered(structure, query)):
            # Its rows come in an order the text does give; an ORDER BY would override it.
            causes.append("limit")
            inner_order_counts = True
            cut = False
        if cut and query.offset:
            causes.append("ties" if query.order else "limit")
        if cut or (query.order and query.role != "outer" and inner_order_counts):
            yield query
    case.order_causes = causes


def _reads_ordered(structure: Structure, query: Query) -> bool:
    """Some subquery in the FROM of `query`, or some CTE, has an order of its own."""
    return any(
        inner.order
        and (
            inner.role == "cte"
            or (inner.role == "table" and query.start < inner.start and inner.end <= query.end)
        )
        for inner in structure.queries
    )


def _variants(structure: Structure, query: Query, width: int) -> Iterator[str]:
    """The text with ties of `query` broken by its output columns, rising and falling.

    For a LIMIT without OFFSET these two decide: among n tied rows of which m < n are kept, the
    m smallest and the m largest are the same bag only when all n are equal. The others help where
    an OFFSET cuts on both sides and where only some of the columns are used further out.
    """
    columns = range(1, min(width, _MOST_TERMS) + 1)
    orders = [list(columns)]
    if query.role != "outer" or query.offset:
        orders += [[k, *columns] for k in columns[1:8]]
    for order in orders:
        for direction in ("ASC", "DESC"):
            terms = ", ".join(f"{k} COLLATE BINARY {direction}" for k in order)
            yield structure.with_order(query, terms)


def _order_causes(structure: Structure, schema: _Schema) -> list[str]:
    """What in the query only rows in another order can probe, the likeliest first."""
    causes = []
    words = structure.words()
    tables = [schema.tables[name] for name in words & schema.tables.keys()]
    for name in words & _ROWIDS:
        # A column of that name is data, and so is the rowid that is a table's key.
        is_column = any(re.search(rf"\b{name}\b", text) for text in tables)
        if not is_column and not all(_integer_key(text) for text in tables):
            causes.append("rowid")
    if any(
        structure.bare_columns(query, core) for query in structure.queries for core in query.cores
    ):
        causes.append("bare column")
    if structure.ordered_aggregates():
        causes.append("group_concat")
    if structure.has_window():
        causes.append("window")
    if (schema.collates or words & {"nocase", "rtrim"}) and structure.merges_equal_values():
        causes.append("collation")
    if any(_view_hangs_on_order(schema, name) for name in words & schema.views.keys()):
        causes.append("view")
    return causes


def _view_hangs_on_order(schema: _Schema, name: str) -> bool:
    begins = re.search(r"\bas\b", schema.views[name])
    try:
        structure = Structure(schema.views[name][begins.end() if begins else 0 :])
    except (Unreadable, RecursionError):
        return True
    views = {other: sql for other, sql in schema.views.items() if other != name}
    rest = _Schema(views, schema.tables, schema.collates)
    return any(q.limit or q.role == "scalar" for q in structure.queries) or bool(
        _order_causes(structure, rest)
    )


def _probe_groups(executor: Executor, cases: list[_Case]) -> None:
    """Clears queries whose bare columns have one value in each group: they need no copy.

    With the least and with the greatest value in place of each bare column the results are the
    same bag exactly when no group of the result has two values: each column's least is at most
    its greatest, and two such lists of equal content are equal one by one. Where they differ, a
    copy mostly shows it on the query itself; where none does, the two texts are the proof.
    """
    asked = []
    for case in cases:
        structure = _structure(case)
        shown = structure.shows_bare(structure.outer)
        inner = [q for q in structure.queries if q is not structure.outer]
        if shown and not any(structure.bare_columns(q, core) for q in inner for core in q.cores):
            asked.append((case, [structure.with_extremes(shown, f) for f in ("min", "max")]))
    outcomes = executor.execute([(case.database, text) for case, texts in asked for text in texts])
    for (case, texts), least, greatest in zip(asked, outcomes[::2], outcomes[1::2], strict=True):
        if not (least.ran and greatest.ran):
            continue
        if least.fingerprint == greatest.fingerprint:
            case.order_causes.remove("bare column")
        elif not _structure(case).takes_extreme_row():
            case.groups_differ = texts[1]


def _schemas(executor: Executor, cases: list[_Case]) -> dict[str, _Schema]:
    schemas = {}
    for database in {case.database for case in cases}:
        try:
            _, rows = executor.rows(database, "SELECT type, name, sql FROM sqlite_master")
        except SpftError:  # the file went away between two batches
            rows = []
        texts = [(kind, str(name).lower(), str(sql).lower()) for kind, name, sql in rows]
        schemas[database] = _Schema(
            {name: sql for kind, name, sql in texts if kind == "view"},
            {name: sql for kind, name, sql in texts if kind == "table"},
            any("nocase" in sql or "rtrim" in sql for _, _, sql in texts),
        )
    return schemas


def _integer_key(table: str) -> bool:
    """The lower-case CREATE TABLE declares an INTEGER PRIMARY KEY, another name of the rowid."""
    if re.search(r"\binteger\b[^,]*\bprimary\s+key\b", table):
        return True
    key = re.search(r"\bprimary\s+key\s*\(\s*\W?(\w+)\W?\s*\)", table)
    return bool(key and re.search(rf"\b{key.group(1)}\b\W?\s+integer\b", table))


def _uncopyable(structure: Structure, schema: _Schema) -> str:
    """Why a copy would differ from the original in more than the order of rows; '' if it does not.

    Copies have new rowids, which is what they are for, and a schema of their own.
    """
    words = structure.words()
    if words & _SCHEMA_TABLES:
        return "the query reads the schema"
    if words & _ROWIDS:
        for name in words & schema.tables.keys():
            if _integer_key(schema.tables[name]):
                return f"the rowids that the query names are the key of {name}"
    return ""


def _probe_copies(executor: Executor, cases: list[_Case]) -> None:
    """The same query on copies whose rows were inserted in other orders."""
    schemas = _schemas(executor, cases)
    by_database: dict[str, list[_Case]] = defaultdict(list)
    for case in cases:
        reason = _uncopyable(_structure(case), schemas[case.database])
        if reason:
            case.undecided = case.undecided or reason
        else:
            by_database[case.database].append(case)
    for database, group in by_database.items():
        words: frozenset[str] = frozenset().union(*(_structure(case).words() for case in group))
        try:
            with reordered_copies(executor, database, words) as copies:
                jobs = [(str(copy), case.sql) for case in group for copy in copies]
                outcomes = iter(executor.execute(jobs))
                for case in group:
                    variants = [(case.order_causes[0], f"rows inserted {o}") for o in ORDERS]
                    results = [next(outcomes) for _ in copies]
                    _settle(executor, case, variants, results, [str(copy) for copy in copies])
        except Uncopied as error:
            for case in group:
                case.undecided = case.undecided or str(error)


def _settle(
    executor: Executor,
    case: _Case,
    variants: Sequence[tuple[str, str]],
    outcomes: Sequence[Outcome],
    databases: Sequence[str] = (),
) -> None:
    """Compares the probes' results with the query's own."""
    assert case.outcome is not None
    for i, ((cause, probe), outcome) in enumerate(zip(variants, outcomes, strict=True)):
        if not outcome.ran:
            case.undecided = case.undecided or outcome.message
        elif outcome.fingerprint != case.outcome.fingerprint:
            other = (databases[i], case.sql) if databases else (case.database, probe)
            if not only_rounding(executor, (case.database, case.sql), other):
                case.result = _unstable(cause, probe)
                return


def only_rounding(executor: Executor, one: tuple[str, str], other: tuple[str, str]) -> bool:
    """The two results are the same rows up to the last digits of their floating-point numbers."""
    try:
        left, right = (executor.rows(*query)[1] for query in (one, other))
    except SpftError:
        return False
    if len(left) != len(right):
        return False
    pairs = zip(sorted(left, key=_rough), sorted(right, key=_rough), strict=True)
    return all(_close(a, b) for p, q in pairs for a, b in zip(p, q, strict=True))


def _rough(row: tuple[object, ...]) -> list[str]:
    return [f"{v:.6g}" if isinstance(v, float) else repr(v) for v in row]


def _close(a: object, b: object) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
    return a == b and type(a) is type(b)
