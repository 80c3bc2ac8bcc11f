"""Functions of SQLite as nouns: what a call gives, said with its arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlglot import exp

from spftcore.synthesis.wording import listing


@dataclass(frozen=True)
class Value:
    """A value in words.

    Attributes:
        text: a noun phrase without "the" in front.
        kind: number, text, time or other; decides how it is compared and sorted.
        definite: whether "the" belongs before it.
        of: whose column it is, as it ends the text (" of the student").
    """

    text: str
    kind: str = "other"
    definite: bool = True
    of: str = ""

    @property
    def the(self) -> str:
        return f"the {self.text}" if self.definite else self.text


Say = Callable[[exp.Expr], Value]

_FORMATS = {
    "%Y": "year",
    "%m": "month",
    "%d": "day of the month",
    "%H": "hour",
    "%M": "minute",
    "%S": "second",
    "%w": "day of the week as a number",
    "%j": "day of the year",
    "%W": "week of the year",
    "%Y-%m": "year and month",
    "%Y-%m-%d": "date",
    "%m-%d": "month and day",
    "%s": "Unix time",
}
_OF: dict[type[exp.Expr], tuple[str, str]] = {
    exp.Length: ("number of characters of {}", "number"),
    exp.Abs: ("absolute value of {}", "number"),
    exp.Lower: ("lower-case form of {}", "text"),
    exp.Upper: ("upper-case form of {}", "text"),
    exp.Date: ("date of {}", "time"),
    exp.Neg: ("negative of {}", "number"),
    exp.TsOrDsToTimestamp: ("{}", "time"),
    exp.Sqrt: ("square root of {}", "number"),
    exp.Sign: ("sign of {}", "number"),
    exp.Ceil: ("next whole number from {} up", "number"),
    exp.Floor: ("next whole number from {} down", "number"),
    exp.BitwiseNot: ("bitwise complement of {}", "number"),
}
_BETWEEN: dict[type[exp.Expr], tuple[str, str]] = {
    exp.Add: ("sum of {} and {}", "number"),
    exp.Sub: ("difference between {} and {}", "number"),
    exp.Mul: ("product of {} and {}", "number"),
    exp.Div: ("ratio of {} to {}", "number"),
    exp.Mod: ("remainder of {} divided by {}", "number"),
    exp.DPipe: ("text of {} followed by {}", "text"),
    exp.Pow: ("power of {} to {}", "number"),
    exp.BitwiseAnd: ("bitwise conjunction of {} and {}", "number"),
    exp.BitwiseOr: ("bitwise disjunction of {} and {}", "number"),
    exp.BitwiseLeftShift: ("bits of {} shifted up by {}", "number"),
    exp.BitwiseRightShift: ("bits of {} shifted down by {}", "number"),
    exp.JSONExtract: ("entry of {} at {}", "other"),
    exp.JSONExtractScalar: ("value of {} at {}", "other"),
}
_NAMED = {
    "julianday": ("Julian day of {}", "number"),
    "date": ("date of {}, changed by {}", "time"),
    "datetime": ("date and time of {}", "time"),
    "time": ("time of day of {}", "time"),
    "total": ("total {}", "number"),
    "typeof": ("storage type of {}", "text"),
    "hex": ("hexadecimal form of {}", "text"),
    "unicode": ("code of the first character of {}", "number"),
    "random": ("random number", "number"),
}


def function(node: exp.Expr, say: Say) -> Value | None:
    """A function or operator of one row in words, or None for what is none."""
    kind = type(node)
    if kind in _OF and not node.args.get("expressions") and not node.args.get("zone"):
        form, of = _OF[kind]
        if kind in (exp.Date, exp.TsOrDsToTimestamp) and _is_now(node.this):
            return Value("today's date", "time", False)
        return Value(form.format(say(node.this).the), of)
    if kind in _BETWEEN:
        form, of = _BETWEEN[kind]
        return Value(form.format(say(node.this).the, say(node.expression).the), of)
    if isinstance(node, exp.CurrentDate | exp.CurrentTimestamp | exp.CurrentTime):
        today = kind is exp.CurrentDate
        return Value("today's date" if today else "current time", "time", not today)
    special = _special(node, say)
    if special is not None:
        return special
    if isinstance(node, exp.Func):
        return _any(node, say)
    return None


def _special(node: exp.Expr, say: Say) -> Value | None:
    if isinstance(node, exp.Cast):
        return _cast(node, say)
    if isinstance(node, exp.Round):
        places = node.args.get("decimals")
        to = f"{say(places).text} decimals" if places is not None else "a whole number"
        return Value(f"{say(node.this).text} rounded to {to}", "number")
    if isinstance(node, exp.TimeToStr) and isinstance(node.args.get("format"), exp.Literal):
        style = node.args["format"].this
        name = _FORMATS.get(style)
        inner = node.this.this if isinstance(node.this, exp.TsOrDsToTimestamp) else node.this
        of = "today" if _is_now(inner) else say(inner).the
        if name is None:
            return Value(f"date of {of} written as {style}", "text")
        number = style in ("%Y", "%m", "%d", "%H", "%M", "%S", "%w", "%j", "%W", "%s")
        return Value(f"{name} of {of}", "number" if number else "time")
    if isinstance(node, exp.Coalesce):
        rest = [say(e).the for e in node.expressions]
        return Value(f"{say(node.this).text} or, where that is unknown, {' or '.join(rest)}")
    if isinstance(node, exp.Nullif):
        return Value(f"{say(node.this).text} unless that is {say(node.expression).the}")
    if isinstance(node, exp.Substring):
        return _substring(node, say)
    if isinstance(node, exp.StrPosition):
        wanted = say(node.args["substr"]).the
        return Value(f"position of {wanted} in {say(node.this).the}", "number")
    if isinstance(node, exp.Greatest | exp.Least):
        parts = [say(e).the for e in (node.this, *node.expressions)]
        degree = "larger" if isinstance(node, exp.Greatest) else "smaller"
        return Value(f"{degree} of {' and '.join(parts)}", "number")
    if isinstance(node, exp.Trim):
        chars = node.args.get("expression")
        side = {"LEADING": "start", "TRAILING": "end"}.get(str(node.args.get("position")), "ends")
        what = say(chars).the if chars is not None else "blanks"
        return Value(f"{say(node.this).text} without {what} at the {side}", "text")
    if isinstance(node, exp.Replace):
        new = node.args.get("replacement")
        by = say(new).the if new is not None else "nothing"
        return Value(f"{say(node.this).text} with {say(node.expression).the} replaced by {by}")
    return None


def _cast(node: exp.Expr, say: Say) -> Value:
    to = node.args["to"].sql("sqlite").lower()
    inner = say(node.this)
    if "int" in to:
        name, kind = "a whole number", "number"
    elif any(word in to for word in ("real", "floa", "doub", "num", "dec")):
        name, kind = "a decimal number", "number"
    elif any(word in to for word in ("char", "text", "clob")):
        name, kind = "text", "text"
    else:
        name, kind = to, "other"
    return Value(f"{inner.text} as {name}", kind, inner.definite)


def _substring(node: exp.Substring, say: Say) -> Value:
    start, length = node.args.get("start"), node.args.get("length")
    of = say(node.this).the
    if start is None or length is None:
        return Value(
            f"part of {of} from character {say(start).text if start is not None else 1} on", "text"
        )
    numbers = [say(n).text for n in (start, length)]
    if numbers[0] == "1":
        return Value(f"first {numbers[1]} characters of {of}", "text")
    return Value(f"{numbers[1]} characters of {of} from character {numbers[0]} on", "text")


def _any(node: exp.Func, say: Say) -> Value:
    """Any other function, by its own name."""
    own = node.name if isinstance(node, exp.Anonymous) else node.sql_name()
    arguments = [
        say(part).the
        for value in node.args.values()
        for part in (value if isinstance(value, list) else [value])
        if isinstance(part, exp.Expr)
    ]
    form, kind = _NAMED.get(own.lower(), ("", "other"))
    if form and len(arguments) == form.count("{}"):
        return Value(form.format(*arguments), kind)
    name = " ".join(own.lower().replace("_", " ").split())
    return Value(f"{name} of {' and '.join(arguments)}" if arguments else name)


def _is_now(node: exp.Expr | None) -> bool:
    if isinstance(node, exp.TsOrDsToTimestamp):
        node = node.this
    return isinstance(node, exp.Literal) and node.is_string and node.this.lower() == "now"


def listed(values: list[Value]) -> str:
    """Values one after the other; what neighbours belong to is said once."""
    groups: list[tuple[str, list[str]]] = []
    for value in values:
        if value.of and groups and groups[-1][0] == value.of:
            groups[-1][1].append(value.text.removesuffix(value.of))
        else:
            groups.append((value.of, [value.the.removesuffix(value.of)]))
    return listing([listing(parts) + of for of, parts in groups])
