"""Conditions of a WHERE clause on one table as modifiers of its noun."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sqlglot import exp

from spftcore.databases import Column
from spftcore.synthesis import phrases
from spftcore.synthesis.phrases import Modifier, NounPhrase
from spftcore.synthesis.resolve import Source
from spftcore.synthesis.sql_text import spoken
from spftcore.synthesis.wording import TableWords, listing

if TYPE_CHECKING:
    from spftcore.synthesis.rows_in_words import Frame

OPERATORS: dict[type[exp.Expr], str] = {
    exp.EQ: "=",
    exp.NEQ: "!=",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.LT: "<",
    exp.LTE: "<=",
}
_MIRRORED = {">": "<", "<": ">", ">=": "<=", "<=": ">=", "=": "=", "!=": "!="}
_DATE_STEM = re.compile(r"\d{4}(-\d{2}){0,2}\Z")


class Unsayable(Exception):
    """The query says something that there are no faithful words for."""


def literal_side(
    frame: Frame, comparison: exp.Expr
) -> tuple[tuple[Source, Column], str, exp.Expr] | None:
    """(column, operator as read from the column, literal) of a comparison with a literal."""
    left, right = comparison.this.unnest(), comparison.expression.unnest()
    op = OPERATORS[type(comparison)]
    if is_literal(right) and isinstance(left, exp.Column):
        return frame.column(left), op, right
    if is_literal(left) and isinstance(right, exp.Column):
        return frame.column(right), _MIRRORED[op], left
    return None


def modifiers(
    frame: Frame, source: Source, node: exp.Expr, negated: bool = False
) -> list[Modifier]:
    """The ways to say a condition; empty where it needs no word."""
    words = frame.words(source)
    node = node.unnest()
    if isinstance(node, exp.Not):
        return modifiers(frame, source, node.this, not negated)
    if type(node) in OPERATORS:
        return _comparison(frame, words, node, negated)
    if isinstance(node, exp.Or | exp.And):
        return _either(frame, source, node, negated)
    if isinstance(node, exp.Between) and not negated:
        _, column = frame.column(node.this.unnest())
        low, high = node.args["low"], node.args["high"]
        if not (is_literal(low) and is_literal(high)):
            raise Unsayable("BETWEEN of expressions")
        return phrases.between(words, column, said(low), said(high))
    if isinstance(node, exp.Like) and is_literal(node.expression):
        return _like(frame, words, node, negated != bool(node.args.get("negate")))
    if isinstance(node, exp.Is) and isinstance(node.expression, exp.Null):
        _, column = frame.column(node.this.unnest())
        if negated and (id(source), column.name) in frame.guarded:
            return []
        return phrases.unknown(words, column, negated, _named_by(words, column))
    if isinstance(node, exp.In) and node.args.get("query") is not None:
        return _in_query(frame, source, node, negated)
    if isinstance(node, exp.In) and node.expressions:
        _, column = frame.column(node.this.unnest())
        if not all(is_literal(value) for value in node.expressions):
            raise Unsayable("IN of expressions")
        return _one_of(frame, words, column, [said(v) for v in node.expressions], negated)
    if isinstance(node, exp.Exists):
        return _exists(frame, source, node, negated)
    raise Unsayable(f"condition {node.key}")


def _comparison(frame: Frame, words: TableWords, node: exp.Expr, negated: bool) -> list[Modifier]:
    equal = literal_side(frame, node)
    op = OPERATORS[type(node)]
    if equal is not None:
        (_, column), op, literal = equal
        op = phrases.NEGATED[op] if negated else op
        return _literal(frame, words, column, op, literal)
    if negated:
        op = phrases.NEGATED[op]
    left, right = node.this.unnest(), node.expression.unnest()
    if isinstance(left, exp.Query) and isinstance(right, exp.Column):
        left, right, op = right, left, _MIRRORED[op]
    _, column = frame.column(left)
    if isinstance(right, exp.Query):
        return _scalar(frame, words, column, op, right)
    _, other = frame.column(right)
    if column.kind not in ("number", "date") or column.kind != other.kind:
        raise Unsayable("columns of text compared")
    value = f"the {words.measure(other)}"
    verbs = {"=": "equals", ">": "is above", "<": "is below", ">=": "is at least"}
    verbs |= {"<=": "is at most", "!=": "differs from"}
    clause = f"whose {words.measure(column)} {verbs[op]} {value}"
    return [Modifier(clause, "", "")]


def _literal(
    frame: Frame, words: TableWords, column: Column, op: str, literal: exp.Expr
) -> list[Modifier]:
    text = said(literal)
    if column.kind == "boolean" and op in ("=", "!=") and text in ("0", "1"):
        return phrases.flagged(words, column, (text == "1") == (op == "="))
    if words.is_time(column):
        whole = words.is_year(column) is False and not re.fullmatch(r"\d{4}(-\d{2})?", text)
        return phrases.timed(words, column, op, text, whole)
    key = words.is_key(column)
    number = column.kind == "number" and not key
    if op in ("=", "!=") and not number:
        if column is words.label and op == "=":
            return [phrases.being(f"named {text}"), phrases.being(f"called {text}")]
        if op == "=" and key:
            return _keyed(words, column, text)
        if op == "=":
            return phrases.equal_texts(words, column, [text])
        return phrases.different_texts(words, column, [text])
    if column.kind == "text" and isinstance(literal, exp.Literal) and literal.is_string:
        raise Unsayable("text compared by order")
    return phrases.compared(words, column, op, text, literal=True)


def _named_by(words: TableWords, column: Column) -> TableWords | None:
    """The table whose rows a foreign key names, where its name says so: `author_id`."""
    parents = {
        key.ref_table
        for key in words.database.foreign_keys
        if key.table == words.table.name and key.column == column.name
    }
    if len(parents) != 1:
        return None
    parent = TableWords(words.database, words.database.table(parents.pop()))
    return parent if words.own(column) == f"{parent.noun} id" else None


def _keyed(words: TableWords, column: Column, text: str) -> list[Modifier]:
    own = words.own(column)
    mods = [phrases.having(f"{own} {text}"), phrases.having(f"the {own} {text}")]
    parent = _named_by(words, column)
    if parent is not None:
        mods += [phrases.being(f"{parent.by} {parent.noun} {text}")] * 2
    return mods


def _one_of(
    frame: Frame, words: TableWords, column: Column, values: list[str], negated: bool
) -> list[Modifier]:
    if column is words.label and not negated:
        return [phrases.being(f"named {listing(values, 'or')}")]
    if negated:
        return phrases.different_texts(words, column, values)
    if words.is_time(column):
        at = "in" if words.is_year(column) else "on"
        name = words.column(column)
        either = f"{at} {listing(values, 'or')}"
        verb = words.time_verb(column)
        if verb is not None and verb[0]:
            return [phrases.verbal(verb, either)]
        return [phrases.having(f"{name} {either}")]
    if words.is_counted(column):
        return [phrases.having(f"{listing(values, 'or')} {words.own(column)}")]
    return phrases.equal_texts(words, column, values)


def _either(frame: Frame, source: Source, node: exp.Expr, negated: bool) -> list[Modifier]:
    parts = [part.unnest() for part in node.flatten()]
    if negated or isinstance(node, exp.And):
        raise Unsayable("AND within another condition")
    words = frame.words(source)
    sides = [literal_side(frame, p) if isinstance(p, exp.EQ) else None for p in parts]
    columns = {side[0][1] for side in sides if side is not None}
    if None not in sides and len(columns) == 1:
        values = [said(side[2]) for side in sides if side is not None]
        return _one_of(frame, words, columns.pop(), values, False)
    each = []
    for part in parts:
        if isinstance(part, exp.And):
            raise Unsayable("AND within OR")
        options = [m for m in modifiers(frame, source, part) if m.plural and m.singular]
        if not options:
            raise Unsayable("OR without words")
        each.append(frame.rng.choice(options))
    plural, singular = (
        " or ".join(getattr(m, form) for m in each) for form in ("plural", "singular")
    )
    return [
        Modifier("", f"either {plural}", f"either {singular}"),
        Modifier("", plural, singular),
    ]


def _like(frame: Frame, words: TableWords, node: exp.Like, negated: bool) -> list[Modifier]:
    _, column = frame.column(node.this.unnest())
    pattern, text = node.expression.this, said(node.expression)
    if "%" in text or "_" in text:
        raise Unsayable("a pattern in the middle of a text")
    stem = text.removesuffix("-")
    if column.kind == "date" and pattern == f"{text}%" and _DATE_STEM.match(stem):
        if stem != text:
            raise Unsayable("a pattern that ends within a date")
        whole = stem.count("-") == 2
        op = "!=" if negated else "="
        return phrases.timed(words, column, op, text, whole)
    return phrases.matching(words.column(column), pattern, text, negated)


# Subqueries


def _scalar(
    frame: Frame, words: TableWords, column: Column, op: str, query: exp.Expr
) -> list[Modifier]:
    scope = frame.scopes.get(id(query))
    plain = (
        isinstance(query, exp.Select)
        and scope is not None
        and [s.table for s in scope.sources] == [words.table]
        and not any(query.args.get(a) for a in ("where", "group", "having", "limit", "joins"))
    )
    if plain and isinstance(query, exp.Select) and scope is not None:
        value = query.expressions[0]
        use = next((u for u in scope.uses if u.node is value.this), None)
        same = use is not None and use.base is not None and use.base[1] is column
        if same and isinstance(value, exp.Avg):
            return phrases.above_average(words, column, op)
        if same and isinstance(value, exp.Max | exp.Min) and op == "=":
            return superlatives(words, column, isinstance(value, exp.Max))
    if column.kind != "number":
        told = frame.tell(query)
        verb = {"=": "is", "!=": "is not", ">": "is after", "<": "is before"}.get(op)
        if verb is None or (op in "<>" and column.kind != "date"):
            raise Unsayable("text compared by order")
        return [Modifier(f"whose {words.column(column)} {verb} {told}", "", "")]
    return phrases.compared(words, column, op, frame.tell(query), literal=False)


def _in_query(frame: Frame, source: Source, node: exp.In, negated: bool) -> list[Modifier]:
    words = frame.words(source)
    query = node.args["query"]
    query = query.this if isinstance(query, exp.Subquery) else query
    _, column = frame.column(node.this.unnest())
    simple = isinstance(query, exp.Select) and not any(
        query.args.get(a) for a in ("group", "having", "limit", "offset", "order", "with_")
    )
    if simple and len(query.expressions) == 1 and id(query) in frame.scopes:
        inner = frame.inner(query)
        value = query.expressions[0]
        if isinstance(value, exp.Column):
            inner.guard(value)
            other, of = inner.column(value)
            if _refers(frame, other, of, words, column):
                return _has_child(inner, other, negated)
            if _refers(frame, source, column, inner.words(other), of):
                return _among_parents(inner, other, negated)
    told = frame.tell(query)
    among = "is not among" if negated else "is among"
    return [Modifier(f"whose {words.column(column)} {among} {told}", "", "")]


def _refers(frame: Frame, child: Source, column: Column, words: TableWords, key: Column) -> bool:
    assert child.table is not None
    return any(
        k.table == child.table.name
        and k.column == column.name
        and k.ref_table == words.table.name
        and k.ref_column == key.name
        for k in frame.database.foreign_keys
    )


def _has_child(inner: Frame, child: Source, negated: bool) -> list[Modifier]:
    told = inner.rows(child)
    if not negated:
        if told.one:
            return [phrases.having(f"the {told.text()}")]
        return [
            phrases.having(a_phrase(told)),
            phrases.having(f"at least one {told.text(True)}"),
        ]
    no_one, none = f"no {told.text(True)}", f"no {told.text(False)}"
    return [
        Modifier(f"without any {told.text(True)}", f"have {none}", f"has {no_one}"),
        Modifier(f"without {told.text(False)}", f"have {none}", f"has {none}"),
        phrases.having(no_one),
        Modifier(f"that have no {told.text(True)}", f"have {no_one}", f"has {no_one}"),
    ]


def _among_parents(inner: Frame, parent: Source, negated: bool) -> list[Modifier]:
    told, words = inner.rows(parent), inner.words(parent)
    if not negated:
        return [inner.of_parent(words, told)]
    who = f"the {told.text()}"
    clause = f"is not {who}" if told.one else f"is not one of {who}"
    return [Modifier(f"whose {words.noun} {clause}", "", "")]


def _exists(frame: Frame, source: Source, node: exp.Exists, negated: bool) -> list[Modifier]:
    query = node.this
    query = query.this if isinstance(query, exp.Subquery) else query
    if not isinstance(query, exp.Select) or any(
        query.args.get(a) for a in ("group", "having", "limit", "offset", "with_")
    ):
        raise Unsayable("EXISTS of such a query")
    inner = frame.inner(query, correlated=True)
    if len(inner.outer_edges) != 1:
        raise Unsayable("EXISTS without one join to the outside")
    edge, child_inside = inner.outer_edges[0]
    if child_inside and edge.parent is source:
        return _has_child(inner, edge.child, negated)
    if not child_inside and edge.child is source:
        return _among_parents(inner, edge.parent, negated)
    raise Unsayable("EXISTS about another table")


def superlatives(
    words: TableWords, column: Column, highest: bool, qualified: bool = False
) -> list[Modifier]:
    """Rows first in an order: "with the highest price", "most expensive"."""
    measure = words.measure(column, qualified)
    if words.is_time(column):
        degrees: tuple[str, ...] = ("latest", "most recent") if highest else ("earliest",)
        if words.is_year(column):
            degrees = degrees[:1]
    elif words.is_counted(column):
        most = "most" if highest else "fewest"
        own = words.own(column)
        mods = [phrases.having(f"the {most} {own}")] * 3 if not qualified else []
        return [*mods, phrases.having(f"the {'highest' if highest else 'lowest'} {measure}")]
    else:
        degrees = ("highest", "largest") if highest else ("lowest", "smallest")
    mods = [phrases.having(f"the {degree} {measure}") for degree in degrees]
    extremes = words.extremes(column) if not qualified else None
    if extremes is not None:
        adjective = extremes[0 if highest else 1]
        text = f"the {adjective}"
        mods += [Modifier(adjective, f"are {text}", f"is {text}", before=True)] * 3
    return mods


def is_literal(node: exp.Expr | None) -> bool:
    """Whether a node is a number or a string."""
    inner = node.this if isinstance(node, exp.Neg) else node
    return isinstance(inner, exp.Literal)


def said(node: exp.Expr) -> str:
    """A literal as it stands in a question. Raises Unsayable when nothing of it would."""
    if isinstance(node, exp.Neg):
        return f"-{said(node.this)}"
    text: str = node.this
    if node.is_string:
        text = spoken("'" + text.replace("'", "''") + "'")
    if not text.strip():
        raise Unsayable("an empty text")
    return text


def a_phrase(told: NounPhrase) -> str:
    """One row of some: "a Fantasy book"."""
    return phrases.article(told.text(one=True))
