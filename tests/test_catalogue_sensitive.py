"""Columns that look personal or secret: their values reach no prompt, no index and no query."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_files import make

from spftcore.catalogue.kinds import Counted
from spftcore.config import Config, PromptConfig
from spftcore.databases import Catalogue, Sensitivity, natural_name
from spftcore.prompts import PromptRenderer
from spftcore.synthesis import TemplatePool, extract, synthesize_sql
from spftcore.verify import Executor


def covers(name: str, *values: object, rules: Sensitivity | None = None, key: bool = False) -> bool:
    counted: list[Counted] = [(value, 1) for value in values]
    return (rules or Sensitivity()).covers("person", name, natural_name(name), "text", key, counted)


SENSITIVE = """
    email e_mail EmailAddress customer_email emailaddress phone PhoneNumber cell_mobile_number
    home_phone telephone_no mobile fax fax_number password login_password passwd pwd password_hash
    user_password api_key apiKey access_token auth_token token secret client_secret SSN ssn
    social_security_number passport_number iban IBAN credit_card creditcard_number card_number cvv
    tax_id national_id drivers_license ip_address private_key phone1 email2 contact_tel tel tel_no
    pass user_pass api_token_hash
"""
HARMLESS = """
    name city phone_model phone_id email_verified token_count card_type number_of_phones
    headphones has_phone address description passenger classname essn_count keyboard compass
    secretary tokenized pinned assn council_tax_id primary_key mailing_list emailed_at
    hotel tell boarding_pass pass_rate content_hash
"""


@pytest.mark.parametrize("name", SENSITIVE.split())
def test_names_that_are_sensitive(name: str) -> None:
    assert covers(name)


@pytest.mark.parametrize("name", HARMLESS.split())
def test_names_that_only_resemble_them(name: str) -> None:
    assert not covers(name)


@pytest.mark.parametrize(
    "values",
    [
        ("ada@example.org", "noor@example.com", "none"),
        ("$2b$12$KIXQJ9J9J9J9J9J9J9J9J.", "$2b$12$abcdefghijklmnopqrstu."),
        ("GB82 WEST 1234 5698 7654 32", "DE89370400440532013000"),
        ("123-45-6789", "987-65-4321", "111-22-3333"),
        ("+1 415 555 0101", "+49 30 901820", "+44 20 7946 0000"),
        ("4111111111111111", "5500005555555559", "4012888888881881", "6011000990139424",
         "4000 0000 0000 0002"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc",),
    ],
)  # fmt: skip
def test_values_that_leave_no_doubt(values: tuple[str, ...]) -> None:
    assert covers("x", *values)


@pytest.mark.parametrize(
    "values",
    [
        ("user at host", "a@b", "12@3"),
        ("GB00 WEST 1234 5698 7654 32",),  # wrong check digits
        ("2020-01-02", "123-456", "555-0101"),
        (
            "4111111111111112",
            "5500005555555558",
            "4012888888881882",
            "1",
            "2",
        ),  # wrong check digits
        ("ada@example.org", "Lima", "Quito", "Oslo"),  # one in four
    ],
)
def test_values_that_only_resemble_them(values: tuple[str, ...]) -> None:
    assert not covers("x", *values)


def test_patterns_of_the_user_add_and_exempt() -> None:
    rules = Sensitivity(patterns=("nick*", "person.born", "!*.email", "!work_phone"))
    assert covers("Nickname", rules=rules)
    assert covers("born", rules=rules)
    assert not covers("email", rules=rules)
    assert not covers("work_phone", rules=rules)
    assert covers("home_phone", rules=rules)
    assert not covers("email", rules=Sensitivity("show"))


PEOPLE = """create table person (person_id integer primary key, name text, email text,
    contact text, town text, age int, foreign_word text);
insert into person values
    (1, 'Ada', 'ada@secret.example', '+1 415 555 0101', 'Lima', 36, 'uno'),
    (2, 'Noor', 'noor@secret.example', '+1 415 555 0102', 'Quito', 41, 'dos'),
    (3, 'Kim', 'kim@secret.example', '+1 415 555 0103', 'Lima', 28, 'tres'),
    (4, 'Eve', 'eve@secret.example', '+1 415 555 0104', 'Oslo', 52, 'tres');
