"""Which worker gets which items, and what becomes of those that a lost worker had. No Ray here.

Placement. The items of one database go to one worker, chosen by hashing, so that the next batch
finds the database open and its golds in the cache; a database with more than its worker's share of
the work overflows to the next worker in an order of its own. A worker with nothing left takes from
the back of the longest queue.

Loss. Everything a lost worker had is asked again, from then on with nothing beside it on its
worker, so that the next loss has one culprit. What is lost again is cut into parts, until a single
item that has been lost twice or more is given up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

# Of a worker's fair share of a batch: what it may get before a database overflows.
OVERFULL = 1.25
PARTS = 8  # of a shard that was lost twice
QUEUE_SHARE = 4  # a shard is at most this part of what is left: no long wait for the last one


@dataclass(eq=False, slots=True)
class Shard:
    """Items that one worker gets in one request.

    Attributes:
        key: names this request alone: an answer to a request that was given up on is dropped.
        units: places of the items in the batch.
        losses: workers that were lost with these items.
    """

    key: int
    units: list[int]
    losses: int = 0


def placed(groups: Sequence[bytes], weights: Sequence[int], workers: int) -> list[list[int]]:
    """A queue of places for each worker, the places of a group (a database) side by side.

    Args:
        groups: of each item.
        weights: work of each item.
        workers: how many.
    """
    members: dict[bytes, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    queues: list[list[int]] = [[] for _ in range(workers)]
    loads = [0] * workers
    most = OVERFULL * sum(weights) / workers
    for group, places in members.items():
        order = iter(preferred(group, workers))
        worker = next(order)
        for place in places:
            while loads[worker] >= most:
                worker = next(order)  # there is one left: all full would be more than all
            queues[worker].append(place)
            loads[worker] += weights[place]
    return queues


def preferred(group: bytes, workers: int) -> list[int]:
    """The workers in the order in which a group goes to them (rendezvous hashing): a worker more or
    less moves only its own groups."""
    if workers == 1:
        return [0]
    scores = [hashlib.blake2b(b"%d " % w + group, digest_size=8).digest() for w in range(workers)]
    return sorted(range(workers), key=scores.__getitem__)


def dealt(places: Sequence[int], workers: int) -> list[list[int]]:
    """A queue of as many places for each worker, taken in turn."""
    return [list(places[worker::workers]) for worker in range(workers)]


class Shards:
    """What is to do, under way and done of one batch.

    Args:
        queues: places by worker (`placed`, `dealt`).
        weights: work of each place.
        least, most: weight of a shard.
    """

    def __init__(
        self, queues: list[list[int]], weights: Sequence[int], *, least: int, most: int
    ) -> None:
        self._queues = [queue[::-1] for queue in queues]  # the front is popped from the end
        self._weights = weights
        self._least, self._most = least, most
        self._suspects: list[Shard] = []
        self._open: dict[int, Shard] = {}
        self._keys = 0
        self._left = sum(map(len, queues))

    @property
    def over(self) -> bool:
        """Whether every item is done or given up."""
        return self._left == 0

    @property
    def waiting(self) -> bool:
        """Whether there is anything to take."""
        return bool(self._suspects) or any(self._queues)

    def take(self, worker: int, *, alone: bool) -> Shard | None:
        """The next shard for a worker.

        Args:
            worker: its number.
            alone: it has nothing else under way; only such a worker gets what was lost before.
        """
        if self._suspects:
            return self._opened(self._suspects.pop()) if alone else None
        own = self._queues[worker]
        queue = own or max(self._queues, key=len)
        if not queue:
            return None
        most = min(self._most, max(self._least, self._weight(queue) // QUEUE_SHARE))
        units: list[int] = []
        weight = 0
        if own:
            while own and (not units or weight + self._weights[own[-1]] <= most):
                units.append(own.pop())
                weight += self._weights[units[-1]]
        else:
            end = 0
            while end < len(queue) and (not end or weight + self._weights[queue[end]] <= most):
                weight += self._weights[queue[end]]
                end += 1
            units = queue[:end][::-1]
            del queue[:end]
        return self._opened(Shard(self._keys, units))

    def finish(self, shard: Shard) -> bool:
        """Takes note of an answer; False where it comes late, and its items are done elsewhere."""
        if self._open.pop(shard.key, None) is None:
            return False
        self._left -= len(shard.units)
        return True

    def lose(self, shard: Shard) -> list[int]:
        """Takes note of a lost worker; returns the items that are given up."""
        if self._open.pop(shard.key, None) is None or not shard.units:
            return []
        losses = shard.losses + 1
        if losses == 1:
            self._suspects.append(Shard(0, shard.units, losses))
        elif len(shard.units) > 1:
            size = -(-len(shard.units) // PARTS)
            for start in range(0, len(shard.units), size):
                self._suspects.append(Shard(0, shard.units[start : start + size], losses))
        else:
            self._left -= len(shard.units)
            return shard.units
        return []

    def done(self, shard: Shard, unit: int) -> None:
        """Takes one item out of a shard under way, done before the rest of it."""
        shard.units.remove(unit)
        self._left -= 1

    def _weight(self, queue: list[int]) -> int:
        # All weights alike but for a few: the mean is near enough, and this is asked often.
        return len(queue) * self._weights[queue[-1]]

    def _opened(self, shard: Shard) -> Shard:
        shard.key = self._keys
        self._open[shard.key] = shard
        self._keys += 1
        return shard
