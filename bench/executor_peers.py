"""What people verify SQL with today, each in its fastest sensible form, for bench/executor.py.

Each peer takes pairs and says how many candidates give their gold's rows. Databases are opened
read-only and immutable, and connections are reused except where the mechanism itself opens one for
every pair. None of them has a sandbox or a step budget.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import sqlite3
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import apsw

Item = tuple[str, str, list[str]]  # database file, gold, candidates
Run = Callable[[list[Item]], int]

_TASKS_PER_WORKER = 8  # enough that a slow chunk does not idle the other workers
_BIRD_SECONDS = 30.0  # what BIRD's evaluator grants a pair

_connections: dict[str, sqlite3.Connection] = {}  # of this process, kept from round to round


def _uri(path: str) -> str:
    return f"file:{path}?mode=ro&immutable=1"


def _connection(path: str) -> sqlite3.Connection:
    if path not in _connections:
        _connections[path] = sqlite3.connect(_uri(path), uri=True)
        _connections[path].text_factory = bytes  # no decoding: faster, and not all is UTF-8
    return _connections[path]


def python_sqlite(items: list[Item]) -> int:
    """Python's sqlite3 in one thread; rows compared as multisets."""
    right = 0
    for path, gold, candidates in items:
        connection = _connection(path)
        expected = Counter(connection.execute(gold).fetchall())
        for sql in candidates:
            right += Counter(connection.execute(sql).fetchall()) == expected
    return right


def _chunks(items: list[Item], workers: int) -> list[list[Item]]:
    """Parts of one database each, so that a worker's connections and schemas stay warm."""
    size = max(1, len(items) // (workers * _TASKS_PER_WORKER))
    by_database: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        by_database[item[0]].append(item)
    return [
        group[i : i + size] for group in by_database.values() for i in range(0, len(group), size)
    ]


class SqliteProcesses:
    """Python's sqlite3 in a pool of processes that compare for themselves and send back counts."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        context = multiprocessing.get_context("spawn")  # the parent has SQLite connections open
        self._pool = ProcessPoolExecutor(workers, mp_context=context)

    def __call__(self, items: list[Item]) -> int:
        return sum(self._pool.map(python_sqlite, _chunks(items, self._workers)))

    def close(self) -> None:
        self._pool.shutdown()


class ApswThreads:
    """apsw in threads, each with connections of its own."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._own = threading.local()
        self._pool = ThreadPoolExecutor(workers)

    def __call__(self, items: list[Item]) -> int:
        return sum(self._pool.map(self._judge, _chunks(items, self._workers)))

    def _judge(self, items: list[Item]) -> int:
        connections: dict[str, apsw.Connection] = self._own.__dict__.setdefault("open", {})
        right = 0
        for path, gold, candidates in items:
            if path not in connections:
                flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
                connections[path] = apsw.Connection(_uri(path), flags=flags)
            connection = connections[path]
            expected = Counter(connection.execute(gold).fetchall())
            for sql in candidates:
                right += Counter(connection.execute(sql).fetchall()) == expected
        return right

    def close(self) -> None:
        self._pool.shutdown()


def _bird_pair(path: str, gold: str, candidate: str) -> int:
    """One pair as BIRD's evaluator has it: a connection and a thread of its own, rows as sets."""
    from func_timeout import FunctionTimedOut, func_timeout

    def run() -> int:
        connection = sqlite3.connect(_uri(path), uri=True)
        try:
            predicted = connection.execute(candidate).fetchall()
            return int(set(predicted) == set(connection.execute(gold).fetchall()))
        finally:
            connection.close()

    try:
        return int(func_timeout(_BIRD_SECONDS, run))
    except (FunctionTimedOut, sqlite3.Error):
        return 0


class BirdMechanism:
    """func_timeout in a pool of processes, one task for each pair."""

    def __init__(self, workers: int) -> None:
        self._pool = multiprocessing.get_context("spawn").Pool(workers)

    @staticmethod
    def missing() -> str:
        """Why it cannot run; empty when it can."""
        if importlib.util.find_spec("func_timeout") is None:
            return "the package func-timeout is not installed"
        return ""

    def __call__(self, items: list[Item]) -> int:
        asked = [
            self._pool.apply_async(_bird_pair, (path, gold, sql))
            for path, gold, candidates in items
            for sql in candidates
        ]
        return sum(one.get() for one in asked)

    def close(self) -> None:
        self._pool.close()
        self._pool.join()
