"""Asks a model for SQL, runs what it writes while more is written, and chooses the answer."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Protocol

from spftcore.config import PromptConfig
from spftcore.databases import Database
from spftcore.errors import SpftError
from spftcore.inference.strategies import (
    Candidate,
    Choice,
    Drawn,
    Strategy,
    choose,
    distinct,
    repaired_better,
    wants_repair,
)
from spftcore.prompts import PromptRenderer, parse_sql
from spftcore.rollout.grammar import sql_grammar
from spftcore.rollout.requests import Completion, Engine, Sampling
from spftcore.verify import Executor, Outcome, Status

BLOCK = 256  # questions that are asked together; only their prompts are held


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked.

    Attributes:
        id: names it in the answers.
        database: id of the database.
        question: in natural language.
        evidence: BIRD's hint, if any.
    """

    id: str
    database: str
    question: str
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Repaired:
    """A second try.

    Attributes:
        sql, message: the first answer, and what the model was told of it.
        second: the SQL of its second answer; empty when it wrote none.
        outcome: of the second answer.
        taken: whether the second answer is better.
    """

    sql: str
    message: str
    second: str
    outcome: Outcome | None
    taken: bool


@dataclass(frozen=True, slots=True)
class Answered:
    """A question with its answer.

    Attributes:
        question: what was asked.
        sql: the answer; empty when there is none.
        outcome: of its execution; None when there is none.
        cause: why there is no answer, in a sentence; empty when there is one.
        reason: why this one.
        prompt: what the model was shown.
        candidates: the distinct SQL among the completions, in the order in which they were drawn.
        samples: the SQL of every completion, the greedy one first; '' for one that holds none.
        choice: how the candidates were chosen among; None without candidates.
        repaired: the second try, where there was one.
        cut: completions that reached the limit of tokens and were cut off there.
        seconds: from the call to this answer.
    """

    question: Question
    sql: str = ""
    outcome: Outcome | None = None
    cause: str = ""
    reason: str = ""
    prompt: str = ""
    candidates: tuple[Candidate, ...] = ()
    samples: tuple[str, ...] = ()
    choice: Choice | None = None
    repaired: Repaired | None = None
    cut: int = 0
    seconds: float = 0.0

    @property
    def runs(self) -> bool:
        """Whether there is an answer and it runs."""
        return self.outcome is not None and self.outcome.ran


class PromptEncoder(Protocol):
    """What turns a prompt into tokens (`spftcore.encoding.Encoder`)."""

    def prompt(self, text: str) -> Sequence[int]:
        """Token ids of a prompt."""
        ...


@dataclass(frozen=True, slots=True)
class Prompted:
    """A question as the model will see it.

    Attributes:
        text, ids: the prompt and its tokens; empty when it could not be made.
        cause: why the question cannot be asked; empty when it can.
    """

    text: str = ""
    ids: Sequence[int] = ()
    cause: str = ""


class Prompting:
    """Prompts of questions.

    Args:
        renderer: of prompts.
        encoder: makes tokens of them.
        databases: by id; those that the renderer knows.
        limits: longest prompts and completions.
        constrain: hold answers to a grammar with the names of their database.
    """

    def __init__(
        self,
        renderer: PromptRenderer,
        encoder: PromptEncoder,
        databases: Mapping[str, Database],
        limits: PromptConfig,
        *,
        constrain: bool = False,
    ) -> None:
        self.renderer = renderer
        self.databases = databases
        self.limits = limits
        self.constrain = constrain
        self._encoder = encoder
        self._grammars: dict[str, str] = {}

    def grammars(self, questions: Iterable[Question]) -> tuple[str | None, ...]:
        """What the answers to these questions are held to; empty: to nothing."""
        if not self.constrain:
            return ()
        return tuple(self._grammar(question.database) for question in questions)

    def _grammar(self, name: str) -> str:
        if name not in self._grammars:
            self._grammars[name] = sql_grammar(self.databases[name])
        return self._grammars[name]

    def prompt(self, question: Question) -> Prompted:
        """The prompt of a question, trimmed to `prompt.max_prompt_tokens`."""
        if not question.question.strip():
            return Prompted(cause="The question is empty.")
        if question.database not in self.databases:
            return Prompted(cause=f"There is no database '{question.database}' to ask.")
        text = self.renderer.text_to_sql(
            _text(question.question),
            question.database,
            _text(question.evidence),
            fits=lambda text: len(self._encoder.prompt(text)) <= self.limits.max_prompt_tokens,
        )
        ids = self._encoder.prompt(text)
        if len(ids) > self.limits.max_prompt_tokens:
            return Prompted(
                text,
                cause="The prompt is longer than prompt.max_prompt_tokens even when all that can "
                "be left out of it is.",
            )
        return Prompted(text, ids)

    def repair(self, prompt: str, sql: str, message: str) -> Prompted:
        """The prompt of a second try; it may be longer than the first by a completion."""
        text = self.renderer.repair(prompt, sql, message)
        ids = self._encoder.prompt(text)
        if len(ids) > self.limits.max_prompt_tokens + self.limits.max_completion_tokens:
            return Prompted(text, cause="The prompt of the second try is too long.")
        return Prompted(text, ids)


