"""On a cluster of two nodes, verification and rollouts give what they give on this machine."""

from __future__ import annotations

import os
import pickle
import random
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cluster_nodes import Nodes, running_nodes, wait_for_all
from conftest import CPU
from engine_contract import Checkpoint, EngineContract, EngineUnderTest, Make
from engine_contract import checkpoint as checkpoint
from sqlite_files import make

from spftcore.cluster import rollouts, verification
from spftcore.cluster.files import Facts
from spftcore.cluster.rollouts import ClusterEngine, RolloutWorker
from spftcore.cluster.verification import ClusterExecutor
from spftcore.cluster.worker import VerifyWorker
from spftcore.config import Config
from spftcore.errors import SpftError
from spftcore.models import load
from spftcore.rollout.hf import HfEngine
from spftcore.rollout.requests import Completion, Sampling
from spftcore.verify import Executor, Item, Limits, Status, Verdict, Verdicts

ray = pytest.importorskip("ray", reason="the extra `cluster` is not installed")
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

POISON = "select 'poison'"
POISONED_PROMPT = (2, 3, 2, 3)
BLIND = "only_driver"


class Mortal(VerifyWorker):
    """Dies of poison, and does not see the folder that only the driver has."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.files.seen = lambda path: None if BLIND.encode() in path else Facts.of(path)  # type: ignore[method-assign]

    def run(self, request: bytes) -> Any:
        if POISON.encode() in request:
            os._exit(1)
        return super().run(request)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with running_nodes() as nodes:
        yield nodes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster")
    for number in range(6):
        rows = ", ".join(f"({i}, 'name {i * number % 7}')" for i in range(20 + number))
        script = f"create table t (a integer, b text); insert into t values {rows};"
        make(folder / f"{number}.sqlite", script)
    return folder


@pytest.fixture(scope="module")
def cluster(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterExecutor]:
    """Two workers, one on each node; shards are small, so that each gets many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verification, "VerifyWorker", Mortal)
        patch.setattr(verification, "MOST_QUERIES", 40)
        patch.setattr(verification, "LEAST_QUERIES", 8)
        cache = tmp_path_factory.mktemp("cache")
        with ClusterExecutor(nodes.address, workers=2, cpus_per_worker=2, cache=cache) as executor:
            yield executor


@pytest.fixture(scope="module")
def local() -> Iterator[Executor]:
    with Executor(threads=1) as executor:
        yield executor


def items_on(folder: Path, count: int) -> list[Item]:
    candidates = [
        "select count(*) from t",
        "select b from t where a < 3",
        "select c from t",
        "select a from t where a > 1000",
        "selec",
        "select b from t where a < 3 limit 2",
    ]
    return [
        (
            folder / f"{i * 5 % 7}.sqlite",  # 6.sqlite is not there
            f"select b from t where a < 3 -- {i}",
            [f"{sql} -- {i}" for sql in candidates[: 1 + i % 6]],
        )
        for i in range(count)
    ]


def assert_same(one: Verdicts, other: Verdicts) -> None:
    for a, b in zip(one, other, strict=True):
        for mine, theirs in zip(a, b, strict=True):
            assert without_time(mine) == without_time(theirs)


def without_time(judgement: Any) -> tuple[Any, ...]:
    runs = [
        (o.status, o.message, o.rows, o.columns, o.steps, o.fingerprint, o.all_null)
        for o in (judgement.candidate, judgement.gold)
    ]
    return (
        judgement.verdict,
        judgement.both_empty,
        judgement.reason,
        judgement.score,
        judgement.database,
        *runs,
    )


@pytest.mark.parametrize("compare", ["bag", "soft_f1"])
def test_verdicts_are_those_of_this_machine_in_the_same_order(
    compare: Any, cluster: ClusterExecutor, local: Executor, folder: Path
) -> None:
    items = items_on(folder, 500)
    assert_same(cluster.verify(items, compare), local.verify(items, compare))
    assert_same(cluster.verify([]), local.verify([]))


def test_outcomes_are_those_of_this_machine(
    cluster: ClusterExecutor, local: Executor, folder: Path
) -> None:
    queries = [(database, sql) for database, _, answers in items_on(folder, 80) for sql in answers]
    queries += queries[:50]
    ours, theirs = cluster.execute(queries), local.execute(queries)
    for name in ("status", "rows", "columns", "steps", "fingerprint", "all_null"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name))
    assert [o.message for o in ours] == [o.message for o in theirs]
    assert cluster.rows(folder / "1.sqlite", "select a from t limit 2") == (["a"], [(0,), (1,)])
    with pytest.raises(SpftError, match="no such column"):
        cluster.rows(folder / "1.sqlite", "select z from t")


