"""Values and conditions of any query in words: plain, and the same words for nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable

from sqlglot import exp

from spftcore.synthesis.clauses_in_words import (
    Clause,
    conditions_of,
    connected_parts,
    counted_condition,
    direction,
    frame_words,
    is_condition,
    literal,
    only_where,
    quoted,
)
from spftcore.synthesis.conditions_in_words import OPERATORS
from spftcore.synthesis.functions_in_words import Value, function
from spftcore.synthesis.names_in_words import Names
from spftcore.synthesis.phrases import NEGATED
from spftcore.synthesis.resolve import Scope, Source
from spftcore.synthesis.wording import listing

_NUMBERS = {
    ">": ("is above {}", "is more than {}", "is greater than {}"),
    "<": ("is below {}", "is less than {}", "is smaller than {}"),
    ">=": ("is at least {}", "is no less than {}"),
    "<=": ("is at most {}", "is no more than {}"),
}
_COMPARED: dict[str, dict[str, tuple[str, ...]]] = {
    "number": _NUMBERS,
    "other": _NUMBERS,
    "time": {
        ">": ("is after {}", "is later than {}"),
        "<": ("is before {}", "is earlier than {}"),
        ">=": ("is {} or later",),
        "<=": ("is {} or earlier",),
    },
    "text": {
        ">": ("comes after {} in alphabetical order",),
        "<": ("comes before {} in alphabetical order",),
        ">=": ("is {} or comes after it in alphabetical order",),
        "<=": ("is {} or comes before it in alphabetical order",),
    },
}
_EQUAL: dict[str, tuple[str, ...]] = {
    "=": ("is {}", "equals {}"),
    "!=": ("is not {}", "is different from {}"),
}
_RANKS: dict[type[exp.Expr], str] = {
    exp.RowNumber: "position",
    exp.Rank: "rank",
    exp.DenseRank: "rank without gaps",
    exp.PercentRank: "relative rank",
    exp.CumeDist: "share of rows up to this one",
}
_NEIGHBOURS: dict[type[exp.Expr], str] = {
    exp.Lag: "before",
    exp.Lead: "after",
    exp.FirstValue: "in the first row",
    exp.LastValue: "in the last row",
    exp.NthValue: "in row number",
}


class ExpressionSpeaker:
    """Puts the expressions of a query into words.

    Args:
        tell: a subquery as a thing ("the average price of books"); its second argument says
            whether the words that follow could be taken for its own.
        rows: the rows that a subquery of EXISTS gives.
    """

    def __init__(
        self,
        names: Names,
        rng: random.Random,
        tell: Callable[[exp.Expr, bool], str],
        exists: Callable[[exp.Select, bool], str],
    ) -> None:
        self.names, self.rng, self.tell, self.exists = names, rng, tell, exists
        self.last = False  # whether what is said now ends its sentence

    # Values

    def value(self, node: exp.Expr, scope: Scope) -> Value:
        """An expression as a noun phrase."""
        node = node.unnest().unalias()
        if isinstance(node, exp.Paren):
            return self.value(node.this, scope)
        if isinstance(node, exp.Column):
            return self.column(node, scope)
        if isinstance(node, exp.Literal | exp.Null | exp.Boolean | exp.HexString):
            return literal(node)
        if isinstance(node, exp.Neg) and isinstance(node.this, exp.Literal):
            return Value(f"-{node.this.this}", "number", definite=False)
        if isinstance(node, exp.Query):
            return Value(self.tell(node, self.last), "other", definite=False)
        for way in (self._aggregate, self._window, self._case):
            said = way(node, scope)
            if said is not None:
                return said
        if isinstance(node, exp.Tuple):
            parts = [self.value(e, scope).the for e in node.expressions]
            return Value(f"combination of {listing(parts)}")
        if isinstance(node, exp.JSONPath):
            keys = [str(k.this) for k in node.expressions if not isinstance(k, exp.JSONPathRoot)]
            return Value(" in ".join(reversed(keys)) or "the top", "text", definite=False)
        if is_condition(node):
            return Value(f"truth of this: {self.condition(node, scope).full}", "number")
        said = function(node, lambda inner: self.value(inner, scope))
        if said is not None:
            return said
        parts = [self.value(e, scope).the for e in node.iter_expressions()]
        own = node.name if not parts else node.key
        return Value(f"{own} of {' and '.join(parts)}" if parts else own)

    def column(self, node: exp.Column, scope: Scope) -> Value:
        use = self.names.uses[id(node)]
        if use.source is None or use.owner is None:
            return Value(node.name.replace("_", " ").lower())
        if isinstance(node.this, exp.Star):
            return Value(f"all details of the {self.names.noun(use.source).one}", definite=False)
        text, kind = self.column_words(use.source, node.name)
        if use.owner is not scope or len(scope.sources) > 1:
            of = f" of the {self.names.noun(use.source).one}"
            return Value(text + of, kind, of=of)
        return Value(text, kind)

    def column_words(self, source: Source, name: str, many: bool = False) -> tuple[str, str]:
        """(words, kind) of a source's column."""
        words = self.names.table(source)
        column = source.table.find(name) if source.table is not None else None
        if words is None:
            return self.names.label(source, name)
        if column is None:
            return ("row numbers" if many else "row number"), "number"
        if words.is_time(column):
            kind = "time"
        else:
            kind = column.kind if column.kind in ("number", "text") else "other"
        if many:
            return words.columns(column), kind
        return words.measure(column), kind

    def aggregate_of(self, inner: exp.Expr, scope: Scope) -> str:
        """What COUNT counts, in the plural."""
        different = ""
        if isinstance(inner, exp.Distinct):
            different = "different "
            if len(inner.expressions) > 1:
                parts = [self.value(e, scope).text for e in inner.expressions]
                return f"different combinations of {listing(parts)}"
            inner = inner.expressions[0]
        inner = inner.unnest()
        if isinstance(inner, exp.Column) and not isinstance(inner.this, exp.Star):
            use = self.names.uses[id(inner)]
            if use.source is not None:
                words, key = self.names.table(use.source), None
                text, _ = self.column_words(use.source, inner.name, many=True)
                noun = self.names.noun(use.source)
                key = words.key if words is not None else None
                if different and key is not None and key.name == inner.name:
                    return f"different {noun.many}"
                if words is not None and text.startswith("number of "):
                    text = f"values of {text}"
                apart = use.owner is not scope or len(scope.sources) > 1
                return f"{different}{text}{f' of the {noun.one}' if apart else ''}"
        if isinstance(inner, exp.Star | exp.Literal | exp.Column):
            return self.row_noun(scope)
        return f"{different}known values of {self.value(inner, scope).the}"

    def row_noun(self, scope: Scope) -> str:
        """What the joined rows of a SELECT are called together."""
        if not scope.sources:
            return "rows"
        driving = self.driving(scope)
        return "such combinations" if driving is None else self.names.noun(driving).many

    def driving(self, scope: Scope) -> Source | None:
        """The source each of whose rows gives one joined row, where foreign keys say so."""
        driving = scope.sources[0]
        for position, join in enumerate(scope.select.args.get("joins") or [], 1):
            source, earlier = scope.sources[position], scope.sources[:position]
            link = self.names.link(source, earlier, conditions_of(join))
            if link is None:
                return None
            if link.child is source:
                if link.parent is not driving or join.side:
                    return None
                driving = source
            elif join.side in ("RIGHT", "FULL"):
                return None
        return driving

    def _aggregate(self, node: exp.Expr, scope: Scope) -> Value | None:
        if isinstance(node, exp.Filter):
            where = self.condition(node.expression.this, scope).full
            return Value(f"{self.value(node.this, scope).text} counting only where {where}")
        if isinstance(node, exp.Count):
            part = only_where(node.this)
            if part is not None:
                counted = self.aggregate_of(part[0], scope)
                where = self.condition(part[1], scope).full
                return Value(f"number of {counted} counting only where {where}", "number")
            return Value(f"number of {self.aggregate_of(node.this, scope)}", "number")
        if isinstance(node, exp.GroupConcat):
            separator = node.args.get("separator")
            by = f" joined by {self.value(separator, scope).text}" if separator is not None else ""
            return Value(f"list of {self._different(node.this, scope).the}{by}", "text")
        if not isinstance(node, exp.Avg | exp.Sum | exp.Min | exp.Max):
            return None
        if isinstance(node, exp.Sum):
            often = counted_condition(node.this)
            if often is not None:
                return Value(f"number of times that {self.condition(often, scope).full}", "number")
        inner = self._different(node.this, scope)
        if isinstance(node, exp.Avg):
            return Value(f"average {inner.text}", "number")
        if isinstance(node, exp.Sum):
            return Value(f"total {inner.text}", "number")
        highest = isinstance(node, exp.Max)
        if inner.kind == "text":
            end = "last" if highest else "first"
            return Value(f"alphabetically {end} {inner.text}", "text")
        degrees = {"time": ("latest", "earliest")}.get(inner.kind, ("highest", "lowest"))
        return Value(f"{degrees[0 if highest else 1]} {inner.text}", inner.kind)

    def _different(self, node: exp.Expr, scope: Scope) -> Value:
        if isinstance(node, exp.Distinct):
            inner = self.value(node.expressions[0], scope)
            return Value(f"different {inner.text}", inner.kind)
        return self.value(node, scope)

    def _case(self, node: exp.Expr, scope: Scope) -> Value | None:
        if isinstance(node, exp.If):
            ifs, base, other = [node], None, node.args.get("false")
        elif isinstance(node, exp.Case):
            ifs, base, other = node.args["ifs"], node.this, node.args.get("default")
        else:
            return None
        subject = self.value(base, scope).the if base is not None else ""
        parts = []
        for branch in ifs:
            if base is not None:
                when = f"{subject} is {self.value(branch.this, scope).the}"
            else:
                when = self.condition(branch.this, scope).full
            parts.append(f"{self.value(branch.args['true'], scope).the} where {when}")
        last = self.value(other, scope).the if other is not None else "nothing"
        return Value(f"{', '.join(parts)} and otherwise {last}", definite=False)

    def _window(self, node: exp.Expr, scope: Scope) -> Value | None:
        if not isinstance(node, exp.Window):
            return None
        named = node.args.get("alias")
        base = node
        if named is not None:
            for window in scope.select.args.get("windows") or []:
                if window.this.name.lower() == named.name.lower():
                    base = window
        partition = base.args.get("partition_by") or node.args.get("partition_by") or []
        order = node.args.get("order") or base.args.get("order")
        spec = node.args.get("spec") or base.args.get("spec")
        by = f" by {self.sorting(order.expressions, scope)}" if order is not None else ""
        within = ""
        if partition:
            each = listing([self.value(p, scope).text for p in partition])
            many = "combination of " if len(partition) > 1 else ""
            within = f" within each {many}{each}"
        call = node.this
        if type(call) in _RANKS:
            return Value(f"{_RANKS[type(call)]}{by}{within}", "number")
        if isinstance(call, exp.Ntile):
            parts = self.value(call.this, scope).text
            return Value(f"number of the group out of {parts} equal groups{by}{within}", "number")
        if type(call) in _NEIGHBOURS:
            inner = self.value(call.this, scope)
            place = _NEIGHBOURS[type(call)]
            offset = call.args.get("offset")
            steps = self.value(offset, scope).text if offset is not None else "1"
            if isinstance(call, exp.Lag | exp.Lead):
                place = f"{steps} row{'' if steps == '1' else 's'} {place}"
            elif isinstance(call, exp.NthValue):
                place = f"{place} {steps}"
            default = call.args.get("default")
            if default is not None:
                place += f", or {self.value(default, scope).the} where there is none,"
            return Value(f"{inner.text} {place}{by}{within}{frame_words(spec)}", inner.kind)
        inner = self.value(call, scope)
        running = "running " if order is not None and spec is None else ""
        return Value(f"{running}{inner.text}{by}{within}{frame_words(spec)}", inner.kind)

    # Orders

    def sorting(self, terms: list[exp.Expr], scope: Scope) -> str:
        """Terms of ORDER BY: "price from high to low and then by title in alphabetical order"."""
        parts = []
        for term in terms:
            value = self.value(term.this, scope)
            parts.append(f"{value.text} {direction(term, value.kind)}")
        return " and then by ".join(parts)

    # Conditions

    def condition(self, node: exp.Expr, scope: Scope, negated: bool = False) -> Clause:
        """A condition as a clause; NULL counts as in SQL, so NOT only turns operators round."""
        node = node.unnest()
        if isinstance(node, exp.Not):
            return self.condition(node.this, scope, not negated)
        if isinstance(node, exp.And | exp.Or):
            return self._connected(node, scope, negated)
        op = OPERATORS.get(type(node))
        if op is not None:
            return self._compared(node, NEGATED[op] if negated else op, scope)
        no = " not" if negated != bool(node.args.get("negate")) else ""
        if isinstance(node, exp.Between):
            low, high = (self.value(node.args[a], scope).the for a in ("low", "high"))
            return self._about(node.this, f"is{no} between {low} and {high}", scope)
        if isinstance(node, exp.Is):
            return self._is(node, no, scope)
        if isinstance(node, exp.NullSafeEQ | exp.NullSafeNEQ):
            same = isinstance(node, exp.NullSafeEQ) != bool(no)
            verb = "is the same as" if same else "is not the same as"
            return self._about(node.this, f"{verb} {self.value(node.expression, scope).the}", scope)
        if isinstance(node, exp.In):
            return self._in(node, no, scope)
        if isinstance(node, exp.Exists):
            query = node.this
            query = query.this if isinstance(query, exp.Subquery) else query
            none = "no " if no else ""
            return Clause("", f"there are {none}{self.exists(query, self.last)}")
        if isinstance(node, exp.Like | exp.Glob | exp.RegexpLike | exp.Match | exp.Escape):
            return self._matches(node, no, scope)
        if isinstance(node, exp.Boolean):
            return Clause("", "it always holds" if node.this != bool(no) else "it never holds")
        return self._about(node, f"is{no} true", scope)

    def conditions(self, parts: list[exp.Expr], scope: Scope) -> list[Clause]:
        """Conditions that hold together; those with a subquery come last, where they can only be
        read in one way."""
        ordered = sorted(parts, key=lambda part: part.find(exp.Query) is not None)
        outer = self.last
        clauses = []
        for position, part in enumerate(ordered, 1):
            self.last = outer and position == len(ordered)
            clauses.append(self.condition(part, scope))
        self.last = outer
        return clauses

    def _connected(self, node: exp.Connector, scope: Scope, negated: bool) -> Clause:
        outer, self.last = self.last, False
        clauses = [self.condition(p, scope, negated) for p in connected_parts(node, type(node))]
        self.last = outer
        both = isinstance(node, exp.And) != negated
        parts = [c.full for c in clauses]
        if both:
            return Clause("", f"both {listing(parts)}" if len(parts) == 2 else
                          f"all of this holds ({listing(parts)})")  # fmt: skip
        return Clause("", f"either {listing(parts, 'or')}")

    def _about(self, node: exp.Expr, predicate: str, scope: Scope) -> Clause:
        value = self.value(node, scope)
        if value.definite:
            return Clause(value.text, predicate)
        return Clause("", f"{value.text} {predicate}")

    def _compared(self, node: exp.Expr, op: str, scope: Scope) -> Clause:
        left, right = node.this.unnest(), node.expression.unnest()
        one = self._unended(left, scope)
        other = self.value(right, scope)
        kind = one.kind if one.kind != "other" else other.kind
        if kind == "text" and not (right.is_string or other.kind == "text"):
            kind = "number"
        forms = _EQUAL.get(op) or _COMPARED[kind][op]
        predicate = self.rng.choice(forms).format(other.the.replace("{", "{{")).replace("{{", "{")
        return (
            Clause(one.text, predicate) if one.definite else Clause("", f"{one.text} {predicate}")
        )

    def _unended(self, node: exp.Expr, scope: Scope) -> Value:
        outer, self.last = self.last, False
        value = self.value(node, scope)
        self.last = outer
        return value

    def _is(self, node: exp.Is, no: str, scope: Scope) -> Clause:
        if isinstance(node.expression, exp.Null):
            word = self.rng.choice(("known", "given")) if no else self.rng.choice(
                ("unknown", "missing"))  # fmt: skip
            return self._about(node.this, f"is {word}", scope)
        return self._about(node.this, f"is{no} {self.value(node.expression, scope).the}", scope)

    def _in(self, node: exp.In, no: str, scope: Scope) -> Clause:
        query = node.args.get("query")
        if query is not None:
            left = self._unended(node.this, scope)
            among = f"is{no} among {self.tell(query, self.last)}"
            return Clause(left.text, among) if left.definite else Clause("", f"{left.text} {among}")
        values = [self.value(v, scope).the for v in node.expressions]
        if not values:
            return Clause("", "it always holds" if no else "it never holds")
        return self._about(node.this, f"is{no} {listing(values, 'or')}", scope)

    def _matches(self, node: exp.Expr, no: str, scope: Scope) -> Clause:
        escape = None
        if isinstance(node, exp.Escape):
            escape, node = node.expression, node.this
            no = " not" if bool(no) != bool(node.args.get("negate")) else ""
        pattern = node.expression
        does = "does not " if no else ""
        ending = "" if no else "s"
        if not isinstance(node, exp.Like) or not pattern.is_string or escape is not None:
            kind: dict[type[exp.Expr], str] = {
                exp.Glob: "glob pattern",
                exp.RegexpLike: "regular expression",
            }
            kind_name = kind.get(type(node), "search" if isinstance(node, exp.Match) else "pattern")
            text = (
                f"{does}match{'' if no else 'es'} the {kind_name} {self.value(pattern, scope).the}"
            )
            if escape is not None:
                text += f" with the escape character {self.value(escape, scope).the}"
            return self._about(node.this, text, scope)
        raw = pattern.this
        inner = raw.strip("%")
        shown = quoted(inner)
        starts, ends = not raw.startswith("%"), not raw.endswith("%")
        if not inner or "%" in inner or "_" in inner:
            text = f"{does}match{'' if no else 'es'} the pattern {quoted(raw)}"
        elif starts and ends:
            text = f"is{no} {shown} in any case"
        elif starts:
            text = f"{does}{self.rng.choice(('start', 'begin'))}{ending} with {shown}"
        elif ends:
            text = f"{does}end{ending} with {shown}"
        else:
            text = f"{does}contain{ending} {shown}"
        return self._about(node.this, text, scope)