@dataclass(slots=True)
class _Asked:
    """A question at work. `drawn` holds a place for each completion."""

    question: Question
    prompt: Prompted
    drawn: list[Drawn | None]
    causes: dict[str, None] = field(default_factory=dict)
    cut: int = 0


class Answerer:
    """Answers questions with one model.

    Args:
        engine: the model, ready to generate.
        prompting: makes its prompts.
        executor: runs what the model writes.
        strategy: how an answer is found.
        adapter: name of an adapter that is loaded in the engine.
    """

    def __init__(
        self,
        engine: Engine,
        prompting: Prompting,
        executor: Executor,
        strategy: Strategy,
        *,
        adapter: str | None = None,
    ) -> None:
        self.strategy = strategy
        self.prompting = prompting
        self._engine = engine
        self._executor = executor
        self._adapter = adapter

    def answers(self, questions: Iterable[Question]) -> Iterator[Answered]:
        """Answers in the order in which they are ready; what is answered does not depend on it.

        A question that cannot be asked, or to which the model writes no SQL, has an answer with a
        `cause`. Closing the iterator, or Ctrl-C, stops what is being generated and what is running.
        """
        start = time.perf_counter()
        source = iter(questions)
        while block := list(islice(source, BLOCK)):
            yield from self._block(block, start)

    def _block(self, block: Sequence[Question], start: float) -> Iterator[Answered]:
        asked: list[_Asked] = []
        for question in block:
            prompt = self.prompting.prompt(question)
            if prompt.cause:
                yield Answered(question, cause=prompt.cause, prompt=prompt.text)
            else:
                drawn: list[Drawn | None] = [None] * (1 + self.strategy.samples)
                asked.append(_Asked(question, prompt, drawn))
        again: list[tuple[_Asked, Answered]] = []
        with _running(self._executor) as run:
            for one, outcomes in run(self._drawn(asked)):
                answered = self._chosen(one, outcomes, time.perf_counter() - start)
                taken = answered.choice
                if taken and wants_repair(taken.candidate, self.strategy.repair):
                    again.append((one, answered))
                else:
                    yield answered
        # In the order of the questions, not of the clock.
        places = {id(one): place for place, one in enumerate(asked)}
        again.sort(key=lambda pair: places[id(pair[0])])
        yield from self._repair(again, start)

    def _drawn(self, asked: Sequence[_Asked]) -> Iterator[tuple[_Asked, str, list[str]]]:
        """(question, its database file, distinct SQL) whenever all completions of one are there."""
        strategy = self.strategy
        prompts = [one.prompt.ids for one in asked]
        missing = [len(one.drawn) for one in asked]
        grammars = self.prompting.grammars(one.question for one in asked)
        greedy = ((c, 0) for c in self._generate(prompts, Sampling(grammars=grammars)))
        # A question is drawn for alike in whatever company, so that a run may go on at any place.
        sampling = Sampling(
            samples=strategy.samples,
            temperature=strategy.temperature,
            seed=strategy.seed,
            keys=tuple(_key(one.prompt.text) for one in asked),
            grammars=grammars,
        )
        sampled = (
            ((c, 1 + c.sample) for c in self._generate(prompts, sampling))
            if strategy.samples
            else ()
        )
        for completion, place in chain(greedy, sampled):
            one = asked[completion.prompt]
            one.drawn[place] = Drawn(parse_sql(completion.text), sum(completion.logprobs))
            one.cut += completion.finish == "length"
            if completion.finish in _CAUSES:
                one.causes[_CAUSES[completion.finish]] = None
            missing[completion.prompt] -= 1
            if not missing[completion.prompt]:
                texts = [sql for sql, *_ in distinct(_filled(one.drawn))]
                yield one, self._file(one.question), texts

    def _file(self, question: Question) -> str:
        return str(self.prompting.databases[question.database].path)

    def _generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling
    ) -> Iterator[Completion]:
        limited = replace(sampling, max_new_tokens=self.prompting.limits.max_completion_tokens)
        return self._engine.generate(prompts, limited, adapter=self._adapter)

    def _chosen(self, one: _Asked, outcomes: Sequence[Outcome], seconds: float) -> Answered:
        drawn = _filled(one.drawn)
        candidates = tuple(
            Candidate(sql, count, first, logprob, outcome)
            for (sql, count, first, logprob), outcome in zip(distinct(drawn), outcomes, strict=True)
        )
        choice = choose(candidates)
        return Answered(
            one.question,
            sql=choice.candidate.sql if choice else "",
            outcome=choice.candidate.outcome if choice else None,
            cause="" if choice else " ".join(one.causes) or "The model wrote no SQL.",
            reason=choice.reason if choice else "",
            prompt=one.prompt.text,
            candidates=candidates,
            samples=tuple(d.sql for d in drawn),
            choice=choice,
            cut=one.cut,
            seconds=seconds,
        )

    # -- the second try ------------------------------------------------------------------------

    def _repair(self, again: Sequence[tuple[_Asked, Answered]], start: float) -> Iterator[Answered]:
        tries: list[_Asked] = []
        firsts: dict[int, tuple[Answered, str]] = {}
        for one, answered in again:
            assert answered.choice is not None
            message = _complaint(answered.choice.candidate.outcome)
            prompt = self.prompting.repair(one.prompt.text, answered.sql, message)
            if prompt.cause:
                yield answered
                continue
            second = _Asked(one.question, prompt, [None])
            firsts[id(second)] = answered, message
            tries.append(second)
        with _running(self._executor) as run:
            for second, outcomes in run(self._drawn_again(tries)):
                answered, message = firsts[id(second)]
                seconds = time.perf_counter() - start
                yield _mended(answered, message, second, outcomes, seconds)

    def _drawn_again(self, tries: Sequence[_Asked]) -> Iterator[tuple[_Asked, str, list[str]]]:
        if not tries:
            return
        again = Sampling(grammars=self.prompting.grammars(one.question for one in tries))
        for completion in self._generate([one.prompt.ids for one in tries], again):
            one = tries[completion.prompt]
            sql = parse_sql(completion.text)
            one.drawn[0] = Drawn(sql, sum(completion.logprobs))
            yield one, self._file(one.question), [sql] if sql else []


