"""Asking a database: at a prompt, through a pipe, with one question."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from conftest import TRAVEL_PAIRS
from inference_engines import ScriptedEngine, prompting
from rich.console import Console

from spftcore.ask import __main__ as ask
from spftcore.ask.session import Session
from spftcore.ask.terminal import completions, words_to_complete
from spftcore.ask.values import plain, shown
from spftcore.config import DataConfig
from spftcore.databases import Catalogue
from spftcore.inference.answering import Answerer
from spftcore.inference.strategies import Strategy
from spftcore.printable import printable
from spftcore.verify import Executor, Limits

COUNT, PERU, *_ = [question for question, _ in TRAVEL_PAIRS]


class Pipe(io.TextIOWrapper):
    """Standard input with lines in it."""

    def __init__(self, text: str) -> None:
        super().__init__(io.BytesIO(text.encode()), encoding="utf-8")


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(
    travel: Path,
    travel_run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Command:
    """Runs the command on the travel database. Returns exit code, output, errors."""

    def run(*arguments: object, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", Pipe(stdin))
        given = ["--database", str(travel / "travel.sqlite"), "--model", str(travel_run)]
        code = ask.main([*given, *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_one_question_is_answered_with_its_sql_above_the_rows(command: Command) -> None:
    code, out, _ = command(PERU)
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "select name from city where country = 'Peru'"
    assert [line.strip() for line in lines[1:4:2]] == ["name", "Lima"]
    assert lines[4].startswith("1 row · ")


def test_json_is_one_object_a_question_with_all_that_a_program_needs(command: Command) -> None:
    code, out, _ = command("--json", stdin=f"{COUNT}\n\n{PERU}\n")
    first, second = (json.loads(line) for line in out.splitlines())
    assert code == 0
    assert first.pop("seconds") > 0
    assert first == {
        "question": COUNT,
        "sql": "select count(*) from city",
        "status": "ok",
        "columns": ["count(*)"],
        "rows": [[4]],
        "message": "",
        "truncated": False,
    }
    assert second["rows"] == [["Lima"]]


def test_questions_come_through_a_pipe_line_by_line_with_commands_between(
    command: Command, tmp_path: Path
) -> None:
    target = tmp_path / "out.csv"
    script = f"{COUNT}\n.sql select name, inhabitants from city\n.export csv {target}\n.quit\nx\n"
    code, out, _ = command("--rows", 2, stdin=script)
    assert code == 0
    assert "2 more (4 rows)" in out
    assert f"4 rows: {target}" in out.replace("\n", "")
    with target.open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["name", "inhabitants"],
            ["Quito", "1763"],
            ["Santa Cruz", "1903"],
            ["L'Aquila", "70"],
            ["Lima", "9752"],
        ]


def test_the_exit_code_says_that_something_has_no_result(command: Command) -> None:
    code, out, _ = command(stdin=f".sql select nobody\n{COUNT}\n")
    assert code == 1
    assert "It does not run: no such column: nobody" in out
    assert "select count(*) from city" in out


def test_rows_are_limited_and_said_to_be(command: Command) -> None:
    question = next(q for q, sql in TRAVEL_PAIRS if sql.startswith("select distinct guest"))
    _, out, _ = command("--json", "--rows", 2, question)
    record = json.loads(out)
    assert (record["rows"], record["truncated"]) == ([["Ada"], ["Noor"]], True)


def test_the_database_stays_as_it_is_and_nothing_is_put_beside_it(
    command: Command, travel: Path
) -> None:
    file = travel / "travel.sqlite"
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    hostile = [
        ".sql drop table city",
        ".sql insert into city values (9, 'x', 'y', 1)",
        ".sql attach 'other.sqlite' as other",
        ".sql pragma journal_mode=wal",
        ".sql select 1; delete from city",
        f".export csv {file}",
    ]
    code, out, err = command(stdin="\n".join([*hostile[:-1], COUNT, hostile[-1]]))
    assert code == 1
    assert out.count("It does not run") == len(hostile) - 1
    assert "exists and is not overwritten" in err
    assert hashlib.sha256(file.read_bytes()).hexdigest() == before
    assert [path.name for path in travel.iterdir()] == ["travel.sqlite"]


# -- errors ------------------------------------------------------------------------------------


def failed(arguments: Sequence[object], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = ask.main([*map(str, arguments), "How many?"])
    return code, " ".join(capsys.readouterr().err.split())


def test_files_and_models_that_are_missing_or_wrong_are_said_with_the_remedy(
    travel: Path, travel_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = travel / "travel.sqlite"
    text = tmp_path / "notes.sqlite"
    text.write_text("not a database")
    (tmp_path / "busy.sqlite").write_bytes(good.read_bytes())
    (tmp_path / "busy.sqlite-wal").write_bytes(b"unsaved")
    cases = [
        (tmp_path / "no.sqlite", travel_run, "There is no file"),
        (tmp_path, travel_run, "Is a directory"),
        (text, travel_run, "is not a SQLite file"),
        (tmp_path / "busy.sqlite", travel_run, "unsaved changes in busy.sqlite-wal"),
        (good, tmp_path / "nothing", "There is no folder"),
        (good, tmp_path, "is neither a run"),
    ]
    for database, model, words in cases:
        code, err = failed(["--database", database, "--model", model], capsys)
        assert code == 1
        assert words in err
        assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "m"], "--database"),
        (["--database", "d", "--model", "m", "--rows", "0"], "--rows must be at least 1"),
        (["--database", "d", "--model", "m", "--jsn"], "Did you mean '--json'?"),
        (["--database", "d", "--model", "m", "--temperature", "0"], "--temperature must be"),
    ],
)
def test_wrong_usage_has_exit_code_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, err = failed(arguments, capsys)
    assert code == 2
    assert words in err


# -- the prompt --------------------------------------------------------------------------------


@pytest.fixture
def session(catalogue: Catalogue) -> Iterator[tuple[Session, ScriptedEngine]]:
    """A session with a scripted model that votes and may try again."""
    script = {
        "How many": [
            "select count(*) from visit",
            "select count(*) from city",
            "select 4",
            "select count(*) from town",
        ],
        "Who": ["select name from nowhere"] * 4,
        "Silence": ["", "", "", ""],
    }
    engine = ScriptedEngine(script, again={"from nowhere": "select guest from visit"})
    with Executor(threads=1, limits=Limits(steps=10**12, seconds=600.0)) as executor:
        strategy = Strategy(samples=3, repair="errors")
        answerer = Answerer(engine, prompting(catalogue), executor, strategy)
        yield Session(catalogue["travel"], answerer, executor), engine


def typed(
    session: Session, lines: Sequence[str | type[BaseException]], monkeypatch: pytest.MonkeyPatch
) -> str:
    """What is shown when a person types these lines and then Ctrl-D."""
    rest = iter(lines)

    def read(prompt: str) -> str:
        line = next(rest, EOFError)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", read)
    shown = Console(file=io.StringIO(), width=100)
    ask.converse(session, shown, shown, rows=3)
    return shown.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _own_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_why_shows_values_prompt_votes_and_the_reason(
    session: tuple[Session, ScriptedEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = typed(session[0], ["How many nights in Lima?", ".why"], monkeypatch)
    assert "city.name = Lima" in out
    assert "visit +" in out or "visit -" in out
    assert "-- question: How many nights in Lima?" in out
    assert "no such table: town" in out
    assert "Taken: all 3 answers that run give this result." in out


def test_why_tells_of_a_second_try(
    session: tuple[Session, ScriptedEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = typed(session[0], ["Who stayed?", ".why"], monkeypatch)
    assert "It was told: no such table: nowhere" in out
    assert "It wrote: select guest from visit" in out
    assert "1 more (4 rows)" in out


def test_a_model_that_says_nothing_is_said_to(
    session: tuple[Session, ScriptedEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = typed(session[0], ["Silence", ".why", ".sql", ".export csv x.csv"], monkeypatch)
    assert "No answer: The model wrote no SQL." in out
    assert "There is no SQL yet." in out
    assert "There is no result to export." in out


def test_the_schema_is_shown(
    session: tuple[Session, ScriptedEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = typed(session[0], [".tables", ".schema VISIT", ".schema citty"], monkeypatch)
    assert "city  (4 rows)" in out
    assert "visit_id INTEGER primary key" in out
    assert "city_id INTEGER -> city.city_id" in out
    assert "There is no table citty. Did you mean city?" in out


def test_evidence_goes_into_the_prompts_that_follow(
    session: tuple[Session, ScriptedEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["How many?", ".evidence big means > 1000", "How many?", ".evidence", "How many?"]
    typed(session[0], lines, monkeypatch)
    told = ["-- hint: big means > 1000" in prompts[0] for prompts, _ in session[1].calls]
    assert told == [False, False, True, True, False, False]


def test_unknown_commands_are_not_asked_as_questions(
    session: tuple[Session, ScriptedEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = typed(session[0], [".tabels", "", ".help", ".quit", "How many?"], monkeypatch)
    assert "Did you mean .tables?" in out
    assert ".export csv FILE" in out
    assert session[1].calls == []


def test_ctrl_c_stops_a_question_and_the_session_goes_on(
    session: tuple[Session, ScriptedEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    asking, engine = session
    original, stops = engine.generate, iter([True])

    def generate(*arguments: object, **options: object) -> object:
        if next(stops, False):
            raise KeyboardInterrupt
        return original(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "generate", generate)
    out = typed(asking, ["How many?", KeyboardInterrupt, "How many?"], monkeypatch)
    assert out.count("Stopped.") == 2
    assert out.index("Stopped.") < out.index("select count(*) from")


# -- what is shown -----------------------------------------------------------------------------


def test_nothing_that_steers_a_terminal_is_shown_as_it_is() -> None:
    assert printable("a\x1b[31mb\nc\x9b\u202e") == "a\\u001b[31mb\\nc\\u009b\\u202e"
    assert shown("x" * 100, 10) == "x" * 9 + "…"
    assert shown(None, 10) == "NULL"
    assert shown(b"\x00\xff", 10) == "x'00ff'"
    assert shown(b"\x00" * 20, 60) == f"x'{'00' * 16}'… (20 bytes)"
    assert shown(0.1 + 0.2, 60) == "0.30000000000000004"


def test_hostile_values_and_names_come_out_as_escapes(command: Command) -> None:
    sql = "select char(27)||'[2J' as \"a\x1b[2J\", '[bold]x[/bold]', null, x'4142'"
    _, out, _ = command(stdin=f".sql {sql}\n")
    assert "\x1b" not in out
    assert "\\u001b[2J" in out
    assert "[bold]x[/bold]" in out
    assert "NULL" in out
    assert "x'4142'" in out


def test_wide_results_leave_columns_out_and_name_them(command: Command) -> None:
    columns = ", ".join(f"{n}{'0' * 10} as number_{n}" for n in range(10, 30))
    _, out, _ = command(stdin=f".sql select {columns}\n")
    assert "100000000000" in out
    assert "more columns: number_" in out
    assert "number_29" in out
    assert "…" not in "".join(line for line in out.splitlines() if "100000000000" in line)


def test_json_holds_what_json_has_no_word_for() -> None:
    assert plain(b"\x01") == {"hex": "01"}
    assert plain(float("inf")) == "inf"
    assert plain(1.5) == 1.5


def test_completion_knows_commands_tables_and_columns(catalogue: Catalogue) -> None:
    words = words_to_complete(catalogue["travel"])
    assert completions(words, ".s", 0, ".s") == [".schema ", ".sql "]
    assert completions(words, "how many CI", 9, "CI") == ["city", "city_id"]
    assert completions(words, ".schema v", 8, "v") == ["visit", "visit_id"]
    assert completions(words, "x ", 2, "") == []


def test_values_of_sensitive_columns_are_shown_to_the_user_and_not_to_the_model(
    tmp_path: Path,
) -> None:
    path = tmp_path / "staff.db"
    connection = sqlite3.connect(path)
    connection.executescript(
        "create table person (id integer primary key, name text, password text);"
        "insert into person values (1, 'Ada', 'hunter2secret'), (2, 'Noor', 'topsecret77');"
    )
    connection.close()
    catalogue = Catalogue.of_files({"staff": path}, DataConfig())
    engine = ScriptedEngine({"hunter2secret": ["select password from person"]})
    with Executor(threads=1) as executor:
        answerer = Answerer(engine, prompting(catalogue), executor, Strategy())
        reply = Session(catalogue["staff"], answerer, executor).ask("Who has hunter2secret?")
    assert reply.rows == (("hunter2secret",), ("topsecret77",))
    ((prompt,), _) = engine.calls[0]
    assert "password" in prompt
    assert "topsecret77" not in prompt
    assert "= 'hunter2secret'" not in prompt
