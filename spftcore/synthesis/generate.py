"""Synthesis of SQL: draw templates, fill them, and keep what passes every check."""

from __future__ import annotations

import random
import re
from collections import Counter, deque
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from spftcore.databases import Database
from spftcore.errors import SpftError
from spftcore.synthesis.filling import Filler
from spftcore.synthesis.render import FillError
from spftcore.synthesis.sql_text import canonical
from spftcore.synthesis.templates import Template, TemplatePool

BATCH = 256  # queries handed to the executor at a time
MOST_FRUITLESS = 40  # batches in a row that keep next to nothing before synthesis gives up
MOST_TRIES = 6  # fillings of one drawn template before another is drawn
TIRED_AFTER = 30  # draws of one template in one database without a new query


class ExecutedQuery(Protocol):
    """What synthesis reads of an execution (`spftcore.verify.Outcome`)."""

    @property
    def status(self) -> object: ...
    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def all_null(self) -> bool: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def ran(self) -> bool: ...


class QueryExecutor(Protocol):
    """Runs batches of queries (`spftcore.verify.Executor`)."""

    def execute(self, queries: Sequence[tuple[Path, str]]) -> Sequence[ExecutedQuery]: ...


@dataclass(frozen=True)
class SynthesizedSQL:
    """A query that passed every check.

    Attributes:
        database: id of the database.
        sql: the query in the one style of this package.
        template_id: the template it was filled from.
        literals: its drawn values as SQL text, in the order of the template's value slots.
    """

    database: str
    sql: str
    template_id: str
    literals: tuple[str, ...]


@dataclass
class SynthesisResult:
    """What was kept, and why the rest was not.

    Attributes:
        queries: in the order they were found.
        rejections: draws that gave no query, counted by cause.
        draws: all draws, kept and rejected.
    """

    queries: list[SynthesizedSQL] = field(default_factory=list)
    rejections: Counter[str] = field(default_factory=Counter)
    draws: int = 0


@dataclass(frozen=True)
class _Candidate:
    database: Database
    query: SynthesizedSQL
    template: Template
    tries: int


def synthesize_sql(
    pool: TemplatePool,
    databases: Sequence[Database],
    executor: QueryExecutor,
    count: int,
    rng: random.Random,
    exclude: Set[str] = frozenset(),
    per_database: Mapping[str, float] | None = None,
) -> SynthesisResult:
    """Synthesise up to `count` queries.

    A draw takes a database and a template, fills the template, and keeps the query when it
    runs, is not empty or all NULL, is not cut by LIMIT among ties, is new, and is not excluded.

    Args:
        pool: templates with their weights.
        databases: those without rows are passed over.
        executor: runs the candidates in batches.
        count: queries wanted; fewer come back when nothing new can be found.
        rng: the only source of chance; the same state gives the same queries.
        exclude: canonical forms (`canonical(sql, database)`) that must not come out, such as
            those of evaluation queries.
        per_database: weight by database id; missing ids get none. All alike by default.

    Raises:
        SpftError: the pool is empty, or no database with rows has a weight.
    """
    if len(pool) == 0:
        raise SpftError(
            "Nothing can be synthesised: no query of data.pairs gave a template. "
            "Check that the pairs belong to the databases in data.databases."
        )
    return _Synthesis(pool, databases, executor, rng, exclude, per_database).run(count)