def test_a_family_of_databases_judges_as_it_does_here(nodes: Nodes, tmp_path: Path) -> None:
    script = "create table t (a integer); insert into t values (1), (2);"
    database = make(tmp_path / "d.sqlite", script)
    make(tmp_path / "families" / "d" / "0.sqlite", script + "insert into t values (3);")
    items = [(database, "select max(a) from t", ["select count(*) from t", "select max(a) from t"])]
    families = tmp_path / "families"
    with (
        ClusterExecutor(nodes.address, workers=1, families=families) as cluster,
        Executor(threads=1, families=families) as local,
    ):
        assert_same(cluster.verify(items, on="family"), local.verify(items, on="family"))
        assert_same(cluster.verify(items), local.verify(items))


def test_limits_reach_the_workers(nodes: Nodes, folder: Path) -> None:
    sql = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n"
    with ClusterExecutor(nodes.address, workers=1, limits=Limits(steps=5000)) as cluster:
        (outcome,) = cluster.execute([(folder / "1.sqlite", sql)])
    assert outcome.status is Status.STEP_BUDGET


def test_counters_are_summed_over_the_workers(cluster: ClusterExecutor, folder: Path) -> None:
    before = dict(cluster.counters)
    items = items_on(folder, 100)
    cluster.verify(items)
    asked = sum(1 + len(answers) for _, _, answers in items)
    assert cluster.counters["queries"] - before["queries"] == asked


def test_a_node_lost_in_the_middle_changes_nothing(
    nodes: Nodes, cluster: ClusterExecutor, local: Executor, folder: Path
) -> None:
    nodes.two()
    items = items_on(folder, 3000)
    wait_for_all(cluster._native._all)
    lost = False

    def lose(done: int, total: int) -> None:
        nonlocal lost
        if done and not lost:
            assert done < total
            lost = True
            nodes.lose_one()

    try:
        verdicts = cluster.verify(items, progress=lose)
    finally:
        nodes.two()
    assert lost
    assert cluster.counters["workers_lost"] >= 1
    assert cluster.counters["shards_repeated"] >= 1
    assert cluster.counters["items_given_up"] == 0
    assert_same(verdicts, local.verify(items))


def test_an_item_that_kills_every_worker_ends_unjudged_and_costs_no_other_item(
    cluster: ClusterExecutor, local: Executor, folder: Path
) -> None:
    items = items_on(folder, 60)
    poisoned = [*items[:30], (folder / "1.sqlite", POISON, ["select 1", POISON]), *items[30:]]
    verdicts = cluster.verify(poisoned)
    given_up = verdicts[30]
    assert [j.verdict for j in given_up] == [Verdict.UNJUDGED] * 2
    assert {j.gold.status for j in given_up} == {Status.CRASHED}
    assert "was lost" in given_up[0].gold.message
    assert cluster.counters["items_given_up"] == 1
    rest = [v for i, v in enumerate(verdicts) if i != 30]
    assert_same(rest, local.verify(items))  # type: ignore[arg-type]


def test_a_database_that_only_the_driver_has_is_fetched_once_per_node(
    cluster: ClusterExecutor, local: Executor, tmp_path: Path
) -> None:
    rows = ", ".join(f"({i}, '{'x' * 1000}')" for i in range(9000))  # more than a chunk of 8 MiB
    script = f"create table t (a integer, b text); insert into t values {rows};"
    database = make(tmp_path / BLIND / "big.sqlite", script)
    twin = tmp_path / BLIND / "twin.sqlite"
    twin.write_bytes(database.read_bytes())
    torn = make(tmp_path / BLIND / "torn.sqlite", script)
    torn.write_bytes(torn.read_bytes()[:2000])
    logged = make(tmp_path / BLIND / "logged.sqlite", script)
    Path(f"{logged}-wal").write_bytes(b"not empty")
    gone = tmp_path / BLIND / "gone.sqlite"
    items = [
        (path, f"select max(a) from t -- {i}", ["select 8999", "select 1"])
        for i in range(40)
        for path in (database, twin, torn, logged, gone)
    ]
    before = cluster.counters["databases_fetched"]
    verdicts = cluster.verify(items)
    assert_same(verdicts, local.verify(items))
    assert verdicts[0][0].verdict is Verdict.RIGHT
    assert verdicts[3][0].gold.status is Status.DATABASE_ERROR
    # One content, on what the simulation's nodes share: the disk of this machine.
    assert cluster.counters["databases_fetched"] - before in (1, 2)  # and perhaps the torn one
    queries = [(path, "select count(*) from t") for path in (database, twin)]
    assert [o.rows for o in cluster.execute(queries)] == [1, 1]


