"""The run store: one SQLite file (WAL) that holds everything a run has produced.

A stage writes its rows in one transaction together with its own completion, so a run killed at any
moment holds finished stages only, and resuming repeats the unfinished ones from their beginning.
The tables are documented in `docs/store.md`; the file opens in any SQLite browser.
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spftcore.errors import SpftError
from spftcore.pairs import Pair

SCHEMA_VERSION = 2

_SCHEMA = f"""
pragma user_version = {SCHEMA_VERSION};
create table if not exists stages (
    name text primary key, finished_at real not null, seconds real not null, result text not null
) without rowid;
create table if not exists databases (
    id text primary key, stage text not null, path text not null, tables integer not null,
    rows integer not null
) without rowid;
create table if not exists pairs (
    id text primary key, stage text not null, database text not null, question text not null,
    sql text not null, evidence text not null, split text not null, source text not null,
    template text not null, checks text not null
) without rowid;
create index if not exists pairs_by_stage on pairs (stage, split);
create table if not exists excluded_pairs (
    id text primary key, stage text not null, database text not null, split text not null,
    cause text not null, message text not null
) without rowid;
create table if not exists templates (
    stage text not null, id text not null, text text not null, weight real not null,
    sources text not null, primary key (stage, id)
) without rowid;
create table if not exists rejections (
    stage text not null, step text not null, cause text not null, count integer not null,
    primary key (stage, step, cause)
) without rowid;
create table if not exists candidates (
    id text primary key, parent text, stage text not null, path text not null,
    ranking_right integer not null, ranking_total integer not null
) without rowid;
create table if not exists answers (
    stage text not null, purpose text not null, candidate text not null, pair text not null,
    sql text not null, status text not null, verdict text not null, message text not null,
    primary key (stage, purpose, pair)
) without rowid;
create table if not exists opponent_logprobs (
    stage text not null, pair text not null, role text not null, opponent text not null,
    weights text not null, tokens text not null, logprobs blob not null,
    primary key (stage, pair, role)
) without rowid;
create table if not exists metrics (
    stage text not null, step integer not null, name text not null, value real not null,
    primary key (stage, name, step)
) without rowid;
"""

# Tables whose rows belong to one stage and are written anew when the stage is repeated.
_STAGE_TABLES = (
    "databases",
    "excluded_pairs",
    "pairs",
    "templates",
    "rejections",
    "candidates",
    "answers",
    "opponent_logprobs",
    "metrics",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a candidate wrote for a pair's question, and what the executor said of it.

    `status` and `verdict` are the lower-case names of `verify.Status` and `verify.Verdict`.
    """

    pair: str
    candidate: str
    sql: str
    status: str
    verdict: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Scored:
    """An opponent's log-probs of one completion, and what they depend on.

    Attributes:
        pair: whose question is the prompt.
        role: `gold` or `answer`.
        opponent: name of the candidate.
        weights: digest of its weights and architecture (`models.digest`).
        tokens: digest of the token ids of prompt and completion.
        logprobs: little-endian fp32, one per completion token.
    """

    pair: str
    role: str
    opponent: str
    weights: str
    tokens: str
    logprobs: bytes


