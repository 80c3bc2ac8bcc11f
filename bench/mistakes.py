"""Measures how often the mistake that is named first is the one that was made.

    python bench/mistakes.py --databases DIR --pairs FILE [--also DIR FILE] [--output FILE]

Every gold gets one change of each kind that fits it, at a place drawn by a seed; what still gives
the gold's result is dropped. Counted by kind: how often its class is named first, how often it is
named at all, how many classes are named, and what was named first instead. Then the same golds
written otherwise (aliases, order of joins and conditions, sides, BETWEEN) with one change, golds
against themselves written otherwise (nothing should be found), golds with two changes of different
classes of which each alone would give another result, and the speed.
"""

import argparse
import datetime
import json
import os
import platform
import random
import shlex
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import sqlglot
from sqlglot import exp

from spftcore.databases import Catalogue, Database
from spftcore.metrics.records import Scored
from spftcore.mistakes import find_mistakes
from spftcore.mistakes.classify import read
from spftcore.synthesis.sql_text import UNREADABLE, print_sql, styled
from spftcore.verify import Executor, Verdict

Edit = Callable[[exp.Query, Database, random.Random], None]


class NotHere(Exception):
    """The query has no place for the change."""


def pick(draw: random.Random, found: Iterator[Any] | list[Any]) -> Any:
    """One of what was found."""
    choices = list(found)
    if not choices:
        raise NotHere
    return draw.choice(choices)


def outer(tree: exp.Query) -> exp.Select:
    if not isinstance(tree, exp.Select):
        raise NotHere
    return tree


def source_of(select: exp.Select) -> exp.Expr:
    """What the FROM of a query begins with."""
    if select.args.get("from_") is None:
        raise NotHere
    return select.args["from_"].this


def comparisons(tree: exp.Expr) -> Iterator[exp.Expr]:
    """Conditions outside of joins."""
    for node in tree.find_all(exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Like):
        join = node.find_ancestor(exp.Join, exp.Select)
        if not isinstance(join, exp.Join):
            yield node


def value(tree: exp.Query, _: Database, draw: random.Random) -> None:
    sides = [side for c in comparisons(tree) for side in (c.expression,)]
    literal = pick(draw, [side for side in sides if isinstance(side, exp.Literal)])
    if literal.is_string:
        literal.replace(exp.Literal.string(literal.this + "x"))
    else:
        literal.replace(exp.Literal.number(f"{literal.this}7"))


def other_column(node: exp.Column, database: Database, draw: random.Random) -> None:
    """Another column of the same table in a node's place."""
    select = node.find_ancestor(exp.Select)
    name = node.table
    tables = {t.alias_or_name.lower(): t.name for t in select.find_all(exp.Table)}
    if not name:
        name = source_of(select).alias_or_name
    table = database.find(tables.get(name.lower(), ""))
    if table is None:
        raise NotHere
    column = pick(draw, [c for c in table.columns if c.name.lower() != node.name.lower()])
    node.set("this", exp.to_identifier(column.name, quoted=True))


def column(tree: exp.Query, database: Database, draw: random.Random) -> None:
    select = outer(tree)
    other_column(
        pick(draw, [p for p in select.expressions if isinstance(p, exp.Column)]), database, draw
    )


def condition_column(tree: exp.Query, database: Database, draw: random.Random) -> None:
    sides = [c.this for c in comparisons(tree) if isinstance(c.this, exp.Column)]
    other_column(pick(draw, sides), database, draw)


def operator(tree: exp.Query, _: Database, draw: random.Random) -> None:
    node = pick(draw, [c for c in comparisons(tree) if not isinstance(c, exp.Like)])
    kinds = [k for k in (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE) if k is not type(node)]
    node.replace(draw.choice(kinds)(this=node.this.copy(), expression=node.expression.copy()))