def test_a_database_replaced_on_the_driver_is_fetched_anew(
    cluster: ClusterExecutor, tmp_path: Path
) -> None:
    path = tmp_path / BLIND / "changing.sqlite"
    for value in (1, 2):
        path.unlink(missing_ok=True)
        make(path, f"create table t (a integer); insert into t values ({value});")
        (judged,) = cluster.verify([(path, "select a from t", [f"select {value}"])])
        assert judged[0].verdict is Verdict.RIGHT


def test_no_more_is_on_the_way_than_the_window_allows_and_a_stream_reads_no_further(
    cluster: ClusterExecutor, local: Executor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = cluster._native
    most = 0
    sent = type(pool)._sent

    def counted(self: Any, slot: Any, batch: Any, shard: Any) -> Any:
        nonlocal most
        here = [s for s, _, _ in batch.asked.values() if s is slot]
        most = max(most, len(here) + 1)
        return sent(self, slot, batch, shard)

    monkeypatch.setattr(type(pool), "_sent", counted)
    read = 0

    def source() -> Iterator[Item]:
        nonlocal read
        for item in items_on(folder, 2000):
            read += 1
            yield item

    ahead = 0
    verdicts = []
    for judged in cluster.stream(source(), chunk=100):
        verdicts.append(judged)
        ahead = max(ahead, read - len(verdicts))
    assert most <= verification.WINDOW
    assert ahead <= 300  # two chunks at work, one being handed out
    assert_same(verdicts, local.verify(items_on(folder, 2000)))  # type: ignore[arg-type]


def test_what_stops_a_batch_leaves_the_executor_usable(
    cluster: ClusterExecutor, folder: Path
) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    sql = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n"
    with pytest.raises(KeyboardInterrupt):
        cluster.execute([(folder / "1.sqlite", f"{sql} -- {i}") for i in range(20)], progress=stop)
    (outcome,) = cluster.execute([(folder / "1.sqlite", "select 1")])
    assert outcome.status is Status.OK


def test_the_users_files_are_left_as_they_are(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [f"{n}.sqlite" for n in range(6)]
    with sqlite3.connect(folder / "0.sqlite") as connection:
        assert connection.execute("select count(*) from t").fetchone() == (20,)


def test_more_cpus_than_any_node_has_is_an_error_with_a_remedy(nodes: Nodes) -> None:
    with pytest.raises(SpftError, match=r"cluster\.worker_cpus"):
        ClusterExecutor(nodes.address, cpus_per_worker=64)


# -- rollouts -----------------------------------------------------------------------------------


def open_hf(folder: str) -> HfEngine:
    return HfEngine(load(folder, Config(), device=CPU), batch_size=4)


class PlainEngine:
    """An engine without a model: what it writes tells its folder's content, and the draw."""

    def __init__(self, folder: str) -> None:
        self._weights = (Path(folder) / "weights.txt").read_text()
        self._adapters: dict[str | None, str] = {None: ""}

    def load_adapter(self, name: str, folder: str) -> None:
        self._adapters[name] = (Path(folder) / "adapter.txt").read_text()

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, adapter: str | None = None
    ) -> Iterator[Completion]:
        for place, prompt in enumerate(prompts):
            for sample in range(sampling.samples):
                chance = random.Random(f"{sampling.seed}:{sampling.key(place)}:{sample}")
                held = f"{self._weights}{self._adapters[adapter]}"
                drawn = f"{sampling.grammar(place)}:{sum(prompt)} {chance.random()}"
                text = f"{held} {drawn}"
                yield Completion(place, sample, text, tuple(prompt), (chance.random(),), "stop")


class MortalEngine(RolloutWorker):
    """Dies of one prompt, at the first completion, and does not see the driver's folders."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.files.seen = lambda path: None  # type: ignore[method-assign]

    def generate(self, request: bytes) -> Iterator[list[Completion]]:
        prompts = pickle.loads(request)[3]
        for completions in super().generate(request):
            if POISONED_PROMPT in prompts:
                os._exit(1)
            yield completions


class Switching:
    """An engine on a cluster that answers with one checkpoint, whatever it answered with before."""

    def __init__(self, engine: ClusterEngine, folder: Path, adapters: Mapping[str, Path]) -> None:
        self._engine, self._folder, self._adapters = engine, folder, adapters

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, adapter: str | None = None
    ) -> Iterator[Completion]:
        self._engine.load_weights(self._folder)
        for name, folder in self._adapters.items():
            self._engine.load_adapter(name, folder)
        return self._engine.generate(prompts, sampling, adapter=adapter)


@pytest.fixture(scope="module")
def one_engine(nodes: Nodes, checkpoint: Checkpoint) -> Iterator[ClusterEngine]:
    with ClusterEngine(open_hf, checkpoint.folder, address=nodes.address) as engine:
        yield engine


class TestOneEngine(EngineContract):
    @pytest.fixture(scope="class")
    def made(self, one_engine: ClusterEngine) -> Make:
        def make(folder: Path, *, adapters: Mapping[str, Path]) -> EngineUnderTest:
            return EngineUnderTest(Switching(one_engine, folder, adapters))

        return make


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    (folder / "weights.txt").write_text("base")
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter.txt").write_text(" and adapter")
    return folder


@pytest.fixture(scope="module")
def two_engines(
    nodes: Nodes, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClusterEngine]:
    """One on each node; neither sees the driver's folders."""
    nodes.two()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollouts, "RolloutWorker", MortalEngine)
        patch.setattr(rollouts, "MOST_PROMPTS", 6)
        patch.setattr(rollouts, "LEAST_PROMPTS", 6)
        cache = tmp_path_factory.mktemp("models")
        with ClusterEngine(
            PlainEngine, model, address=nodes.address, engines=2, cache=cache
        ) as engine:
            yield engine


