"""Synthesis of SQL: draw templates, fill them, and keep what passes every check."""

from __future__ import annotations

import hashlib
import random
from collections import Counter, deque
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from spftcore.databases import Database
from spftcore.errors import SpftError
from spftcore.metrics.hardness import CLASSES, Hardness, hardness
from spftcore.synthesis.filling import Filled, Filler
from spftcore.synthesis.gates import (
    QueryExecutor,
    collates,
    execution_cause,
    hangs_on_more_than_ties,
    literals,
    tie_variants,
    weaker_variants,
    words,
)
from spftcore.synthesis.pool import TemplatePool
from spftcore.synthesis.render import FillError
from spftcore.synthesis.sql_text import canonical
from spftcore.synthesis.templates import Template
from spftcore.synthesis.twins import ThinnedCopies

BATCH = 256  # queries handed to the executor at a time
MOST_FRUITLESS = 40  # batches in a row that keep next to nothing before synthesis gives up
MOST_TRIES = 6  # fillings of one drawn template before another is drawn
TIRED_AFTER = 30  # draws of one template in one database without a new query
COVERAGE_SHARE = 0.15  # of the queries, the last, that may go to tables no query has used
COVERAGE_TRIES = 60  # draws for one such table before it is given up


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
        difficulties: kept queries by the difficulty of their template.
        tables: tables with rows in the databases drawn from.
        tables_used: of these, how many some kept query reads.
    """

    queries: list[SynthesizedSQL] = field(default_factory=list)
    rejections: Counter[str] = field(default_factory=Counter)
    draws: int = 0
    difficulties: Counter[str] = field(default_factory=Counter)
    tables: int = 0
    tables_used: int = 0

    @property
    def templates_used(self) -> int:
        """How many templates some kept query was filled from."""
        return len({query.template_id for query in self.queries})


@dataclass(frozen=True)
class _Candidate:
    database: Database
    query: SynthesizedSQL
    template: Template
    tables: frozenset[str]
    tries: int


def synthesize_sql(
    pool: TemplatePool,
    databases: Sequence[Database],
    executor: QueryExecutor,
    count: int,
    rng: random.Random,
    exclude: Set[tuple[str, str]] = frozenset(),
    per_database: Mapping[str, float] | None = None,
    mix: Mapping[Hardness, float] | None = None,
) -> SynthesisResult:
    """Synthesise up to `count` queries.

    A draw takes a database and a template, fills the template, and keeps the query when it
    passes every check of `docs/synthesis.md`. The last draws favour tables that no query has
    used so far.

    Args:
        pool: templates with their weights.
        databases: those without rows are passed over.
        executor: runs the candidates in batches.
        count: queries wanted; fewer come back when nothing new can be found.
        rng: the only source of chance; the same state gives the same queries.
        exclude: database ids with canonical forms (`canonical(sql, database)`) that must not come
            out of these databases, such as those of evaluation queries.
        per_database: weight by database id; missing ids get none. All alike by default.
        mix: the share of each difficulty among the queries; by default it is the pool's.

    Raises:
        SpftError: the pool is empty or has no template of a difficulty asked for, or no database
            with rows has a weight.
    """
    if len(pool) == 0:
        raise SpftError(
            "Nothing can be synthesised: no query of data.pairs gave a template. "
            "Check that the pairs belong to the databases in data.databases."
        )
    with ThinnedCopies() as copies:
        synthesis = _Synthesis(pool, databases, executor, rng, exclude, per_database, copies)
        return synthesis.run(count, _Mix(mix, pool) if mix else None)


class _Mix:
    """Chooses difficulties so that the kept queries come in the shares asked for."""

    def __init__(self, shares: Mapping[Hardness, float], pool: TemplatePool) -> None:
        total = sum(shares.values())
        if total <= 0 or min(shares.values()) < 0 or not shares.keys() <= set(CLASSES):
            raise SpftError(
                f"The mix {dict(shares)} gives no shares of {', '.join(CLASSES)}: they must "
                "be 0 or more, and one above 0."
            )
        self.shares = {name: shares[name] / total for name in CLASSES if shares.get(name)}
        for name in self.shares:
            if not pool.has(name):
                raise SpftError(
                    f"The mix asks for {name} queries, and no template is {name}. Give pairs with "
                    "such queries, merge the built-in library, or ask for another mix."
                )
        self.kept: Counter[str] = Counter()
        self.drawn: Counter[str] = Counter()

    def missing(self, name: str, count: int) -> int:
        """How many of `count` queries are still to come from one class."""
        before = 0.0
        for other, share in self.shares.items():  # whole numbers that add up to count
            if other == name:
                return round((before + share) * count) - round(before * count) - self.kept[name]
            before += share
        return 0

    def draw(self, rng: random.Random, count: int) -> Hardness:
        """A class, the likelier the more is missing of it and the fewer of its draws are kept."""
        names = list(self.shares)
        weights = []
        for name in names:
            kept = (self.kept[name] + 1) / (self.drawn[name] + 2)
            weights.append(max(0, self.missing(name, count)) / max(kept, 0.02))
        name = rng.choices(names, weights if any(weights) else None)[0]
        self.drawn[name] += 1
        return name


class _Synthesis:
    def __init__(
        self,
        pool: TemplatePool,
        databases: Sequence[Database],
        executor: QueryExecutor,
        rng: random.Random,
        exclude: Set[tuple[str, str]],
        per_database: Mapping[str, float] | None,
        copies: ThinnedCopies,
    ) -> None:
        self.pool, self.executor, self.rng, self.exclude = pool, executor, rng, exclude
        self.copies = copies
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
        # Digests, since there are more draws than queries and all are kept to the end.
        self.seen_text: set[bytes] = set()
        self.seen_forms: dict[bytes, tuple[str, ...]] = {}
        # By database and result: the only query that has it, or the results that several
        # queries with it have on the copies.
        self.alone: dict[tuple[str, str], str] = {}
        self.on_copies: dict[tuple[str, str], set[tuple[str, ...]]] = {}
        self.excluded_literals = {(name, literals(form)) for name, form in exclude}
        self.fruitless: Counter[tuple[str, str]] = Counter()
        self.again: deque[tuple[Template, int]] = deque()  # templates to try once more
        self.hanging: dict[str, bool] = {}  # by template
        self.mix: _Mix | None = None
        self.count = 0
        self.unused = {
            (database.id, table.name): 0  # tries of the coverage draws
            for database in self.databases
            for table in database.tables
            if table.rows
        }
        self.result = SynthesisResult(tables=len(self.unused))

    def run(self, count: int, mix: _Mix | None) -> SynthesisResult:
        self.count, self.mix = count, mix
        barren = 0
        while len(self.result.queries) < count and barren < MOST_FRUITLESS:
            before = len(self.result.queries)
            missing = count - before
            for candidate in self._check(self._candidates(min(BATCH, 2 * missing + 16))):
                self._keep(candidate)
            barren = 0 if len(self.result.queries) > before + 1 else barren + 1
        return self.result

    def _keep(self, candidate: _Candidate) -> None:
        name = hardness(candidate.template.text)
        full = len(self.result.queries) >= self.count
        if full or (self.mix is not None and self.mix.missing(name, self.count) <= 0):
            self.result.draws -= 1  # one too many: neither kept nor rejected
            return
        if self.mix is not None:
            self.mix.kept[name] += 1
        self.result.queries.append(candidate.query)
        self.result.difficulties[name] += 1
        for table in candidate.tables:
            if self.unused.pop((candidate.database.id, table), None) is not None:
                self.result.tables_used += 1

    def _reject(self, cause: str, template: Template, tries: int) -> None:
        """Count a rejection. The template is tried again, elsewhere or with other values:
        otherwise the kinds of query that fail more often would be rarer than in the pool."""
        self.result.rejections[cause] += 1
        if tries < MOST_TRIES:
            self.again.append((template, tries + 1))

    # Draws

    def _candidates(self, wanted: int) -> list[_Candidate]:
        found: list[_Candidate] = []
        for _ in range(4 * wanted):
            if len(found) >= wanted:
                break
            self.result.draws += 1
            place = self._uncovered()
            if place is not None:
                database, template, tries = *self._for_table(*place), MOST_TRIES
            else:
                database = self.rng.choices(self.databases, self.weights)[0]
                template, tries = self.again.popleft() if self.again else (self._draw(), 1)
            try:
                query, tables = self._fill(database, template, place[1] if place else "")
                found.append(_Candidate(database, query, template, tables, tries))
            except FillError as error:
                self._reject(error.cause, template, MOST_TRIES if error.hopeless else tries)
        return found

    def _draw(self) -> Template:
        if self.mix is None:
            return self.pool.draw(self.rng)
        return self.pool.draw(self.rng, self.mix.draw(self.rng, self.count))

    def _uncovered(self) -> tuple[Database, str] | None:
        """A table that no query has used, once the last draws have begun."""
        left = self.count - len(self.result.queries)
        reserve = min(COVERAGE_SHARE * self.count, BATCH + 10.0 * len(self.unused))
        if not self.unused or left > reserve:
            return None
        key = min(self.unused, key=lambda key: self.unused[key])
        if self.unused[key] >= COVERAGE_TRIES:
            return None
        self.unused[key] += 1
        return self.fillers[key[0]].database, key[1]

    def _for_table(self, database: Database, table: str) -> tuple[Database, Template]:
        """A template that some tables of the database with this one among them fit."""
        filler = self.fillers[database.id]
        for _ in range(12):
            template = self._draw()
            if filler.takes(template, table):
                break
        return database, template

    def _fill(
        self, database: Database, template: Template, table: str
    ) -> tuple[SynthesizedSQL, frozenset[str]]:
        key = (database.id, template.id)
        if self.fruitless[key] >= TIRED_AFTER:
            raise FillError("duplicate")
        filled: Filled = self.fillers[database.id].fill(template, self.rng, table)
        self.fruitless[key] += 1
        text = _digest(database.id, filled.sql)
        if text in self.seen_text:
            raise FillError("duplicate")
        self.seen_text.add(text)
        literals_ = tuple(filled.binding.values.values())
        query = SynthesizedSQL(database.id, filled.sql, template.id, literals_)
        return query, filled.tables

    # Checks

    def _check(self, candidates: list[_Candidate]) -> list[_Candidate]:
        """The candidates that pass; the others are counted by cause."""
        outcomes = self.executor.execute([(c.database.path, c.query.sql) for c in candidates])
        probes: list[tuple[Path, str]] = []
        probed: list[tuple[_Candidate, str, int, int]] = []  # fingerprint, ties, weaker variants
        for candidate, outcome in zip(candidates, outcomes, strict=True):
            cause = execution_cause(outcome) or self._known(candidate)
            if cause:
                self._reject(cause, candidate.template, candidate.tries)
                continue
            sql = candidate.query.sql
            ties = tie_variants(sql, outcome.columns)
            weaker = weaker_variants(sql)
            probed.append((candidate, outcome.fingerprint, len(ties), len(weaker)))
            probes += [(candidate.database.path, text) for text in (*ties, *weaker)]
        answers = self.executor.execute(probes) if probes else []
        passed: list[tuple[_Candidate, str]] = []
        start = 0
        for candidate, fingerprint, ties_asked, weaker_asked in probed:
            tied = answers[start : start + ties_asked]
            less = answers[start + ties_asked : start + ties_asked + weaker_asked]
            start += ties_asked + weaker_asked
            cause = ""
            if not all(a.ran and a.fingerprint == tied[0].fingerprint for a in tied):
                cause = "LIMIT among ties"
            elif any(answer.fingerprint == fingerprint for answer in less):
                cause = "constant: a condition changes nothing"
            if cause:
                self._reject(cause, candidate.template, candidate.tries)
            else:
                passed.append((candidate, fingerprint))
        kept = self._new_results(self._stable(passed))
        for candidate in kept:
            self.fruitless[candidate.query.database, candidate.query.template_id] = 0
        return kept

    def _stable(self, passed: list[tuple[_Candidate, str]]) -> list[tuple[_Candidate, str]]:
        """Those whose result the data alone determine."""
        asked = [candidate for candidate, _ in passed if self._hangs(candidate)]
        verdicts = self.executor.stable([(c.database.path, c.query.sql) for c in asked])
        unstable = {
            id(candidate): f"unstable: {verdict.cause or 'undecided'}"
            for candidate, verdict in zip(asked, verdicts, strict=True)
            if verdict.verdict is not True
        }
        for candidate, _ in passed:
            if id(candidate) in unstable:
                self._reject(unstable[id(candidate)], candidate.template, candidate.tries)
        return [(c, fingerprint) for c, fingerprint in passed if id(c) not in unstable]

    def _hangs(self, candidate: _Candidate) -> bool:
        database = candidate.database
        if collates(database) or any(database.table(name).is_view for name in candidate.tables):
            return True
        key = candidate.template.id
        if key not in self.hanging:
            self.hanging[key] = hangs_on_more_than_ties(candidate.query.sql)
        return self.hanging[key]

    def _new_results(self, passed: list[tuple[_Candidate, str]]) -> list[_Candidate]:
        """Those that no other query of their database equals in result, on copies too.

        A result that nothing else has needs no copies: its query only waits for company.
        """
        alike: dict[tuple[str, str], list[str]] = {}
        for candidate, fingerprint in passed:
            alike.setdefault((candidate.database.id, fingerprint), []).append(candidate.query.sql)
        todo: list[tuple[str, str]] = []
        jobs: list[tuple[Path, str]] = []
        for database, fingerprint in dict.fromkeys((c.database, f) for c, f in passed):
            key = (database.id, fingerprint)
            if key not in self.alone and key not in self.on_copies and len(alike[key]) == 1:
                self.alone[key] = alike[key][0]
                continue
            for sql in [*alike[key], *filter(None, [self.alone.get(key)])]:
                for path in self.copies.paths(database):
                    todo.append((database.id, sql))
                    jobs.append((path, sql))
        results: dict[tuple[str, str], tuple[str, ...]] = {}
        for place, outcome in zip(todo, self.executor.execute(jobs) if jobs else (), strict=True):
            seen = outcome.fingerprint if outcome.rows else ""
            results[place] = (*results.get(place, ()), seen)
        kept: list[_Candidate] = []
        for candidate, fingerprint in passed:
            key = (candidate.database.id, fingerprint)
            mine = results.get((key[0], candidate.query.sql), ())
            if mine:
                known = self.on_copies.setdefault(key, set())
                if waiting := self.alone.pop(key, ""):
                    known.add(results[key[0], waiting])
                # Without a row on any copy there is nothing that could have differed.
                if any(mine) and mine in known:
                    self._reject("duplicate by result", candidate.template, candidate.tries)
                    continue
                known.add(mine)
            kept.append(candidate)
        return kept

    def _known(self, candidate: _Candidate) -> str:
        """'excluded' or 'duplicate' by canonical form, '' for a new query.

        A canonical form costs more than all other checks together, so it is only made where
        something cheaper cannot tell: queries of one form have the same literals, and two of
        ours also the same words.
        """
        sql = candidate.query.sql
        key = _digest(candidate.query.database, *sorted(words(sql)))
        excludable = (candidate.database.id, literals(sql)) in self.excluded_literals
        if not excludable and key not in self.seen_forms:
            self.seen_forms[key] = (sql,)
            return ""
        form = canonical(sql, candidate.database)
        if excludable and (candidate.database.id, form) in self.exclude:
            return "excluded"
        known = self.seen_forms.get(key, ())
        if form in {canonical(other, candidate.database) for other in known}:
            return "duplicate"
        self.seen_forms[key] = (*known, sql)
        return ""


def _digest(*texts: str) -> bytes:
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=12).digest()