def condition(tree: exp.Query, _: Database, draw: random.Random) -> None:
    """One condition less."""
    places = [
        n
        for n in tree.find_all(exp.And)
        if not isinstance(n.parent, exp.Join) and n.find(exp.Query) is None
    ]
    places += [n for n in tree.find_all(exp.Where, exp.Having) if not n.find(exp.And, exp.Query)]
    node = pick(draw, places)
    if isinstance(node, exp.And):
        node.replace(draw.choice([node.left, node.right]).copy())
    else:
        node.pop()


def connector(tree: exp.Query, _: Database, draw: random.Random) -> None:
    node = pick(draw, [n for n in tree.find_all(exp.And, exp.Or) if in_where(n)])
    kind = exp.Or if isinstance(node, exp.And) else exp.And
    node.replace(exp.Paren(this=kind(this=node.left.copy(), expression=node.right.copy())))


def in_where(node: exp.Expr) -> bool:
    return isinstance(node.parent, exp.Where | exp.Having)


def aggregate(tree: exp.Query, _: Database, draw: random.Random) -> None:
    kinds = (exp.Sum, exp.Avg, exp.Min, exp.Max)
    node = pick(draw, tree.find_all(*kinds))
    kind = draw.choice([k for k in kinds if k is not type(node)])
    node.replace(kind(this=node.this.copy()))


def count_column(tree: exp.Query, database: Database, draw: random.Random) -> None:
    """`count(*)` as the sum of a column."""
    counts = [n for n in tree.find_all(exp.Count) if isinstance(n.this, exp.Star)]
    node = pick(draw, [n for n in counts if n.find_ancestor(exp.Order, exp.Select).key == "select"])
    select = node.find_ancestor(exp.Select)
    source = source_of(select)
    table = database.find(source.name) if isinstance(source, exp.Table) else None
    if table is None:
        raise NotHere
    name = pick(draw, list(table.columns)).name
    node.replace(
        exp.Sum(this=exp.column(exp.to_identifier(name, quoted=True), source.alias_or_name))
    )


def grouping(tree: exp.Query, database: Database, draw: random.Random) -> None:
    group = outer(tree).args.get("group")
    if group is None:
        raise NotHere
    columns = [c for c in group.expressions if isinstance(c, exp.Column)]
    if draw.random() < 0.5 and not tree.args.get("having"):
        group.pop()
    else:
        other_column(pick(draw, columns), database, draw)


def order(tree: exp.Query, database: Database, draw: random.Random) -> None:
    terms = list(tree.find_all(exp.Ordered))
    node = pick(draw, terms)
    if draw.random() < 0.5:
        node.set("desc", not node.args.get("desc"))
    else:
        node.parent.pop()


def limit(tree: exp.Query, _: Database, draw: random.Random) -> None:
    node = pick(draw, tree.find_all(exp.Limit))
    if draw.random() < 0.5:
        node.pop()
    else:
        node.set("expression", exp.Literal.number(int(node.expression.name) + 1))


def distinct(tree: exp.Query, _: Database, draw: random.Random) -> None:
    select = outer(tree)
    select.set("distinct", None if select.args.get("distinct") else exp.Distinct())


def count_distinct(tree: exp.Query, _: Database, draw: random.Random) -> None:
    node = pick(draw, [n for n in tree.find_all(exp.Count) if not isinstance(n.this, exp.Star)])
    if isinstance(node.this, exp.Distinct):
        node.set("this", node.this.expressions[0])
    else:
        node.set("this", exp.Distinct(expressions=[node.this]))


def missing_column(tree: exp.Query, _: Database, draw: random.Random) -> None:
    outputs = outer(tree).expressions
    if len(outputs) < 2:
        raise NotHere
    draw.choice(outputs).pop()


