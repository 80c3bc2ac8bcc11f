"""Judges a system's answers to a benchmark: one scored record per question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from spftcore.benchmarks import Benchmark, Question
from spftcore.errors import SpftError, UsageError
from spftcore.metrics.efficiency import REPEATS, r_ves, timed_ratios, ves
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

NO_DATABASE = "no database"
UNREADABLE = "database cannot be read"
NOT_RUN = "gold does not run"
OVER_LIMITS = "gold is over the limits"

# Family of a database whose folder has no record: an official test suite.
_FAMILY_RECORD = "family.json"


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


def default_metrics(benchmark: Benchmark, families: Path | None) -> tuple[Metric, ...]:
    """What is usually reported of a benchmark; VES and R-VES take long and must be asked for."""
    if benchmark.kind == "bird":
        return ("bird", "soft_f1", "ves_steps")
    first: tuple[Metric, ...] = ("bag",) if benchmark.kind == "pairs" else ("spider", "bag")
    return (*first, "ts") if families is not None else first


def score(
    benchmark: Benchmark,
    answers: Sequence[Answer],
    executor: Executor,
    metrics: Sequence[Metric],
    *,
    families: Path | None = None,
    stability: bool = True,
    repeats: int = REPEATS,
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

    Returns:
        One record per question, in the order of the questions. A metric that could not be judged
        on a question is left out of its scores; a question that counts in no score says why.

    Raises:
        UsageError: numbers of answers and questions differ, no metric judges right and wrong, or
            `ts` without `families`.
    """
    if len(answers) != len(benchmark.questions):
        raise UsageError(f"{len(answers)} answers to {len(benchmark.questions)} questions.")
    cases, excluded = _cases(benchmark, answers, executor)
    for mode in EXECUTION:
        if mode in metrics:
            _add_execution(cases, executor, mode)
    if "soft_f1" in metrics:
        _add_execution(cases, executor, "soft_f1")
    if "ts" in metrics:
        _add_suites(cases, executor, families)
    if {"ves_steps", "ves", "r_ves"} & set(metrics):
        _add_efficiency(cases, executor, metrics, repeats)
    first = next((mode for mode in EXECUTION if mode in metrics), None)
    if first is not None:
        _add_samples(cases, executor, first)
    if stability:
        found = executor.stable([(case.path, case.question.gold) for case in cases])
        for case, one in zip(cases, found, strict=True):
            case.unstable = one.cause if one.verdict is False else ""
    by_id = {case.question.id: case for case in cases}
    return [
        _record(question, answer, excluded.get(question.id, ""), by_id.get(question.id))
        for question, answer in zip(benchmark.questions, answers, strict=True)
    ]


def _cases(
    benchmark: Benchmark, answers: Sequence[Answer], executor: Executor
) -> tuple[list[_Case], dict[str, str]]:
    """The questions that can be judged, and why the others cannot."""
    excluded: dict[str, str] = {}
    there = []
    for question, answer in zip(benchmark.questions, answers, strict=True):
        path = benchmark.databases.get(question.database)
        if path is None:
            excluded[question.id] = NO_DATABASE
        else:
            there.append((question, answer, path))
    golds = executor.execute([(path, question.gold) for question, _, path in there])
    outcomes = executor.execute([(path, answer.sql) for _, answer, path in there])
    cases = []
    for (question, answer, path), gold, outcome in zip(there, golds, outcomes, strict=True):
        if gold.ran:
            cases.append(_Case(question, answer, path, gold, outcome))
        elif gold.status is Status.DATABASE_ERROR:
            excluded[question.id] = UNREADABLE
        elif gold.status in (Status.STEP_BUDGET, Status.TIME_BUDGET, Status.TOO_LARGE):
            excluded[question.id] = OVER_LIMITS
        else:
            excluded[question.id] = NOT_RUN
    return cases, excluded


