"""Judges a system's answers to a benchmark: one scored record per question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from spftcore.benchmarks import Benchmark, Question
from spftcore.errors import UsageError
from spftcore.metrics.efficiency import REPEATS, r_ves, timed_ratio, timing_executor, ves
from spftcore.metrics.features import features
from spftcore.metrics.hardness import hardness
from spftcore.metrics.predictions import Answer
from spftcore.metrics.records import Scored
from spftcore.metrics.samples import ks_of, majority, pass_at_k
from spftcore.verify import Compare, Executor, Outcome, Status, Verdict

Metric = Literal["spider", "bag", "bird", "ts", "soft_f1", "ves_steps", "ves", "r_ves"]
METRICS: tuple[Metric, ...] = get_args(Metric)

# Right or wrong on the database itself; the first one asked for also judges samples.
EXECUTION: tuple[Compare, ...] = ("spider", "bird", "bag")

# Why a question counts in no score.
NO_DATABASE = "no database"
UNREADABLE = "database cannot be read"
NOT_RUN = "gold does not run"
OVER_LIMITS = "gold is over the limits"

_CAUSES = {
    Status.DATABASE_ERROR: UNREADABLE,
    Status.STEP_BUDGET: OVER_LIMITS,
    Status.TIME_BUDGET: OVER_LIMITS,
    Status.TOO_LARGE: OVER_LIMITS,
}

# In the folder of a generated family; an official test suite has none.
_FAMILY_RECORD = "family.json"

# Called with what is being done, and how much of how much of it is.
Report = Callable[[str, int, int], None]


def nobody(what: str, done: int, total: int) -> None:
    """Watches nothing."""


def default_metrics(benchmark: Benchmark, families: Path | None) -> tuple[Metric, ...]:
    """What is usually reported of a benchmark; VES and R-VES take long and must be asked for."""
    usual: dict[str, tuple[Metric, ...]] = {
        "bird": ("bird", "soft_f1", "ves_steps"),
        "pairs": ("bag",),
    }
    first = usual.get(benchmark.kind, ("spider", "bag"))
    return first if families is None else (*first, "ts")


def score(
    benchmark: Benchmark,
    answers: Sequence[Answer],
    executor: Executor,
    metrics: Sequence[Metric],
    *,
    families: Path | None = None,
    stability: bool = True,
    repeats: int = REPEATS,
    report: Report = nobody,
) -> list[Scored]:
    """Judges one answer, or several samples, per question.

    Args:
        benchmark: the questions.
        answers: one per question, in the same order.
        executor: runs everything; made with the same `families`.
        metrics: of `METRICS`.
        families: folder of generated families or official test suites, for `ts`.
        stability: probe whether golds hang on ties and the like.
        repeats: timed runs of each right answer and its gold, for `ves` and `r_ves`.
        report: called now and then.

    Returns:
        One record per question, in the order of the questions. A metric that could not be judged
        on a question is left out of its scores; a question that counts in no score says why.

    Raises:
        UsageError: numbers of answers and questions differ, or `ts` without `families`.
        SpftError: a family is damaged.
    """
    if len(answers) != len(benchmark.questions):
        raise UsageError(f"{len(answers)} answers to {len(benchmark.questions)} questions.")
    if "ts" in metrics and families is None:
        raise UsageError("The metric ts needs the folder of families or test suites (--families).")
    judge = _Judge(executor, report)
    judge.choose(benchmark, answers)
    execution = [mode for mode in EXECUTION if mode in metrics]
    for mode in execution:
        judge.add_right(mode)
    if "soft_f1" in metrics:
        judge.add_soft_f1()
    if families is not None and "ts" in metrics:
        judge.add_suites(families)
    if "ves_steps" in metrics:
        judge.add_steps()
    if "ves" in metrics or "r_ves" in metrics:
        judge.add_times([name for name in ("ves", "r_ves") if name in metrics], repeats)
    if execution:
        judge.add_samples(execution[0])
    if stability:
        judge.add_stability()
    cases = {case.question.number: case for case in judge.cases}
    return [
        _record(
            question, answer, judge.excluded.get(question.number, ""), cases.get(question.number)
        )
        for question, answer in zip(benchmark.questions, answers, strict=True)
    ]


@dataclass(slots=True)
class _Case:
    """A question that can be judged, and what has been found so far."""

    question: Question
    answer: Answer
    path: Path
    gold: Outcome
    outcome: Outcome
    scores: dict[str, float] = field(default_factory=dict)
    near_miss: bool = False
    unstable: str = ""


class _Judge:
    """Fills the scores of the cases, one metric after another."""

    def __init__(self, executor: Executor, report: Report) -> None:
        self._executor = executor
        self._report = report
        self._verdicts: dict[Compare, NDArray[np.uint8]] = {}
        self.cases: list[_Case] = []
        self.excluded: dict[int, str] = {}  # by the question's number

    def choose(self, benchmark: Benchmark, answers: Sequence[Answer]) -> None:
        """Runs golds and answers, and tells the questions that can be judged from the others."""
        there = []
        for question, answer in zip(benchmark.questions, answers, strict=True):
            path = benchmark.databases.get(question.database)
            if path is None:
                self.excluded[question.number] = NO_DATABASE
            else:
                there.append((question, answer, path))
        golds = self._executor.execute(
            [(path, question.gold) for question, _, path in there],
            progress=partial(self._report, "golds"),
        )
        outcomes = self._executor.execute(
            [(path, answer.sql) for _, answer, path in there],
            progress=partial(self._report, "answers"),
        )
        for (question, answer, path), gold, outcome in zip(there, golds, outcomes, strict=True):
            if gold.ran:
                self.cases.append(_Case(question, answer, path, gold, outcome))
            else:
                self.excluded[question.number] = _CAUSES.get(gold.status, NOT_RUN)

    def add_right(self, mode: Compare) -> None:
        """Execution accuracy: right or wrong on the database itself."""
        for case, verdict in zip(self.cases, self._of(mode), strict=True):
            if verdict != Verdict.UNJUDGED:
                case.scores[mode] = float(verdict == Verdict.RIGHT)

    def add_soft_f1(self) -> None:
        judged = self._executor.verify(
            map(_item, self.cases), "soft_f1", progress=partial(self._report, "soft_f1")
        )
        for case, verdict, value in zip(self.cases, judged.verdict, judged.score, strict=True):
            if verdict != Verdict.UNJUDGED:
                case.scores["soft_f1"] = float(value)

    def add_suites(self, families: Path) -> None:
        """Right on the database and on all its variants.

        Generated families, whose rows tie often, are compared as bags with ties free; official
        test suites as their evaluator compares.
        """
        from spftcore.verify.families import family_of  # slow to import

        chosen: dict[Compare, list[_Case]] = {"bag": [], "spider": []}
        for case in self.cases:
            folder = families / case.path.stem
            if (folder / _FAMILY_RECORD).is_file():
                family_of(families, case.path)  # complains of a damaged one
                chosen["bag"].append(case)
            elif any(folder.glob("*.sqlite")):
                chosen["spider"].append(case)
        for mode, cases in chosen.items():
            items = list(map(_item, cases))
            alone = self._executor.verify(items, mode)
            suite = self._executor.verify(
                items, mode, on="family", progress=partial(self._report, "ts")
            )
            for case, one, all_of_them in zip(cases, alone.verdict, suite.verdict, strict=True):
                if all_of_them != Verdict.UNJUDGED:
                    case.scores["ts"] = float(all_of_them == Verdict.RIGHT)
                    case.near_miss = bool(one == Verdict.RIGHT and all_of_them == Verdict.WRONG)

    def add_steps(self) -> None:
        """VES with virtual-machine steps in place of seconds."""
        for case, verdict in zip(self.cases, self._of("bird"), strict=True):
            if verdict != Verdict.UNJUDGED:
                ratio = case.gold.steps / max(case.outcome.steps, 1)
                case.scores["ves_steps"] = ves(ratio) if verdict == Verdict.RIGHT else 0.0

    def add_times(self, names: Sequence[str], repeats: int) -> None:
        """VES and R-VES: answers that are right by BIRD's rule are timed, others have 0."""
        formulas = {"ves": ves, "r_ves": r_ves}
        verdicts = self._of("bird")
        total = int((verdicts == Verdict.RIGHT).sum())
        done = 0
        with timing_executor(self._executor.limits) as executor:
            for case, verdict in zip(self.cases, verdicts, strict=True):
                if verdict == Verdict.UNJUDGED:
                    continue
                ratio: float | None = 0.0
                if verdict == Verdict.RIGHT:
                    self._report("times", done, total)
                    ratio = timed_ratio(
                        executor, case.path, case.question.gold, case.answer.sql, repeats
                    )
                    done += 1
                if ratio is not None:
                    for name in names:
                        case.scores[name] = formulas[name](ratio)

    def add_samples(self, mode: Compare) -> None:
        """pass@k and the verdict on the majority's answer, of questions with several samples."""
        cases = [case for case in self.cases if len(case.answer.samples) > 1]
        if not cases:
            return
        ks = ks_of(min(len(case.answer.samples) for case in cases))
        judged = self._executor.verify(
            [(case.path, case.question.gold, case.answer.samples) for case in cases],
            mode,
            progress=partial(self._report, "samples"),
        )
        results = self._executor.execute(
            [(case.path, sql) for case in cases for sql in case.answer.samples]
        ).fingerprint
        for number, case in enumerate(cases):
            here = slice(judged.offsets[number], judged.offsets[number + 1])
            verdicts = judged.verdict[here]
            known = verdicts[verdicts != Verdict.UNJUDGED]
            right = int((known == Verdict.RIGHT).sum())
            for k in ks:
                if k <= len(known):
                    case.scores[f"pass@{k}"] = pass_at_k(right, len(known), k)
            vote = verdicts[majority([name.decode() for name in results[here]])]
            if vote != Verdict.UNJUDGED:
                case.scores["vote"] = float(vote == Verdict.RIGHT)

    def add_stability(self) -> None:
        """Why golds hang on more than the data, where they do."""
        self._report("stability", 0, len(self.cases))
        found = self._executor.stable([(case.path, case.question.gold) for case in self.cases])
        for case, one in zip(self.cases, found, strict=True):
            case.unstable = one.cause if one.verdict is False else ""

    def _of(self, mode: Compare) -> NDArray[np.uint8]:
        """The verdicts on all answers, judged once per comparison."""
        if mode not in self._verdicts:
            self._verdicts[mode] = self._executor.verify(
                map(_item, self.cases), mode, progress=partial(self._report, mode)
            ).verdict
        return self._verdicts[mode]


def _item(case: _Case) -> tuple[Path, str, Sequence[str]]:
    return case.path, case.question.gold, (case.answer.sql,)


def _record(question: Question, answer: Answer, excluded: str, case: _Case | None) -> Scored:
    made_of = features(question.gold)
    return Scored(
        id=question.id,
        database=question.database,
        question=question.question,
        gold=question.gold,
        sql=answer.sql,
        evidence=question.evidence,
        samples=answer.samples if len(answer.samples) > 1 else (),
        hardness=hardness(question.gold),
        difficulty=question.difficulty,
        clauses=made_of.clauses,
        joins=made_of.joins,
        excluded=excluded,
        status=case.outcome.status.name.lower() if case else "",
        message=case.outcome.message if case else "",
        unstable=case.unstable if case else "",
        scores=case.scores if case else {},
        near_miss=case.near_miss if case else False,
        seconds=answer.seconds,
    )
