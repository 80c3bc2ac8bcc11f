"""Times the reading of schemas, and counts how well keys and kinds nobody states are found.

    python bench/catalogue.py --databases DIR [--output FILE]

Four parts: a folder of databases read anew, read anew into a cache, and from the cache; large
databases made for the purpose (a million rows, 500 columns, values of 100 MB) the same way, with
peak memory; foreign keys that the files and `tables.json` state, hidden and proposed again from
names and values; the kinds of columns against the `column_types` of `tables.json`, and the columns
that look personal or secret.
"""

import argparse
import datetime
import json
import os
import platform
import shlex
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw

from spftcore.catalogue.cache import SETTLED
from spftcore.catalogue.descriptions import read_tables_json
from spftcore.catalogue.proposals import propose_keys
from spftcore.databases import Catalogue, Database, ForeignKey, connect

# What Spider calls the kinds; it knows no dates but "time" and puts flags under "others".
OFFICIAL = {"number": "number", "text": "text", "time": "date", "boolean": "boolean"}

ALONE = """
import re, sys, time
from pathlib import Path
from spftcore.databases import Catalogue

def peak():  # not getrusage: that of a child begins with its parent's
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1))

before, start = peak(), time.perf_counter()
Catalogue.open(sys.argv[1], cache=sys.argv[2] or None)
print(time.perf_counter() - start, peak() - before)
"""


def spread(runs: list[float]) -> dict[str, float]:
    """Median, least and most of some seconds."""
    return {
        "median": round(statistics.median(runs), 4),
        "least": round(min(runs), 4),
        "most": round(max(runs), 4),
    }


def seconds(work: Callable[[], object], repeats: int = 5) -> dict[str, float]:
    """Seconds of some work, done a few times."""
    runs = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        runs.append(time.perf_counter() - start)
    return spread(runs)


def measure_folder(folder: Path) -> dict[str, Any]:
    """A folder read anew, into a cache, and from it."""
    with tempfile.TemporaryDirectory() as kept:
        storing = seconds(lambda: Catalogue.open(folder, cache=Path(kept) / str(time.time_ns())))
        cache = Path(kept) / "cache"
        catalogue = Catalogue.open(folder, cache=cache)
        return {
            "databases": len(catalogue),
            "columns": sum(len(t.columns) for d in catalogue.values() for t in d.tables),
            "seconds, anew": seconds(lambda: Catalogue.open(folder)),
            "seconds, anew without proposed keys": seconds(
                lambda: Catalogue.open(folder, propose_keys=False)
            ),
            "seconds, anew into a cache": storing,
            "seconds, from the cache": seconds(lambda: Catalogue.open(folder, cache=cache)),
            "KiB of the cache": sum(p.stat().st_size for p in cache.iterdir()) // 1024,
        }


def make_million(connection: sqlite3.Connection) -> None:
    """A million orders of 100,000 customers, with the foreign key undeclared."""
    connection.executescript(
        """create table customer (id integer primary key, name text, city text);
        with recursive n(i) as (select 0 union all select i + 1 from n where i < 99999)
          insert into customer select i, 'name ' || i, 'city ' || i % 1000 from n;
        create table orders (id integer primary key, customer_id int, paid real, note text);
        with recursive n(i) as (select 0 union all select i + 1 from n where i < 999999)
          insert into orders
          select i, i * 7919 % 100000, i * 0.5, printf('%.*c', 60, 'x') from n;"""
    )


def make_wide(connection: sqlite3.Connection) -> None:
    """500 columns, 10,000 rows."""
    connection.execute(f"create table wide ({', '.join(f'c{i}' for i in range(500))})")
    rows = ([r * i % 97 for i in range(500)] for r in range(10_000))
    connection.executemany(f"insert into wide values ({', '.join('?' * 500)})", rows)


def make_huge(connection: sqlite3.Connection) -> None:
    """A text and a blob of 100 MB each."""
    connection.executescript(
        """create table huge (body text, raw, after text);
        insert into huge values (printf('%.*c', 100000000, 'a'), zeroblob(100000000), 'x');"""
    )


LARGE = {
    "1,100,000 rows": make_million,
    "500 columns, 10,000 rows": make_wide,
    "two values of 100 MB": make_huge,
}


