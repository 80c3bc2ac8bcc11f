"""Pairs are read from the field's file formats, and split without leakage."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from spftcore.config import Config
from spftcore.databases import Catalogue
from spftcore.errors import SpftError
from spftcore.pairs import Pair, question_key, read_pairs, split_pairs
from spftcore.stages.context import RunContext
from spftcore.stages.prepare import prepare
from spftcore.store import Store
from spftcore.synthesis import canonical


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def read(path: Path) -> list[Pair]:
    return read_pairs(path, source="seed", split="train")


PLAIN: dict[str, Any] = {"database": "travel", "question": "How many?", "sql": "select 1"}


# -- formats ------------------------------------------------------------------------------------


def test_a_json_list_and_jsonl_give_the_same_pairs(tmp_path: Path) -> None:
    records = [PLAIN | {"id": "a"}, PLAIN | {"id": "b", "evidence": "e", "template": "t"}]
    as_list = write(tmp_path / "p.json", json.dumps(records, indent=1))
    as_lines = write(tmp_path / "p.jsonl", "\n\n".join(json.dumps(r) for r in records) + "\n")
    assert read(as_list) == read(as_lines)
    first, second = read(as_list)
    assert first == Pair(
        "train-p-a", "travel", "How many?", "select 1", split="train", source="seed"
    )
    assert (second.evidence, second.template) == ("e", "t")


def test_spider_keys_are_mapped_and_its_parsed_sql_is_not_taken_for_the_query(
    tmp_path: Path,
) -> None:
    record = {
        "db_id": "concert_singer",
        "query": "SELECT count(*) FROM singer",
        "question": "How many singers do we have?",
        "sql": {"from": {"conds": []}, "select": [False, []]},
    }
    (pair,) = read(write(tmp_path / "dev.json", json.dumps([record])))
    assert (pair.database, pair.sql) == ("concert_singer", "SELECT count(*) FROM singer")


def test_bird_keys_are_mapped_with_evidence_and_question_id(tmp_path: Path) -> None:
    record = {
        "question_id": 0,
        "db_id": "superhero",
        "question": "How many heroes are tall?",
        "evidence": "tall refers to height_cm > 200",
        "SQL": "SELECT COUNT(*) FROM superhero WHERE height_cm > 200",
        "difficulty": "simple",
    }
    (pair,) = read(write(tmp_path / "bird.json", json.dumps([record])))
    assert pair.id == "train-bird-0"
    assert pair.evidence == "tall refers to height_cm > 200"
    assert pair.sql.endswith("height_cm > 200")


def test_official_samples_are_read(data: Path) -> None:
    formats = data / "formats"
    spider = read(formats / "spider-dev-official.sample.json")
    assert spider[0].sql == "SELECT count(*) FROM singer"
    assert spider[0].database == "concert_singer"
    bird = read(formats / "bird-mini-dev.sample.json")
    assert bird[0].id == "train-bird-mini-dev.sample-1471"
    assert bird[0].evidence.startswith("ratio of customers who pay in EUR")
    dk = read(formats / "spider-dk.sample.json")
    assert (dk[2].database, dk[2].question[:18]) == ("new_concert_singer", "Show name, country")
    synonyms = read(formats / "spider-syn-dev.sample.json")
    # The question of Spider-Syn is the one with synonyms, not Spider's own beside it.
    assert synonyms[0].question == "How many vocalists do we have?"


def test_all_of_spider_is_read_in_order(data: Path) -> None:
    pairs = read(data / "spider" / "dev.json")
    assert len(pairs) == 1034
    assert [pair.id for pair in pairs[:2]] == ["train-dev-1", "train-dev-2"]


def test_questions_are_put_on_one_line_and_queries_lose_their_semicolon(tmp_path: Path) -> None:
    record = PLAIN | {"question": " How\n many? ", "sql": " select 'a;  b' ; "}
    (pair,) = read(write(tmp_path / "p.json", json.dumps([record])))
    assert (pair.question, pair.sql) == ("How many?", "select 'a;  b'")


def test_a_byte_order_mark_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps([PLAIN]).encode())
    assert len(read(path)) == 1


def test_a_pair_as_json_holds_what_is_known_on_one_line() -> None:
    pair = Pair("x-1", "travel", "Où est\nQuito ?", "select 1", checks={"runs": True})
    assert "\n" not in pair.to_json()
    assert json.loads(pair.to_json())["question"] == "Où est\nQuito ?"
    assert "evidence" not in json.loads(pair.to_json())  # what is not known is left out


@pytest.mark.parametrize("separator", ["\u2028", "\u0085"])
def test_only_line_feeds_end_a_jsonl_record(tmp_path: Path, separator: str) -> None:
    # JSON allows these characters inside strings, and str.splitlines would break the record there.
    pair = Pair("1", "travel", "q", f"select '{separator}'")
    (tmp_path / "p.jsonl").write_text(pair.to_json() + "\n", encoding="utf-8")
    (back,) = read(tmp_path / "p.jsonl")
    assert back.sql == pair.sql


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "\n \n", "[]"])
def test_an_empty_file_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    with pytest.raises(SpftError, match=r"p\.json is empty"):
        read(write(tmp_path / "p.json", text))


def test_a_missing_file_and_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(SpftError, match=r"none\.json"):
        read(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes('[{"question": "Où"}]'.encode("latin-1"))
    with pytest.raises(SpftError, match=r"latin\.json is not UTF-8"):
        read(tmp_path / "latin.json")


@pytest.mark.parametrize(
    ("broken", "cause"),
    [
        ({"database": "travel", "question": "q"}, "sql"),
        ({"database": "travel", "sql": "select 1"}, "question"),
        ({"question": "q", "sql": "select 1"}, "database"),
        ({"database": "travel", "question": "  ", "sql": "select 1"}, "question"),
        ({"database": "travel", "question": None, "sql": "select 1"}, "question"),
        (["travel", "q", "select 1"], "not a JSON object"),
    ],
)
def test_a_malformed_record_is_named_by_its_position(
    tmp_path: Path, broken: object, cause: str
) -> None:
    with pytest.raises(SpftError, match=rf"Record 2 of .*p\.json .*{cause}"):
        read(write(tmp_path / "p.json", json.dumps([PLAIN, broken, PLAIN])))


def test_an_empty_query_is_left_to_those_who_run_it(tmp_path: Path) -> None:
    # One bad record of thousands must not end a run; a record without the key is another format.
    pairs = read(write(tmp_path / "p.json", json.dumps([PLAIN | {"sql": " ; "}])))
    assert [pair.sql for pair in pairs] == [""]
    without = {key: value for key, value in PLAIN.items() if key != "sql"}
    with pytest.raises(SpftError, match=r"Record 1 of .* has no sql"):
        read(write(tmp_path / "q.json", json.dumps([without])))


def test_a_line_that_is_not_json_is_named_by_its_number(tmp_path: Path) -> None:
    text = "\n".join([json.dumps(PLAIN), "", json.dumps(PLAIN), '{"question": "cut o'])
    with pytest.raises(SpftError, match=r"p\.jsonl.*\b[Ll]ine 4\b"):
        read(write(tmp_path / "p.jsonl", text))


def test_two_records_with_one_id_are_both_named(tmp_path: Path) -> None:
    records = [PLAIN | {"id": "a"}, PLAIN | {"id": "b"}, PLAIN | {"id": "a"}]
    with pytest.raises(SpftError, match=r"Records 1 and 3 .*'train-p-a'"):
        read(write(tmp_path / "p.json", json.dumps(records)))


# -- splitting ----------------------------------------------------------------------------------


def pair(number: int, question: str, sql: str, database: str = "travel") -> Pair:
    return Pair(str(number), database, question, sql)


def key_of_sql(item: Pair) -> str:
    return item.sql.lower()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How many cities are there?", "how many cities are there"),
        ("Show me the cities of Peru.", "What are the cities in Peru?"),
    ],
)
def test_near_identical_questions_share_a_key(one: str, other: str) -> None:
    assert question_key(one) == question_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How many cities are in Peru?", "How many cities are in Bolivia?"),
        ("Cities with more than 5 guests", "Cities with more than 50 guests"),
        ("最大的城市", "最小的城市"),
    ],
)
def test_questions_that_ask_something_else_do_not(one: str, other: str) -> None:
    assert question_key(one) != question_key(other)


# Few questions and queries, so that chains of shared ones arise.
drawn_pairs = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 30), st.sampled_from("ab")), max_size=60
).map(
    lambda drawn: [
        pair(i, f"Question {q}?", f"SELECT {s}", database)
        for i, (q, s, database) in enumerate(drawn)
    ]
)


@given(pairs=drawn_pairs, seed=st.integers(0, 5))
@hypothesis_settings(max_examples=60, deadline=None)
def test_no_query_and_no_question_is_on_two_sides(pairs: list[Pair], seed: int) -> None:
    split = split_pairs(pairs, {"dev": 0.2, "test": 0.3}, key_of_sql, seed)
    assert [p.id for p in split] == [p.id for p in pairs]
    sides: dict[object, set[str]] = {}
    for item in split:
        sides.setdefault((item.database, key_of_sql(item)), set()).add(item.split)
        sides.setdefault((item.database, question_key(item.question)), set()).add(item.split)
    assert all(len(found) == 1 for found in sides.values())


def test_a_chain_of_shared_questions_and_queries_stays_together() -> None:
    # 0 and 1 share a query, 1 and 2 a question, 2 and 3 a query.
    chain = [
        pair(0, "Cities?", "select 1"),
        pair(1, "Which towns?", "SELECT 1"),
        pair(2, "which towns", "select 2"),
        pair(3, "Places?", "select 2"),
    ]
    others = [pair(i, f"Other {i}", f"select {i}") for i in range(4, 12)]
    for seed in range(10):
        split = split_pairs(chain + others, {"test": 0.3}, key_of_sql, seed)
        assert len({p.split for p in split[:4]}) == 1


def test_shares_are_kept_and_the_rest_is_train() -> None:
    pairs = [pair(i, f"Question {i // 2}", f"select {i}") for i in range(400)]
    counts = Counter(p.split for p in split_pairs(pairs, {"dev": 0.1, "test": 0.25}, key_of_sql, 3))
    assert (counts["dev"], counts["test"], counts["train"]) == (40, 100, 260)


def test_the_split_depends_on_the_seed_alone() -> None:
    pairs = [pair(i, f"Question {i}", f"select {i}") for i in range(50)]
    first = split_pairs(pairs, {"test": 0.2}, key_of_sql, 1)
    assert split_pairs(pairs, {"test": 0.2}, key_of_sql, 1) == first
    assert split_pairs(pairs, {"test": 0.2}, key_of_sql, 2) != first


def test_a_group_larger_than_a_share_leaves_something_to_train_on() -> None:
    # Nine paraphrases of one query and three other pairs; whichever comes first in the shuffle.
    pairs = [pair(i, f"Wording {i}", "select 1") for i in range(9)]
    pairs += [pair(i, f"Question {i}", f"select {i}") for i in range(9, 12)]
    for seed in range(12):
        counts = Counter(p.split for p in split_pairs(pairs, {"test": 0.25}, key_of_sql, seed))
        assert counts["test"] <= 4
        assert counts["train"] >= 8


# -- the first stage ----------------------------------------------------------------------------


def prepared(folder: Path, databases: Path, **data: object) -> list[Pair]:
    """The pairs that the stage `prepare` stores."""
    config = Config.model_validate({"data": {"databases": databases, **data}})
    store = Store(folder / "run.sqlite")
    context = RunContext(config, folder, store, databases, lambda *_: None)
    with store.stage("prepare") as stage:
        prepare(context, stage)
    pairs = store.pairs()
    store.close()
    return pairs


def numbered(count: int, first: int = 1) -> str:
    """JSONL of pairs on `travel`, every query in two wordings."""
    records = []
    for i in range(first, first + count):
        sql = f"select guest from visit where nights > {i // 2}"
        records.append({"database": "travel", "question": f"Wording {i}?", "sql": sql})
    return "\n".join(map(json.dumps, records))


def test_pairs_alone_are_split_without_leakage(tmp_path: Path, travel: Path) -> None:
    pairs = prepared(tmp_path, travel, pairs=write(tmp_path / "own.jsonl", numbered(40)))
    database = Catalogue.open(travel)["travel"]
    sides: dict[str, set[str]] = {}
    for item in pairs:
        sides.setdefault(canonical(item.sql, database), set()).add(item.split)
    assert all(len(found) == 1 for found in sides.values())
    counts = Counter(item.split for item in pairs)
    assert counts["test"] == 6  # 15 %
    assert sum(counts.values()) == 40


def test_files_of_one_name_in_two_folders_do_not_clash(tmp_path: Path, travel: Path) -> None:
    for name, first in (("seeds", 1), ("spider", 101), ("bird", 201)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "dev.json", numbered(4, first))
    pairs = prepared(
        tmp_path,
        travel,
        pairs=tmp_path / "seeds" / "dev.json",
        dev=tmp_path / "spider" / "dev.json",
        test=tmp_path / "bird" / "dev.json",
    )
    assert Counter(item.split for item in pairs) == {"train": 4, "dev": 4, "test": 4}


def test_where_evaluation_pairs_are_given_no_seed_is_split_off(
    tmp_path: Path, travel: Path
) -> None:
    pairs = prepared(
        tmp_path,
        travel,
        pairs=write(tmp_path / "own.jsonl", numbered(40)),
        dev=write(tmp_path / "dev.jsonl", numbered(6, 101)),
    )
    counts = Counter(item.split for item in pairs)
    assert (counts["train"], counts["dev"], counts["test"]) == (40, 6, 0)


def test_seeds_that_share_a_query_or_a_question_with_evaluation_are_left_out(
    tmp_path: Path, travel: Path
) -> None:
    asked = [
        ("Who stayed?", "select guest from visit"),
        ("All cities", "select name from city"),
        ("Where is Lima?", "select country from city where name = 'Lima'"),
    ]
    held_out = [
        ("Name the cities", "SELECT name FROM city"),  # the same query in other letters
        ("Where is the Lima", "select 1"),  # the same question but for stop words and marks
    ]

    def lines(pairs: list[tuple[str, str]]) -> str:
        return "\n".join(
            json.dumps({"database": "travel", "question": question, "sql": sql})
            for question, sql in pairs
        )

    pairs = prepared(
        tmp_path,
        travel,
        pairs=write(tmp_path / "own.jsonl", lines(asked)),
        test=write(tmp_path / "test.jsonl", lines(held_out)),
    )
    assert [p.question for p in pairs if p.split == "train"] == ["Who stayed?"]
