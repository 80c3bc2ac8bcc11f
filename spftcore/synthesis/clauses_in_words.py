"""Pieces that any query in words is made of: clauses, literals, directions, window frames."""

from __future__ import annotations

from dataclasses import dataclass

from sqlglot import exp

from spftcore.synthesis.functions_in_words import Value
from spftcore.synthesis.sql_text import conjuncts

_UP = {"number": "from low to high", "time": "from earliest to latest"}
_DOWN = {"number": "from high to low", "time": "from latest to earliest"}
_NEEDS_QUOTES = (", ", " and ", " or ", '"', "(", ")", "?")


@dataclass(frozen=True)
class Clause:
    """A condition: what it is about ("age", may be empty) and what is said of that."""

    subject: str
    predicate: str

    @property
    def full(self) -> str:
        return f"the {self.subject} {self.predicate}" if self.subject else self.predicate

    @property
    def relative(self) -> str:
        """As a relative clause: "whose age is above 40"."""
        if self.subject:
            return f"whose {self.subject} {self.predicate}"
        return f"for which {self.predicate}"


def literal(node: exp.Expr) -> Value:
    """A literal as a question writes it."""
    if isinstance(node, exp.Null):
        return Value("nothing", definite=False)
    if isinstance(node, exp.Boolean):
        return Value("true" if node.this else "false", definite=False)
    if isinstance(node, exp.HexString):
        return Value(f"the bytes {node.this}", definite=False)
    if not node.is_string:
        return Value(node.this, "number", definite=False)
    return Value(quoted(node.this), "text", definite=False)


def quoted(text: str) -> str:
    """A text as it stands in a sentence: in quotation marks where it could be taken for words."""
    if not text:
        return "an empty text"
    if text.strip() != text or "  " in text or any(mark in text for mark in _NEEDS_QUOTES):
        return f"“{text}”" if '"' in text else f'"{text}"'
    return text


def direction(term: exp.Expr, kind: str) -> str:
    """The direction of one term of ORDER BY."""
    down = bool(term.args.get("desc"))
    if kind == "text":
        return f"in {'reverse ' if down else ''}alphabetical order"
    return (_DOWN if down else _UP).get(kind, f"in {'descending' if down else 'ascending'} order")


def is_condition(node: exp.Expr) -> bool:
    """Whether an expression is a truth value."""
    return isinstance(
        node,
        exp.Connector | exp.Predicate | exp.Not | exp.In | exp.Between | exp.Escape | exp.NullSafeEQ
        | exp.NullSafeNEQ | exp.Is | exp.Exists,
    )  # fmt: skip


def conditions_of(join: exp.Join) -> list[exp.Expr]:
    """The conditions of ON."""
    return conjuncts(join.args.get("on"))


def connected_parts(node: exp.Expr, connector: type[exp.Connector]) -> list[exp.Expr]:
    node = node.unnest()
    if isinstance(node, connector):
        return connected_parts(node.left, connector) + connected_parts(node.right, connector)
    return [node]


def only_where(node: exp.Expr) -> tuple[exp.Expr, exp.Expr] | None:
    """(value, condition) of `case when condition then value end`."""
    node = node.unnest()
    if isinstance(node, exp.Case) and node.this is None and len(node.args["ifs"]) == 1:
        branch, other = node.args["ifs"][0], node.args.get("default")
    elif isinstance(node, exp.If):
        branch, other = node, node.args.get("false")
    else:
        return None
    if other is not None and not isinstance(other, exp.Null):
        return None
    return branch.args["true"], branch.this


def counted_condition(node: exp.Expr) -> exp.Expr | None:
    """The condition that a sum of ones and zeros counts."""
    node = node.unnest()
    if is_condition(node):
        return node
    if isinstance(node, exp.Case) and node.this is None and len(node.args["ifs"]) == 1:
        branch, other = node.args["ifs"][0], node.args.get("default")
    elif isinstance(node, exp.If):
        branch, other = node, node.args.get("false")
    else:
        return None
    yes = branch.args.get("true")
    if other is not None and yes is not None and (yes.name, other.name) == ("1", "0"):
        condition: exp.Expr = branch.this
        return condition
    return None


def frame_words(spec: exp.Expr | None) -> str:
    """The rows that a window function looks at, where the query says."""
    if spec is None:
        return ""
    ends = []
    for which in ("start", "end"):
        at, side = spec.args.get(which), spec.args.get(f"{which}_side")
        if at is None:
            continue
        text = at.name if isinstance(at, exp.Expr) else str(at)
        if text.upper() == "CURRENT ROW":
            ends.append("this row")
        elif text.upper() == "UNBOUNDED":
            ends.append("the first row" if str(side).upper() == "PRECEDING" else "the last row")
        else:
            where = "before" if str(side).upper() == "PRECEDING" else "after"
            ends.append(f"{text} {where}")
    unit = {"RANGE": " in value", "GROUPS": " in groups"}.get(
        str(spec.args.get("kind")).upper(), ""
    )
    return f" from {' to '.join(ends)}{unit}"
