"""One variant: a new SQLite file with the original's schema and rows drawn to a profile.

Rows are made table by table, parents before children, and SQLite itself is asked whether each one
holds (UNIQUE, NOT NULL, CHECK, STRICT): a row that it refuses is drawn again, ever closer to a row
of the original. Foreign keys may be cyclic, so they are enforced by what is drawn and mended at
the end, not while inserting.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import apsw

from spftcore.databases import quote_identifier
from spftcore.errors import SpftError
from spftcore.verify.families.schema import Reference, Schema, TableRule
from spftcore.verify.families.values import Domains, Profile, Space, Value

FEWEST_ROWS, MOST_ROWS = 10, 1000
_ATTEMPTS = 12  # draws for one row before it is given up


class CannotFill(Exception):
    """No rows could be found that the schema accepts; the message says where and why."""


def write_variant(
    path: Path, schema: Schema, space: Space, profile: Profile, rng: random.Random
) -> dict[str, int]:
    """Create a variant file; rows by table are returned.

    Raises:
        CannotFill: the schema cannot be created again, or a table accepts no row.
        SpftError: the disk is full or the folder cannot be written to.
    """
    try:
        connection = apsw.Connection(str(path))
    except apsw.Error as error:
        raise _unwritable(path, error) from error
    try:
        return _Writer(connection, schema, Domains(space, profile, rng), rng).write()
    except (apsw.FullError, apsw.IOError, apsw.CantOpenError) as error:
        raise _unwritable(path, error) from error
    except (apsw.Error, OverflowError) as error:
        raise CannotFill(str(error)) from error
    finally:
        connection.close()


def _unwritable(path: Path, error: Exception) -> SpftError:
    return SpftError(
        f"A variant cannot be written to {path.parent}: {error}. "
        "Free some space, or choose another folder with --output."
    )


class _Writer:
    def __init__(
        self, connection: apsw.Connection, schema: Schema, domains: Domains, rng: random.Random
    ) -> None:
        self.connection = connection
        self.schema = schema
        self.domains = domains
        self.rng = rng
        self.filled: set[str] = set()
        # Keys promised to children that are filled before their parent (cycles, self references).
        self.promised: dict[tuple[str, tuple[int, ...]], list[tuple[Value, ...]]] = {}
        self.stored: dict[tuple[str, tuple[int, ...]], list[tuple[Value, ...]]] = {}
        self.refusals: dict[str, str] = {}

    def write(self) -> dict[str, int]:
        run = self.connection.execute
        run(f"pragma encoding = '{self.schema.encoding}'")
        run("pragma journal_mode = off")
        run("pragma synchronous = off")
        run("pragma foreign_keys = off")
        run("begin")
        self._create("table")
        self._create("index")
        for key in _order(self.schema):
            self._fill(key, self.schema.tables[key])
            self.filled.add(key)
        self._mend()
        self._fill_virtual()
        self._create("view")
        self._create("trigger")
        run("commit")
        counts = {key: self._count(rule) for key, rule in self.schema.base_tables()}
        for key, rule in self.schema.base_tables():
            if not counts[key] and rule.stored:
                raise CannotFill(
                    f"table '{rule.name}' accepts no row"
                    f" ({self.refusals.get(key, 'its foreign keys find no parent')})"
                )
        return counts

    def _create(self, type_: str) -> None:
        for kind, name, sql in self.schema.statements:
            if kind != type_:
                continue
            try:
                self.connection.execute(sql)
            except apsw.SQLError as error:
                # What the original cannot use either (an unknown collation, a view of a table
                # that is gone) is no reason to give up the tables that work.
                if type_ == "table":
                    raise CannotFill(f"table '{name}' cannot be created: {error}") from error

    def _fill(self, key: str, rule: TableRule) -> None:
        wanted = round(self.domains.profile.rows * self.rng.choice((0.5, 1, 1, 2)))
        wanted = min(max(wanted, FEWEST_ROWS), MOST_ROWS)
        columns = rule.stored
        if not columns:
            return
        names = ", ".join(quote_identifier(rule.columns[i].name) for i in columns)
        marks = ", ".join("?" * len(columns))
        insert = f"insert into {quote_identifier(rule.name)} ({names}) values ({marks})"
        rows = _Rows(self, key, rule)
        given_up = 0
        for number in range(wanted):
            for attempt in range(_ATTEMPTS):
                row = rows.draw(number, attempt / _ATTEMPTS)
                try:
                    self.connection.execute(insert, [row[i] for i in columns])
                    break
                except (apsw.ConstraintError, apsw.MismatchError, OverflowError) as error:
                    self.refusals[key] = str(error)
            else:
                given_up += 1
                if given_up > 20:  # the key space is used up, or nothing fits
                    break

    def parents(self, reference: Reference) -> list[tuple[Value, ...]]:
        """The keys a child may refer to: stored ones, or those its parent is bound to take."""
        place = (reference.parent, reference.parent_columns)
        if reference.parent not in self.filled:
            if place not in self.promised:
                self.promised[place] = self._promise(reference)
            return self.promised[place]
        if place not in self.stored:
            rule = self.schema.tables[reference.parent]
            names = [quote_identifier(rule.columns[i].name) for i in reference.parent_columns]
            rows = self.connection.execute(
                f"select distinct {', '.join(names)} from {quote_identifier(rule.name)}"
            )
            found = sorted((row for row in rows if None not in row), key=repr)
            self.rng.shuffle(found)
            # Some parents stay without children, some get most of them.
            self.stored[place] = found[: max(1, round(len(found) * self.rng.choice((0.6, 0.9, 1))))]
        return self.stored[place]

    def _promise(self, reference: Reference) -> list[tuple[Value, ...]]:
        count = max(FEWEST_ROWS, self.domains.profile.rows // 2)
        places = [(reference.parent, column) for column in reference.parent_columns]
        found: dict[tuple[Value, ...], None] = {}
        for attempt in range(4 * count):
            key = [
                self.domains.draw(place, False) if attempt < count else self.domains.fresh(place)
                for place in places
            ]
            found[tuple(key)] = None
            if len(found) == count:
                break
        return list(found)

    def _mend(self) -> None:
        """Delete rows whose foreign key names no parent until there are none."""
        deleted = True
        while deleted:
            deleted = False
            for _, rule in self.schema.base_tables():
                child = quote_identifier(rule.name)
                for reference in rule.references:
                    parent = self.schema.tables[reference.parent]
                    here = [
                        f"{child}.{quote_identifier(rule.columns[i].name)}"
                        for i in reference.columns
                    ]
                    there = [
                        quote_identifier(parent.columns[i].name) for i in reference.parent_columns
                    ]
                    self.connection.execute(
                        f"delete from {child} where "
                        + " and ".join(f"{name} is not null" for name in here)
                        + f" and not exists (select 1 from {quote_identifier(parent.name)} as p "
                        + "where "
                        + " and ".join(f"p.{there[i]} = {name}" for i, name in enumerate(here))
                        + ")"
                    )
                    deleted = deleted or self.connection.changes() > 0

    def _fill_virtual(self) -> None:
        """Rows of the original for full-text and R-tree tables: their values mean something."""
        for key, rule in self.schema.tables.items():
            if rule.kind != "virtual" or not rule.columns:
                continue
            names = ", ".join(quote_identifier(column.name) for column in rule.columns)
            marks = ", ".join("?" * len(rule.columns))
            insert = f"insert into {quote_identifier(rule.name)} ({names}) values ({marks})"
            rows = self.schema.rows.get(key, [])
            kept = self.rng.sample(rows, min(len(rows), self.domains.profile.rows))
            for row in kept:
                try:
                    self.connection.execute(insert, row)
                except apsw.Error:
                    break  # a table without content of its own

    def _count(self, rule: TableRule) -> int:
        row = next(self.connection.execute(f"select count(*) from {quote_identifier(rule.name)}"))
        return int(row[0])


class _Rows:
    """Draws the rows of one table."""

    def __init__(self, writer: _Writer, key: str, rule: TableRule) -> None:
        self.writer = writer
        self.key = key
        self.rule = rule
        self.originals = writer.schema.rows.get(key, [])
        self.in_key = {i for columns in rule.keys for i in columns}
        self.alone = {columns[0] for columns in rule.keys if len(columns) == 1}
        self.bound = {i for reference in rule.references for i in reference.columns}
        self.plans = {i: self._distinct(i) for i in sorted(self.alone - self.bound)}
        # Drawn high, most children belong to few parents, and counts differ between groups.
        self.skew = [writer.rng.choice((1.0, 1.0, 2.0, 4.0)) for _ in rule.references]

    def draw(self, number: int, caution: float) -> list[Value]:
        """A row; with `caution` from 0 to 1 it keeps closer to a row of the original."""
        rng = self.writer.rng
        domains = self.writer.domains
        copied = bool(self.originals) and rng.random() < max(domains.profile.copies, caution)
        base = rng.choice(self.originals) if copied else None
        row: list[Value] = [None] * len(self.rule.columns)
        changes = rng.choice((0.0, 0.15, 0.4)) * (1 - caution)
        for i in self.rule.stored:
            column = self.rule.columns[i]
            must = column.not_null or i in self.rule.primary_key
            if i in self.plans:
                row[i] = next(self.plans[i])
            elif base is not None and not (rng.random() < changes):
                row[i] = base[i]
            elif self.rule.constants and rng.random() < 0.3:
                row[i] = rng.choice(self.rule.constants)
            elif caution > 0 and i in self.in_key and rng.random() < 0.5:
                row[i] = domains.fresh((self.key, i))
            else:
                row[i] = domains.draw((self.key, i), not must)
        self._refer(row, caution)
        for (table, columns), keys in self.writer.promised.items():
            if table == self.key and number < len(keys):
                for i, value in zip(columns, keys[number], strict=True):
                    row[i] = value
        return row

    def _refer(self, row: list[Value], caution: float) -> None:
        """Overwrite the columns of foreign keys with keys of their parents."""
        rng = self.writer.rng
        decided: set[int] = set()
        for reference, skew in zip(self.rule.references, self.skew, strict=True):
            optional = not any(
                self.rule.columns[i].not_null or i in self.rule.primary_key
                for i in reference.columns
            )
            nulls = self.writer.domains.profile.nulls
            keys = self.writer.parents(reference)
            if decided & set(reference.columns):  # a column of two foreign keys: both must agree
                shared = [(place, i) for place, i in enumerate(reference.columns) if i in decided]
                keys = [k for k in keys if all(k[place] == row[i] for place, i in shared)]
            free = [(place, i) for place, i in enumerate(reference.columns) if i not in decided]
            if optional and (not keys or rng.random() < nulls):
                for _, i in free:
                    row[i] = None
            elif keys:
                # Spread over all keys once a first draw was refused: the key may be taken.
                share = rng.random() ** (1.0 if caution else skew)
                key = keys[int(share * len(keys))]
                for place, i in free:
                    row[i] = key[place]
            decided.update(reference.columns)

    def _distinct(self, column: int) -> Iterator[Value]:
        """Values without repetition for a column that is a key by itself."""
        domains = self.writer.domains
        place = (self.key, column)
        rng = self.writer.rng
        seen: set[Value] = set()
        pool = domains.space.pools[place]
        if column == self.rule.integer_key and rng.random() < 0.5:
            yield from range(1, 10**9)  # as most databases number their rows
        first = list(domains.values(place))
        spare = list(pool.values)
        rng.shuffle(spare)
        drawn = (domains.fresh(place) for _ in range(2 * MOST_ROWS))
        counted = (pool.numbered(number) for number in itertools.count(1))
        for value in itertools.chain(first, spare, drawn, counted):
            if value not in seen:
                seen.add(value)
                yield value


def _order(schema: Schema) -> list[str]:
    """Tables, parents before children where no cycle forbids it."""
    order: list[str] = []
    state: dict[str, int] = {}

    def visit(key: str) -> None:
        if state.get(key):
            return
        state[key] = 1
        for reference in schema.tables[key].references:
            if schema.tables[reference.parent].kind == "table":
                visit(reference.parent)
        order.append(key)

    for key, _ in schema.base_tables():
        visit(key)
    return order
