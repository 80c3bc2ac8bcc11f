"""Foreign keys that nobody states, proposed where names and values agree."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import apsw
import networkx as nx

from spftcore.catalogue.files import bounded, rows
from spftcore.catalogue.keys import next_constraint
from spftcore.catalogue.schema import (
    Column,
    Database,
    ForeignKey,
    Table,
    natural_name,
    quote_identifier,
)

CHILD_ROWS = 100_000  # of the referring table whose values are looked at
STRAYS = 0.1  # share of the distinct values that may be missing, where the names are plain
STEPS = 100_000_000  # SQLite steps that the values of one candidate may cost
MOST_CANDIDATES = 2_000  # of one database, the best by name first

# Endings that say "this names a row" without saying of what.
_GENERIC = frozenset(("id", "ids", "code", "no", "nr", "num", "number", "key", "uid", "guid", "pk"))
_COUNTS = frozenset(("number", "num", "no", "count", "total", "average", "avg", "max", "min"))


@dataclass(frozen=True)
class _Candidate:
    score: int  # of the names; 0 says nothing
    table: Table
    column: Column
    referred: Table
    key: Column


def propose_keys(
    connection: apsw.Connection, database: Database, known: Sequence[ForeignKey]
) -> list[ForeignKey]:
    """Keys between tables that the known ones leave unconnected.

    A column is proposed to refer to a table when its name says so (`customer_id` or `customer` to
    `customer.id`; the same name as the table's key) and every value it holds is a value of
    that key, which must be unique. Where one of the tables has no rows, only the plainest names of
    a declared primary key count. Values alone are never enough: small whole numbers lie within
    each other by chance. A table does not refer to itself here.
    """
    graph = nx.Graph()
    graph.add_nodes_from(table.name for table in database.tables)
    graph.add_edges_from((key.table, key.ref_table) for key in known)
    part = {
        name: number
        for number, names in enumerate(nx.connected_components(graph))
        for name in names
    }
    taken = {(key.table, key.column) for key in known}
    candidates = [
        candidate
        for candidate in _candidates(database)
        if part[candidate.table.name] != part[candidate.referred.name]
        and (candidate.table.name, candidate.column.name) not in taken
    ]
    constraint = next_constraint(list(known))
    unique: dict[tuple[str, str], bool] = {}
    found: list[ForeignKey] = []
    for candidate in candidates[:MOST_CANDIDATES]:
        table, column = candidate.table.name, candidate.column.name
        if (table, column) in taken:
            continue
        if any((key.ref_table, key.table) == (table, candidate.referred.name) for key in found):
            continue  # two tables do not name each other's rows
        if _agree(connection, candidate, unique):
            taken.add((table, column))
            found.append(
                ForeignKey(
                    table,
                    column,
                    candidate.referred.name,
                    candidate.key.name,
                    "proposed",
                    constraint + len(found),
                )
            )
    return found


def _candidates(database: Database) -> list[_Candidate]:
    """Pairs of columns whose names agree, the best first, larger tables first among equals."""
    tables = [table for table in database.tables if not table.is_view]
    columns = [(table, column, _words(column.name)) for table in tables for column in table.columns]
    ends = _Ends([words for _, _, words in columns])
    found = []
    for referred in tables:
        names = _table_names(referred)
        for key in referred.columns:
            if len(referred.primary_key) > 1 and key.primary_key:
                continue
            key_words = _words(key.name)
            for place in ends.alike(names, key_words, key.primary_key):
                table, column, words = columns[place]
                if table is referred:
                    continue
                score = name_score(words, names, key_words, key.primary_key)
                if column.primary_key and len(table.primary_key) == 1:
                    # It names the rows of its own table, unless it is plainly the other's key too.
                    score = score if score > 2 and words == key_words else 0
                if score:
                    found.append(_Candidate(score, table, column, referred, key))
    return sorted(
        found, key=lambda c: (-c.score, not c.key.primary_key, -c.referred.rows)
    )  # stable: the schema's order decides the rest


class _Ends:
    """Columns by the words they are called and end with, so that a key of a wide schema is compared
    with those columns alone whose names `name_score` may count.

    Args:
        columns: the words of each column.
    """

    def __init__(self, columns: Sequence[Sequence[str]]) -> None:
        self._whole: dict[str, list[int]] = {}
        self._last: dict[str, list[int]] = {}
        self._all = range(len(columns))
        for place, words in enumerate(columns):
            words = _without_number(words)
            self._whole.setdefault("".join(words), []).append(place)
            if words:
                self._last.setdefault(words[-1], []).append(place)

    def alike(self, names: Sequence[str], key: Sequence[str], is_primary: bool) -> Sequence[int]:
        """Places of columns that may refer to a key, in order; arguments as of `name_score`."""
        if is_primary or all(word in _GENERIC for word in key):
            return self._all  # few columns of a table are such keys
        found = set(self._whole.get("".join(key), ()))
        if any("".join(key).startswith(name) for name in names):  # a role may stand before it
            found.update(self._last.get(key[-1], ()))
        return sorted(found)


def _without_number(words: Sequence[str]) -> Sequence[str]:
    while words and words[-1].isdigit():  # `club_id_2`
        words = words[:-1]
    return words


def name_score(
    words: Sequence[str], names: Sequence[str], key: Sequence[str], is_primary: bool
) -> int:
    """How plainly a column's name refers to a key: 4 (plain) down to 1, 0 for not at all.

    Args:
        words: of the referring column.
        names: of the referred table, each glued together and in the singular.
        key: words of the referred column.
        is_primary: the referred column is a declared primary key.
    """
    words = _without_number(words)
    own, target = "".join(words), "".join(key)
    generic = all(word in _GENERIC for word in key)
    bare = _without_ending(words)
    named = any(target.startswith(name) for name in names)
    if own == target and not generic:
        # `name` in two tables means two names; the same words with an ending of a key do not.
        return 4 if named else 3 if bare else 2 if is_primary else 0
    if words and words[0] in _COUNTS:
        return 0
    for name in names:
        if generic and own in (name + target, target + name):
            return 4
        if is_primary and name in (own, bare):
            return 3
    # A role before the name: `home_team_id`, `winning_pilot`, `src_apid`.
    role = len(words) > len(key) and list(words[-len(key) :]) == list(key)
    if role and not generic and (named or (is_primary and bool(_without_ending(key)))):
        return 3 if named else 2
    for name in names:
        if len(name) < 4:
            continue
        if generic and own.endswith(name + target):
            return 2
        if is_primary and (words[-1:] == [name] or bare.endswith(name)):
            return 1
        if is_primary and len(bare) > 2 and name.startswith(bare):
            return 1
    return 0


def _without_ending(words: Sequence[str]) -> str:
    """`customer` of `customer_id` and of `customerid`; '' where no such ending is."""
    if len(words) > 1 and words[-1] in _GENERIC:
        return "".join(words[:-1])
    if len(words) == 1:
        for ending in ("id", "code", "no", "key"):
            if len(words[0]) > len(ending) and words[0].endswith(ending):
                return words[0].removesuffix(ending)
    return ""


def _words(name: str) -> list[str]:
    return natural_name(name).split()


def _table_names(table: Table) -> list[str]:
    """The table's name without spaces in the singular; also its last word alone."""
    words = _words(table.name)
    if not words:
        return []
    last = _singular(words[-1])
    names = ["".join([*words[:-1], last]), "".join(words)]
    if len(words) > 1 and len(last) > 3:
        names.append(last)
    return list(dict.fromkeys(names))


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("sses", "xes", "ches", "shes", "zes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def _agree(
    connection: apsw.Connection, candidate: _Candidate, unique: dict[tuple[str, str], bool]
) -> bool:
    """Whether the values bear the names out."""
    key, plain = candidate.key, candidate.score >= 3
    alike = candidate.column.kind == key.kind
    if not candidate.table.rows or not candidate.referred.rows:
        return alike and plain and key.primary_key
    if not (alike or plain):  # a number kept as text joins one that is none
        return False
    end = (candidate.referred.name, key.name)
    with suppress(apsw.SQLError, apsw.InterruptError), bounded(connection, STEPS):
        if end not in unique:
            unique[end] = _is_unique(connection, *end)
        return unique[end] and _is_within(connection, candidate)
    return False


def _is_unique(connection: apsw.Connection, table: str, column: str) -> bool:
    name, source = quote_identifier(column), quote_identifier(table)
    ((count, values),) = rows(connection, f"select count(*), count(distinct {name}) from {source}")
    return bool(count == values)


def _is_within(connection: apsw.Connection, candidate: _Candidate) -> bool:
    column, key = quote_identifier(candidate.column.name), quote_identifier(candidate.key.name)
    table, referred = (quote_identifier(t.name) for t in (candidate.table, candidate.referred))
    values = f"select distinct {column} as v from (select {column} from {table} limit {CHILD_ROWS})"
    ((some, strays),) = rows(
        connection,
        f"select count(*), total(v not in (select {key} from {referred}))"
        f" from ({values}) where v is not null",
    )
    if candidate.score < 3:
        # A single value lies within another column too easily.
        return bool(some > 1 and not strays)
    # Plain names outweigh a few strays, such as a 0 for "none".
    return bool(some and strays <= STRAYS * some)
