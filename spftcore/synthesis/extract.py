"""Extraction: a query becomes a template, and its own names and values the first filling."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache

from sqlglot import exp
from sqlglot.errors import SqlglotError

from spftcore.databases import Database, Table
from spftcore.synthesis.joins import JoinGraph
from spftcore.synthesis.resolve import Resolved, ResolveError, Scope, Source, Use
from spftcore.synthesis.sql_text import (
    conjunction,
    conjuncts,
    inner_joins_only,
    is_join_condition,
    print_sql,
    styled,
)
from spftcore.synthesis.templates import Template, TemplateError

_MARK = "\x01"  # cannot occur in SQL, so a marked name is ours
_MARKED = re.compile(r'"\x01(\d+)\x01"')
_BARE_JOIN = re.compile(r'(join "\x01\d+\x01") on true')
_COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Is)
_RANGE = {exp.GT: ">", exp.GTE: ">", exp.LT: "<", exp.LTE: "<"}
_FLIPPED = {">": "<", "<": ">"}


@dataclass(frozen=True)
class Binding:
    """What the slots of a template stand for: names of tables and columns, SQL of values."""

    tables: dict[str, str] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)


def extract(sql: str, database: Database) -> Template:
    """The template of a query.

    Raises:
        TemplateError: the query gives none; `cause` says in a few words why.
    """
    return extract_bound(sql, database)[0]


def extract_bound(sql: str, database: Database) -> tuple[Template, Binding]:
    """The template of a query, and the binding that gives the query back."""
    if _MARK in sql:
        raise TemplateError("control character in the query")
    try:
        return _Extraction(styled(sql, database), database).run()
    except ResolveError as error:
        raise TemplateError(error.cause, error.detail) from error
    except (SqlglotError, RecursionError) as error:
        raise TemplateError("too deep or not printable", type(error).__name__) from error


@lru_cache(maxsize=512)
def join_graph(database: Database) -> JoinGraph:
    """The join graph of a database, made once."""
    return JoinGraph(database)


_Key = tuple[str, str]  # table and column, in the schema's case


@dataclass(frozen=True)
class _Mark:
    """What a marked name of the tree stands for: a table, a column of it, or a literal."""

    table: str = ""
    copy: int = 1
    column: str = ""
    operation: str = ""
    literal: str = ""


class _Extraction:
    def __init__(self, resolved: Resolved, database: Database) -> None:
        self.resolved = resolved
        self.database = database
        self.uses: dict[int, Use] = {
            id(use.node): use for scope in resolved.scopes for use in scope.uses
        }
        self.copies: dict[int, int] = {}  # source -> 1, or 2, … for further copies of its table
        self.marks: list[_Mark] = []
        self.likes: dict[_Key, _Key] = {}
        self.compared_with_literal: set[_Key] = set()

    def run(self) -> tuple[Template, Binding]:
        for scope in self.resolved.scopes:
            if not scope.sources:
                continue
            if scope.select.args.get("joins") and inner_joins_only(scope.select):
                self._drop_joins(scope)
        self._count_copies()
        tree = self.resolved.tree
        for node in list(tree.walk()):
            self._compare(node)
        for scope in self.resolved.scopes:
            self._set_operations(scope)
        for node in list(tree.find_all(exp.Literal, exp.Neg)):
            self._literal(node)
        for scope in self.resolved.scopes:
            for use in scope.uses:
                self._mark_column(use)
            for source in scope.sources:
                self._mark_table(source)
        if not any(source.table for scope in self.resolved.scopes for source in scope.sources):
            raise TemplateError("no table")
        return self._number(print_sql(tree))

    # FROM

    def _drop_joins(self, scope: Scope) -> None:
        """Leave out join conditions that the smallest join tree would bring back."""
        select = scope.select
        joins = select.args["joins"]
        tables = [source.table for source in scope.sources]
        if any(table is None for table in tables):
            return
        names = [table.name for table in tables if table is not None]
        if len(set(names)) < len(names):
            return
        conditions = [part for join in joins for part in conjuncts(join.args.get("on"))]
        linking = [part for part in conditions if is_join_condition(part, scope)]
        edges = frozenset(self._ends(part) for part in linking)
        dropped = {id(column) for part in linking for column in part.find_all(exp.Column)}
        graph = join_graph(self.database)
        for required in (self._required(scope, names, edges, dropped), names):
            rebuilt = graph.tree(required) if len(names) > 1 and required else None
            if len(names) > 1 and (
                rebuilt is None or not rebuilt.edges() <= edges or len(rebuilt.tables) != len(names)
            ):
                continue
            brought = rebuilt.edges() if rebuilt is not None else edges
            rest = [p for p in conditions if p not in linking or self._ends(p) not in brought]
            dropped -= {id(column) for part in rest for column in part.find_all(exp.Column)}
            by_name = {_table_of(source).name: source for source in scope.sources}
            scope.sources = [by_name[name] for name in required]
            select.set("from_", exp.From(this=scope.sources[0].node))
            select.set(
                "joins",
                # The constant is only there to print `join`, and goes when slots are numbered.
                [exp.Join(this=s.node, on=exp.Boolean(this=True)) for s in scope.sources[1:]],
            )
            where = select.args.get("where")
            whole = conjunction(rest + conjuncts(where.this if where is not None else None))
            select.set("where", exp.Where(this=whole) if whole is not None else None)
            scope.uses = [use for use in scope.uses if id(use.node) not in dropped]
            return

    def _ends(self, condition: exp.Expr) -> frozenset[tuple[str, str]]:
        ends = set()
        for column in condition.find_all(exp.Column):
            base = self.uses[id(column)].base
            if base is not None:
                ends.add((base[0].name.lower(), base[1].name.lower()))
        return frozenset(ends)

    def _required(
        self,
        scope: Scope,
        names: list[str],
        edges: frozenset[frozenset[tuple[str, str]]],
        dropped: set[int],
    ) -> list[str]:
        """The tables that say something: those with columns in use, and ends of the tree."""
        used = {
            use.source.table.name
            for inner in self.resolved.scopes
            for use in inner.uses
            if use.owner is scope
            and use.source is not None
            and use.source.table is not None
            and id(use.node) not in dropped
        }
        neighbours: dict[str, set[str]] = {name.lower(): set() for name in names}
        for edge in edges:
            for table, _ in edge:
                neighbours[table] |= {other for other, _ in edge} - {table}
        return [name for name in names if name in used or len(neighbours[name.lower()]) < 2]

    def _count_copies(self) -> None:
        """Number the copies of tables that are read under aliases (self-joins)."""
        counts: Counter[str] = Counter()
        for scope in self.resolved.scopes:
            for source in scope.sources:
                if source.table is None:
                    continue
                self.copies[id(source)] = 1
                if source.alias.lower() != source.table.name.lower():
                    counts[source.table.name] += 1
                    self.copies[id(source)] = counts[source.table.name]

    # Columns and what they are compared with

    def _key(self, node: exp.Expr | None) -> _Key | None:
        """The schema's column a node stands for."""
        use = self.uses.get(id(node)) if node is not None else None
        if use is None or use.base is None or not self._is_base(use):
            return None
        return use.base[0].name, use.base[1].name

    @staticmethod
    def _is_base(use: Use) -> bool:
        assert use.base is not None
        return use.node.name.lower() == use.base[1].name.lower()

    def _compare(self, node: exp.Expr) -> None:
        """Note which columns are compared with which."""
        if isinstance(node, (*_COMPARISONS, exp.Add, exp.Sub)):
            self._like(self._value_of(node.this), self._value_of(node.expression))
        elif isinstance(node, exp.In) and node.args.get("query") is not None:
            self._like(self._value_of(node.this), self._value_of(node.args["query"]))

    def _set_operations(self, scope: Scope) -> None:
        parent = scope.select.parent
        if not isinstance(parent, exp.SetOperation) or scope.select is not parent.expression:
            return
        first: exp.Expr = parent
        while isinstance(first, exp.SetOperation | exp.Subquery):
            first = first.this
        for one, other in zip(first.expressions, scope.select.expressions, strict=False):
            self._like(self._value_of(one), self._value_of(other))

    def _value_of(self, node: exp.Expr) -> _Key | None:
        """The column whose values an expression has: itself, or min, max or a subquery of it."""
        if isinstance(node, exp.Subquery):
            return self._value_of(node.this)
        if isinstance(node, exp.SetOperation):
            return self._value_of(node.this)
        if isinstance(node, exp.Select) and len(node.expressions) == 1:
            return self._value_of(node.expressions[0])
        if isinstance(node, exp.Alias | exp.Paren | exp.Min | exp.Max | exp.Avg):
            return self._value_of(node.this)
        return self._key(node)

    def _like(self, one: _Key | None, other: _Key | None) -> None:
        if one is None or other is None or one == other:
            return
        if self.likes.get(one) != other:
            self.likes.setdefault(other, one)

    # Literals

    def _literal(self, node: exp.Expr) -> None:
        literal = node.this if isinstance(node, exp.Neg) else node
        if not isinstance(literal, exp.Literal):
            return
        parent = node.parent
        if isinstance(literal.parent, exp.Neg) and literal is node:
            return  # its Neg is met on its own
        if isinstance(parent, exp.Limit):
            if literal.this != "1":
                self._mark_value(node, "limit", None)
            return
        operation, side = self._operation(node, parent)
        if operation is None or side is None:
            return
        if isinstance(side, exp.Count) or _is_count_query(side):
            self._mark_value(node, "count", None)
            return
        if isinstance(side, exp.Sum) and isinstance(side.this, exp.Column):
            key, operation = self._key(side.this), "sum"
        else:
            if isinstance(side, exp.Lower | exp.Upper | exp.Avg | exp.Min | exp.Max):
                side = side.this
            key = self._key(side)
        if key is not None:
            self.compared_with_literal.add(key)
            self._mark_value(node, operation, key)

    def _operation(
        self, node: exp.Expr, parent: exp.Expr | None
    ) -> tuple[str | None, exp.Expr | None]:
        if isinstance(parent, exp.EQ | exp.NEQ):
            return "=", parent.expression if node is parent.this else parent.this
        if isinstance(parent, exp.GT | exp.GTE | exp.LT | exp.LTE):
            operation = _RANGE[type(parent)]
            if node is parent.this:
                return _FLIPPED[operation], parent.expression
            return operation, parent.this
        if isinstance(parent, exp.Between) and node is not parent.this:
            return ("low" if node is parent.args["low"] else "high"), parent.this
        if isinstance(parent, exp.In) and node is not parent.this:
            return "=", parent.this
        if isinstance(parent, exp.Like) and node is parent.expression and not _escaped(parent):
            text = node.this
            if not isinstance(text, str):
                return None, None
            starts, ends = text.endswith("%"), text.startswith("%")
            if starts == ends:
                return ("contains" if starts else "="), parent.this
            return ("starts" if starts else "ends"), parent.this
        return None, None

    # Marks and numbers

    def _mark(self, mark: _Mark) -> exp.Identifier:
        if mark not in self.marks:
            self.marks.append(mark)
        return exp.Identifier(this=f"{_MARK}{self.marks.index(mark)}{_MARK}", quoted=True)

    def _mark_value(self, node: exp.Expr, operation: str, key: _Key | None) -> None:
        table, column = key or ("", "")
        mark = _Mark(table, 1, column, operation, print_sql(node))
        node.replace(exp.Column(this=self._mark(mark)))

    def _mark_column(self, use: Use) -> None:
        node = use.node
        if isinstance(node.this, exp.Star):
            if node.args.get("table") is not None and use.source and use.source.table:
                star = _Mark(use.source.table.name, self.copies[id(use.source)], "*")
                node.replace(exp.Column(this=self._mark(star)))
            return
        if use.base is None:
            if use.source is not None and use.source.table is not None:
                raise TemplateError("rowid")
            return
        if not self._is_base(use):
            return  # an alias of a derived table's column stays as it is
        copy = 1
        if use.source is not None and use.source.table is not None:
            copy = self.copies[id(use.source)]
            node.set("table", None)
        node.set("this", self._mark(_Mark(use.base[0].name, copy, use.base[1].name)))

    def _mark_table(self, source: Source) -> None:
        if source.table is None:
            return
        source.node.set("this", self._mark(_Mark(source.table.name, self.copies[id(source)])))
        source.node.set("alias", None)

    def _number(self, marked: str) -> tuple[Template, Binding]:
        """Name the slots in the order of the text and describe each where it first stands."""
        marked = _BARE_JOIN.sub(r"\1", marked)
        if "{" in marked or "}" in marked:
            raise TemplateError("braces in the query")
        if "\n" in marked or "\r" in marked:
            raise TemplateError("line break in the query")
        order = [self.marks[int(number)] for number in _MARKED.findall(marked)]
        tables: dict[str, str] = {}
        columns: dict[_Key, str] = {}
        values: dict[_Mark, str] = {}
        for mark in order:
            if mark.table and mark.table not in tables:
                tables[mark.table] = _letters(len(tables))
            key = mark.table, mark.column
            if mark.column not in ("", "*") and not mark.operation and key not in columns:
                letter = tables[mark.table]
                count = sum(1 for table, _ in columns if table == mark.table)
                columns[key] = f"{letter}.{count + 1}"
            if mark.operation and mark not in values:
                values[mark] = f"v{len(values) + 1}"
        described: set[str] = set()

        def print_slot(match: re.Match[str]) -> str:
            mark = self.marks[int(match.group(1))]
            if mark.operation:
                slot = values[mark]
                if slot in described:
                    return f"{{{slot}}}"
                described.add(slot)
                compared = columns.get((mark.table, mark.column))
                if mark.column and compared is None:
                    raise TemplateError("value without its column")
                return "{" + " ".join(filter(None, (slot, mark.operation, compared))) + "}"
            copy = f"#{mark.copy}" if mark.copy > 1 else ""
            if mark.column in ("", "*"):
                star = ".*" if mark.column else ""
                return f"{{{tables[mark.table]}{copy}{star}}}"
            slot = columns[mark.table, mark.column]
            letter, number = slot.split(".")
            if slot in described:
                return f"{{{letter}{copy}.{number}}}"
            described.add(slot)
            description = self._describe(mark.table, mark.column, tables, columns)
            return f"{{{letter}{copy}.{number}: {description}}}"

        text = _MARKED.sub(print_slot, marked)
        binding = Binding(
            {letter: table for table, letter in tables.items()},
            {slot: column for (_, column), slot in columns.items()},
            {slot: mark.literal for mark, slot in values.items()},
        )
        template = Template(text)
        _ = template.compiled  # a text that cannot be read back is no template
        return template, binding

    def _describe(
        self, table: str, column: str, tables: dict[str, str], columns: dict[_Key, str]
    ) -> str:
        definition = self.database.column(table, column)
        words: list[str] = []
        primary = definition.primary_key and len(self.database.table(table).primary_key) == 1
        foreign = self.database.is_foreign_key(table, column)
        key = table, column
        if not (primary or foreign) or key in self.compared_with_literal:
            words.append(definition.kind)
        if primary:
            words.append("pk")
        if foreign:
            words.append("fk")
            referred = self._referred(table, column)
            words += [tables[name] for name in referred if name in tables][:1]
        other = self.likes.get(key)
        if other is not None and other in columns and not self._keys_agree(key, other):
            words += ["like", columns[other]]
        return " ".join(words)

    def _referred(self, table: str, column: str) -> list[str]:
        return [
            key.ref_table
            for key in self.database.foreign_keys
            if (key.table, key.column) == (table, column)
        ]

    def _keys_agree(self, one: _Key, other: _Key) -> bool:
        """Whether the slots' roles alone say that the two columns belong together."""
        return any(
            {(key.table, key.column), (key.ref_table, key.ref_column)} == {one, other}
            for key in self.database.foreign_keys
        )


def _letters(number: int) -> str:
    """a, b, …, z, aa, ab, …"""
    text = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        text = chr(ord("a") + rest) + text
    return text


def _table_of(source: Source) -> Table:
    assert source.table is not None
    return source.table


def _is_count_query(node: exp.Expr) -> bool:
    inner = node.this if isinstance(node, exp.Subquery) else None
    return (
        isinstance(inner, exp.Select)
        and len(inner.expressions) == 1
        and isinstance(inner.expressions[0], exp.Count)
    )


def _escaped(like: exp.Like) -> bool:
    return isinstance(like.parent, exp.Escape)
