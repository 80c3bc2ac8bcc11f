"""Questions to synthesized queries: a model's where they pass the checks, else by rule.

written = write_questions(queries, catalogue, random.Random(0))       # rules only: no model needed
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from spftcore.databases import Database
from spftcore.pairs import Pair, question_key
from spftcore.synthesis.generate import SynthesizedSQL
from spftcore.synthesis.mentions import Mentions
from spftcore.synthesis.placeholders import mask_draft, mask_literals, unmask_question
from spftcore.synthesis.question_checks import leak_fault, length_fault, literal_fault
from spftcore.synthesis.verbalise import verbalise

# The checks in the order in which they are made; the first that fails names the rejection.
CHECKS = ("written", "literals", "length", "no SQL", "mentions", "new")
ROUND_TRIP = "round trip"
WORDINGS = 3  # questions by rule that are tried where one was asked before


@dataclass(frozen=True)
class Task:
    """What a model is shown of one query: literals are masked in the SQL and in the draft, which
    is the question by rule (empty where there is none)."""

    database: str
    sql: str
    draft: str


@dataclass
class WrittenQuestions:
    """Pairs with a question that passed, and what the checks did.

    Attributes:
        pairs: in the order of the queries; `checks` holds `writer` (`model` or `rules`), and
            `round trip` (`right`, `wrong` or `unjudged`) where that was made.
        rejections: questions that were not taken, by `writer: cause`.
        passed, made: for each (writer, check) how many questions passed it and on how many it was
            made; every check of a written question is made, also after one that failed.
    """

    pairs: list[Pair] = field(default_factory=list)
    rejections: Counter[str] = field(default_factory=Counter)
    passed: Counter[tuple[str, str]] = field(default_factory=Counter)
    made: Counter[tuple[str, str]] = field(default_factory=Counter)

    def table(self) -> dict[str, dict[str, list[int]]]:
        """{writer: {check: [passed, made]}}, as the run store keeps it."""
        shown: dict[str, dict[str, list[int]]] = {}
        for writer in ("model", "rules"):
            for check in (*CHECKS, ROUND_TRIP):
                if self.made[writer, check]:
                    counts = [self.passed[writer, check], self.made[writer, check]]
                    shown.setdefault(writer, {})[check] = counts
        return shown

    def count(self, writer: str, check: str, passed: bool) -> None:
        self.made[writer, check] += 1
        self.passed[writer, check] += passed


Writer = Callable[[Sequence[Task]], Sequence[str]]
Answerer = Callable[[Sequence[Pair]], Sequence[str]]


def write_questions(
    queries: Sequence[SynthesizedSQL],
    catalogue: Mapping[str, Database],
    rng: random.Random,
    *,
    model: Writer | None = None,
    seen: Iterable[tuple[str, str]] = (),
    mentions: Mentions | None = None,
    answers: Answerer | None = None,
    prefix: str = "synthesized",
) -> WrittenQuestions:
    """One question per query: the model's, and where that fails a check, the one by rule.

    With a round trip, every question that is taken is answered by the text-to-SQL model and
    judged by execution. A failed one stays: what the model cannot answer yet is what training is
    for. But where the model-written question fails and the one by rule does not, the rule's is
    taken, since the model then knows the query and does not find it in the other words.

    Args:
        queries: what to ask for.
        catalogue: their databases.
        rng: chooses among wordings.
        model: writes one question per task, with the placeholders of the task kept; none: rules
            write all.
        seen: (database, `question_key`) of questions that may not be asked again.
        mentions: tells questions that do not fit their SQL; none: by dictionary and schema alone.
        answers: one of `right`, `wrong`, `unjudged` for each pair; none: no round trip.
        prefix: of the pairs' ids.
    """
    taken = _Taken(queries, catalogue, set(seen), mentions or Mentions(()))
    written = taken.written
    drafts = [verbalise(q.sql, catalogue[q.database], rng) or "" for q in queries]
    texts: dict[int, tuple[str, str]] = {}
    if model is not None:
        masked = [mask_literals(query.sql) for query in queries]
        tasks = [
            Task(query.database, sql, mask_draft(draft, literals))
            for query, draft, (sql, _, literals) in zip(queries, drafts, masked, strict=True)
        ]
        for i, text in enumerate(model(tasks)):
            plain = " ".join(text.split())
            question = unmask_question(plain, masked[i][2]) if plain else ""
            if taken.offer(i, question, "model", drafts[i]):
                texts[i] = (question or "", "model")
    for i, query in enumerate(queries):
        if i not in texts:
            text = _new_wording(drafts[i], i, catalogue[query.database], taken, rng)
            if taken.offer(i, text, "rules", text):
                texts[i] = (text, "rules")
    pairs = {i: _pair(queries[i], f"{prefix}-{i:06d}", *texts[i]) for i in sorted(texts)}
    if answers is not None:
        _round_trip(pairs, drafts, taken, answers)
    written.pairs = list(pairs.values())
    return written


def _new_wording(
    draft: str, index: int, database: Database, taken: _Taken, rng: random.Random
) -> str:
    """A question by rule that passes the checks, if a few draws give one."""
    text = draft
    for _ in range(WORDINGS - 1):
        if not text or taken.fault(index, text, "rules", text) is None:
            break
        text = verbalise(taken.queries[index].sql, database, rng) or ""
    return text


def _round_trip(
    pairs: dict[int, Pair], drafts: list[str], taken: _Taken, answers: Answerer
) -> None:
    """Has every question answered, and takes the rule's where only that finds its query."""
    verdicts = dict(zip(pairs, answers(list(pairs.values())), strict=True))
    for i, pair in pairs.items():
        taken.written.count(pair.checks["writer"], ROUND_TRIP, verdicts[i] == "right")
    others = {
        i: replace(pairs[i], question=drafts[i], checks={"writer": "rules"})
        for i, pair in pairs.items()
        if pair.checks["writer"] == "model"
        and verdicts[i] == "wrong"
        and taken.fault(i, drafts[i], "rules", drafts[i]) is None
    }
    for i, verdict in zip(others, answers(list(others.values())), strict=True):
        if verdict == "right" and taken.swap(i, pairs[i].question, drafts[i]):
            pairs[i], verdicts[i] = others[i], verdict
            taken.written.rejections[f"model: {ROUND_TRIP}"] += 1
    for i, pair in pairs.items():
        pairs[i] = replace(pair, checks={**pair.checks, ROUND_TRIP: verdicts[i]})


