"""Which worker gets which items, and what becomes of those that a lost worker had."""

from __future__ import annotations

import itertools
import random

import pytest

from spftcore.cluster.shards import OVERFULL, Shards, dealt, placed, preferred


def groups(databases: int, each: int) -> list[bytes]:
    return [b"%d.sqlite" % (i % databases) for i in range(databases * each)]


def test_each_item_is_placed_once_and_databases_stay_together() -> None:
    found = groups(40, 5)
    queues = placed(found, [2] * len(found), 4)
    assert sorted(place for queue in queues for place in queue) == list(range(len(found)))
    for queue in queues:
        changes = sum(found[a] != found[b] for a, b in itertools.pairwise(queue))
        assert changes + 1 == len({found[place] for place in queue})


def test_a_database_comes_to_the_same_worker_in_every_batch() -> None:
    first, second = groups(60, 2), groups(90, 3)
    workers = [
        {found[place]: w for w, queue in enumerate(queues) for place in queue}
        for found in (first, second)
        for queues in [placed(found, [1] * len(found), 3)]
    ]
    same = sum(workers[0][group] == workers[1][group] for group in workers[0])
    assert same >= 0.9 * len(workers[0])  # but for those that found their worker full


def test_no_worker_gets_much_more_than_its_share() -> None:
    rng = random.Random(3)
    for workers in (1, 2, 5):
        found = [b"%d" % int(rng.paretovariate(1)) for _ in range(2000)]
        weights = [rng.randrange(1, 9) for _ in found]
        loads = [sum(weights[p] for p in queue) for queue in placed(found, weights, workers)]
        assert max(loads) <= OVERFULL * sum(weights) / workers + max(weights)


def test_one_more_worker_takes_only_what_comes_to_it() -> None:
    for number in range(200):
        group = b"database %d" % number
        before, after = preferred(group, 4)[0], preferred(group, 5)[0]
        assert after in (before, 4)


def drained(shards: Shards, workers: int) -> list[int]:
    """What is taken by workers in turn, all of it finished."""
    taken: list[int] = []
    while not shards.over:
        for worker in range(workers):
            shard = shards.take(worker, alone=True)
            if shard is not None:
                taken += shard.units
                assert shards.finish(shard)
    return taken


@pytest.mark.parametrize("workers", [1, 3])
def test_everything_is_taken_once_also_by_workers_that_steal(workers: int) -> None:
    shards = Shards(placed(groups(2, 50), [3] * 100, workers), [3] * 100, least=6, most=30)
    assert sorted(drained(shards, workers)) == list(range(100))


def test_an_idle_worker_takes_from_the_back_of_the_longest_queue() -> None:
    shards = Shards([[], [0, 1, 2, 3], [4, 5]], [1] * 6, least=1, most=2)
    stolen = shards.take(0, alone=True)
    own = shards.take(1, alone=True)
    assert stolen is not None
    assert own is not None
    assert stolen.units == [3]
    assert own.units[0] == 0


def test_a_shard_is_never_heavier_than_asked_unless_it_is_one_item() -> None:
    weights = [1, 50, 3, 3, 3, 2, 70, 1]
    shards = Shards(dealt(range(8), 2), weights, least=8, most=8)
    while not shards.over:
        for worker in range(2):
            if (shard := shards.take(worker, alone=True)) is not None:
                assert len(shard.units) == 1 or sum(weights[u] for u in shard.units) <= 8
                shards.finish(shard)


def test_what_was_lost_is_asked_again_by_a_worker_that_has_nothing_else() -> None:
    shards = Shards([[0, 1]], [1, 1], least=2, most=2)
    first = shards.take(0, alone=True)
    assert first is not None
    assert shards.lose(first) == []
    assert shards.take(0, alone=False) is None
    again = shards.take(0, alone=True)
    assert again is not None
    assert (again.units, again.losses) == ([0, 1], 1)


def test_an_answer_to_a_lost_request_comes_too_late() -> None:
    shards = Shards([[0]], [1], least=1, most=1)
    first = shards.take(0, alone=True)
    assert first is not None
    shards.lose(first)
    again = shards.take(0, alone=True)
    assert again is not None
    assert not shards.finish(first)
    assert not shards.over
    assert shards.finish(again)
    assert not shards.finish(again)
    assert shards.over


def test_an_item_that_loses_every_worker_is_given_up_and_the_others_are_done() -> None:
    poison, count = 137, 300
    shards = Shards([list(range(count))], [1] * count, least=count, most=4 * count)
    done: list[int] = []
    given_up: list[int] = []
    losses = 0
    while not shards.over:
        shard = shards.take(0, alone=True)
        assert shard is not None
        if poison in shard.units:
            losses += 1
            given_up += shards.lose(shard)
        elif shards.finish(shard):
            done += shard.units
    assert given_up == [poison]
    assert sorted(done) == [n for n in range(count) if n != poison]
    # Cut into 8 parts from the second loss on: 300, 300, 38, 5, 1.
    assert losses == 5
