"""Questions that do not speak of what their SQL does are told from those that do."""

import pytest

from spftcore.config import Config
from spftcore.databases import Catalogue, Database
from spftcore.pairs import Pair
from spftcore.stages.prepare import databases_folder, read_inputs
from spftcore.synthesis.mentions import Mentions, features


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return Catalogue.open(databases_folder(Config(), tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def seeds() -> list[Pair]:
    return read_inputs(Config())[0]


@pytest.fixture(scope="module")
def mentions(demo: Catalogue, seeds: list[Pair]) -> Mentions:
    return Mentions((pair.question, pair.sql, demo[pair.database]) for pair in seeds)


def test_features_are_columns_without_join_keys_and_operations(catalogue: Catalogue) -> None:
    travel: Database = catalogue["travel"]
    sql = (
        "select city.name, avg(visit.nights) from city join visit on visit.city_id = city.city_id"
        " where visit.guest not like 'A%' group by city.name order by avg(visit.nights) desc"
    )
    columns = {"city.name", "visit.nights", "visit.guest"}
    assert features(sql, travel) == columns | {"average", "like", "not", "group", "most"}


def test_nearly_all_questions_that_people_wrote_pass(
    mentions: Mentions, demo: Catalogue, seeds: list[Pair]
) -> None:
    passed = [mentions.fault(p.question, p.sql, demo[p.database]) is None for p in seeds]
    assert sum(passed) / len(passed) > 0.9


@pytest.mark.parametrize(
    ("database", "question", "sql", "fault"),
    [
        ("clinic", "what is the highest fee on Influenza?",
         "select min(fee) from visit where diagnosis = 'Influenza'", "operation"),
        ("school", "average cost of the Biology teachers",
         "select avg(salary) from teacher where subject = 'Biology'", "column"),
        ("clinic", "show the name and birth year of each Cardiologist.",
         "select name, hired from doctor where specialty = 'Cardiologist'", "column"),
        ("shop", "what is the highest shipping?", "select max(age) from customer", "column"),
    ],
)  # fmt: skip
def test_a_question_about_something_else_is_refused(
    mentions: Mentions, demo: Catalogue, database: str, question: str, sql: str, fault: str
) -> None:
    found = mentions.fault(question, sql, demo[database])
    assert found is not None
    assert fault in found


def test_a_word_that_never_comes_without_a_column_betrays_another_one(
    catalogue: Catalogue,
) -> None:
    travel = catalogue["travel"]
    pairs = [
        (f"Age of guest {n}", f"select nights from visit where guest = '{n}'", travel)
        for n in range(8)
    ]
    pairs += [("How many cities?", "select count(*) from city", travel)] * 2
    mentions = Mentions(pairs)
    assert mentions.fault("How many cities?", "select count(*) from city", travel) is None
    fault = mentions.fault("How many cities of age?", "select count(*) from city", travel)
    assert fault == "another column said"


def test_queries_that_cannot_be_resolved_are_left_to_other_checks(
    mentions: Mentions, demo: Catalogue
) -> None:
    assert mentions.fault("What?", "select x from nowhere", demo["shop"]) is None