class StageWriter:
    """Collects a stage's rows; `Store.stage` writes them together when the stage is complete."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.result: dict[str, Any] = {}
        self.rows: list[tuple[str, tuple[Any, ...]]] = []

    def _add(self, table: str, *values: Any) -> None:
        self.rows.append((table, values))

    def database(self, identifier: str, path: str, tables: int, rows: int) -> None:
        self._add("databases", identifier, self.stage, path, tables, rows)

    def excluded(self, pair: Pair, cause: str, message: str) -> None:
        """A pair that is left out of the run, and why."""
        values = (pair.database, pair.split, cause, message)
        self._add("excluded_pairs", pair.id, self.stage, *values)

    def pairs(self, pairs: Iterable[Pair]) -> None:
        for p in pairs:
            checks = json.dumps(p.checks, sort_keys=True)
            values = (p.database, p.question, p.sql, p.evidence, p.split, p.source, p.template)
            self._add("pairs", p.id, self.stage, *values, checks)

    def template(
        self, identifier: str, text: str, weight: float, sources: Mapping[str, int]
    ) -> None:
        """A template with its weight in the next draw and its uses by source."""
        self._add("templates", self.stage, identifier, text, weight, json.dumps(sources))

    def rejections(self, step: str, counts: dict[str, int]) -> None:
        for cause, count in sorted(counts.items()):
            self._add("rejections", self.stage, step, cause, count)

    def candidate(
        self, identifier: str, parent: str | None, path: str, right: int, total: int
    ) -> None:
        self._add("candidates", identifier, parent, self.stage, path, right, total)

    def answers(self, purpose: str, answers: Iterable[Answer]) -> None:
        for a in answers:
            values = (a.candidate, a.pair, a.sql, a.status, a.verdict, a.message)
            self._add("answers", self.stage, purpose, *values)

    def opponent_logprobs(self, scored: Scored) -> None:
        """An opponent's log-probs of one completion."""
        values = (scored.opponent, scored.weights, scored.tokens, scored.logprobs)
        self._add("opponent_logprobs", self.stage, scored.pair, scored.role, *values)

    def metrics(self) -> list[tuple[int, str, float]]:
        """(step, name, value) of the points so far."""
        return [values[1:] for table, values in self.rows if table == "metrics"]

    def metric(self, step: int, name: str, value: float) -> None:
        """A point of a training curve; a value that is no number leaves a gap."""
        if math.isfinite(value):
            self._add("metrics", self.stage, step, name, float(value))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model of the pool: its checkpoint folder and its result on the ranking set."""

    id: str
    parent: str | None
    stage: str
    path: Path
    ranking_right: int
    ranking_total: int

    @property
    def ranking_accuracy(self) -> float:
        return self.ranking_right / max(1, self.ranking_total)


class Store:
    """The SQLite file of a run. Each process opens its own.

    Raises:
        SpftError: the file cannot be opened, or was written by another version.
    """

    def __init__(self, path: Path) -> None:
        try:
            # Autocommit: transactions are opened by hand, so that a stage is exactly one.
            self._connection = sqlite3.connect(path, timeout=60, isolation_level=None)
            (version,) = self._connection.execute("pragma user_version").fetchone()
            if version == 0:
                self._connection.execute("pragma journal_mode = wal")
                self._connection.executescript(f"begin immediate; {_SCHEMA} commit;")
            self._connection.execute("pragma synchronous = full")
        except sqlite3.Error as error:
            raise SpftError(f"Cannot open the run store {path}: {error}.") from None
        if version not in (0, SCHEMA_VERSION):
            raise SpftError(
                f"The run store {path} has schema version {version}; this program writes "
                f"{SCHEMA_VERSION}. Use another run.name."
            )

    @classmethod
    def of_snapshot(cls, path: Path) -> Store:
        """A snapshot of a store, to read from: also where a file system is shared by machines, on
        which SQLite's write-ahead log does not work."""
        store = cls.__new__(cls)
        uri = f"{path.resolve().as_uri()}?immutable=1"
        store._connection = sqlite3.connect(uri, uri=True, isolation_level=None)
        return store

    def snapshot(self, path: Path) -> None:
        """Writes all of the store to a new file, in place of what is there."""
        path.unlink(missing_ok=True)
        self._connection.execute("vacuum into ?", (str(path),))

    def close(self) -> None:
        self._connection.close()

    # -- stages --------------------------------------------------------------------------------

    @contextmanager
    def stage(self, name: str) -> Iterator[StageWriter]:
        """Runs the body as stage `name`; at its end writes all rows and marks it complete, in one
        transaction. Nothing of it is kept when the body raises."""
        start = time.monotonic()
        writer = StageWriter(name)
        yield writer
        connection = self._connection
        connection.execute("begin immediate")
        try:
            for table in _STAGE_TABLES:
                connection.execute(f"delete from {table} where stage = ?", (name,))
            for table, values in writer.rows:
                marks = ", ".join("?" * len(values))
                connection.execute(f"insert into {table} values ({marks})", values)
            seconds = time.monotonic() - start
            connection.execute(
                "insert or replace into stages values (?, ?, ?, ?)",
                (name, time.time(), seconds, json.dumps(writer.result)),
            )
            connection.execute("commit")
        except BaseException:
            connection.execute("rollback")
            raise

    def finished(self) -> set[str]:
        return {row[0] for row in self._connection.execute("select name from stages")}

    def result(self, stage: str) -> dict[str, Any]:
        """The result of a finished stage (KeyError otherwise)."""
        row = self._connection.execute(
            "select result from stages where name = ?", (stage,)
        ).fetchone()
        if row is None:
            raise KeyError(stage)
        return json.loads(row[0])

    def seconds(self) -> dict[str, float]:
        """Duration of each finished stage, in the order of finishing."""
        query = "select name, seconds from stages order by finished_at"
        return dict(self._connection.execute(query))

    # -- reading -------------------------------------------------------------------------------

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of any SELECT on the store."""
        return self._connection.execute(sql, parameters).fetchall()

    def pairs(self, *, stage: str | None = None, split: str | None = None) -> list[Pair]:
        """Pairs of a stage and split, ordered by id."""
        rows = self.query(
            "select id, database, question, sql, evidence, split, source, template, checks"
            " from pairs where stage = coalesce(?, stage) and split = coalesce(?, split)"
            " order by id",
            (stage, split),
        )
        return [Pair(*(*row[:8], json.loads(row[8]))) for row in rows]

    def templates(self, stage: str) -> list[dict[str, Any]]:
        """Records (text, weight, sources) of a stage's templates, ordered by id."""
        query = "select text, weight, sources from templates where stage = ? order by id"
        return [
            {"text": text, "weight": weight, "sources": json.loads(sources)}
            for text, weight, sources in self.query(query, (stage,))
        ]

    def candidates(self) -> list[Candidate]:
        """The candidate pool, the oldest first."""
        query = (
            "select id, parent, stage, path, ranking_right, ranking_total"
            " from candidates join stages on stages.name = candidates.stage order by finished_at"
        )
        return [Candidate(r[0], r[1], r[2], Path(r[3]), r[4], r[5]) for r in self.query(query)]

    def answers(self, stage: str, purpose: str) -> dict[str, Answer]:
        """Answers of a stage by pair id."""
        rows = self.query(
            "select pair, candidate, sql, status, verdict, message from answers"
            " where stage = ? and purpose = ? order by pair",
            (stage, purpose),
        )
        return {row[0]: Answer(*row) for row in rows}

    def opponent_logprobs(
        self, stage: str, pair: str | None = None
    ) -> dict[tuple[str, str], Scored]:
        """Opponent log-probs of a stage, or of one of its pairs, by (pair id, role)."""
        rows = self.query(
            "select pair, role, opponent, weights, tokens, logprobs from opponent_logprobs"
            f" where stage = ? {'' if pair is None else 'and pair = ?'} order by pair, role",
            (stage,) if pair is None else (stage, pair),
        )
        return {(row[0], row[1]): Scored(*row) for row in rows}

    def metric_series(self, stage: str, name: str) -> list[tuple[int, float]]:
        """(step, value) of one metric."""
        query = "select step, value from metrics where stage = ? and name = ? order by step"
        return [(step, value) for step, value in self.query(query, (stage, name))]