create table visit (id integer primary key, person_id int references person, place text);
insert into visit values (1, 1, 'museum'), (2, 1, 'park'), (3, 2, 'park'), (4, 4, 'zoo');"""
GUARDED = ("secret.example", "415 555")
QUERIES = (
    "select name from person where email = 'ada@secret.example'",
    "select email from person where age > 30",
    "select count(*) from person where contact like '+1%'",
    "select name, email from person order by age desc limit 1",
    "select town, count(*) from person group by town",
    "select name from person join visit on person.person_id = visit.person_id where place = 'park'",
)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    make(tmp_path / "people" / "people.sqlite", PEOPLE)
    return tmp_path / "people"


def test_their_values_reach_no_prompt_no_index_and_no_query(people: Path) -> None:
    catalogue = Catalogue.open(people)
    database = catalogue["people"]
    sensitive = {c.name for t in database.tables for c in t.columns if c.sensitive}
    assert sensitive == {"email", "contact"}  # one by name, one by its values
    renderer = PromptRenderer(PromptConfig(), catalogue)
    question = "Who has the e-mail ada@secret.example or the number +1 415 555 0101 in Lima?"
    shown = renderer.text_to_sql(question, "people").replace(question, "")
    shown += renderer.sql_to_text("select 1", "people")
    assert "Lima" in shown
    assert "email" in shown  # names stay: a question may well ask for the column
    assert not any(text in shown for text in GUARDED)
    pool = TemplatePool()
    for sql in QUERIES:
        pool.add(extract(sql, database), "seed")
    with Executor(threads=1) as executor:
        result = synthesize_sql(pool, [database], executor, 150, random.Random(1))
    text = "\n".join(query.sql for query in result.queries)
    assert len(result.queries) > 20
    assert "'Lima'" in text
    assert not any(mark in text for mark in ("secret", "@", "415", "+1"))


VIEWS = """
create table u (id integer primary key, name text, born text,
    password text, -- e.g. hunter2
    phone_number text);
insert into u values (1, 'Ada', '1815', 'hunter2', '555-0101'), (2, 'Kim', '1990', 'qwerty', '');
create view v as select name, phone_number as contact, password as p, upper(password) as q from u;
create view of_view as select name as who, p as x, born from v join u using (name);
create view both_sides as select name as one from u union select password from u;
create view from_cte as with a(b, c, d, e, f) as (select * from u) select c, e, b || e as g from a;
create view harmless as select name, upper(name) as loud, count(*) as n from u group by name;
"""


def sensitive_of(folder: Path, rules: Sensitivity | None = None) -> set[str]:
    tables = Catalogue.open(folder, sensitivity=rules)["d"].tables
    return {f"{t.name}.{c.name}" for t in tables for c in t.columns if c.sensitive}


def test_views_show_no_sensitive_value_under_another_name(tmp_path: Path) -> None:
    make(tmp_path / "d.sqlite", VIEWS)
    found = {"u.password", "u.phone_number", "v.contact", "v.p", "v.q", "of_view.x"}
    found |= {"both_sides.one", "from_cte.e", "from_cte.g"}
    assert sensitive_of(tmp_path) == found
    assert sensitive_of(tmp_path, Sensitivity("show")) == set()
    # The user's own columns reach views as well, and the user may still say that one is harmless.
    patterns = ("u.born", "!v.contact", "!u.password", "!u.phone_number")
    born = {"u.born", "of_view.born", "from_cte.g"}  # of what is computed nobody can tell
    assert sensitive_of(tmp_path, Sensitivity(patterns=patterns)) == born
    prompt = PromptRenderer(PromptConfig(), Catalogue.open(tmp_path)).text_to_sql("Who?", "d")
    assert "'Ada'" in prompt
    assert not any(text in prompt.lower() for text in ("hunter2", "555"))
    hiding = Catalogue.open(tmp_path, sensitivity=Sensitivity("hide"))["d"]
    assert [c.name for c in hiding.table("v").columns] == ["name"]


def test_a_comment_on_a_sensitive_column_is_not_kept(tmp_path: Path) -> None:
    make(tmp_path / "d" / "d.sqlite", VIEWS)
    described = tmp_path / "d" / "database_description"
    described.mkdir()
    (described / "u.csv").write_text(
        "original_column_name,column_name,column_description,data_format,value_description\n"
        "phone_number,,,text,such as 555-0101\nname,,first name,text,\n"
    )
    catalogue = Catalogue.open(tmp_path, cache=tmp_path / "kept")
    assert catalogue["d"].column("u", "name").comment == "first name"
    kept = "".join(path.read_text() for path in (tmp_path / "kept").iterdir())
    assert "first name" in kept
    assert "hunter2" not in kept
    assert "555-0101" not in kept


def test_hidden_columns_are_not_in_the_catalogue(people: Path) -> None:
    database = Catalogue.open(people, sensitivity=Sensitivity("hide", ("person_id",)))["people"]
    assert [c.name for c in database.table("person").columns] == [
        "name",
        "town",
        "age",
        "foreign_word",
    ]
    assert database.foreign_keys == ()  # a hidden column joins nothing


def test_shown_columns_have_their_values(people: Path) -> None:
    column = Catalogue.open(people, sensitivity=Sensitivity("show"))["people"].column(
        "person", "email"
    )
    assert (column.sensitive, column.examples[0]) == (False, "ada@secret.example")


def test_settings_choose(people: Path, tmp_path: Path) -> None:
    given = {"data": {"sensitive": "values", "sensitive_columns": ["town", "!email"]}}
    catalogue = Catalogue.from_settings(
        Config.model_validate(given).data, people, tmp_path / "kept"
    )
    table = catalogue["people"].table("person")
    assert {c.name for c in table.columns if c.sensitive} == {"contact", "town"}
    kept = "".join(path.read_text() for path in (tmp_path / "kept").iterdir())
    assert "Quito" not in kept  # a sensitive value is not written anywhere
    with closing(sqlite3.connect(people / "people.sqlite")) as connection:
        assert connection.execute("select count(*) from person where town = 'Quito'").fetchone()[0]
