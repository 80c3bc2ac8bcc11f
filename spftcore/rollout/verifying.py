"""Judging answers while others are still being generated, each distinct one once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spftcore.errors import SpftError
from spftcore.verify import Compare, Executor, Judgement, Verdicts

Key = tuple[str | Path, str, str]  # database file, gold, answer


@dataclass(slots=True)
class Tally:
    """What became of the answers to be judged.

    Attributes:
        answers: all of them.
        distinct: different texts among the answers to one question (database and gold).
    """

    answers: int = 0
    distinct: int = 0


def judged(
    executor: Executor,
    questions: Sequence[tuple[str | Path, str]],
    answers: Iterable[tuple[int, str]],
    *,
    compare: Compare = "bag",
    on: Literal["file", "family"] = "file",
    tally: Tally | None = None,
) -> Iterator[tuple[int, str, Judgement]]:
    """Judges answers as they come, in another thread than the one that asks for them.

    While one batch is judged the next one gathers, so that a slow generator is followed answer by
    answer and a fast one in large batches. Equal answers to equal questions are judged once.

    Args:
        executor: judges.
        questions: (database file, gold).
        answers: (place of its question, SQL), as they are finished.
        compare, on: as of `Executor.verify`.
        tally: counts the answers.

    Yields:
        (place, SQL, judgement) for every answer, in no particular order.
    """
    tally = Tally() if tally is None else tally
    known: dict[Key, Judgement] = {}
    asked: dict[Key, list[int]] = {}  # being judged, with the places that wait for each
    gathered: dict[Key, list[int]] = {}
    stopped = False

    def go_on(done: int, total: int) -> None:
        if stopped:
            raise SpftError("The answers are not wanted any more.")

    def verify(keys: Sequence[Key]) -> Verdicts:
        items = [(database, gold, [sql]) for database, gold, sql in keys]
        return executor.verify(items, compare, on=on, progress=go_on)

    def collected(verdicts: Verdicts) -> Iterator[tuple[int, str, Judgement]]:
        for (key, places), (judgement,) in zip(asked.items(), verdicts, strict=True):
            known[key] = judgement
            for place in places:
                yield place, key[2], judgement

    with ThreadPoolExecutor(1, "judging") as pool:
        under_way: Future[Verdicts] | None = None
        try:
            for place, sql in answers:
                tally.answers += 1
                key = (*questions[place], sql)
                if key in known:
                    yield place, sql, known[key]
                elif key in asked:
                    asked[key].append(place)
                else:
                    tally.distinct += key not in gathered
                    gathered.setdefault(key, []).append(place)
                if under_way is not None and under_way.done():
                    yield from collected(under_way.result())
                    under_way, asked = None, {}
                if under_way is None and gathered:
                    asked, gathered = gathered, {}
                    under_way = pool.submit(verify, list(asked))
            while under_way is not None:
                yield from collected(under_way.result())
                asked, gathered = gathered, {}
                under_way = pool.submit(verify, list(asked)) if asked else None
        finally:
            stopped = True