def extra_column(tree: exp.Query, database: Database, draw: random.Random) -> None:
    select = outer(tree)
    source = source_of(select)
    table = database.find(source.name) if isinstance(source, exp.Table) else None
    if table is None:
        raise NotHere
    name = pick(draw, list(table.columns)).name
    new = exp.column(exp.to_identifier(name, quoted=True), source.alias_or_name)
    select.expressions.insert(draw.randrange(len(select.expressions) + 1), new)
    select.set("expressions", select.expressions)


def turned_columns(tree: exp.Query, _: Database, draw: random.Random) -> None:
    outputs = outer(tree).expressions
    if len(outputs) < 2:
        raise NotHere
    tree.set("expressions", [*outputs[1:], outputs[0]])


def set_kind(tree: exp.Query, _: Database, draw: random.Random) -> None:
    node = pick(draw, tree.find_all(exp.SetOperation))
    kind = draw.choice(
        [k for k in (exp.Union, exp.Intersect, exp.Except) if not isinstance(node, k)]
    )
    new = kind(this=node.this.copy(), expression=node.expression.copy(), distinct=True)
    for name in ("order", "limit"):
        new.set(name, node.args.get(name))
    if node is tree:
        raise Replaced(new)
    node.replace(new)


def set_side(tree: exp.Query, _: Database, draw: random.Random) -> None:
    node = pick(draw, tree.find_all(exp.SetOperation))
    if node is tree:
        raise Replaced(draw.choice([node.this, node.expression]).copy())
    node.replace(node.this.copy())


class Replaced(Exception):
    """The whole query is another."""


def join_condition(tree: exp.Query, database: Database, draw: random.Random) -> None:
    on = pick(draw, [j.args["on"] for j in tree.find_all(exp.Join) if j.args.get("on")])
    other_column(pick(draw, on.find_all(exp.Column)), database, draw)


def join_dropped(tree: exp.Query, _: Database, draw: random.Random) -> None:
    choices = []
    for join in tree.find_all(exp.Join):
        select = join.parent
        name = join.this.alias_or_name.lower()
        used = [
            c
            for c in select.find_all(exp.Column)
            if c.table.lower() == name and c.find_ancestor(exp.Join) is not join
        ]
        if not used and len(select.args["joins"]) > 1:
            choices.append(join)
    pick(draw, choices).pop()


def join_free(tree: exp.Query, _: Database, draw: random.Random) -> None:
    """A join without its condition."""
    join = pick(draw, [j for j in tree.find_all(exp.Join) if j.args.get("on")])
    join.set("on", None)
    join.set("kind", "CROSS")


def join_left(tree: exp.Query, _: Database, draw: random.Random) -> None:
    join = pick(draw, [j for j in tree.find_all(exp.Join) if j.args.get("on") and not j.side])
    join.set("side", "LEFT")


def table(tree: exp.Query, database: Database, draw: random.Random) -> None:
    """Another table that has the columns the query uses."""
    select = outer(tree)
    source = source_of(select)
    if select.args.get("joins") or not isinstance(source, exp.Table):
        raise NotHere
    names = {
        c.name.lower() for c in select.find_all(exp.Column) if not isinstance(c.this, exp.Star)
    }
    fits = [
        t
        for t in database.tables
        if t.name.lower() != source.name.lower() and all(t.find(name) for name in names)
    ]
    source.set("this", exp.to_identifier(pick(draw, fits).name, quoted=True))


def nesting(tree: exp.Query, _: Database, draw: random.Random) -> None:
    """The condition that holds a query inside is left away."""
    where = outer(tree).args.get("where")
    if where is None or where.find(exp.Query) is None:
        raise NotHere
    if isinstance(where.this, exp.And):
        keep = [s for s in (where.this.left, where.this.right) if s.find(exp.Query) is None]
        where.set("this", pick(draw, keep).copy())
    else:
        where.pop()


