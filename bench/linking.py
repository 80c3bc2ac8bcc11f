"""Linking: index build, look-up time, recall of values and of the schema filter, prompt length.

    python bench/linking.py --spider SPIDER [--bird BIRD] [--output bench/results/linking.json]
    python bench/linking.py --spider SPIDER --fit          # writes spftcore/linking/weights.py:
    python bench/linking.py --spider SPIDER --fit-schema   # of values, then of the schema

SPIDER holds `database/`, `train_spider.json` and `dev.json`; BIRD holds `dev_databases/` and
`dev.json`. Weights are fitted on train alone; dev is only reported on.

What counts: a text literal that a gold query compares with a column, if the column holds it (in
any case; of a LIKE pattern the text between the wildcards, if a value contains it). It is found if
it is among the values proposed: equal in any case, or of a LIKE pattern contained in a value.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import resource
import shlex
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import numpy as np
from scipy.optimize import minimize
from sqlglot import exp

from spftcore.config import PromptConfig
from spftcore.databases import Catalogue, Database, connect, quote_identifier
from spftcore.linking import ValueIndex, ValueMatch, schema, weights
from spftcore.linking.features import FEATURES
from spftcore.linking.golds import needed
from spftcore.prompts import PromptRenderer
from spftcore.synthesis.resolve import ResolveError, resolve

COMPARISONS = (exp.EQ, exp.NEQ, exp.In, exp.Like, exp.Between, exp.GT, exp.GTE, exp.LT, exp.LTE)
SYNTHETIC = 1_000_000
SHARES = (("4 tables x 6 columns", 4, 6), ("3 tables x 5 columns", 3, 5))


@dataclass(frozen=True)
class Question:
    database: Database
    question: str
    evidence: str
    sql: str


@dataclass(frozen=True)
class Literal:
    """A literal of a gold and the column it is compared with."""

    table: str
    column: str
    text: str
    like: bool
    is_text: bool

    def is_met_by(self, match: ValueMatch) -> bool:
        value = str(match.value).lower()
        return self.text in value if self.like else self.text == value

    def has_column(self, match: ValueMatch) -> bool:
        return (self.table, self.column) == (match.table, match.column)


def read(path: Path, catalogue: Catalogue) -> list[Question]:
    """The pairs of a file whose database is there and whose gold can be read against it."""
    found = []
    for record in json.loads(path.read_text()):
        sql = record.get("query") or record.get("SQL")
        if record["db_id"] not in catalogue:
            continue
        database = catalogue[record["db_id"]]
        try:
            resolve(sql, database)
        except ResolveError:
            continue
        evidence = record.get("evidence", "")
        found.append(Question(database, record["question"], evidence, sql))
    return found


def literals(question: Question) -> Iterator[Literal]:
    """The literals that a gold compares with a column."""
    resolved = resolve(question.sql, question.database)
    bases = {id(use.node): use.base for scope in resolved.scopes for use in scope.uses}
    for node in resolved.tree.find_all(exp.Literal):
        parent = node.parent
        while isinstance(parent, exp.Paren | exp.Lower | exp.Upper | exp.Not):
            parent = parent.parent
        if not isinstance(parent, COMPARISONS):
            continue
        for column in parent.find_all(exp.Column):
            base = bases.get(id(column))
            if base is not None:
                like = isinstance(parent, exp.Like)
                text = node.this.strip("%") if like else node.this
                yield Literal(base[0].name, base[1].name, text.lower(), like, node.is_string)
                break


def in_data(literal: Literal, database: Database) -> bool:
    """Whether the literal's column holds it."""
    column, table = quote_identifier(literal.column), quote_identifier(literal.table)
    test = "instr(lower(v), ?)" if literal.like else "lower(v) = ?"
    with connect(database.path) as connection:
        connection.create_scalar_function("lower", lambda v: str(v).lower(), 1)
        query = f"select 1 from (select {column} as v from {table}) where {test} limit 1"
        return connection.execute(query, (literal.text,)).fetchone() is not None


