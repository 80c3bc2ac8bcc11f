"""Foreign keys that somebody states: the file itself, or a `tables.json` beside it."""

from __future__ import annotations

import apsw

from spftcore.catalogue.descriptions import Description
from spftcore.catalogue.files import rows, text_encoding
from spftcore.catalogue.schema import Database, ForeignKey, Table


def declared_keys(connection: apsw.Connection, database: Database) -> list[ForeignKey]:
    """The keys of the CREATE statements whose both ends exist, each once."""
    encoding = text_encoding(connection)
    keys: list[ForeignKey] = []
    seen: set[tuple[str, tuple[tuple[str, str, str], ...]]] = set()
    constraint = 0
    for table in database.tables:
        stated = rows(
            connection,
            'select id, seq, cast("table" as blob), cast("from" as blob), cast("to" as blob)'
            " from pragma_foreign_key_list(?)",
            (table.name,),
        )
        by_id: dict[int, list[tuple[int, str, str, str | None]]] = {}
        for key_id, sequence, *stored in stated:
            ref_table, source, target = (
                None if name is None else name.decode(encoding, "replace") for name in stored
            )
            by_id.setdefault(key_id, []).append((sequence, ref_table or "", source or "", target))
        for key_id in sorted(by_id, reverse=True):  # SQLite lists the last declared first
            columns = _resolve(database, table, sorted(by_id[key_id], key=lambda row: row[0]))
            if (table.name, tuple(columns)) in seen:  # some Spider files declare a key twice
                continue
            seen.add((table.name, tuple(columns)))
            for source, ref_table, target in columns:
                key = ForeignKey(table.name, source, ref_table, target, "declared", constraint)
                keys.append(key)
            constraint += 1
    return keys


def _resolve(
    database: Database, table: Table, parts: list[tuple[int, str, str, str | None]]
) -> list[tuple[str, str, str]]:
    """(column, ref_table, ref_column) of one constraint in the schema's own case; [] if broken."""
    referred = database.find(parts[0][1])
    if referred is None:
        return []
    key = referred.primary_key
    resolved = []
    for position, (_, _, source, target) in enumerate(parts):
        column = table.find(source)
        if target is not None:
            ref_column = referred.find(target)
        else:  # `references other` without a column means the primary key of `other`
            ref_column = key[position] if position < len(key) else None
        if column is None or ref_column is None:
            return []
        resolved.append((column.name, referred.name, ref_column.name))
    return resolved


def described_keys(
    keys: list[ForeignKey], database: Database, description: Description
) -> list[ForeignKey]:
    """The declared keys and those that only the `tables.json` record names."""
    links = {link(key) for key in keys}
    result = list(keys)
    constraint = next_constraint(keys)
    for (left_table, left), (right_table, right) in description.foreign_keys:
        try:
            source = database.table(left_table).name, database.column(left_table, left).name
            target = database.table(right_table).name, database.column(right_table, right).name
        except KeyError:
            continue  # the official file names tables and columns that some databases lack
        key = ForeignKey(*source, *target, "described", constraint)
        if source != target and link(key) not in links:
            links.add(link(key))
            result.append(key)
            constraint += 1
    return result


def next_constraint(keys: list[ForeignKey]) -> int:
    """The first number no constraint has."""
    return max((key.constraint for key in keys), default=-1) + 1


def link(key: ForeignKey) -> frozenset[tuple[str, str]]:
    """Both ends of a key without its direction."""
    return frozenset(((key.table, key.column), (key.ref_table, key.ref_column)))