# What is changed, and the class it should be named by.
EDITS: tuple[tuple[str, str, Edit], ...] = (
    ("value", "value", value),
    ("result column", "column", column),
    ("column of a condition", "column", condition_column),
    ("operator", "condition", operator),
    ("condition left away", "condition", condition),
    ("AND for OR, OR for AND", "condition", connector),
    ("function", "aggregate", aggregate),
    ("sum for count(*)", "aggregate", count_column),
    ("grouping", "grouping", grouping),
    ("order", "order", order),
    ("limit", "limit", limit),
    ("DISTINCT", "distinct", distinct),
    ("count(DISTINCT)", "distinct", count_distinct),
    ("column left away", "missing columns", missing_column),
    ("column added", "extra columns", extra_column),
    ("columns turned", "order of columns", turned_columns),
    ("set operation", "set operation", set_kind),
    ("one side of a set operation", "set operation", set_side),
    ("column of a join", "join", join_condition),
    ("join left away", "join", join_dropped),
    ("join without condition", "join", join_free),
    ("LEFT JOIN", "join", join_left),
    ("table", "table", table),
    ("inner query left away", "nesting", nesting),
)

BROKEN = (
    ("SELECT misspelt", "syntax error", lambda sql, d: "SELEC" + sql[6:]),
    ("bracket opened", "syntax error", lambda sql, d: sql + " and ("),
    ("unknown table", "no such table", lambda sql, d: f"select * from nowhere where 1 in ({sql})"),
    (
        "unknown column",
        "no such column",
        lambda sql, d: f"select nothing_ from ({sql})",
    ),
    (
        "unknown function",
        "no such function",
        lambda sql, d: f"select year(1) from ({sql})",
    ),
    (
        "aggregate in WHERE",
        "misplaced aggregate",
        lambda sql, d: f"select 1 from ({sql}) where max(1) > 0",
    ),
    ("write", "not allowed", lambda sql, d: f"delete from {d.tables[0].name}"),
    ("nothing", "no SQL", lambda sql, d: " "),
)


def written_otherwise(tree: exp.Query, draw: random.Random) -> str:
    """The same meaning in other words."""
    tree = tree.copy()
    for node in list(tree.find_all(exp.Between)):
        node.replace(
            exp.Paren(
                this=exp.And(
                    this=exp.LTE(this=node.args["low"].copy(), expression=node.this.copy()),
                    expression=exp.LTE(this=node.this.copy(), expression=node.args["high"].copy()),
                )
            )
        )
    for node in list(tree.find_all(exp.And, exp.Or)):
        left, right = node.this, node.expression
        node.set("this", right)
        node.set("expression", left)
    for node in list(tree.find_all(exp.GT)):
        node.replace(exp.LT(this=node.expression.copy(), expression=node.this.copy()))
    for node in list(tree.find_all(exp.EQ)):
        node.replace(exp.EQ(this=node.expression.copy(), expression=node.this.copy()))
    for select in list(tree.find_all(exp.Select)):
        joins = select.args.get("joins") or []
        tables = [select.args["from_"].this, *(j.this for j in joins)] if joins else []
        if (
            not tables
            or any(j.side for j in joins)
            or not all(
                isinstance(t, exp.Table) and isinstance(t.this, exp.Identifier) for t in tables
            )
        ):
            continue
        conditions = [j.args["on"] for j in joins if j.args.get("on")]
        where = select.args.get("where")
        conditions += [where.this] if where else []
        draw.shuffle(tables)
        select.set("from_", exp.From(this=tables[0]))
        select.set("joins", [exp.Join(this=t) for t in tables[1:]])
        if conditions:
            select.set("where", exp.Where(this=exp.and_(*conditions)))
    return print_sql(tree)