_CAUSES = {
    "too_long": "The prompt leaves no room for an answer in the model's context.",
    "failed": "The generation failed.",
}


def _filled(drawn: Sequence[Drawn | None]) -> list[Drawn]:
    return [one for one in drawn if one is not None]


def _key(prompt: str) -> int:
    """A number that names a prompt, on any machine."""
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:6], "little")


def _text(given: str) -> str:
    """A text that can be encoded: half a surrogate pair, as JSON may hold it, cannot."""
    return given.encode("utf-8", "replace").decode("utf-8")


def _complaint(outcome: Outcome) -> str:
    """What the model is told of an answer."""
    if outcome.ran:
        return "it returns no rows" if outcome.rows == 0 else "it returns nothing but NULL"
    if outcome.status is Status.STEP_BUDGET or outcome.status is Status.TIME_BUDGET:
        return "it takes too long"
    return outcome.message


def _mended(
    answered: Answered,
    message: str,
    second: _Asked,
    outcomes: Sequence[Outcome],
    seconds: float,
) -> Answered:
    """The answer after the second try."""
    assert answered.choice is not None
    first = answered.choice.candidate
    sql = _filled(second.drawn)[0].sql
    outcome = outcomes[0] if outcomes else None
    taken = outcome is not None and repaired_better(first, outcome)
    repaired = Repaired(first.sql, message, sql, outcome, taken)
    if not taken:
        return replace(answered, repaired=repaired, seconds=seconds)
    return replace(
        answered,
        sql=sql,
        outcome=outcome,
        reason="the second try, after the model was shown what is wrong with the first",
        repaired=repaired,
        seconds=seconds,
    )


_Work = tuple[_Asked, str, list[str]]
_Done = tuple[_Asked, list[Outcome]]


@contextmanager
def _running(executor: Executor) -> Iterator[Callable[[Iterator[_Work]], Iterator[_Done]]]:
    """Executes beside generation: one batch at a time in a thread of its own, each handed out as
    soon as it is done; leaving stops what still runs."""
    stopped = False

    def go_on(done: int, total: int) -> None:
        if stopped:
            raise SpftError("The execution was stopped.")

    def execute(database: str, queries: list[str]) -> list[Outcome]:
        found = executor.execute([(database, sql) for sql in queries], progress=go_on)
        return [found[i] for i in range(len(found))]

    thread = ThreadPoolExecutor(1)
    under_way: deque[tuple[_Asked, Future[list[Outcome]]]] = deque()

    def run(work: Iterator[_Work]) -> Iterator[_Done]:
        for one, database, queries in work:
            under_way.append((one, thread.submit(execute, database, queries)))
            while under_way and under_way[0][1].done():
                first, future = under_way.popleft()
                yield first, future.result()
        while under_way:
            first, future = under_way.popleft()
            yield first, future.result()

    try:
        yield run
    finally:
        stopped = True
        thread.shutdown(cancel_futures=True)