def _add_execution(cases: list[_Case], executor: Executor, mode: Compare) -> None:
    judged = executor.verify(
        [(case.path, case.question.gold, [case.answer.sql]) for case in cases], mode
    )
    for case, verdict, value in zip(cases, judged.verdict, judged.score, strict=True):
        if verdict != Verdict.UNJUDGED:
            case.scores[mode] = float(value)


def _add_suites(cases: list[_Case], executor: Executor, families: Path | None) -> None:
    """Right on the database and all its variants. Generated families, whose rows tie often, are
    compared as bags with ties free; official test suites as their evaluator does."""
    if families is None:
        raise UsageError("The metric ts needs the folder of the families or test suites.")
    from spftcore.verify.families import family_of  # slow to import

    modes: tuple[tuple[Compare, bool], ...] = (("bag", True), ("spider", False))
    for mode, generated in modes:
        chosen = []
        for case in cases:
            folder = families / case.path.stem
            if (folder / _FAMILY_RECORD).is_file() is not generated:
                continue
            try:
                family_of(families, case.path)
            except SpftError:
                if folder.is_dir():
                    raise
                continue
            chosen.append(case)
        if not chosen:
            continue
        items = [(case.path, case.question.gold, [case.answer.sql]) for case in chosen]
        alone = executor.verify(items, mode)
        together = executor.verify(items, mode, on="family")
        for case, one, all_of_them in zip(chosen, alone.verdict, together.verdict, strict=True):
            if all_of_them != Verdict.UNJUDGED:
                case.scores["ts"] = float(all_of_them == Verdict.RIGHT)
                case.near_miss = bool(one == Verdict.RIGHT and all_of_them == Verdict.WRONG)


def _add_efficiency(
    cases: list[_Case], executor: Executor, metrics: Sequence[Metric], repeats: int
) -> None:
    """Efficiency of the answers that are right by BIRD's rule; 0 of the others."""
    judged = executor.verify(
        [(case.path, case.question.gold, [case.answer.sql]) for case in cases], "bird"
    )
    for case, verdict in zip(cases, judged.verdict, strict=True):
        if verdict == Verdict.UNJUDGED:
            continue
        right = verdict == Verdict.RIGHT
        if "ves_steps" in metrics:
            ratio = case.gold.steps / max(case.outcome.steps, 1)
            case.scores["ves_steps"] = ves(ratio) if right else 0.0
        for name in ("ves", "r_ves"):
            if name in metrics:
                case.scores[name] = 0.0
    timed = [c for c, verdict in zip(cases, judged.verdict, strict=True) if verdict == 1]
    if {"ves", "r_ves"} & set(metrics) and timed:
        pairs = [(case.path, case.question.gold, case.answer.sql) for case in timed]
        for case, ratio in zip(timed, timed_ratios(pairs, executor.limits, repeats), strict=True):
            if "ves" in metrics:
                case.scores["ves"] = ves(ratio)
            if "r_ves" in metrics:
                case.scores["r_ves"] = r_ves(ratio)


def _add_samples(cases: list[_Case], executor: Executor, mode: Compare) -> None:
    """pass@k and the majority's verdict, of questions with more than one answer."""
    chosen = [case for case in cases if len(case.answer.samples) > 1]
    if not chosen:
        return
    ks = ks_of(min(len(case.answer.samples) for case in chosen))
    items = [(case.path, case.question.gold, case.answer.samples) for case in chosen]
    judged = executor.verify(items, mode)
    outcomes = executor.execute(
        [(case.path, sql) for case in chosen for sql in case.answer.samples]
    )
    results = outcomes.fingerprint
    for i, case in enumerate(chosen):
        here = slice(judged.offsets[i], judged.offsets[i + 1])
        verdicts = judged.verdict[here]
        known = verdicts[verdicts != Verdict.UNJUDGED]
        for k in ks:
            if k <= len(known):
                right = int((known == Verdict.RIGHT).sum())
                case.scores[f"pass@{k}"] = pass_at_k(right, len(known), k)
        vote = verdicts[majority([name.decode() for name in results[here]])]
        if vote != Verdict.UNJUDGED:
            case.scores["vote"] = float(vote == Verdict.RIGHT)


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
