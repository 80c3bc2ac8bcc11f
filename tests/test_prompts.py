"""One renderer writes every prompt; literals are masked and put back; SQL is cut out of answers."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from spftcore.config import PromptConfig
from spftcore.databases import Catalogue
from spftcore.prompts import PromptRenderer, parse_sql
from spftcore.synthesis.placeholders import mask_literals, unmask_question
from spftcore.synthesis.sql_text import spoken


@pytest.fixture(scope="module")
def ddl(catalogue: Catalogue) -> PromptRenderer:
    return PromptRenderer(PromptConfig(style="ddl"), catalogue)


@pytest.fixture(scope="module")
def linked(catalogue: Catalogue) -> PromptRenderer:
    return PromptRenderer(PromptConfig(style="linked"), catalogue)


# -- prompts ------------------------------------------------------------------------------------


def test_the_ddl_prompt_shows_schema_keys_examples_values_hint_and_question(
    ddl: PromptRenderer,
) -> None:
    prompt = ddl.text_to_sql("Who was in L'Aquila?", "travel", "a guest is a person")
    lines = prompt.splitlines()
    assert "create table city (" in lines
    assert "  city_id integer primary key, -- city id" in lines
    assert "  city_id integer references city (city_id), -- city id; e.g. 1, 2, 3" in lines
    assert "  country text, -- e.g. 'Bolivia', 'Ecuador', 'Italy'" in lines
    assert "-- values in the database: city.name = 'L''Aquila'" in lines
    assert "-- hint: a guest is a person" in lines
    assert lines[-2] == "-- question: Who was in L'Aquila?"
    assert prompt.endswith("answers the question:\n")


def test_what_is_not_known_leaves_no_line(ddl: PromptRenderer) -> None:
    prompt = ddl.text_to_sql("How many cities are there?", "travel")
    assert "hint" not in prompt
    assert "values in the database" not in prompt


def test_the_linked_prompt_names_database_and_values_and_lowers_the_question(
    linked: PromptRenderer,
) -> None:
    assert (
        linked.text_to_sql("Who stayed in SANTA CRUZ?", "travel")
        == "travel | city.name = 'Santa Cruz' | who stayed in santa cruz? =>"
    )
    assert linked.text_to_sql("How many?", "travel") == "travel | how many? =>"


def test_examples_are_spelled_as_sql_literals(ddl: PromptRenderer) -> None:
    # In double quotes a value would be a name; the model copies what it sees.
    prompt = ddl.text_to_sql("How many?", "travel")
    assert "  name text, -- e.g. 'L''Aquila', 'Lima', 'Quito'" in prompt.splitlines()


@pytest.mark.parametrize("style", ["ddl", "linked"])
def test_the_same_input_gives_the_same_bytes(travel: Path, style: str) -> None:
    # A renderer and a catalogue of their own, as another process of the run would have.
    renderers = [
        PromptRenderer(PromptConfig.model_validate({"style": style}), Catalogue.open(travel))
        for _ in range(2)
    ]
    first, second = (r.text_to_sql("Did Ada see Lima and Quito?", "travel") for r in renderers)
    assert first == second
    again = renderers[0].text_to_sql("Did Ada see Lima and Quito?", "travel")
    assert again.encode() == first.encode()


def test_both_directions_share_the_schema(ddl: PromptRenderer, linked: PromptRenderer) -> None:
    schema = ddl.text_to_sql("How many?", "travel").partition("-- question")[0]
    asked = ddl.sql_to_text("select value1", "travel")
    assert asked.startswith(schema)
    assert "-- query: select value1\n" in asked
    assert linked.sql_to_text("select value1", "travel") == "travel | select value1 =>"


def test_a_schema_with_names_that_need_quotes_shows_them_quoted(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "odd.sqlite")
    connection.executescript('create table "order" ("home town" text); ')
    connection.close()
    renderer = PromptRenderer(PromptConfig(style="ddl"), Catalogue.open(tmp_path))
    prompt = renderer.text_to_sql("Which towns?", "odd")
    # The model copies names from the prompt, and unquoted these are syntax errors.
    assert '"order"' in prompt
    assert '"home town"' in prompt


@pytest.mark.parametrize("style", ["ddl", "compact"])
def test_line_breaks_in_values_and_questions_do_not_end_a_comment(
    style: str, tmp_path: Path
) -> None:
    connection = sqlite3.connect(tmp_path / "d.sqlite")
    connection.executescript(
        "create table t (name text); insert into t values ('red' || char(10) || 'fox'), ('hen');"
    )
    connection.close()
    config = PromptConfig.model_validate({"style": style})
    renderer = PromptRenderer(config, Catalogue.open(tmp_path))
    prompt = renderer.text_to_sql("Is the\nred fox a hen?", "d", "red\nfox")
    prompt += renderer.sql_to_text("select name\nfrom t", "d", "the\nnames")
    assert "-- question: Is the red fox a hen?\n" in prompt
    assert "-- hint: red fox\n" in prompt
    assert "-- query: select name from t\n-- said word for word: the names\n" in prompt
    assert "'hen'" in prompt
    assert "red\n" not in prompt


# -- masks --------------------------------------------------------------------------------------


def test_masks_stand_for_literals_that_the_question_writes() -> None:
    masked = mask_literals(
        "select guest from visit where nights > 2 and guest like '%ad%' limit 5",
        "Guests with 'AD' in their name who stayed longer than 2 nights",
    )
    assert masked == (
        "select guest from visit where nights > value1 and guest like value2 limit 5",
        "Guests with 'value2' in their name who stayed longer than value1 nights",
        ["2", "'%ad%'"],
    )


def test_a_number_inside_another_is_not_its_mention() -> None:
    sql, question, literals = mask_literals(
        "select * from t where x = 5", "Which are 55, 5.5 or model-a5?"
    )
    assert (sql, literals) == ("select * from t where x = 5", [])
    assert question == "Which are 55, 5.5 or model-a5?"


def test_without_a_question_all_literals_but_0_and_1_are_masked() -> None:
    sql = "select name from t2 where a = 'it''s' and b = 1 and c > 0.5 and d1 = '' limit 1"
    assert mask_literals(sql) == (
        "select name from t2 where a = value1 and b = 1 and c > value2 and d1 = '' limit 1",
        "",
        ["'it''s'", "0.5"],
    )


def test_a_question_speaks_literals_without_quotes_and_wildcards() -> None:
    assert [spoken(x) for x in ("'it''s'", "'%top%'", "2.5")] == ["it's", "top", "2.5"]


literal = st.one_of(
    st.integers(2, 99999).map(str),
    st.decimals(2, 999, places=2).map(str),
    st.text("abcXYZ '%", min_size=1, max_size=8)
    .filter(lambda text: bool(text.strip("% ")))
    .map(lambda text: "'" + text.replace("'", "''") + "'"),
)


@given(literals=st.lists(literal, min_size=1, max_size=12))
@hypothesis_settings(max_examples=80, deadline=None)
def test_masked_literals_come_back_as_they_were(literals: list[str]) -> None:
    sql = "select a from t where " + " and ".join(f"x = {value}" for value in literals)
    masked, _, found = mask_literals(sql)
    assert found == literals
    asked = "where " + " and ".join(f"x is value{i + 1}" for i in range(len(literals)))
    answer = unmask_question(asked, found)
    assert answer == "where " + " and ".join(f"x is {spoken(value)}" for value in literals)
    for number, value in reversed(list(enumerate(literals, 1))):
        masked = masked.replace(f"value{number}", value)
    assert masked == sql


@pytest.mark.parametrize(
    "question",
    [
        "Which cost value1?",  # value2 was lost
        "Which cost value1 to value2 or value3?",  # value3 was invented
        "Which cost value1 to value2, value2?",  # said twice
        "Which cost 5 to 9?",
    ],
)
def test_questions_that_lost_or_invented_a_literal_are_refused(question: str) -> None:
    assert unmask_question(question, ["5", "9"]) is None


def test_literals_may_be_said_in_another_order() -> None:
    assert unmask_question("Above value2 in value1", ["'Lima'", "9"]) == "Above 9 in Lima"


# -- SQL out of completions ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("completion", "sql"),
    [
        ("select 1", "select 1"),
        ("  select 1 ;\n", "select 1"),
        ("```sql\nselect 1;\n```", "select 1"),
        ("```SQL\nselect 1\n```", "select 1"),
        ("```\nselect 1\n```", "select 1"),
        ("Here it is:\n```sql\nselect 1;\n```\nIt's simple.", "select 1"),
        ("```sql\nselect 1", "select 1"),  # cut off by the length limit
        ("select 1; drop table t", "select 1"),
        ("select ';' from t where x = 'a;b';", "select ';' from t where x = 'a;b'"),
        ("select 'it''s; so' ; select 2", "select 'it''s; so'"),
        ("", ""),
        (";", ""),
    ],
)
def test_the_first_statement_is_cut_out_of_a_completion(completion: str, sql: str) -> None:
    assert parse_sql(completion) == sql


def test_a_fence_may_be_labelled_sqlite() -> None:
    assert parse_sql("```sqlite\nselect 1\n```") == "select 1"


def test_apostrophes_after_the_statement_do_not_hide_its_end() -> None:
    assert parse_sql("select name from city; that's all") == "select name from city"


def test_blanks_inside_a_string_are_kept() -> None:
    assert parse_sql("select *\nfrom t where x = 'a  b'") == "select * from t where x = 'a  b'"


def test_a_comment_does_not_swallow_the_query() -> None:
    sql = parse_sql("-- names first\nselect name -- of the city\nfrom city")
    connection = sqlite3.connect(":memory:")
    connection.execute("create table city (name)")
    connection.execute("insert into city values ('Lima')")
    assert connection.execute(sql).fetchall() == [("Lima",)]


def test_a_semicolon_in_a_quoted_name_or_comment_ends_nothing() -> None:
    assert parse_sql('select "a;b" from t') == 'select "a;b" from t'
    assert "from t" in parse_sql("select 1 /* a; b */ from t")
