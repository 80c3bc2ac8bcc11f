"""Prompts show what the filter keeps, and fit a budget; the same input gives the same bytes."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from spftcore.config import Config, PromptConfig
from spftcore.databases import Catalogue
from spftcore.errors import SpftError
from spftcore.linking.golds import needed
from spftcore.linking.schema import Needed, filter_schema
from spftcore.linking.trimming import Trimming
from spftcore.linking.values import ValueMatch
from spftcore.models import LanguageModel
from spftcore.pairs import Pair
from spftcore.prompts import PromptRenderer
from spftcore.stages.context import RunContext
from spftcore.store import Store

QUESTION = "Who stayed in Quito longer than 2 nights?"
GOLD = (
    "select guest from visit join city on visit.city_id = city.city_id"
    " where name = 'Quito' and nights > 2"
)


def renderer(catalogue: Catalogue, **settings: object) -> PromptRenderer:
    return PromptRenderer(PromptConfig.model_validate(settings), catalogue)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """A database of 30 tables, and one of 500 columns."""
    folder = tmp_path_factory.mktemp("wide")
    for name, script in (
        (
            "tables",
            "".join(
                f"create table t{n} (t{n}_id integer primary key, label{n} text,"
                f" next_id integer references t{max(0, n - 1)} (t{max(0, n - 1)}_id));"
                for n in range(30)
            ),
        ),
        ("columns", f"create table c ({', '.join(f'measure_{n} real' for n in range(500))});"),
    ):
        connection = sqlite3.connect(folder / f"{name}.sqlite")
        connection.executescript(script)
        connection.close()
    return Catalogue.open(folder)


def shown_tables(prompt: str) -> set[str]:
    return {line.split()[2] for line in prompt.splitlines() if line.startswith("create table")}


# -- styles -------------------------------------------------------------------------------------


def test_the_compact_style_has_a_line_per_table(catalogue: Catalogue) -> None:
    prompt = renderer(catalogue, style="compact").text_to_sql(QUESTION, "travel", "a hint")
    assert prompt.splitlines()[:2] == [
        "city(city_id:integer pk (city id), name:text ('L''Aquila', 'Lima', 'Quito'),"
        " country:text ('Bolivia', 'Ecuador', 'Italy'), inhabitants:integer (70, 1763, 1903))",
        "visit(visit_id:integer pk (visit id),"
        " city_id:integer -> city.city_id (city id; 1, 2, 3),"
        " guest:text ('Ada', 'Lima', 'Noor'), nights:integer (1, 2, 3),"
        " day:date ('2024-05-01', '2024-05-02', '2024-06-11'))",
    ]
    assert "-- hint: a hint\n" in prompt
    assert "city.name = 'Quito'" in prompt


def test_only_what_the_filter_keeps_is_shown(catalogue: Catalogue) -> None:
    one = renderer(catalogue, tables=1, columns=1).text_to_sql("Which guests came?", "travel")
    assert shown_tables(one) == {"visit"}
    assert "guest text" in one
    assert "nights" not in one
    # A key may only refer to a table that is shown.
    assert "references" not in one
    assert shown_tables(renderer(catalogue, tables=0).text_to_sql("x", "travel")) == {
        "city",
        "visit",
    }


def test_comments_are_shown_and_values_of_sensitive_columns_are_not(travel: Path) -> None:
    class Marked(dict):
        pass

    (database,) = Catalogue.open(travel).values()
    tables = tuple(
        replace(
            table,
            columns=tuple(
                replace(c, comment="whoever\nstayed", sensitive=True) if c.name == "guest" else c
                for c in table.columns
            ),
        )
        for table in database.tables
    )
    catalogue = Marked(travel=replace(database, tables=tables))
    prompt = PromptRenderer(PromptConfig(), catalogue).text_to_sql("Did Ada pay?", "travel")  # type: ignore[arg-type]
    assert "  guest text, -- whoever stayed\n" in prompt
    assert "Ada" not in prompt.replace("Did Ada pay?", "")


def test_evidence_takes_part_in_linking_and_in_the_filter(catalogue: Catalogue) -> None:
    plain = renderer(catalogue, tables=1)
    assert shown_tables(plain.text_to_sql("How many?", "travel", "count the guest")) == {"visit"}
    assert "visit.guest = 'Noor'" in plain.text_to_sql("How many?", "travel", "guest Noor")


# -- training -----------------------------------------------------------------------------------


def test_a_training_prompt_shows_what_its_gold_needs_and_is_a_function_of_the_pair(
    wide: Catalogue,
) -> None:
    small = renderer(wide, tables=4, columns=2)
    question, gold = "What is label3?", "select label17 from t17"
    assert "t17" not in shown_tables(small.text_to_sql(question, "tables"))
    prompts = {
        pair: small.text_to_sql(question, "tables", gold=gold, pair=pair)
        for pair in ("a", "b", "c", "d")
    }
    assert all("  label17 text" in prompt for prompt in prompts.values())
    assert len(set(prompts.values())) > 1
    again = renderer(wide, tables=4, columns=2)
    assert again.text_to_sql(question, "tables", gold=gold, pair="b") == prompts["b"]


# -- budget -------------------------------------------------------------------------------------


def fit_to(characters: int):  # type: ignore[no-untyped-def]
    return lambda text: len(text) <= characters


def test_every_level_of_trimming_is_shorter_and_the_order_is_as_stated(
    catalogue: Catalogue,
) -> None:
    database = catalogue["travel"]
    values = [ValueMatch("city", "name", "Quito", 0.9), ValueMatch("visit", "guest", "Ada", 0.5)]
    view = filter_schema(database, QUESTION, tables=0, columns=0, values=values)
    trimming = Trimming(view, values, Needed(frozenset(), frozenset()))
    sizes = []
    for level in range(trimming.levels):
        part, detail, left = trimming.at(level)
        columns = sum(len(table.columns) for table in part.tables)
        sizes.append((detail.examples, detail.comments, columns, len(part.tables), len(left)))
    assert sizes[0] == (True, True, 9, 2, 2)
    assert sizes[1] == (False, True, 9, 2, 2)
    assert sizes[2] == (False, False, 9, 2, 2)
    assert all(sum(after) < sum(before) for before, after in pairwise(sizes))
    assert sizes[-1][3:] == (1, 0)


def test_a_prompt_over_the_budget_is_trimmed_no_further_than_it_must_be(
    catalogue: Catalogue,
) -> None:
    plain = renderer(catalogue)
    full = plain.text_to_sql(QUESTION, "travel")
    texts = [
        plain.text_to_sql(QUESTION, "travel", fits=fit_to(size)) for size in range(len(full) + 1)
    ]
    assert texts[len(full)] == full
    assert "e.g." not in texts[len(full) - 1]
    assert "city id" in texts[len(full) - 1]  # the words of names go later
    for size, text in enumerate(texts):
        if text != texts[0]:
            assert len(text) <= size
        assert text.endswith("answers the question:\n")
        assert f"-- question: {QUESTION}\n" in text
    lengths = [len(text) for text in texts]
    assert lengths == sorted(lengths)


def test_what_a_gold_needs_is_never_trimmed(catalogue: Catalogue) -> None:
    shortest = renderer(catalogue).text_to_sql(
        QUESTION, "travel", gold=GOLD, pair="p", fits=lambda text: False
    )
    need = needed(GOLD, catalogue["travel"])
    assert shown_tables(shortest) == need.tables
    for _, column in need.columns:
        assert f"  {column} " in shortest
    assert "country" not in shortest
    assert "inhabitants" not in shortest


def test_a_table_of_500_columns_fits_a_budget(wide: Catalogue) -> None:
    whole = renderer(wide, columns=0)
    question = "What is the mean of measure 123?"
    calls = []

    def fits(text: str) -> bool:
        calls.append(text)
        return len(text) <= 600

    prompt = whole.text_to_sql(question, "columns", fits=fits)
    assert len(prompt) <= 600
    assert "measure_123 real" in prompt
    assert len(calls) < 15  # by halving, not one by one


def test_a_prompt_for_a_question_shows_the_query_s_own_part_and_fits(wide: Catalogue) -> None:
    small = renderer(wide, tables=3, columns=2)
    sql = "select label17 from t17 where t17_id > value1"
    prompt = small.sql_to_text(sql, "tables", "the label17 of t17s over value1")
    assert "t17" in shown_tables(prompt)
    assert len(shown_tables(prompt)) < 10
    assert "  label17 text" in prompt
    shortest = small.sql_to_text(sql, "tables", fits=lambda text: len(text) <= 300)
    assert len(shortest) <= 300
    assert len(shown_tables(shortest)) < len(shown_tables(prompt))
    assert "  label17 text" in shortest
    assert f"-- query: {sql}\n" in shortest


def test_a_run_fits_prompts_for_questions_into_the_limit(
    travel: Path, tmp_path: Path, tiny: LanguageModel
) -> None:
    roomy = context_of(travel, tmp_path, max_prompt_tokens=4000)
    query = ("select guest from visit where nights > value1", "travel", "")
    length = len(roomy.encode_prompt(tiny, roomy.question_prompt(tiny, *query)))
    tight = context_of(travel, tmp_path, max_prompt_tokens=length - 1)
    assert len(tight.encode_prompt(tiny, tight.question_prompt(tiny, *query))) < length
    assert list(tight.prompt_notes().values()) == [1]


# -- the same bytes -----------------------------------------------------------------------------

PROGRAM = """
import sys
from pathlib import Path
from spftcore.config import PromptConfig
from spftcore.databases import Catalogue
from spftcore.prompts import PromptRenderer
catalogue = Catalogue.open(sys.argv[1])
for style in ("ddl", "compact", "linked"):
    for tables in (0, 3):
        config = PromptConfig(style=style, tables=tables, columns=2)
        renderer = PromptRenderer(config, catalogue, cache=Path(sys.argv[2]))
        for name in catalogue:
            for gold in ("", "select 1 from t5 join t6"):
                for size in (10**6, 700):
                    sys.stdout.write(renderer.text_to_sql(
                        "Which label4 and measure 7 of t2, t9?", name, "see t1", gold=gold,
                        pair="7", fits=lambda text: len(text) <= size))