PROMPTS = [tuple(range(place, place + 2 + place * 7 % 11)) for place in range(300)]


def in_order(completions: Iterable[Completion]) -> list[Completion]:
    return sorted(completions, key=lambda completion: (completion.prompt, completion.sample))


def test_two_engines_one_lost_in_the_middle_answer_as_one_engine_here(
    nodes: Nodes, two_engines: ClusterEngine, model: Path
) -> None:
    grammars = tuple(f"grammar-{place}" for place in range(len(PROMPTS)))
    sampling = Sampling(samples=3, temperature=1.0, seed=4, grammars=grammars)
    got: list[Completion] = []
    wait_for_all(two_engines._workers)
    try:
        for completion in two_engines.generate(PROMPTS, sampling):
            got.append(completion)
            if len(got) == len(PROMPTS):
                nodes.lose_one()
    finally:
        nodes.two()
    assert two_engines.lost >= 1
    assert two_engines.failures == 0
    assert in_order(got) == list(PlainEngine(str(model)).generate(PROMPTS, sampling))


@pytest.mark.heavy
def test_a_prompt_that_kills_every_engine_fails_and_the_others_are_answered(
    two_engines: ClusterEngine, model: Path
) -> None:
    prompts = [*PROMPTS[:4], POISONED_PROMPT, *PROMPTS[4:10]]
    sampling = Sampling(samples=2, temperature=1.0)
    got = in_order(two_engines.generate(prompts, sampling))
    expected = list(PlainEngine(str(model)).generate(prompts, sampling))
    failed = [Completion(4, sample, "", (), (), "failed") for sample in range(2)]
    assert got == [*expected[:8], *failed, *expected[10:]]
    assert two_engines.failures == 1


def test_weights_and_adapters_are_changed_between_calls(
    two_engines: ClusterEngine, model: Path, tmp_path: Path
) -> None:
    two_engines.load_adapter("mine", model / "adapter")
    sampling = Sampling()

    def texts(adapter: str | None) -> set[str]:
        found = two_engines.generate(PROMPTS[:20], sampling, adapter=adapter)
        return {completion.text.rsplit(" ", 2)[0] for completion in found}

    assert texts("mine") == {"base and adapter"}
    assert texts(None) == {"base"}
    (tmp_path / "weights.txt").write_text("next")
    two_engines.load_weights(tmp_path)
    assert texts(None) == {"next"}
    assert texts("mine") == {"next and adapter"}
    with pytest.raises(SpftError, match="third"):
        texts("third")


def test_a_model_that_cannot_be_opened_is_an_error_that_says_why(
    two_engines: ClusterEngine, tmp_path: Path
) -> None:
    (tmp_path / "nothing.txt").write_text("no weights")
    two_engines.load_weights(tmp_path)
    with pytest.raises(SpftError, match=r"weights\.txt"):
        list(two_engines.generate(PROMPTS[:1], Sampling()))
