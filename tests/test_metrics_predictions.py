"""Reading predictions: whatever a file holds, it is answers or an error that can be acted on."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from spftcore.benchmarks import Benchmark, Question
from spftcore.errors import SpftError
from spftcore.metrics.predictions import Answer, clean, read_answers

IDS = ("a", "b", "c", "d")


def benchmark(has_ids: bool) -> Benchmark:
    questions = tuple(
        Question(name, n, "travel", "q", "select 1", "", "", f"record {n}")
        for n, name in enumerate(IDS, 1)
    )
    return Benchmark("pairs", Path("q.json"), questions, has_ids, {"travel": Path("t")}, None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["id", "sql", "query", "samples", "prediction", "db_id", "0", "1"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    content=st.binary(max_size=60)
    | st.text(max_size=60).map(str.encode)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.lists(JSON, max_size=5).map(lambda values: "\n".join(map(json.dumps, values)).encode()),
    has_ids=st.booleans(),
)
@example(content=b"[" * 100_000, has_ids=False)
@example(content=b"9" * 5_000 + b"\n", has_ids=False)
@example(content=b'{"0": ' + b"9" * 5_000 + b"}", has_ids=True)
def test_any_file_is_answers_or_an_error(tmp_path: Path, content: bytes, has_ids: bool) -> None:
    path = tmp_path / "p"
    path.write_bytes(content)
    message = ""
    answers: tuple[Answer, ...] = ()
    try:
        answers = read_answers(path, benchmark(has_ids)).answers
    except SpftError as error:
        message = str(error)
    assert len(answers) == len(IDS) or str(path) in message


@pytest.mark.parametrize("seed", range(3))
def test_ids_may_come_in_any_order(tmp_path: Path, seed: int) -> None:
    records = [{"id": name, "sql": f"select '{name}'"} for name in IDS]
    random.Random(seed).shuffle(records)
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    answers = read_answers(path, benchmark(True)).answers
    assert [answer.sql for answer in answers] == [f"select '{name}'" for name in IDS]


@given(st.text())
def test_cleaning_a_cleaned_answer_without_fence_or_prefix_changes_nothing(text: str) -> None:
    cleaned, stripped = clean(text)
    if not stripped:
        assert cleaned == text.strip()
    assert cleaned == cleaned.strip()
