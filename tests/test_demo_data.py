"""The embedded databases hold together, and what is evaluated on is held out of the seeds."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from spftcore.config import Config
from spftcore.databases import Catalogue
from spftcore.linking import words
from spftcore.pairs import Pair, question_key
from spftcore.stages.prepare import databases_folder, read_inputs
from spftcore.synthesis import canonical, extract
from spftcore.synthesis.gates import tie_variants
from spftcore.verify import Executor


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return Catalogue.open(databases_folder(Config(), tmp_path_factory.mktemp("demo")))


@pytest.fixture(scope="module")
def pairs() -> dict[str, list[Pair]]:
    """The pairs by split; the seeds are `train`."""
    seeds, held_out = read_inputs(Config())
    splits: dict[str, list[Pair]] = {}
    for pair in seeds + held_out:
        splits.setdefault(pair.split, []).append(pair)
    return splits


def everything(pairs: dict[str, list[Pair]]) -> list[Pair]:
    return [pair for split in pairs.values() for pair in split]


def test_there_are_enough_of_everything(demo: Catalogue, pairs: dict[str, list[Pair]]) -> None:
    assert len(demo) >= 6
    assert len(pairs["train"]) >= 800
    assert len(pairs["test"]) >= 400
    for split in ("train", "dev", "test"):
        counts = Counter(pair.database for pair in pairs[split])
        assert set(counts) == set(demo)
        assert max(counts.values()) <= 1.5 * min(counts.values())


def test_each_database_has_4_to_6_linked_tables_with_rows(demo: Catalogue) -> None:
    for database in demo.values():
        assert 4 <= len(database.tables) <= 6
        linked = {key.table for key in database.foreign_keys}
        linked |= {key.ref_table for key in database.foreign_keys}
        assert linked == {table.name for table in database.tables}
        assert all(key.origin == "declared" for key in database.foreign_keys)
        assert sum(table.rows for table in database.tables) > 500


def test_foreign_keys_hold(demo: Catalogue) -> None:
    for database in demo.values():
        connection = sqlite3.connect(database.path)
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert connection.execute("pragma foreign_key_check").fetchall() == []
        connection.close()


def test_every_gold_runs_and_finds_something(demo: Catalogue, pairs: dict[str, list[Pair]]) -> None:
    connections = {name: sqlite3.connect(database.path) for name, database in demo.items()}
    barren = []
    for pair in everything(pairs):
        rows = connections[pair.database].execute(pair.sql).fetchall()
        if all(value is None for row in rows for value in row):
            barren.append(pair.id)
    for connection in connections.values():
        connection.close()
    assert barren == []


def test_no_tie_decides_what_a_gold_returns(demo: Catalogue, pairs: dict[str, list[Pair]]) -> None:
    unstable = []
    with Executor(threads=1) as executor:
        for pair in everything(pairs):
            path = demo[pair.database].path
            names, _ = executor.rows(path, pair.sql)
            variants = tie_variants(pair.sql, len(names))
            (judged,) = executor.verify([(path, pair.sql, variants)])
            if any(judgement.verdict.name != "RIGHT" for judgement in judged):
                unstable.append(pair.id)
    assert unstable == []


@pytest.fixture(scope="module")
def queries(demo: Catalogue, pairs: dict[str, list[Pair]]) -> dict[str, list[tuple[str, str]]]:
    """(database, canonical SQL) by split."""
    return {
        split: [(pair.database, canonical(pair.sql, demo[pair.database])) for pair in found]
        for split, found in pairs.items()
    }


def test_no_query_is_in_two_splits_or_twice_in_one(
    queries: dict[str, list[tuple[str, str]]],
) -> None:
    counts = Counter(query for found in queries.values() for query in found)
    assert [query for query, count in counts.items() if count > 1] == []


def test_no_question_is_in_two_splits_or_twice_in_one(pairs: dict[str, list[Pair]]) -> None:
    keys = Counter((pair.database, question_key(pair.question)) for pair in everything(pairs))
    assert [key for key, count in keys.items() if count > 1] == []


def trigrams(pairs: Iterable[Pair]) -> Counter[tuple[str, ...]]:
    counted: Counter[tuple[str, ...]] = Counter()
    for pair in pairs:
        tokens = words(pair.question)
        counted.update(zip(tokens, tokens[1:], tokens[2:], strict=False))
    return counted


def test_what_seeds_and_test_questions_share_is_reported_and_bounded(
    demo: Catalogue,
    pairs: dict[str, list[Pair]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Measured when the questions were written: 89 % of the test questions have a template that
    # some seed has too, 78 % of their templates, 46 % of their word 3-grams stand in some seed.
    seeds = Counter(extract(p.sql, demo[p.database]).id for p in pairs["train"])
    test = Counter(extract(p.sql, demo[p.database]).id for p in pairs["test"])
    shared = {
        "templates": sum(key in seeds for key in test) / len(test),
        "questions by template": sum(n for key, n in test.items() if key in seeds) / test.total(),
    }
    known, asked = trigrams(pairs["train"]), trigrams(pairs["test"])
    shared["word 3-grams"] = sum(n for key, n in asked.items() if key in known) / asked.total()
    with capsys.disabled():
        print("\nshared by seeds and test:", {name: f"{x:.1%}" for name, x in shared.items()})
    assert 0.6 < shared["templates"] < 0.9
    assert 0.7 < shared["questions by template"] < 0.95
    assert shared["word 3-grams"] < 0.55


def test_databases_are_built_once_and_whole(tmp_path: Path) -> None:
    folder = databases_folder(Config(), tmp_path)
    stamps = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert all(name.endswith(".sqlite") for name in stamps)
    (folder / "shop.partial").write_bytes(b"what a kill left over")
    (folder / "shop.sqlite").unlink()
    databases_folder(Config(), tmp_path)
    again = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert set(again) == set(stamps)
    assert {name for name in stamps if again[name] != stamps[name]} == {"shop.sqlite"}