def changed(
    golds: list[tuple[Database, str]], otherwise: bool
) -> list[tuple[str, str, Database, str, str]]:
    """(change, class, database, gold, answer)."""
    found = []
    for number, (database, gold) in enumerate(golds):
        try:
            tree = styled(gold, database).tree
            print_sql(tree)
        except UNREADABLE:
            continue
        for name, kind, edit in EDITS:
            draw = random.Random(f"{number} {name}")
            copy = tree.copy()
            try:
                edit(copy, database, draw)
            except NotHere:
                continue
            except Replaced as replaced:
                copy = replaced.args[0]
            try:
                sql = written_otherwise(copy, draw) if otherwise else print_sql(copy)
            except (*UNREADABLE, AttributeError):
                continue
            found.append((name, kind, database, gold, sql))
        if not otherwise:
            draw = random.Random(number)
            name, kind, broken = BROKEN[number % len(BROKEN)]
            found.append((name, kind, database, gold, broken(print_sql(tree), database)))
    return found


def measure(
    cases: list[tuple[str, str, Database, str, str]], executor: Executor
) -> tuple[dict[str, Any], list[Scored]]:
    """Classes named for the changes that give another result."""
    judged = executor.verify([(db.path, gold, [sql]) for _, _, db, gold, sql in cases])
    scored, made = [], []
    broken = {name for name, _, _ in BROKEN}
    for (name, kind, db, gold, sql), (one,) in zip(cases, judged, strict=True):
        ran = one.candidate.ran
        if one.verdict is not Verdict.WRONG or (ran == (name in broken)):
            continue
        scored.append(
            Scored(
                str(len(scored)),
                db.id,
                "",
                gold,
                sql,
                status=one.candidate.status.name.lower(),
                message=one.candidate.message,
                scores={"bag": 0.0},
            )
        )
        made.append((name, kind))
    databases = {db.id: db.path for _, _, db, _, _ in cases}
    start = time.perf_counter()
    explained = find_mistakes(scored, databases, executor)
    seconds = time.perf_counter() - start
    first: dict[str, Counter[str]] = defaultdict(Counter)
    named: Counter[str] = Counter()
    classes: Counter[str] = Counter()
    for (name, kind), one in zip(made, explained, strict=True):
        first[name][one.mistakes[0]] += 1
        named[name] += kind in one.mistakes
        classes[name] += len(one.mistakes)
    kinds = {name: kind for name, kind in made}
    rows = {
        name: {
            "class": kind,
            "answers": (total := sum(first[name].values())),
            "first": round(first[name][kind] / total, 4),
            "named": round(named[name] / total, 4),
            "classes per answer": round(classes[name] / total, 2),
            "instead": dict((first[name] - Counter({kind: total})).most_common(4)),
        }
        for name, kind in kinds.items()
    }
    right = sum(first[name][kind] for name, kind in kinds.items())
    return {
        "answers": len(scored),
        "first": round(right / len(scored), 4),
        "named": round(sum(named.values()) / len(scored), 4),
        "classes per answer": round(sum(classes.values()) / len(scored), 3),
        "seconds per 1,000 answers": round(1000 * seconds / len(scored), 2),
        "by change": rows,
    }, explained


def false_alarms(golds: list[tuple[Database, str]]) -> dict[str, Any]:
    """Golds against themselves, written otherwise: how often a difference is seen."""
    asked, seen = 0, Counter[str]()
    for number, (database, gold) in enumerate(golds):
        try:
            sql = written_otherwise(styled(gold, database).tree, random.Random(number))
            reading = read(gold, sql, database)
        except (*UNREADABLE, AttributeError):
            continue
        asked += 1
        for name, _ in reading.found if reading is not None else [("not read", "")]:
            seen[name] += 1
    return {"golds": asked, "differences": dict(seen)}


