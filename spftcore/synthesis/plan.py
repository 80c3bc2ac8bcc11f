"""Which tables and columns of one database fit the slots of one template."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from spftcore.databases import Database, Table, natural_name
from spftcore.synthesis.extract import join_graph
from spftcore.synthesis.render import FillError
from spftcore.synthesis.templates import ColumnSlot, CompiledTemplate, FromMention
from spftcore.synthesis.values import DatabaseValues

MOST_BRIDGES = 2  # tables on a join path that no slot asks for
MOST_ASSIGNMENTS = 400  # kept per template and database
MOST_VISITS = 20_000  # steps of the search for them

# Numbers that name things: adding or averaging them says nothing.
_LABEL = re.compile(
    r"\b(id|ids|no|nr|num|number|code|zip|postcode|postal|phone|telephone|fax|year|month|day|date"
    r"|latitude|longitude|lat|long|lng|rank|ssn|isbn|key)\b"
)
_IDENTIFIER = re.compile(r"\b(id|ids|key|ssn|uid|uuid|guid)\b")
_UNORDERED = re.compile(r"\b(zip|zipcode|postcode|postal|phone|telephone|fax|isbn)\b")
# Texts that compare as dates do: the year first, or a time of day.
_ORDERED_DATE = re.compile(r"\d{4}([-/.]?\d{2}.*)?\Z|\d{2}:\d{2}.*\Z")


@dataclass(frozen=True)
class Traits:
    """What a template does with a column slot."""

    measure: bool = False  # averaged or summed
    sorted: bool = False  # an ORDER BY term
    ranged: bool = False  # compared by < or >
    valued: bool = False  # compared with a literal
    grouped: bool = False  # a GROUP BY term of a SELECT over one table
    shown: bool = False  # a result column of some SELECT
    counted: bool = False  # fixes by `=` what a SELECT over one table counts or averages


@dataclass
class Plan:
    """Table assignments with weights, and the columns that fit each slot in each table."""

    assignments: list[tuple[str, ...]] = field(default_factory=list)  # by CompiledTemplate.tables
    weights: list[float] = field(default_factory=list)
    columns: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # (slot, table)


@dataclass(frozen=True)
class ColumnFacts:
    """What the search asks of a column again and again."""

    name: str
    kind: str
    primary: bool  # the whole primary key by itself
    foreign: bool
    has_values: bool
    identifier: bool  # named like a key, declared or not
    label: bool  # a number that names or dates things
    unordered: bool  # named like something that more and less say nothing about
    sensitive: bool


def column_facts(database: Database) -> dict[str, list[ColumnFacts]]:
    """The facts of all columns by table."""
    facts: dict[str, list[ColumnFacts]] = {}
    for table in database.tables:
        alone = len(table.primary_key) == 1
        facts[table.name] = []
        for column in table.columns:
            name = f"{natural_name(column.name)} {column.natural_name}".lower()
            facts[table.name].append(
                ColumnFacts(
                    name=column.name,
                    kind=column.kind,
                    primary=column.primary_key and alone,
                    foreign=database.is_foreign_key(table.name, column.name),
                    has_values=bool(column.examples),
                    # Numbers that sort as texts are as unfit for `<` and ORDER BY as keys are.
                    identifier=bool(_IDENTIFIER.search(name)) or column.sorts_as_text,
                    label=bool(_LABEL.search(name)),
                    unordered=bool(_UNORDERED.search(name)),
                    sensitive=column.sensitive,
                )
            )
    return facts


@lru_cache(maxsize=16_384)  # asked again in every database
def traits(template: CompiledTemplate) -> dict[str, Traits]:
    """The traits of every column slot of a template."""
    found: dict[str, Traits] = {}
    for name in template.columns:
        mentions = [mention for mention in template.mentions if mention.slot == name]
        operations = {slot.operation for slot in template.values.values() if slot.column == name}
        found[name] = Traits(
            measure=any(m.function in ("avg", "sum", "total") for m in mentions),
            shown=any(m.clause == "select" for m in mentions),
            sorted=any(m.clause == "order" and not m.function for m in mentions),
            ranged=bool(operations & {"<", ">", "low", "high", "sum"}),
            valued=bool(operations),
            grouped=any(
                m.clause == "group" and len(template.scopes[m.scope].instances) == 1
                for m in mentions
            ),
            counted="=" in operations and any(_aggregates(template, m.scope) for m in mentions),
        )
    return found


def _aggregates(template: CompiledTemplate, scope: int) -> bool:
    """Whether a SELECT over one table gives nothing but aggregates."""
    if len(template.scopes[scope].instances) != 1:
        return False
    if any(m.scope == scope and m.clause == "select" and not m.function for m in template.mentions):
        return False
    return template.scopes[scope].aggregates


def refuse_nonsense(template: CompiledTemplate, known: dict[str, Traits]) -> None:
    """Refuse what no one asks for, whatever fills it. Raises FillError."""
    for scope in template.scopes:
        if "limit" in scope.clauses and "order" not in scope.clauses:
            raise FillError("nonsense: LIMIT without ORDER BY", hopeless=True)
    for mention in template.mentions:
        sorts = mention.clause == "order" and not mention.function
        limits = "limit" in template.scopes[mention.scope].clauses
        if sorts and limits and template.columns[mention.slot].key:
            raise FillError("nonsense: first rows by a key", hopeless=True)
    for name, slot in template.columns.items():
        trait = known[name]
        if slot.key and trait.measure:
            raise FillError("nonsense: AVG or SUM of a key", hopeless=True)
        if slot.key and trait.ranged:
            raise FillError("nonsense: range over a key", hopeless=True)
        if slot.foreign and trait.sorted:
            raise FillError("nonsense: ORDER BY a foreign key", hopeless=True)
        if slot.key and slot.kind == "number" and trait.valued:
            raise FillError("nonsense: condition on a numeric key", hopeless=True)
        if trait.measure and slot.kind not in (None, "number"):
            raise FillError("nonsense: AVG or SUM of text", hopeless=True)


# The columns of a table that fit a sort of slot: asked again by other templates.
FittingColumns = dict[tuple[str | None, bool, bool, Traits, str], list[str]]


def make_plan(
    template: CompiledTemplate,
    database: Database,
    values: DatabaseValues,
    facts: dict[str, list[ColumnFacts]],
    fitting: FittingColumns,
) -> Plan:
    """Search the table assignments of a template in a database.

    Args:
        fitting: what was found for other templates of this database; filled further.

    Raises:
        FillError: nothing fits, or the template is nonsense.
    """
    known = traits(template)
    refuse_nonsense(template, known)
    return _Search(template, database, values, facts, known, fitting).plan


class _Search:
    def __init__(
        self,
        template: CompiledTemplate,
        database: Database,
        values: DatabaseValues,
        facts: dict[str, list[ColumnFacts]],
        known: dict[str, Traits],
        fitting: FittingColumns,
    ) -> None:
        self.facts = facts
        self.template = template
        self.database = database
        self.values = values
        self.traits = known
        self.fitting = fitting
        self.graph = join_graph(database)
        self.plan = Plan()
        self.visits = 0
        self.together = [
            [instance.split("#")[0] for instance in part.instances]
            for part in template.parts
            if isinstance(part, FromMention)
        ]
        # The search may stop early, so it must not always begin with the same tables.
        order = [table for table in database.tables if table.rows]
        random.Random(len(template.parts)).shuffle(order)
        self.tables = {
            slot: [table.name for table in order if self._fits(slot, table)]
            for slot in template.tables
        }
        for assignment in self._assign({}) if all(self.tables.values()) else ():
            self.plan.assignments.append(tuple(assignment[slot] for slot in template.tables))
            self.plan.weights.append(self._weight(assignment))
            if len(self.plan.assignments) >= MOST_ASSIGNMENTS:
                break
        if not self.plan.assignments:
            raise FillError("no table fits")

    def _assign(self, chosen: dict[str, str]) -> Iterator[dict[str, str]]:
        if len(chosen) == len(self.template.tables):
            yield dict(chosen)
            return
        slot = self.template.tables[len(chosen)]
        for name in self.tables[slot]:
            self.visits += 1
            if self.visits > MOST_VISITS:
                return
            if name in chosen.values():
                continue
            chosen[slot] = name
            if self._connected(slot, chosen) and self._referring(chosen):
                yield from self._assign(chosen)
            del chosen[slot]

    def _connected(self, slot: str, chosen: dict[str, str]) -> bool:
        for group in self.together:
            if slot not in group:
                continue
            for other in group:
                if other == slot or other not in chosen:
                    continue
                distance = self.graph.distance(chosen[other], chosen[slot])
                if distance is None or distance > MOST_BRIDGES + 1:
                    return False
        return True

    def _referring(self, chosen: dict[str, str]) -> bool:
        for column in self.template.columns.values():
            if column.refers in chosen and column.table in chosen:
                table, referred = chosen[column.table], chosen[column.refers]
                if not any(
                    key.table == table and key.ref_table == referred
                    for key in self.database.foreign_keys
                ):
                    return False
        return True

    def _fits(self, slot: str, table: Table) -> bool:
        taken: set[str] = set()
        wanted = 0
        for column in self.template.columns.values():
            if column.table != slot:
                continue
            sort = (
                column.kind,
                column.primary,
                column.foreign,
                self.traits[column.name],
                table.name,
            )
            if sort not in self.fitting:
                self.fitting[sort] = [
                    candidate.name
                    for candidate in self.facts[table.name]
                    if self._column_fits(column, table, candidate)
                ]
            names = self.plan.columns[column.name, table.name] = self.fitting[sort]
            if not names:
                return False
            taken.update(names)
            wanted += 1
        return len(taken) >= wanted

    def _column_fits(self, slot: ColumnSlot, table: Table, column: ColumnFacts) -> bool:
        if (slot.primary, slot.foreign) != (column.primary, column.foreign):
            return False
        if slot.kind is not None and slot.kind != column.kind:
            return False
        trait = self.traits[slot.name]
        if not column.has_values or (column.sensitive and (trait.shown or trait.valued)):
            return False
        if column.sensitive and not slot.key:
            return False
        if not slot.key:
            weighed = trait.ranged or trait.sorted or trait.valued
            if weighed and column.kind == "number" and column.identifier:
                return False
            if (trait.ranged or trait.sorted) and not self._ordered(table, column):
                return False
            if trait.measure and column.label:
                return False
            if (trait.grouped or trait.counted) and not self._repeats(table, column):
                return False
        if trait.valued:
            distinct = self.values.distinct(table.name, column.name)
            return len(distinct) > (1 if trait.ranged else 0)
        return True

    def _ordered(self, table: Table, column: ColumnFacts) -> bool:
        """Whether SQLite's order of a column's values is one that people mean."""
        if column.kind == "number":
            return not column.unordered
        if column.kind != "date":
            return True
        values = self.values.distinct(table.name, column.name)
        return all(not isinstance(v, str) or _ORDERED_DATE.match(v) for v in values)

    def _repeats(self, table: Table, column: ColumnFacts) -> bool:
        """Whether rows share values of this column, and there are several values."""
        distinct = len(self.values.distinct(table.name, column.name))
        return 1 < distinct <= 0.7 * len(self.values.rows(table.name))

    def _weight(self, assignment: dict[str, str]) -> float:
        weight = 1.0
        for group in self.together:
            if len(group) == 2:
                distance = self.graph.distance(*(assignment[slot] for slot in group))
                weight /= (distance or 1) ** 2
                continue
            tree = self.graph.tree([assignment[slot] for slot in group])
            if tree is not None:
                weight /= (1.0 + len(tree.tables) - len(group)) ** 2
        return weight


def overlap(values: DatabaseValues, one: tuple[str, str], other: tuple[str, str]) -> float:
    """The share of the smaller column's distinct values that the other column has too."""
    left, right = set(values.distinct(*one)), set(values.distinct(*other))
    if not left or not right:
        return 0.0
    return len(left & right) / min(len(left), len(right))
