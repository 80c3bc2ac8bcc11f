"""Templates as text for people: read, written, merged, and the library that comes along."""

import random
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from spftcore.databases import Catalogue
from spftcore.errors import SpftError
from spftcore.metrics.hardness import hardness
from spftcore.synthesis import FillError, Template, TemplatePool, fill

COUNT = "select count(*) from {a}"
NAMES = "select {a.1: text} from {a} where {a.1} like {v1 contains a.1}"


def test_the_text_form_holds_templates_and_uses() -> None:
    pool = TemplatePool()
    pool.add(Template(COUNT), "seed", 3)
    pool.add(Template(COUNT), "pair 7=x", 1)
    pool.add(Template(NAMES), "seed", 2)
    again = TemplatePool.from_text(pool.to_text())
    assert {e.template.text: e.sources for e in again} == {
        COUNT: Counter({"seed": 3, "pair 7=x": 1}),
        NAMES: Counter({"seed": 2}),
    }
    assert again.weights() == pool.weights()
    assert again.to_text() == pool.to_text()


def test_a_person_may_write_remarks_and_break_lines(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text(
        "# what our people ask\n\n# uses seed=4 audit=1\nselect {a.1: text}\n  from {a}\n\t"
        "where {a.1} like {v1 contains a.1}\n# a remark\n\n" + COUNT + "\n" + COUNT + "\n"
    )
    pool = TemplatePool.read(path)
    assert {e.template.text: dict(e.sources) for e in pool} == {
        NAMES: {"seed": 4, "audit": 1},
        COUNT: {"mine": 2},
    }
    pool.write(tmp_path / "copy.txt")
    assert TemplatePool.read(tmp_path / "copy.txt").weights() == pool.weights()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{COUNT}\n\nselect {{a.1}} from {{a}}\n", "Line 3 of the text.*not described"),
        (f"# uses seed\n{COUNT}", "Line 1 .*`seed` is no SOURCE=COUNT"),
        (f"# uses seed=0\n{COUNT}", "Line 1 .*`seed=0`"),
        ("select {a.1: colour} from {a}", "Line 1 .*malformed"),
        ("select {b#2.1: text} from {b}", "no FROM reads {b#2}"),
        ("select {a.1: text like b.1} from {a}", "like no column"),
        ("select {a.1: text} from {a} where {a.1} = {v1 =}", "malformed"),
    ],
)
def test_a_malformed_line_is_named(text: str, said: str) -> None:
    with pytest.raises(SpftError, match=said):
        TemplatePool.from_text(text)


def test_files_that_cannot_be_read_or_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(SpftError, match=r"nowhere\.txt cannot be read"):
        TemplatePool.read(tmp_path / "nowhere.txt")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(SpftError, match=r"bytes\.txt cannot be read"):
        TemplatePool.read(tmp_path / "bytes.txt")
    with pytest.raises(SpftError, match="cannot be written"):
        TemplatePool().write(tmp_path / "no folder" / "x.txt")


def test_merging_adds_uses_and_can_fix_a_share() -> None:
    one, two = TemplatePool(), TemplatePool()
    one.add(Template(COUNT), "seed", 3)
    two.add(Template(COUNT), "library", 1)
    two.add(Template(NAMES), "library", 4)
    one.merge(two)
    assert one[Template(COUNT).id].sources == {"seed": 3, "library": 1}
    assert one.weights() == pytest.approx({Template(COUNT).id: 4 / 8, Template(NAMES).id: 4 / 8})
    held = TemplatePool()
    held.add(Template(COUNT), "seed", 3)
    held.merge(two, share=0.25)
    # Three quarters of all weight stay with the seeds; of the rest a fifth is COUNT's too.
    expected = {Template(COUNT).id: 0.75 + 0.05, Template(NAMES).id: 0.2}
    assert held.weights() == pytest.approx(expected)
    # Feedback keeps what the merge decided, and a template without a wrong answer its floor.
    held.reweight([Template(COUNT).id], floor=0.5)
    assert held.weights()[Template(NAMES).id] == pytest.approx(0.1)
    held.reweight([], floor=0.5)
    assert held.weights() == pytest.approx(expected)


def test_the_library_covers_every_clause_and_every_difficulty() -> None:
    pool = TemplatePool.builtin()
    assert len(pool) >= 150
    text = " ".join(entry.template.text for entry in pool)
    for words in (
        "join {b} join {c}", "left join", "{a#2}", "group by", "having", "order by", "limit 1",
        "offset", "distinct", "not in (select", "exists (select", "not exists (select", "intersect",
        "except", "union", " like ", "between", " or ", "is null", "case when", "over (partition",
        "with ", "filter (where", "strftime", "from (select", "||", "coalesce",
    ):  # fmt: skip
        assert words in text, words
    assert {hardness(e.template.text) for e in pool} == {"easy", "medium", "hard", "extra"}


def test_every_template_of_the_library_fits_an_ordinary_schema(tmp_path: Path) -> None:
    rng = random.Random(0)
    connection = sqlite3.connect(tmp_path / "firm.sqlite")
    connection.executescript(
        """create table team (team_id integer primary key, name text, city text, area text,
          budget real, spent real, founded date, active bool);
        create table worker (worker_id integer primary key, team_id int references team, name text,
          role text, town text, salary real, min_salary real, hired date, remote bool,
          boss int references worker);
        create table task (task_id integer primary key, worker_id int references worker,
          name text, state text, town text, hours real, due date, urgent bool);"""
    )
    towns = ["Oslo", "Lima", "Rome"]
    for n in range(8):
        connection.execute(
            "insert into team values (?, ?, ?, ?, ?, ?, ?, ?)",
            (n, f"Team {'ABCDEFGH'[n]}", rng.choice(towns), rng.choice("xy"), 10.5 * n, n * 3,
             f"19{90 + n % 4}-01-0{1 + n % 3}", n % 2),
        )  # fmt: skip
    for n in range(40):
        connection.execute(
            "insert into worker values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (n, rng.randrange(6), f"Worker {n // 2}", rng.choice(["cook", "pilot", None]),
             rng.choice(towns), rng.choice([900, 1000, 1500, None]), 800 + n,
             f"2020-0{1 + n % 9}-1{n % 2}", n % 2, n // 3 if n else None),
        )  # fmt: skip
        connection.execute(
            "insert into task values (?, ?, ?, ?, ?, ?, ?, ?)",
            (n, rng.randrange(30), f"task {n}", rng.choice(["open", "done"]), rng.choice(towns),
             rng.choice([1, 2.5, 8]), f"2021-0{1 + n % 9}-02", n % 3 == 0),
        )  # fmt: skip
    connection.commit()
    database = Catalogue.open(tmp_path)["firm"]
    never: dict[str, Counter[str]] = {}
    for entry in TemplatePool.builtin():
        causes: Counter[str] = Counter()
        for seed in range(12):
            try:
                sql = fill(entry.template, database, random.Random(seed))
            except FillError as error:
                causes[error.cause] += 1
                continue
            connection.execute(sql).fetchall()
            break
        else:
            never[entry.template.text] = causes
    connection.close()
    assert never == {}