def _pair(query: SynthesizedSQL, identifier: str, question: str, writer: str) -> Pair:
    return Pair(
        id=identifier,
        database=query.database,
        question=question,
        sql=query.sql,
        split="train",
        source="synthesized",
        template=query.template_id,
        checks={"writer": writer},
    )


class _Taken:
    """The questions taken so far, and the checks of further ones."""

    def __init__(
        self,
        queries: Sequence[SynthesizedSQL],
        catalogue: Mapping[str, Database],
        seen: set[tuple[str, str]],
        mentions: Mentions,
    ) -> None:
        self.queries, self.catalogue, self.mentions = queries, catalogue, mentions
        self.before, self.now = seen, dict[tuple[str, str], int]()
        self.written = WrittenQuestions()

    def offer(self, index: int, question: str | None, writer: str, draft: str) -> bool:
        """Makes every check, counts each, and takes the question if all pass."""
        faults = self._faults(index, question, writer, draft)
        for check, fault in faults.items():
            self.written.count(writer, check, fault is None)
        cause = next((fault for fault in faults.values() if fault is not None), None)
        if cause is not None:
            self.written.rejections[f"{writer}: {cause}"] += 1
        elif question:
            self.now[self._key(index, question)] = index
        return cause is None

    def fault(self, index: int, question: str, writer: str, draft: str) -> str | None:
        """The first check that a question fails, without taking it."""
        faults = self._faults(index, question, writer, draft)
        return next((fault for fault in faults.values() if fault is not None), None)

    def swap(self, index: int, old: str, new: str) -> bool:
        """Takes another question in the place of one that was taken, if it is still new."""
        if self._key(index, new) in self.now:
            return False
        del self.now[self._key(index, old)]
        self.now[self._key(index, new)] = index
        return True

    def _key(self, index: int, question: str) -> tuple[str, str]:
        return self.queries[index].database, question_key(question)

    def _faults(
        self, index: int, question: str | None, writer: str, draft: str
    ) -> dict[str, str | None]:
        """Each check's fault, or None where it passes; the later ones only of what is written."""
        query = self.queries[index]
        database = self.catalogue[query.database]
        if question == "":
            return {"written": "no question"}
        if question is None:
            return {"written": None, "literals": "literal lost or invented"}
        literals = mask_literals(query.sql)[2]
        allowed = f"{draft} {' '.join(_names(database))}"
        faults: dict[str, str | None] = {
            "written": None,
            "literals": literal_fault(question, literals, allowed),
            "length": length_fault(question),
            "no SQL": leak_fault(question, literals, database),
        }
        if writer == "model":
            faults["mentions"] = self.mentions.fault(question, query.sql, database, [draft])
        key = self._key(index, question)
        faults["new"] = None
        if key in self.before:
            faults["new"] = "asked before"
        elif key in self.now:
            faults["new"] = "asks for another query too"
        return faults


def _names(database: Database) -> Iterable[str]:
    for table in database.tables:
        yield table.natural_name
        yield from (column.natural_name for column in table.columns)
