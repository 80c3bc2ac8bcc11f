"""Questions answered with a scripted engine on a real database."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from inference_engines import Letters, ScriptedEngine, prompting

from spftcore.databases import Catalogue
from spftcore.inference.answering import Answered, Answerer, Prompting, Question
from spftcore.inference.strategies import Strategy
from spftcore.rollout.grammar import sql_grammar
from spftcore.verify import Executor, Limits, Status

CITIES = "How many cities are there?"
GUESTS = "Who stayed?"


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with Executor(threads=1, limits=Limits(steps=200_000)) as executor:
        yield executor


def ask(
    engine: ScriptedEngine,
    catalogue: Catalogue,
    executor: Executor,
    questions: list[str],
    strategy: Strategy | None = None,
    **limits: int,
) -> dict[str, Answered]:
    answerer = Answerer(engine, prompting(catalogue, **limits), executor, strategy or Strategy())
    asked = [Question(str(n), "travel", text) for n, text in enumerate(questions)]
    return {a.question.question: a for a in answerer.answers(asked)}


def test_a_greedy_answer_is_run_and_its_result_known(
    catalogue: Catalogue, executor: Executor
) -> None:
    engine = ScriptedEngine({CITIES: ["```sql\nselect count(*) from city; -- all\n```"]})
    answered = ask(engine, catalogue, executor, [CITIES])[CITIES]
    assert answered.sql == "select count(*) from city"
    assert answered.runs
    assert answered.cause == ""
    assert answered.reason == "the only answer"
    assert CITIES in answered.prompt
    assert len(engine.calls) == 1


def test_votes_go_by_results_and_not_by_texts(catalogue: Catalogue, executor: Executor) -> None:
    said = [
        ("select count(*) from visit where nights > 2", -0.1),  # 2, greedy
        ("select count(*) from city", -3.0),  # 4
        ("select count(city_id) from city", -2.0),  # 4, more probable
        ("select count(*) from town", -0.2),  # does not run
        ("select count(*) from city", -3.5),  # 4
    ]
    strategy = Strategy(samples=4, temperature=0.7, seed=9)
    engine = ScriptedEngine({CITIES: said})
    answered = ask(engine, catalogue, executor, [CITIES], strategy)[CITIES]
    assert answered.sql == "select count(city_id) from city"
    assert answered.choice is not None
    assert (answered.choice.votes, answered.choice.voters) == (3, 4)
    assert answered.samples == tuple(text for text, _ in said)
    assert [(c.sql, c.completions, c.first, c.logprob) for c in answered.candidates] == [
        ("select count(*) from visit where nights > 2", 1, 0, -0.1),
        ("select count(*) from city", 2, 1, -3.0),
        ("select count(city_id) from city", 1, 2, -2.0),
        ("select count(*) from town", 1, 3, -0.2),
    ]
    (_, greedy), (_, sampling) = engine.calls
    assert (greedy.temperature, greedy.samples) == (0.0, 1)
    assert (sampling.temperature, sampling.samples, sampling.seed) == (0.7, 4, 9)


def test_a_question_is_drawn_for_alike_in_any_company(
    catalogue: Catalogue, executor: Executor
) -> None:
    script = {CITIES: ["select 1"] * 3, GUESTS: ["select 2"] * 3}
    keys = []
    for questions in ([CITIES], [GUESTS, CITIES]):
        engine = ScriptedEngine(script)
        ask(engine, catalogue, executor, questions, Strategy(samples=2))
        prompts, sampling = engine.calls[-1]
        (place,) = [n for n, prompt in enumerate(prompts) if CITIES in prompt]
        keys.append(sampling.key(place))
    assert keys[0] == keys[1]
    assert keys[0] != sampling.key(1 - place)


def test_a_second_try_sees_the_query_and_the_message_and_is_taken_when_it_runs(
    catalogue: Catalogue, executor: Executor
) -> None:
    engine = ScriptedEngine(
        {CITIES: ["select count(*) from town"], GUESTS: ["select guest from visit"]},
        again={"from town": "select count(*) from city"},
    )
    found = ask(engine, catalogue, executor, [CITIES, GUESTS], Strategy(repair="errors"))
    answered = found[CITIES]
    assert answered.sql == "select count(*) from city"
    assert answered.runs
    assert answered.repaired is not None
    assert answered.repaired.taken
    assert answered.repaired.sql == "select count(*) from town"
    prompts, sampling = engine.calls[-1]
    assert len(prompts) == 1
    assert prompts[0].startswith(answered.prompt + "select count(*) from town\n")
    assert "no such table: town" in prompts[0]
    assert sampling.temperature == 0
    assert found[GUESTS].repaired is None


def test_a_second_try_that_does_no_better_changes_nothing(
    catalogue: Catalogue, executor: Executor
) -> None:
    empty = "select name from city where inhabitants < 0"
    engine = ScriptedEngine(
        {CITIES: ["select count(*) from town"], GUESTS: [empty]},
        again={"from town": "select count(*) from nowhere", empty: "select null from city"},
    )
    found = ask(engine, catalogue, executor, [CITIES, GUESTS], Strategy(repair="empty"))
    assert found[CITIES].sql == "select count(*) from town"
    assert found[GUESTS].sql == empty
    assert all(a.repaired is not None and not a.repaired.taken for a in found.values())
    assert found[GUESTS].repaired.message == "it returns no rows"  # type: ignore[union-attr]


def test_an_empty_answer_is_left_alone_unless_asked_for(
    catalogue: Catalogue, executor: Executor
) -> None:
    empty = "select name from city where inhabitants < 0"
    engine = ScriptedEngine({GUESTS: [empty]})
    answered = ask(engine, catalogue, executor, [GUESTS], Strategy(repair="errors"))[GUESTS]
    assert answered.repaired is None
    assert len(engine.calls) == 1


@pytest.mark.parametrize("text", ["", "  ;", "```sql\n```", "-- nothing"])
def test_a_model_that_writes_no_sql_is_an_answer_with_a_cause(
    text: str, catalogue: Catalogue, executor: Executor
) -> None:
    engine = ScriptedEngine({CITIES: [text, text, text]})
    for strategy in (Strategy(), Strategy(samples=2, repair="empty")):
        answered = ask(engine, catalogue, executor, [CITIES], strategy)[CITIES]
        assert answered.sql == ""
        assert answered.outcome is None
        assert answered.cause == "The model wrote no SQL."
        assert not answered.runs


@pytest.mark.parametrize(
    ("finish", "words"), [("too_long", "no room"), ("failed", "generation failed")]
)
def test_an_engine_that_gives_up_on_a_prompt_says_why(
    finish: str, words: str, catalogue: Catalogue, executor: Executor
) -> None:
    engine = ScriptedEngine({CITIES: [("", 0.0, finish)], GUESTS: ["select 1"]})  # type: ignore[dict-item]
    found = ask(engine, catalogue, executor, [CITIES, GUESTS])
    assert words in found[CITIES].cause
    assert found[GUESTS].runs


def test_a_completion_that_was_cut_is_counted(catalogue: Catalogue, executor: Executor) -> None:
    engine = ScriptedEngine({CITIES: [("select count(*) from ci", -1.0, "length")]})
    answered = ask(engine, catalogue, executor, [CITIES])[CITIES]
    assert answered.cut == 1
    assert not answered.runs


def test_a_question_that_cannot_be_asked_is_not(catalogue: Catalogue, executor: Executor) -> None:
    engine = ScriptedEngine({})
    found = ask(engine, catalogue, executor, [CITIES, "  "], max_prompt_tokens=10)
    assert "longer than prompt.max_prompt_tokens" in found[CITIES].cause
    assert found["  "].cause == "The question is empty."
    answerer = Answerer(engine, prompting(catalogue), executor, Strategy())
    (answered,) = answerer.answers([Question("1", "elsewhere", CITIES)])
    assert "no database 'elsewhere'" in answered.cause
    assert all(not prompts for prompts, _ in engine.calls)


def test_a_question_of_odd_characters_is_asked(catalogue: Catalogue, executor: Executor) -> None:
    odd = "How many \ud800 \x00 \u202e ```cities``` 'are' -- there?\n\nDROP TABLE city;"
    engine = ScriptedEngine({"How many": ["select count(*) from city"]})
    (answered,) = ask(engine, catalogue, executor, [odd]).values()
    assert answered.runs


def test_hostile_answers_are_outcomes_and_the_file_stays_as_it_is(
    travel: Path, catalogue: Catalogue, executor: Executor
) -> None:
    before = (travel / "travel.sqlite").read_bytes()
    hostile = {
        "drop": "drop table city",
        "two": "select 1; delete from city",
        "attach": "attach 'x.sqlite' as x",
        "endless": "with recursive r(n) as (select 1 union all select n + 1 from r) "
        "select max(n) from r",
        "long": "select '" + "x" * 100_000 + "'",
        "nul": "select 'a\x00b'",
        "half": "select '\ud800'",
    }
    engine = ScriptedEngine({f"Q {name}?": [sql] for name, sql in hostile.items()})
    found = ask(engine, catalogue, executor, [f"Q {name}?" for name in hostile])
    status = {name: found[f"Q {name}?"].outcome.status for name in hostile}  # type: ignore[union-attr]
    assert status["drop"] is status["attach"] is Status.DENIED
    assert found["Q two?"].sql == "select 1"
    assert status["endless"] is Status.STEP_BUDGET
    assert status["long"] is Status.TOO_LARGE
    assert (travel / "travel.sqlite").read_bytes() == before
    assert sorted(p.name for p in travel.iterdir()) == ["travel.sqlite"]


def test_more_questions_than_a_block_are_all_answered_and_in_no_way_depend_on_it(
    catalogue: Catalogue, executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [f"Question {n:03}?" for n in range(23)]
    script = {q: [f"select {n % 5}", f"select {n % 3}"] for n, q in enumerate(questions)}
    results = []
    for block in (4, 100):
        monkeypatch.setattr("spftcore.inference.answering.BLOCK", block)
        found = ask(ScriptedEngine(script), catalogue, executor, questions, Strategy(samples=1))
        results.append({q: (a.sql, a.reason) for q, a in found.items()})
    assert results[0] == results[1]
    assert len(results[0]) == 23


def test_leaving_early_stops_the_queries(catalogue: Catalogue, travel: Path) -> None:
    endless = "with recursive r(n) as (select 1 union all select n + 1 from r) select max(n) from r"
    with Executor(threads=1, limits=Limits(steps=10**15, seconds=1000.0)) as executor:
        engine = ScriptedEngine({CITIES: ["select 1"], GUESTS: [endless]})
        answerer = Answerer(engine, prompting(catalogue), executor, Strategy())
        # The last is finished first: the endless one runs when the other is asked for.
        asked = [Question("1", "travel", GUESTS), Question("2", "travel", CITIES)]
        answers = answerer.answers(asked)
        assert next(answers).question.question == CITIES
        answers.close()  # type: ignore[attr-defined]
        # The thread is free again.
        assert executor.execute([(travel / "travel.sqlite", "select 1")])[0].ran
        assert sqlite3.connect(travel / "travel.sqlite").execute("select 1").fetchone() == (1,)


def test_constrained_answers_are_held_to_the_names_of_their_database(
    catalogue: Catalogue, executor: Executor
) -> None:
    made = prompting(catalogue)
    held = Prompting(made.renderer, Letters(), catalogue, made.limits, constrain=True)
    engine = ScriptedEngine({CITIES: ["select nope", "select 4"]}, again={"nope": "select 3"})
    strategy = Strategy(samples=1, repair="errors")
    question = Question("1", "travel", CITIES)
    assert list(Answerer(engine, held, executor, strategy).answers([question]))
    assert len(engine.calls) > 1
    for texts, sampling in engine.calls:
        assert len(sampling.grammars) == len(texts)
        assert sampling.grammar(0) == sql_grammar(catalogue["travel"])