class _Synthesis:
    def __init__(
        self,
        pool: TemplatePool,
        databases: Sequence[Database],
        executor: QueryExecutor,
        rng: random.Random,
        exclude: Set[str],
        per_database: Mapping[str, float] | None,
    ) -> None:
        self.pool, self.executor, self.rng, self.exclude = pool, executor, rng, exclude
        self.databases = [
            database
            for database in databases
            if any(table.rows for table in database.tables)
            and (per_database is None or per_database.get(database.id, 0.0) > 0)
        ]
        if not self.databases:
            raise SpftError(
                f"Nothing can be synthesised: none of the {len(databases)} databases given has "
                "rows. Add rows, or other databases to data.databases."
            )
        self.weights = [
            1.0 if per_database is None else per_database[database.id]
            for database in self.databases
        ]
        self.fillers = {database.id: Filler(database) for database in self.databases}
        self.seen_text: set[tuple[str, str]] = set()
        self.seen_forms: dict[tuple[str, ...], set[str]] = {}
        self.excluded_literals = {literals(form) for form in exclude}
        self.fruitless: Counter[tuple[str, str]] = Counter()
        self.again: deque[tuple[Template, int]] = deque()  # templates to try once more
        self.result = SynthesisResult()

    def run(self, count: int) -> SynthesisResult:
        barren = 0
        while len(self.result.queries) < count and barren < MOST_FRUITLESS:
            missing = count - len(self.result.queries)
            kept = self._check(self._candidates(min(BATCH, 2 * missing + 16)))
            barren = 0 if len(kept) > 1 else barren + 1
            surplus = kept[missing:]
            self.result.draws -= len(surplus)
            self.result.queries += [candidate.query for candidate in kept[:missing]]
        return self.result

    def _reject(self, cause: str, template: Template, tries: int) -> None:
        """Count a rejection. The template is tried again, elsewhere or with other values:
        otherwise the kinds of query that fail more often would be rarer than in the pool."""
        self.result.rejections[cause] += 1
        if tries < MOST_TRIES:
            self.again.append((template, tries + 1))

    def _candidates(self, wanted: int) -> list[_Candidate]:
        found: list[_Candidate] = []
        for _ in range(4 * wanted):
            if len(found) >= wanted:
                break
            self.result.draws += 1
            database = self.rng.choices(self.databases, self.weights)[0]
            template, tries = self.again.popleft() if self.again else (self.pool.draw(self.rng), 1)
            try:
                query = self._fill(database, template)
                found.append(_Candidate(database, query, template, tries))
            except FillError as error:
                self._reject(error.cause, template, MOST_TRIES if error.hopeless else tries)
        return found

    def _fill(self, database: Database, template: Template) -> SynthesizedSQL:
        key = (database.id, template.id)
        if self.fruitless[key] >= TIRED_AFTER:
            raise FillError("duplicate")
        sql, binding = self.fillers[database.id].fill(template, self.rng)
        self.fruitless[key] += 1
        if (database.id, sql) in self.seen_text:
            raise FillError("duplicate")
        self.seen_text.add((database.id, sql))
        return SynthesizedSQL(database.id, sql, template.id, tuple(binding.values.values()))

    def _check(self, candidates: list[_Candidate]) -> list[_Candidate]:
        """The candidates that pass; the others are counted by cause."""
        outcomes = self.executor.execute([(c.database.path, c.query.sql) for c in candidates])
        probes: list[tuple[Path, str]] = []
        passed: list[tuple[_Candidate, int]] = []  # with the number of its first probe, or -1
        for candidate, outcome in zip(candidates, outcomes, strict=True):
            cause = _cause(outcome)
            cause = cause or self._known(candidate)
            if cause:
                self._reject(cause, candidate.template, candidate.tries)
                continue
            variants = tie_variants(candidate.query.sql, outcome.columns)
            passed.append((candidate, len(probes) if variants else -1))
            probes += [(candidate.database.path, sql) for sql in variants]
        answers = self.executor.execute(probes) if probes else []
        kept: list[_Candidate] = []
        for candidate, first in passed:
            if first >= 0:
                one, other = answers[first], answers[first + 1]
                if not (one.ran and other.ran and one.fingerprint == other.fingerprint):
                    self._reject("LIMIT among ties", candidate.template, candidate.tries)
                    continue
            self.fruitless[candidate.query.database, candidate.query.template_id] = 0
            kept.append(candidate)
        return kept

    def _known(self, candidate: _Candidate) -> str:
        """'excluded' or 'duplicate' by canonical form, '' for a new query.

        A canonical form costs more than all other checks together, so it is only made where
        something cheaper cannot tell: queries of one form have the same literals, and two of
        ours also the same words.
        """
        sql = candidate.query.sql
        words = (candidate.query.database, *sorted(_WORD.findall(sql)))
        excludable = literals(sql) in self.excluded_literals
        if not excludable and words not in self.seen_forms:
            self.seen_forms[words] = {sql}
            return ""
        form = canonical(sql, candidate.database)
        if excludable and form in self.exclude:
            return "excluded"
        known = self.seen_forms.setdefault(words, set())
        if form in {canonical(other, candidate.database) for other in known}:
            return "duplicate"
        known.add(sql)
        return ""


_WORD = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|[\w.]+|[^\w\s]")


def literals(sql: str) -> tuple[str, ...]:
    """The strings and numbers of a query in order, written as `canonical` writes them."""
    found = []
    for token in _WORD.findall(sql):
        value = token[1:-1] if token[0] == "'" else token
        value = value.lstrip("+-") if _NUMBER.match(value.lstrip("+-")) else value
        if _NUMBER.match(value):
            value = value.rstrip("0").rstrip(".") if "." in value else value
            found.append(value)
        elif token[0] == "'":
            found.append(token)
    return tuple(sorted(found))


_NUMBER = re.compile(r"\d+(\.\d+)?\Z")


def _cause(outcome: ExecutedQuery) -> str:
    """Why an execution is not fit for training, '' when it is."""
    if not outcome.ran:
        name = getattr(outcome.status, "name", str(outcome.status))
        costly = name in ("STEP_BUDGET", "TIME_BUDGET", "TOO_LARGE")
        return "too costly" if costly else "does not run"
    if outcome.rows == 0:
        return "empty"
    return "all NULL" if outcome.all_null else ""


_STRING = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"")
_LIMITED = re.compile(r"order by (?:(?!order by|\bselect\b).)*?( limit \d+)")


def tie_variants(sql: str, columns: int) -> list[str]:
    """Two spellings of a query that break ties of ORDER BY … LIMIT in opposite ways.

    If both give the same rows, no tie decides what LIMIT keeps. The result columns serve as
    last ordering terms, ascending in the one and descending in the other: rows that agree in
    these too are the same row. Empty when the query has no ORDER BY with LIMIT.
    """
    masked = _STRING.sub(lambda match: "'" + "_" * (len(match.group()) - 2) + "'", sql)
    variants = []
    for direction in ("", " desc"):
        text, shift = sql, 0
        for match in _LIMITED.finditer(masked):
            start = match.start(1)
            nested = masked.count("(", 0, match.start()) > masked.count(")", 0, match.start())
            terms = "".join(f", {n}{direction}" for n in range(1, 2 if nested else columns + 1))
            text = text[: start + shift] + terms + text[start + shift :]
            shift += len(terms)
        if shift:
            variants.append(text)
    return variants