class Indexes:
    """One index per database, all in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.open: dict[str, ValueIndex] = {}

    def __getitem__(self, database: Database) -> ValueIndex:
        if database.id not in self.open:
            self.open[database.id] = ValueIndex(database, self.folder)
        return self.open[database.id]


# -- measures -----------------------------------------------------------------------------------


def measure_build(catalogue: Catalogue, folder: Path) -> tuple[Indexes, dict[str, Any]]:
    indexes = Indexes(folder)
    start = time.perf_counter()
    for database in catalogue.values():
        indexes[database]
    seconds = time.perf_counter() - start
    files = list(folder.rglob("*.sqlite"))
    start = time.perf_counter()
    again = Indexes(folder)
    for database in catalogue.values():
        again[database]
    return indexes, {
        "databases": len(catalogue),
        "seconds": round(seconds, 2),
        "seconds when cached": round(time.perf_counter() - start, 2),
        "MB": round(sum(file.stat().st_size for file in files) / 1e6, 1),
    }


def measure_look_up(index: ValueIndex, questions: list[str]) -> dict[str, Any]:
    """Milliseconds of one look-up, each question once."""
    for question in questions[:5]:
        index.link(question)
    times = []
    for question in questions:
        start = time.perf_counter()
        index.link(question)
        times.append(1000 * (time.perf_counter() - start))
    parts = statistics.quantiles(times, n=100)
    return {
        "questions": len(times),
        "p50 ms": round(statistics.median(times), 2),
        "p95 ms": round(parts[94], 2),
        "max ms": round(max(times), 2),
    }


def measure_synthetic(folder: Path) -> dict[str, Any]:
    """One column of a million distinct texts: names of two of 30,000 words, and a number."""
    rng = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["".join(rng.choices(letters, k=rng.randint(4, 9))) for _ in range(30_000)]
    names = [
        f"{rng.choice(vocabulary).title()} {rng.choice(vocabulary).title()} {n}"
        for n in range(SYNTHETIC)
    ]
    (folder / "data").mkdir()
    connection = sqlite3.connect(folder / "data" / "big.sqlite")
    connection.execute("create table person (id integer primary key, name text)")
    connection.executemany("insert into person (name) values (?)", ((name,) for name in names))
    connection.commit()
    connection.close()
    database = Catalogue.open(folder / "data")["big"]
    start = time.perf_counter()
    index = ValueIndex(database, folder)
    seconds = time.perf_counter() - start
    sample = rng.sample(names, 1000)
    asked = [
        f"What is the id of the person named {name if n % 2 else name.rsplit(' ', 1)[0]}?"
        for n, name in enumerate(sample)
    ]
    result = measure_look_up(index, asked)
    whole = [name for n, name in enumerate(sample) if n % 2]
    hits = sum(
        any(m.value == name for m in index.link(f"Who is {name}, and which id?")) for name in whole
    )
    size = next((folder / "values").glob("big-*.sqlite")).stat().st_size
    return {
        "texts": SYNTHETIC,
        "build seconds": round(seconds, 1),
        "MB": round(size / 1e6),
        **result,
        "whole names found": round(hits / len(whole), 4),
        "peak memory of the process, MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        // 1024,
    }


def measure_values(questions: list[Question], indexes: Indexes, evidence: bool) -> dict[str, Any]:
    """Recall of text literals among the first five proposed values."""
    counts = {kind: [0, 0, 0] for kind in ("equal", "like", "of sensitive columns")}
    for question in questions:
        wanted = [x for x in literals(question) if x.is_text and in_data(x, question.database)]
        if not wanted:
            continue
        hint = question.evidence if evidence else ""
        proposed = indexes[question.database].link(question.question, 5, hint)
        for literal in wanted:
            met = [match for match in proposed if literal.is_met_by(match)]
            kind = "like" if literal.like else "equal"
            if question.database.column(literal.table, literal.column).sensitive:
                kind = "of sensitive columns"  # never proposed
            count = counts[kind]
            count[0] += 1
            count[1] += bool(met)
            count[2] += any(literal.has_column(match) for match in met)
    total = [sum(column) for column in zip(*counts.values(), strict=True)]
    linked = [sum(column) for column in zip(counts["equal"], counts["like"], strict=True)]
    return {
        kind: {
            "literals": n,
            "value in the top 5": round(value / max(1, n), 4),
            "value with its column": round(column / max(1, n), 4),
        }
        for kind, (n, value, column) in {
            "all": total,
            "all but sensitive columns": linked,
            **counts,
        }.items()
    }


def measure_schema(questions: list[Question], indexes: Indexes) -> dict[str, Any]:
    """Share of questions of which all gold tables, and all gold columns, are kept."""
    report: dict[str, Any] = {"questions": len(questions)}
    for name, tables, columns in SHARES:
        all_tables = all_columns = shown_tables = shown_columns = 0
        for item in questions:
            need = needed(item.sql, item.database)
            values = indexes[item.database].link(item.question, 8, item.evidence)
            view = schema.filter_schema(
                item.database,
                f"{item.question} ; {item.evidence}" if item.evidence else item.question,
                tables=tables,
                columns=columns,
                values=values,
            )
            kept_tables = {part.table.name.lower() for part in view.tables}
            kept = {(p.table.name.lower(), c.name.lower()) for p in view.tables for c in p.columns}
            all_tables += need.tables <= kept_tables
            all_columns += need.columns <= kept and need.tables <= kept_tables
            shown_tables += len(kept_tables)
            shown_columns += len(kept)
        n = len(questions)
        report[name] = {
            "all tables kept, percent": round(100 * all_tables / n, 2),
            "all columns kept, percent": round(100 * all_columns / n, 2),
            "tables shown": round(shown_tables / n, 2),
            "columns shown": round(shown_columns / n, 2),
        }
    sizes = [
        (len(q.database.tables), sum(len(t.columns) for t in q.database.tables)) for q in questions
    ]
    report["whole schema"] = {
        "tables": round(statistics.mean(t for t, _ in sizes), 2),
        "columns": round(statistics.mean(c for _, c in sizes), 2),
    }
    return report


def measure_prompts(
    questions: list[Question], catalogue: Catalogue, folder: Path
) -> dict[str, Any]:
    """Mean prompt length in characters / 4, about the tokens of a large vocabulary."""
    report: dict[str, Any] = {}
    for style in ("ddl", "compact"):
        for name, tables, columns in (*SHARES, ("6 x 10, the default", 6, 10), ("whole", 0, 0)):
            config = PromptConfig.model_validate(
                {"style": style, "tables": tables, "columns": columns}
            )
            renderer = PromptRenderer(config, catalogue, cache=folder)
            start = time.perf_counter()
            lengths = [
                len(renderer.text_to_sql(q.question, q.database.id, q.evidence)) / 4
                for q in questions
            ]
            seconds = time.perf_counter() - start
            report[f"{style}, {name}"] = {
                "mean": round(statistics.mean(lengths)),
                "longest": round(max(lengths)),
                "ms per prompt": round(1000 * seconds / len(questions), 2),
            }
    return report


# -- fitting ------------------------------------------------------------------------------------


def fit(rows: list[tuple[float, ...]], labels: list[bool]) -> tuple[float, list[float]]:
    """(bias, weights) of a logistic regression with a slight L2 penalty."""
    x, y = np.array(rows), np.array(labels, dtype=float)

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        z = x @ w[:-1] + w[-1]
        error = 1 / (1 + np.exp(-np.clip(z, -50, 50))) - y
        gradient = np.append(x.T @ error / len(y) + 2e-5 * w[:-1], error.mean())
        return np.mean(np.logaddexp(0, z) - y * z) + 1e-5 * np.sum(w[:-1] ** 2), gradient

    start = np.zeros(x.shape[1] + 1)
    result = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 3000})
    return round(result.x[-1], 3), [round(float(w), 3) for w in result.x[:-1]]


def fit_values(questions: list[Question], indexes: Indexes) -> None:
    """Fits the weights of value candidates on those of all questions, and writes them."""
    rows: list[tuple[float, ...]] = []
    labels: list[bool] = []
    for item in questions:
        wanted = list(literals(item))
        index = indexes[item.database]
        for candidate in index.candidates(item.question):
            match = index.match(candidate.entry)
            rows.append(candidate.features)
            labels.append(any(x.is_met_by(match) and x.has_column(match) for x in wanted))
    value_bias, value = fit(rows, labels)
    write_weights([("VALUE", value_bias, dict(zip(FEATURES, value, strict=True)))])


def fit_schema(questions: list[Question], indexes: Indexes) -> None:
    """Fits the weights of tables, then with them those of columns, and writes them."""
    linked = [indexes[item.database].link(item.question, 8) for item in questions]
    needs = [needed(item.sql, item.database) for item in questions]
    rows: list[tuple[float, ...]] = []
    labels: list[bool] = []
    for item, values, need in zip(questions, linked, needs, strict=True):
        tables = schema.features(item.database, item.question, values)[0]
        rows += tables
        labels += [table.name.lower() in need.tables for table in item.database.tables]
    table_bias, table = fit(rows, labels)
    schema.TABLE_BIAS, schema._TABLE = table_bias, table
    rows, labels = [], []
    for item, values, need in zip(questions, linked, needs, strict=True):
        columns = schema.features(item.database, item.question, values)[1]
        for part, features in zip(item.database.tables, columns, strict=True):
            if part.name.lower() in need.tables:
                rows += features
                labels += [
                    (part.name.lower(), column.name.lower()) in need.columns
                    for column in part.columns
                ]
    column_bias, column = fit(rows, labels)
    write_weights(
        [
            ("TABLE", table_bias, dict(zip(schema.TABLE_FEATURES, table, strict=True))),
            ("COLUMN", column_bias, dict(zip(schema.COLUMN_FEATURES, column, strict=True))),
        ]
    )


def write_weights(sections: list[tuple[str, float, dict[str, float]]]) -> None:
    """Rewrites the weights' file with these sections in place of the old ones."""
    new = {name: (bias, values) for name, bias, values in sections}
    assert weights.__file__ is not None
    text = f'"""{weights.__doc__}"""\n\n'
    note = "each further value of one span of the question counts so much less"
    text += f"SAME_SPAN = {weights.SAME_SPAN}  # {note}\n"
    for name in ("VALUE", "TABLE", "COLUMN"):
        old = getattr(weights, f"{name}_BIAS"), getattr(weights, f"{name}_WEIGHTS")
        bias, values = new.get(name, old)
        lines = "".join(f'    "{key}": {value},\n' for key, value in values.items())
        text += f"\n{name}_BIAS = {bias}\n{name}_WEIGHTS = {{\n{lines}}}\n"
    Path(weights.__file__).write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spider", type=Path, required=True)
    parser.add_argument("--bird", type=Path)
    parser.add_argument("--fit", action="store_true", help="fit the weights of values")
    parser.add_argument("--fit-schema", action="store_true", help="fit the schema's weights")
    parser.add_argument("--train", action="store_true", help="report recall on train as well")
    parser.add_argument("--no-synthetic", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("bench/results/linking.json"))
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        catalogue = Catalogue.open(args.spider / "database")
        indexes, built = measure_build(catalogue, folder)
        if args.fit or args.fit_schema:
            train = read(args.spider / "train_spider.json", catalogue)
            (fit_values if args.fit else fit_schema)(train, indexes)
            return
        report = {
            "command": shlex.join(["python", *sys.argv]),
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "versions": {"python": platform.python_version(), "apsw": apsw.apsw_version()},
            "build": built,
        }
        train = read(args.spider / "train_spider.json", catalogue)
        dev = read(args.spider / "dev.json", catalogue)
        report["look-up"] = measure_look_ups(train, dev, indexes)
        report["values, dev"] = measure_values(dev, indexes, False)
        report["schema, dev"] = measure_schema(dev, indexes)
        report["prompt, characters / 4"] = measure_prompts(dev, catalogue, folder)
        if args.train:
            report["values, train"] = measure_values(train, indexes, False)
            report["schema, train"] = measure_schema(train, indexes)
        if args.bird:
            bird = Catalogue.open(args.bird / "dev_databases")
            hinted = read(args.bird / "dev.json", bird)
            report["BIRD superhero"] = {
                "questions": len(hinted),
                "values, evidence read": measure_values(hinted, indexes, True),
                "values, evidence not read": measure_values(hinted, indexes, False),
                "schema": measure_schema(hinted, indexes),
            }
        if not args.no_synthetic:
            with tempfile.TemporaryDirectory() as big:
                report["a million texts"] = measure_synthetic(Path(big))
    print(json.dumps(report, indent=2, ensure_ascii=False))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def measure_look_ups(
    train: list[Question], dev: list[Question], indexes: Indexes
) -> dict[str, Any]:
    """On the database with the most rows, with its own questions; and over all of dev."""
    largest = max(
        (item.database for item in train),
        key=lambda database: sum(table.rows for table in database.tables),
    )
    own = [item.question for item in train if item.database is largest]
    return {
        f"{largest.id}, {sum(t.rows for t in largest.tables)} rows": measure_look_up(
            indexes[largest], own
        ),
        f"{largest.id}, dev's questions": measure_look_up(
            indexes[largest], [item.question for item in dev]
        ),
    }


if __name__ == "__main__":
    main()
