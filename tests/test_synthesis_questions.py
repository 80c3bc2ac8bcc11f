"""Questions to synthesized queries: who writes them, what is checked, and what is counted."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from spftcore.databases import Catalogue
from spftcore.pairs import Pair, question_key
from spftcore.synthesis import SynthesizedSQL
from spftcore.synthesis.mentions import Mentions
from spftcore.synthesis.placeholders import mask_draft, mask_literals, unmask_question
from spftcore.synthesis.question_checks import leak_fault, length_fault, literal_fault
from spftcore.synthesis.questions import Task, WrittenQuestions, write_questions

NAMES = "select name from city where country = 'Peru'"
GUESTS = "select guest from visit where nights > 2"
COUNT = "select count(*) from city"


def queries(*sql: str) -> list[SynthesizedSQL]:
    return [SynthesizedSQL("travel", text, f"t{i}", ()) for i, text in enumerate(sql)]


def written(
    catalogue: Catalogue, sql: Sequence[str], texts: Sequence[str] | None = None, **more: object
) -> WrittenQuestions:
    """Questions to some queries; `texts` is what the model writes."""
    model = None if texts is None else lambda tasks: texts
    return write_questions(
        queries(*sql),
        catalogue,
        random.Random(0),
        model=model,
        **more,  # type: ignore[arg-type]
    )


def test_rules_write_every_question_where_there_is_no_model(catalogue: Catalogue) -> None:
    done = written(catalogue, [NAMES, GUESTS, COUNT])
    assert [pair.sql for pair in done.pairs] == [NAMES, GUESTS, COUNT]
    assert {pair.checks["writer"] for pair in done.pairs} == {"rules"}
    assert "Peru" in done.pairs[0].question
    assert not done.rejections
    assert done.table()["rules"]["literals"] == [3, 3]


def test_the_model_is_shown_masked_sql_and_the_masked_question_by_rule(
    catalogue: Catalogue,
) -> None:
    shown: list[Task] = []

    def model(tasks: Sequence[Task]) -> list[str]:
        shown.extend(tasks)
        return ["Name the cities of the country value1."]

    done = write_questions(queries(NAMES), catalogue, random.Random(0), model=model)
    assert shown[0].sql == "select name from city where country = value1"
    assert "value1" in shown[0].draft
    assert "Peru" not in shown[0].draft
    assert done.pairs[0].question == "Name the cities of the country Peru."
    assert done.pairs[0].checks == {"writer": "model"}


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "no question"),
        ("Which cities are there at all?", "literal lost or invented"),
        ("Which cities of value1 have over 77 streets?", "literal invented"),
        ("cities value1", "too short"),
        ("cities " * 130 + "value1", "too long"),
        ("select name from city where country is value1", "SQL leaked"),
        ("Which city.name lies in value1?", "SQL leaked"),
    ],
)
def test_a_question_that_fails_a_check_gives_way_to_the_rule(
    catalogue: Catalogue, text: str, cause: str
) -> None:
    done = written(catalogue, [NAMES], [text])
    assert done.rejections == {f"model: {cause}": 1}
    assert done.pairs[0].checks == {"writer": "rules"}


def test_a_question_without_the_query_s_operation_gives_way(catalogue: Catalogue) -> None:
    done = written(catalogue, [GUESTS], ["Guests of visits with value1 nights"])
    assert done.rejections == {"model: operation not said": 1}
    assert done.pairs[0].checks == {"writer": "rules"}


def test_checks_are_counted_one_by_one(catalogue: Catalogue) -> None:
    texts = ["Which cities lie in the country value1?", "guests >"]
    table = written(catalogue, [NAMES, GUESTS], texts).table()["model"]
    assert table["written"] == [2, 2]
    assert table["literals"] == [1, 2]
    assert table["new"] == [1, 1]  # without its literals a text is looked at no further


def test_no_question_is_asked_twice(catalogue: Catalogue) -> None:
    text = "How many cities are there?"
    seen = {("travel", question_key(text))}
    done = written(catalogue, [COUNT], [text], seen=seen)
    assert done.rejections["model: asked before"] == 1
    assert all(question_key(p.question) != question_key(text) for p in done.pairs)
    other = "select count(city_id) from city"
    done = written(catalogue, [COUNT, other], [text, text])
    assert done.rejections["model: asks for another query too"] == 1


def test_the_round_trip_takes_the_rule_only_where_that_alone_finds_the_query(
    catalogue: Catalogue,
) -> None:
    """The model's question fails for the first two queries; for the second the rule's fails too."""
    texts = [
        "Cities in country value1, please",
        "Any guests above value1 nights",
        "Count of cities now",
    ]
    asked: list[list[str]] = []

    def answers(pairs: Sequence[Pair]) -> list[str]:
        asked.append([pair.sql for pair in pairs])
        by_rule = len(asked) == 2
        verdicts = {NAMES: "right" if by_rule else "wrong", GUESTS: "wrong", COUNT: "right"}
        return [verdicts[pair.sql] for pair in pairs]

    done = written(catalogue, [NAMES, GUESTS, COUNT], texts, answers=answers)
    assert asked == [[NAMES, GUESTS, COUNT], [NAMES, GUESTS]]
    assert [pair.checks for pair in done.pairs] == [
        {"writer": "rules", "round trip": "right"},
        {"writer": "model", "round trip": "wrong"},  # what cannot be answered yet is kept
        {"writer": "model", "round trip": "right"},
    ]
    assert done.table()["model"]["round trip"] == [1, 3]
    assert done.rejections == {"model: round trip": 1}


def test_equal_states_write_equal_questions(catalogue: Catalogue) -> None:
    first, second = (written(catalogue, [NAMES, GUESTS, COUNT]) for _ in range(2))
    assert first == second


# Placeholders

ODD_TEXTS = (
    "Lima",
    "L'Aquila",
    "Santa Cruz",
    'the "best"',
    "50%",
    "value added",
    "3 de Mayo",
    "Żółć",
)


def test_literals_go_and_come_back_whatever_they_hold() -> None:
    rng = random.Random(0)
    for _ in range(300):
        texts = rng.sample(ODD_TEXTS, 2)
        number = rng.choice(["7", "12.5", "1200", "2024-05-01"])
        quoted = ["'" + text.replace("'", "''") + "'" for text in texts]
        third = f"'{number}'" if "-" in number else number
        sql = f'select "a\'s 9" from t where x = {quoted[0]} or x = {quoted[1]} or y > {third}'
        masked, _, literals = mask_literals(sql)
        assert literals == [*quoted, third]
        assert '"a\'s 9"' in masked
        question = unmask_question("Rows with value3 over value1 or value2", literals)
        assert question == f"Rows with {number} over {texts[0].strip('%')} or {texts[1].strip('%')}"
        assert literal_fault(question, literals, "") is None
        for lost in ("value1 or value2", "value1 value2 value3 value3", "value1 value2 value4"):
            assert unmask_question(lost, literals) is None


@pytest.mark.parametrize(
    ("sql", "question", "masked"),
    [
        ("select a from t where n > 3", "More than three", "More than value1"),
        ("select a from t where n > 25", "Above twenty-five", "Above value1"),
        ("select a from t where n > 15000", "Over 15,000", "Over value1"),
        ("select a from t where d < '2002-06-21'", "Before June 21, 2002", "Before value1"),
        ("select a from t where s like '%oo%'", "With oo inside", "With value1 inside"),
    ],
)
def test_literals_are_found_as_people_write_them(sql: str, question: str, masked: str) -> None:
    assert mask_literals(sql, question)[1] == masked


def test_a_draft_gets_the_placeholders_of_its_query() -> None:
    draft = mask_draft("Rows of York or New York above 2", ["'York'", "'New York'", "2"])
    assert draft == "Rows of value1 or value2 above value3"


# Text checks


@pytest.mark.parametrize(
    "question",
    [
        "SELECT name FROM city WHERE country",
        "cities where inhabitants > value",
        "count(name) of cities",
        "cities group by country",
        "visit.nights of all guests",
        "t1.nights of all guests",
        "the city_id of Quito",
        "cities whose country is not null please is null",
    ],
)
def test_sql_in_a_question_is_seen(catalogue: Catalogue, question: str) -> None:
    assert leak_fault(question, [], catalogue["travel"]) == "SQL leaked"


@pytest.mark.parametrize(
    "question",
    [
        "Select the cities that lie in Peru, in alphabetical order by name.",
        "What is the number of visits for each city?",
        "Which guests join others, and where do they limit their stay?",
        "How many guests wrote to a.b@example.org?",
    ],
)
def test_english_is_not_taken_for_sql(catalogue: Catalogue, question: str) -> None:
    assert leak_fault(question, [], catalogue["travel"]) is None


def test_what_stands_in_a_literal_is_no_leak(catalogue: Catalogue) -> None:
    question = "Visits with the note select a from b where c"
    assert leak_fault(question, ["'select a from b where c'"], catalogue["travel"]) is None
    assert length_fault(question) is None


# Mentions without pairs


@pytest.mark.parametrize(
    ("question", "sql", "fault"),
    [
        ("Mean number of nights of visits", "select avg(nights) from visit", None),
        ("Number of nights of visits", "select avg(nights) from visit", "operation not said"),
        ("Average stay of the guests", "select avg(nights) from visit", "column not said"),
        ("Guests who stayed more than 2 nights", GUESTS, None),
        ("Guests with 2 nights", GUESTS, "operation not said"),
    ],
)
def test_without_pairs_the_schema_and_a_dictionary_serve(
    catalogue: Catalogue, question: str, sql: str, fault: str | None
) -> None:
    assert Mentions(()).fault(question, sql, catalogue["travel"]) == fault


def test_what_the_rules_do_without_need_not_be_said(catalogue: Catalogue) -> None:
    sql = "select name from city where country = 'Peru'"
    question = "Which cities are in Peru?"
    fault = Mentions(()).fault
    assert fault(question, sql, catalogue["travel"]) == "column not said"
    assert fault(question, sql, catalogue["travel"], ["Cities from Peru"]) is None
