"""What the tables of a query are called in words, so that no two of them sound alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlglot import exp

from spftcore.databases import Column, Database, ForeignKey
from spftcore.synthesis.functions_in_words import Value
from spftcore.synthesis.resolve import Resolved, Scope, Source, Use
from spftcore.synthesis.sql_text import conjuncts
from spftcore.synthesis.wording import TableWords, is_person, plural, singular

_ORDINALS = ("other", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
_KEY_ENDING = re.compile(r" (id|ids|code|key|no|nr|num|number)$")
_SPEAKING = re.compile(r"[^\W\d_]{3,}")  # an alias that says something: `top_sellers`, not `t1`


@dataclass(frozen=True)
class Noun:
    """What one row of a source and what several are called."""

    one: str
    many: str


@dataclass(frozen=True)
class Link:
    """A join through foreign keys of `child` that refer to `parent`.

    `role` is what the key calls the parent ("source airport") where that has to be said, because
    another key joins the same tables; `used` are the conditions that make the link.
    """

    child: Source
    parent: Source
    role: str
    used: tuple[exp.Expr, ...]


class Names:
    """Nouns of all sources of a query, and words of their columns."""

    def __init__(self, resolved: Resolved, database: Database) -> None:
        self.database = database
        self.uses: dict[int, Use] = {id(u.node): u for s in resolved.scopes for u in s.uses}
        self._tables: dict[int, TableWords] = {}
        self._nouns: dict[int, Noun] = {}
        self._labels: dict[int, list[Value]] = {}
        self._open: set[int] = set()
        inner = _correlated(resolved)
        for scope in resolved.scopes:
            taken = set()
            if id(scope) in inner:
                taken = {self._nouns[id(s)].one for a in _above(scope) for s in a.sources}
            for position, source in enumerate(scope.sources):
                role = self._role_of(scope, position)
                noun = self._noun(source, role)
                for ordinal in ("", *_ORDINALS):
                    named = Noun(f"{ordinal} {noun.one}".strip(), f"{ordinal} {noun.many}".strip())
                    if named.one not in taken:
                        break
                taken.add(named.one)
                self._nouns[id(source)] = named

    def describe(self, scopes: dict[int, Scope], say: Callable[[exp.Expr, Scope], Value]) -> None:
        """Learn how to say what the columns of derived tables are computed from."""
        self._scopes, self._say = scopes, say

    def label(self, source: Source, name: str) -> tuple[str, str]:
        """(words, kind) of a derived table's column: what it is computed from."""
        query = self._query_of(source)
        names = list(source.outputs)
        position = names.index(name.lower()) if name.lower() in names else -1
        plain = " ".join(name.lower().replace("_", " ").split())
        while isinstance(query, exp.SetOperation | exp.Subquery):
            query = query.this
        scope = self._scopes.get(id(query))
        if (
            scope is None
            or id(scope) in self._open
            or not 0 <= position < len(scope.select.expressions)
        ):
            return plain, "other"
        items = scope.select.expressions
        if any(item.unalias().is_star or item.find(exp.Query) for item in items):
            base = source.outputs.get(name.lower())
            if base is None:
                return plain, "other"
            words = TableWords(self.database, base[0])
            return words.column(base[1]), base[1].kind if base[1].kind != "date" else "time"
        key = id(scope)
        if key not in self._labels:
            self._open.add(key)  # a recursive CTE reads itself
            self._labels[key] = [self._say(item, scope) for item in items]
            self._open.remove(key)
        said = self._labels[key]
        clash = sum(other.text == said[position].text for other in said) > 1
        text = f"{said[position].text} ({plain})" if clash else said[position].text
        return text, said[position].kind

    def cte(self, alias: str) -> str:
        """What the rows of a CTE are called."""
        return plural(singular(_spoken_name(alias)))

    def _query_of(self, source: Source) -> exp.Expr | None:
        if isinstance(source.node, exp.Subquery):
            found: exp.Expr | None = source.node.this
            return found
        node: exp.Expr | None = source.node
        while node is not None:
            with_ = node.args.get("with_")
            for cte in with_.expressions if with_ is not None else []:
                if cte.alias.lower() == source.node.name.lower():
                    inner: exp.Expr = cte.this
                    return inner
            node = node.parent
        return None

    def noun(self, source: Source) -> Noun:
        return self._nouns[id(source)]

    def table(self, source: Source) -> TableWords | None:
        """The words of a source's table; None for a derived table."""
        if source.table is None:
            return None
        if id(source) not in self._tables:
            self._tables[id(source)] = TableWords(self.database, source.table)
        return self._tables[id(source)]

    def link(self, source: Source, others: list[Source], conditions: list[exp.Expr]) -> Link | None:
        """How some conditions join a source to one of the others through a foreign key."""
        ends = [ends for c in conditions if (ends := self._ends(c)) is not None]
        for child, parent in [pair for o in others for pair in ((source, o), (o, source))]:
            if child.table is None or parent.table is None:
                continue
            joined = {
                (one.name.lower(), two.name.lower()): condition
                for condition, sides in ends
                for (a, one), (b, two) in (sides, sides[::-1])
                if a is child and b is parent
            }
            keys = self._keys(child, parent)
            for columns in keys:
                if all(pair in joined for pair in columns):
                    role = ""
                    if len(keys) > 1 or child.table is parent.table:
                        role = self._role(child, columns[0][0])
                    return Link(child, parent, role, tuple(joined[pair] for pair in columns))
        return None

    def _keys(self, child: Source, parent: Source) -> list[list[tuple[str, str]]]:
        """The foreign keys from one table to another, each as pairs of lower-case columns."""
        assert child.table is not None
        assert parent.table is not None
        keys: dict[object, list[tuple[str, str]]] = {}
        for number, key in enumerate(self.database.foreign_keys):
            if _joins(key, child.table.name, parent.table.name):
                name: object = key.constraint if key.constraint >= 0 else f"own {number}"
                keys.setdefault(name, []).append((key.column.lower(), key.ref_column.lower()))
        return list(keys.values())

    def _ends(
        self, condition: exp.Expr
    ) -> tuple[exp.Expr, tuple[tuple[Source, Column], tuple[Source, Column]]] | None:
        if not isinstance(condition, exp.EQ):
            return None
        sides = [self.uses.get(id(n.unnest())) for n in (condition.this, condition.expression)]
        found = [
            (u.source, u.base[1])
            for u in sides
            if u is not None and u.source is not None and u.base is not None
        ]
        return (condition, (found[0], found[1])) if len(found) == 2 else None

    def _role_of(self, scope: Scope, position: int) -> str:
        """What an earlier table's key calls this source, where several keys could be meant."""
        if position == 0:
            return ""
        source = scope.sources[position]
        link = self.link(source, scope.sources[:position], _conditions(scope.select))
        return link.role if link is not None and link.parent is source else ""

    def _role(self, child: Source, column: str) -> str:
        words = self.table(child)
        assert words is not None
        own = words.own(self.database.column(words.table.name, column))
        role = _KEY_ENDING.sub("", own)
        others = [words.own(c) for c in words.table.columns]
        clashing = sum(_KEY_ENDING.sub("", other) == role for other in others) > 1
        return own if clashing else role

    def _noun(self, source: Source, role: str) -> Noun:
        words = self.table(source)
        if role and words is not None and role not in (words.noun, "id"):
            last = role.split()[-1]
            if last != words.noun.split()[-1] and not (words.is_person and is_person(last)):
                role = f"{role} {words.noun}"  # "affirmative person", but "manager"
            return Noun(role, plural(role))
        if words is not None:
            return Noun(words.noun, words.nouns)
        name = source.node.name if isinstance(source.node, exp.Table) else source.name
        text = _spoken_name(name)
        return Noun(singular(text), plural(singular(text)))


def _spoken_name(alias: str) -> str:
    text = " ".join(alias.lower().replace("_", " ").split())
    return text if _SPEAKING.search(text) else "result"


def _joins(key: ForeignKey, child: str, parent: str) -> bool:
    return key.table.lower() == child.lower() and key.ref_table.lower() == parent.lower()


def _conditions(select: exp.Select) -> list[exp.Expr]:
    where = select.args.get("where")
    parts = conjuncts(where.this if where is not None else None)
    for join in select.args.get("joins") or []:
        parts += conjuncts(join.args.get("on"))
    return parts


def _above(scope: Scope) -> Iterator[Scope]:
    return (a for a in scope.ancestors() if a is not scope)


def _correlated(resolved: Resolved) -> set[int]:
    """The SELECTs in which a row of a SELECT around them is mentioned, by id."""
    found = set()
    for scope in resolved.scopes:
        for use in scope.uses:
            for between in scope.ancestors():
                if use.owner is None or between is use.owner:
                    break
                found.add(id(between))
    return found