def measure_large() -> dict[str, Any]:
    """Each large database in a process of its own: anew, and from the cache."""
    report: dict[str, Any] = {}
    for name, fill in LARGE.items():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "databases"
            folder.mkdir()
            with closing(sqlite3.connect(folder / "large.db")) as connection, connection:
                fill(connection)
            time.sleep(SETTLED + 0.5)  # a file just written is hashed each time
            cache = str(Path(place) / "cache")
            anew = [alone(folder, "") for _ in range(3)]
            alone(folder, cache)
            again = [alone(folder, cache) for _ in range(3)]
            report[name] = {
                "MiB": (folder / "large.db").stat().st_size >> 20,
                "seconds, anew": spread([taken for taken, _ in anew]),
                "seconds, from the cache": spread([taken for taken, _ in again]),
                "MiB of memory while reading anew": max(grown for _, grown in anew),
            }
    return report


def alone(folder: Path, cache: str) -> tuple[float, int]:
    """(seconds, MiB by which the peak of memory grew) of reading a folder in a fresh process."""
    command = [sys.executable, "-c", ALONE, str(folder), cache]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    taken, grown = done.stdout.split()
    return float(taken), int(grown) >> 10


def link(key: ForeignKey) -> frozenset[tuple[str, str]]:
    """Both ends without direction."""
    return frozenset({(key.table, key.column), (key.ref_table, key.ref_column)})


def measure_keys(folder: Path) -> dict[str, Any]:
    """Proposals where all stated keys are hidden, and where they are not."""
    found = right = stated = 0
    wrong: list[str] = []
    missed: list[str] = []
    for database in Catalogue.open(folder, propose_keys=False).values():
        true = {link(key): key for key in database.foreign_keys if key.table != key.ref_table}
        bare = Database(database.id, database.path, database.tables)
        with closing(connect(database.path)) as connection:
            keys = {link(key): key for key in propose_keys(connection, bare, [])}
        stated, found = stated + len(true), found + len(keys)
        right += len(keys.keys() & true.keys())
        wrong += [text(database, key) for end, key in keys.items() if end not in true]
        missed += [text(database, key) for end, key in true.items() if end not in keys]
    added = [
        text(database, key)
        for database in Catalogue.open(folder).values()
        for key in database.foreign_keys
        if key.origin == "proposed"
    ]
    return {
        "stated keys hidden": stated,
        "proposed": found,
        "of these stated": right,
        "precision": round(right / found, 4),
        "recall": round(right / stated, 4),
        "proposed but not stated": wrong,
        "stated but not proposed": missed,
        "proposed beside the stated keys": added,
    }


def text(database: Database, key: ForeignKey) -> str:
    return f"{database.id}: {key.table}.{key.column} -> {key.ref_table}.{key.ref_column}"


def measure_columns(folder: Path) -> dict[str, Any]:
    """Kinds against `column_types`, and the sensitive columns."""
    catalogue = Catalogue.open(folder)
    agree: Counter[str] = Counter()
    for name, record in read_tables_json(folder, None).items():
        if name not in catalogue:
            continue
        tables = record["table_names_original"]
        for (number, column), official in zip(
            record["column_names_original"], record["column_types"], strict=True
        ):
            table = catalogue[name].find(tables[number]) if number >= 0 else None
            known = table.find(column) if table is not None else None
            if known is not None and known.examples:
                same = OFFICIAL.get(official) == known.kind
                agree["same" if same else f"{official} is {known.kind} here"] += 1
    columns = [(d.id, t.name, c) for d in catalogue.values() for t in d.tables for c in t.columns]
    return {
        "kinds against tables.json": dict(agree.most_common()),
        "numbers that sort as texts": sum(c.sorts_as_text for _, _, c in columns),
        "sensitive": [f"{d}: {t}.{c.name}" for d, t, c in columns if c.sensitive],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--databases", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("bench/results/catalogue.json"))
    args = parser.parse_args()
    report = {
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), "apsw": apsw.apsw_version()},
        "folder": measure_folder(args.databases),
        "large": measure_large(),
        "keys": measure_keys(args.databases),
        "columns": measure_columns(args.databases),
    }
    print(json.dumps(report, indent=2, ensure_ascii=False))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