"""


def test_two_processes_with_different_hash_seeds_render_the_same_bytes(
    wide: Catalogue, tmp_path: Path
) -> None:
    folder = next(iter(wide.values())).path.parent
    digests = set()
    for seed in ("1", "2"):
        output = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(folder), str(tmp_path / seed)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        assert len(output) > 2000
        digests.add(hashlib.sha256(output).hexdigest())
    assert len(digests) == 1


# -- in a run -----------------------------------------------------------------------------------


def context_of(travel: Path, folder: Path, **prompt: object) -> RunContext:
    config = Config.model_validate({"prompt": prompt, "run": {"device": "cpu"}})
    return RunContext(config, folder, Store(folder / "run.sqlite"), travel, lambda *_: None)


def test_a_run_counts_the_prompts_it_trimmed_once_for_each_pair(
    travel: Path, tmp_path: Path, tiny: LanguageModel
) -> None:
    pair = Pair("p", "travel", QUESTION, GOLD)
    roomy = context_of(travel, tmp_path, max_prompt_tokens=4000)
    length = len(roomy.text_to_sql_sequence(tiny, pair).prompt)
    assert roomy.prompt_notes() == {}
    tight = context_of(travel, tmp_path, max_prompt_tokens=length - 1)
    sequence = tight.text_to_sql_sequence(tiny, pair)
    assert len(sequence.prompt) < length
    assert tight.within_limits(sequence)
    tight.text_to_sql_group(tiny, pair, GOLD, "select 1")
    assert list(tight.prompt_notes().values()) == [1]
    assert tight.take_dropped() == {}


def test_a_pair_is_dropped_only_if_its_smallest_prompt_does_not_fit(
    travel: Path, tmp_path: Path, tiny: LanguageModel
) -> None:
    pair = Pair("p", "travel", QUESTION, GOLD)
    context = context_of(travel, tmp_path, max_prompt_tokens=5)
    assert list(context.text_to_sql_set(tiny, [pair])) == [None]
    assert context.take_dropped() == {"prompt too long": 1}


def test_gold_and_answer_of_a_pair_share_one_prompt(
    travel: Path, tmp_path: Path, tiny: LanguageModel
) -> None:
    pair = Pair("p", "travel", "Anything?", GOLD)
    context = context_of(travel, tmp_path, tables=1, columns=1, max_prompt_tokens=4000)
    asked = context.prompt(tiny, pair, training=True)
    assert shown_tables(asked) == {"city", "visit"}
    group = context.text_to_sql_group(tiny, pair, GOLD, "select 1")
    assert group.prompt == context.encode_prompt(tiny, asked)
    assert len(shown_tables(context.prompt(tiny, pair, training=False))) == 1


def test_a_chat_template_that_fails_is_an_error_with_its_cause(
    travel: Path, tmp_path: Path, tiny: LanguageModel
) -> None:
    tiny.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(SpftError, match=r"roles must alternate.*model\.chat_template=false"):
        context_of(travel, tmp_path).encode_prompt(tiny, "hello")