def two_changes(golds: list[tuple[Database, str]], executor: Executor) -> dict[str, Any]:
    """Golds with two changes of different classes that both matter: are both named?"""
    tried = []
    for number, (database, gold) in enumerate(golds):
        draw = random.Random(f"two {number}")
        try:
            tree = styled(gold, database).tree
        except UNREADABLE:
            continue
        edits = [edit for edit in EDITS if edit[1] not in ("set operation", "nesting")]
        first, second = draw.sample(edits, 2)
        alone, other, both = tree.copy(), tree.copy(), tree.copy()
        try:
            first[2](alone, database, random.Random(number))
            second[2](other, database, random.Random(number))
            first[2](both, database, random.Random(number))
            second[2](both, database, random.Random(number))
            texts = [print_sql(one) for one in (alone, other, both)]
        except (NotHere, Replaced, AttributeError, *UNREADABLE):
            continue
        if first[1] != second[1]:
            tried.append((database, gold, texts, {first[1], second[1]}))
    judged = executor.verify([(db.path, gold, texts) for db, gold, texts, _ in tried])
    scored, made = [], []
    for (db, gold, texts, kinds), verdicts in zip(tried, judged, strict=True):
        if all(v.verdict is Verdict.WRONG and v.candidate.ran for v in verdicts):
            scored.append(
                Scored(str(len(made)), db.id, "", gold, texts[2], status="ok", scores={"bag": 0.0})
            )
            made.append(kinds)
    files = {db.id: db.path for db, _, _, _ in tried}
    named = [set(one.mistakes) for one in find_mistakes(scored, files, executor)]
    first_named = [one.mistakes[0] for one in find_mistakes(scored, files, executor)]
    pairs = list(zip(made, named, strict=True))
    return {
        "answers": len(made),
        "both named": round(sum(k <= n for k, n in pairs) / max(1, len(made)), 4),
        "one named": round(sum(bool(k & n) for k, n in pairs) / max(1, len(made)), 4),
        "first is one of them": round(
            sum(f in k for f, k in zip(first_named, made, strict=True)) / max(1, len(made)), 4
        ),
        "something else named": round(sum(bool(n - k) for k, n in pairs) / max(1, len(made)), 4),
        "missed": dict(Counter(kind for k, n in pairs for kind in k - n).most_common(6)),
    }


def read_golds(folder: Path, path: Path) -> list[tuple[Database, str]]:
    """(database, gold) of every question whose database is there."""
    catalogue = Catalogue.open(folder)
    records = json.loads(path.read_text())
    return [
        (catalogue[r["db_id"]], r.get("query") or r["SQL"])
        for r in records
        if r["db_id"] in catalogue
    ]


def measure_all(
    golds: list[tuple[Database, str]], executor: Executor, show: str | None
) -> dict[str, Any]:
    """Everything that is measured of one benchmark."""
    cases = changed(golds, False)
    plain, explained = measure(cases, executor)
    otherwise, _ = measure(changed(golds, True), executor)
    if show:
        by_text = {(gold, sql): (name, kind) for name, kind, _, gold, sql in cases}
        for one in explained:
            name, kind = by_text[one.gold, one.sql]
            if name == show and one.mistakes[0] != kind:
                print(one.mistakes, one.database, one.gold, one.sql, sep="\n  ")
    return {
        "golds": len(golds),
        "one change": plain,
        "one change, written otherwise": otherwise,
        "no change, written otherwise": false_alarms(golds),
        "two changes": two_changes(golds, executor),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--databases", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument(
        "--also", nargs=2, type=Path, action="append", default=[], metavar=("DIR", "FILE")
    )
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--show", help="print answers of this change that were named otherwise")
    parser.add_argument("--output", type=Path, default=Path("bench/results/mistakes.json"))
    args = parser.parse_args()
    report = {
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {
            "python": platform.python_version(),
            "sqlglot": sqlglot.__version__,
            "apsw": apsw.apsw_version(),
        },
    }
    with Executor(threads=args.threads) as executor:
        golds = read_golds(args.databases, args.pairs)
        report |= measure_all(golds, executor, args.show)
        for folder, path in args.also:
            report[str(path)] = measure_all(read_golds(folder, path), executor, None)
    print(json.dumps(report, indent=2, ensure_ascii=False))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
