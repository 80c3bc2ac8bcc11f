"""Families of variants: what holds in every file, what they tell apart, what they never touch."""

from __future__ import annotations

import hashlib
import json
import random
import sqlite3
from pathlib import Path

import pytest

from spftcore.errors import SpftError, UsageError
from spftcore.verify import Executor, Status, Verdict
from spftcore.verify.families import FamilyReport, build_families, family_of
from spftcore.verify.families.__main__ import main
from spftcore.verify.families.golds import read_gold
from spftcore.verify.families.mutants import KINDS, mutants, stability_probes
from spftcore.verify.families.schema import read_schema
from spftcore.verify.families.values import neighbours, value_space

SHOP = """
create table maker (maker_id integer primary key, name text not null unique, country text);
create table product (
    product_id integer primary key, maker_id int not null references maker (maker_id),
    title text not null, price real, stock int, check (stock >= 0));
create index by_title on product (title);
create view cheap as select title from product where price < 10;
insert into maker values (1, 'Acme', 'France'), (2, 'Bolt', 'Peru'), (3, 'Crux', 'France');
insert into product values
    (1, 1, 'Lamp', 12.5, 3), (2, 1, 'Desk', 99.0, 0), (3, 2, 'Chair', 40.0, 7),
    (4, 3, 'Bed', 250.0, 1);
"""
SHOP_GOLDS = (
    "SELECT count(*) FROM product WHERE price > 40",
    'SELECT title FROM product WHERE title LIKE "%a%"',
    "SELECT name FROM maker WHERE country = 'France' ORDER BY name",
    "SELECT T2.name, count(*) FROM product AS T1 JOIN maker AS T2 ON T1.maker_id = T2.maker_id "
    "GROUP BY T2.maker_id",
    "SELECT title FROM product ORDER BY price DESC LIMIT 1",
    "SELECT name FROM maker EXCEPT SELECT T1.name FROM maker AS T1 JOIN product AS T2 "
    "ON T1.maker_id = T2.maker_id WHERE T2.stock = 0",
)

# (what is odd, schema, a gold): each must survive, with its constraints kept.
ODD = {
    "names": (
        """create table "order by" ("group" integer primary key, "a b" text, "say ""hi" int,
           [select] real, "é" text);
           insert into "order by" values (1, 'x', 2, 0.5, 'y'), (2, 'z', 3, 1.5, 'w');""",
        """SELECT "a b" FROM "order by" WHERE "say ""hi" > 2""",
    ),
    "no keys": (
        "create table t (a int, b text); insert into t values (1, 'x'), (1, 'x'), (2, null);",
        "SELECT DISTINCT b FROM t WHERE a = 1",
    ),
    "composite keys": (
        """create table seat (hall text, number int, price real, primary key (hall, number));
           create table booking (hall text, number int, guest text,
               foreign key (hall, number) references seat (hall, number));
           insert into seat values ('A', 1, 5), ('A', 2, 6), ('B', 1, 7);
           insert into booking values ('A', 1, 'Ada'), ('B', 1, 'Bo');""",
        "SELECT guest FROM booking JOIN seat USING (hall, number) WHERE price > 5",
    ),
    "self reference": (
        """create table person (id integer primary key, name text, boss int references person);
           insert into person values (1, 'Ada', null), (2, 'Bo', 1), (3, 'Cy', 1);""",
        "SELECT b.name FROM person AS a JOIN person AS b ON a.boss = b.id",
    ),
    "required self reference": (
        """create table node (id integer primary key, up int not null references node (id));
           insert into node values (1, 1), (2, 1);""",
        "SELECT count(*) FROM node WHERE up = 1",
    ),
    "cycle": (
        """create table a (id integer primary key, b_id int not null references b (id));
           create table b (id integer primary key, a_id int not null references a (id), x text);
           insert into a values (1, 1), (2, 2); insert into b values (1, 2, 'u'), (2, 1, 'v');""",
        "SELECT x FROM b JOIN a ON a.b_id = b.id WHERE x = 'u'",
    ),
    "without rowid": (
        """create table w (code text primary key, n int) without rowid;
           insert into w values ('p', 1), ('q', 2);""",
        "SELECT code FROM w WHERE n >= 2",
    ),
    "generated": (
        """create table g (a int, b int, c int generated always as (a + b) stored,
               d text as (a || '-' || b) virtual);
           insert into g (a, b) values (1, 2), (3, 4);""",
        "SELECT d FROM g WHERE c > 3",
    ),
    "no rows": (
        """create table e (id integer primary key, name varchar(20), day date, ok boolean);""",
        "SELECT name FROM e WHERE day > '2020-01-31' AND ok = 1",
    ),
    "no types": (
        "create table u (a, b, c); insert into u values (1, 'x', null), (2.5, x'00ff', 'y');",
        "SELECT a FROM u WHERE c = 'y'",
    ),
    "dates as text": (
        """create table d (id int primary key, day text not null);
           insert into d values (1, '2024-02-28'), (2, '2024-03-01');""",
        "SELECT count(*) FROM d WHERE day >= '2024-02-29'",
    ),
    "check": (
        """create table c (id integer primary key, level text check (level in ('low', 'high')),
               n int check (n between 10 and 12));
           insert into c values (1, 'low', 10);""",
        "SELECT id FROM c WHERE level = 'low' AND n > 10",
    ),
    "strict": (
        "create table s (a int not null, b text, c any) strict; insert into s values (1, 'x', 2);",
        "SELECT b FROM s WHERE a = 1",
    ),
    "one to one": (
        """create table p (id integer primary key, n text);
           create table q (id integer primary key references p (id), m text);
           insert into p values (1, 'a'), (2, 'b'); insert into q values (1, 'c');""",
        "SELECT p.n FROM p LEFT JOIN q ON p.id = q.id WHERE q.m IS NULL",
    ),
    "broken references": (
        """create table k (id int, other int references gone (id), x int references l (y));
           create table l (y int, z text);
           insert into k values (1, 1, 1); insert into l values (1, 'a'), (1, 'b');""",
        "SELECT z FROM l JOIN k ON k.x = l.y",
    ),
    "full text": (
        """create virtual table f using fts5 (body); insert into f values ('red fox'), ('owl');
           create table t (a int); insert into t values (1);""",
        "SELECT count(*) FROM t WHERE a = 1",
    ),
    "autoincrement and triggers": (
        """create table j (id integer primary key autoincrement, n int unique);
           create table log (n int);
           create trigger tr after insert on j begin insert into log values (new.n); end;
           insert into j (n) values (5), (6);""",
        "SELECT n FROM j WHERE n > 5",
    ),
}


def make(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()
    return path


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("shop"), "shop", SHOP)


@pytest.fixture(scope="module")
def built(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FamilyReport]:
    output = tmp_path_factory.mktemp("families")
    (report,) = build_families({"shop": shop}, {"shop": SHOP_GOLDS}, output)
    assert report.error == ""
    return output, report


def check_constraints(original: Path, variant: Path) -> None:
    """With Python's own SQLite: intact, foreign keys hold, the schema is the original's."""
    before, after = sqlite3.connect(original), sqlite3.connect(variant)
    schema = "select type, name, tbl_name, sql from sqlite_schema order by type, name"
    assert after.execute("pragma integrity_check").fetchall() == [("ok",)]
    assert after.execute(schema).fetchall() == before.execute(schema).fetchall()
    for (table,) in after.execute("select name from sqlite_schema where type = 'table'").fetchall():
        quoted = table.replace('"', '""')
        try:
            broken = after.execute(f'pragma foreign_key_check("{quoted}")').fetchall()
        except sqlite3.OperationalError as error:
            assert "foreign key mismatch" in str(error)  # noqa: PT017 - the original's own fault
            continue
        if not before.execute(f'pragma foreign_key_check("{quoted}")').fetchall():
            assert broken == []
        rows = after.execute(f'select count(*) from "{quoted}"').fetchone()[0]
        assert rows <= 2000
    before.close()
    after.close()


@pytest.mark.parametrize("odd", ODD)
def test_odd_schemas_are_filled_and_keep_their_constraints(odd: str, tmp_path: Path) -> None:
    script, gold = ODD[odd]
    database = make(tmp_path / "db", "odd", script)
    (report,) = build_families({"odd": database}, {"odd": [gold]}, tmp_path / "out", variants=4)
    assert report.error == ""
    assert report.not_run == report.unread == report.empty == ()
    assert report.files
    for file in report.files:
        check_constraints(database, file)


def random_schema(rng: random.Random) -> str:
    """Up to four empty tables with keys of all shapes and foreign keys in all directions."""
    tables = [f"t{i}" for i in range(rng.randint(1, 4))]
    statements = []
    for table in tables:
        composite = rng.random() < 0.3
        parts = ["id integer" if composite else "id integer primary key", "part text not null"]
        ends = ["primary key (id, part)"] if composite else []
        ends += ["unique (id, part)"] * (not composite)
        for i in range(rng.randint(0, 4)):
            declared = rng.choice(["int", "text", "real", "", "date", "numeric", "blob", "boolean"])
            rule = rng.choice(["", "", " not null", " unique", " not null unique", " default 3"])
            parts.append(f"c{i} {declared}{rule}")
        for parent in rng.sample(tables, rng.randint(0, min(2, len(tables)))):
            must = rng.choice(["", " not null"])
            parts += [f"to_{parent} int{must}", f"part_{parent} text"]
            ends.append(f"foreign key (to_{parent}, part_{parent}) references {parent} (id, part)")
        without = " without rowid" if rng.random() < 0.2 else ""
        statements.append(f"create table {table} ({', '.join(parts + ends)}){without};")
    return "\n".join(statements)


@pytest.mark.parametrize("seed", range(25))
def test_random_schemas_are_filled_and_keep_their_constraints(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    database = make(tmp_path / "db", "odd", random_schema(rng))
    gold = "SELECT count(*) FROM t0 WHERE part = 'x' AND id > 3"
    (report,) = build_families({"odd": database}, {"odd": [gold]}, tmp_path / "out", variants=2)
    assert report.error == ""
    for file in report.files:
        check_constraints(database, file)


def test_sizes_lie_between_ten_and_a_thousand_rows(built: tuple[Path, FamilyReport]) -> None:
    for file in built[1].files:
        connection = sqlite3.connect(file)
        for table in ("maker", "product"):
            rows = connection.execute(f"select count(*) from {table}").fetchone()[0]
            assert 10 <= rows <= 1000
        connection.close()


def test_variants_keep_constraints_indexes_and_views(
    shop: Path, built: tuple[Path, FamilyReport]
) -> None:
    for file in built[1].files:
        check_constraints(shop, file)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    shop: Path, tmp_path: Path
) -> None:
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        build_families({"shop": shop}, {"shop": SHOP_GOLDS}, tmp_path / name, seed=seed, variants=3)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert digests(tmp_path / "one") != digests(tmp_path / "three")


@pytest.mark.parametrize(
    ("gold", "wrong"),
    [
        (SHOP_GOLDS[0], "SELECT count(*) FROM product WHERE price >= 41"),
        (SHOP_GOLDS[1], "SELECT title FROM product WHERE title LIKE '%a%' AND price > 0"),
        (SHOP_GOLDS[2], "SELECT name FROM maker WHERE maker_id <> 2 ORDER BY maker_id"),
        (SHOP_GOLDS[4], "SELECT title FROM product WHERE price = 250.0"),
        (SHOP_GOLDS[3], "SELECT T2.name, count(DISTINCT T1.title) FROM product AS T1 JOIN maker "
         "AS T2 ON T1.maker_id = T2.maker_id GROUP BY T2.maker_id"),
    ],
)  # fmt: skip
def test_a_wrong_query_that_the_original_lets_pass_is_caught(
    gold: str, wrong: str, shop: Path, built: tuple[Path, FamilyReport]
) -> None:
    with Executor(threads=1) as executor:
        assert executor.verify([(shop, gold, [wrong])])[0][0].verdict == Verdict.RIGHT
        items = [(file, gold, [wrong]) for file in family_of(built[0], shop, gold)]
        verdicts = [row[0].verdict for row in executor.verify(items)]
    assert Verdict.WRONG in verdicts


def test_every_gold_is_right_against_itself_and_has_rows_on_the_family(
    shop: Path, built: tuple[Path, FamilyReport]
) -> None:
    with Executor(threads=1) as executor:
        for gold in SHOP_GOLDS:
            files = family_of(built[0], shop, gold)
            judged = [row[0] for row in executor.verify([(f, gold, [gold]) for f in files])]
            assert {j.verdict for j in judged} == {Verdict.RIGHT}
            assert any(j.gold.status == Status.OK for j in judged)


def test_variants_on_which_ties_decide_do_not_judge_that_gold(tmp_path: Path) -> None:
    # Ten or more rows over two values of `n`: the largest is always tied.
    script = "create table t (name text, n int check (n in (1, 2)));" + "".join(
        f"insert into t values ('{c}', {1 + (c == 'a')});" for c in "abcdef"
    )
    database = make(tmp_path / "db", "ties", script)
    hanging, firm = "SELECT name FROM t ORDER BY n DESC LIMIT 1", "SELECT name FROM t WHERE n = 2"
    output = tmp_path / "out"
    build_families({"ties": database}, {"ties": [hanging, firm]}, output)
    assert len(family_of(output, database, firm)) > len(family_of(output, database, hanging))
    with Executor(threads=1) as executor:
        for file in family_of(output, database, hanging):
            other = "SELECT name FROM (SELECT * FROM t ORDER BY name DESC) ORDER BY n DESC LIMIT 1"
            assert executor.verify([(file, hanging, [other])])[0][0].verdict != Verdict.WRONG


def test_the_users_file_and_its_folder_stay_as_they_are(tmp_path: Path) -> None:
    database = make(tmp_path / "db", "shop", SHOP)
    database.chmod(0o444)
    before = digests(tmp_path / "db")
    build_families({"shop": database}, {"shop": SHOP_GOLDS}, tmp_path / "out", variants=2)
    assert digests(tmp_path / "db") == before


@pytest.mark.parametrize("output", [".", "families", ".."])
def test_an_output_folder_beside_or_above_a_database_is_refused(
    output: str, tmp_path: Path
) -> None:
    database = make(tmp_path / "db", "shop", SHOP)
    before = digests(tmp_path)
    with pytest.raises(UsageError, match="nothing is written beside a database"):
        build_families({"shop": database}, {"shop": SHOP_GOLDS}, tmp_path / "db" / output)
    assert digests(tmp_path) == before


def test_a_foreign_folder_of_that_name_is_left_alone(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "notes.txt").write_text("mine")
    (report,) = build_families({"shop": shop}, {"shop": SHOP_GOLDS}, tmp_path)
    assert "is not a family" in report.error
    assert digests(tmp_path) == {"shop/notes.txt": hashlib.sha256(b"mine").hexdigest()}


def test_a_complete_family_is_kept_and_a_changed_input_makes_a_new_one(tmp_path: Path) -> None:
    database = make(tmp_path / "db", "shop", SHOP)

    def build(golds: tuple[str, ...] = SHOP_GOLDS[:2], seed: int = 0) -> FamilyReport:
        given = ({"shop": database}, {"shop": golds}, tmp_path / "out")
        return build_families(*given, seed=seed, variants=2)[0]

    first = build()
    again = build()
    assert (first.reused, again.reused) == (False, True)
    assert (again.files, again.mutants, again.separated) == (
        first.files, first.mutants, first.separated,
    )  # fmt: skip
    assert not build(golds=SHOP_GOLDS[:3]).reused
    assert not build(seed=1).reused
    connection = sqlite3.connect(database)
    connection.execute("insert into maker values (9, 'New', null)")
    connection.commit()
    connection.close()
    assert not build(seed=1).reused


def test_an_interrupted_or_damaged_family_is_built_anew(shop: Path, tmp_path: Path) -> None:
    (tmp_path / ".shop.partial").mkdir()
    (tmp_path / ".shop.partial" / "candidate-0.sqlite").write_bytes(b"half")
    build_families({"shop": shop}, {"shop": SHOP_GOLDS}, tmp_path, variants=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shop"]
    whole = digests(tmp_path)
    family_of(tmp_path, shop)[0].unlink()
    with pytest.raises(SpftError, match="is damaged"):
        family_of(tmp_path, shop)
    (report,) = build_families({"shop": shop}, {"shop": SHOP_GOLDS}, tmp_path, variants=2)
    assert not report.reused
    assert digests(tmp_path) == whole


def test_variants_made_elsewhere_serve_and_a_missing_family_names_the_command(
    shop: Path, tmp_path: Path
) -> None:
    made = [make(tmp_path / "shop", name, SHOP) for name in ("b", "a")]
    assert family_of(tmp_path, shop, SHOP_GOLDS[0]) == sorted(made)
    with pytest.raises(SpftError, match=r"no family of 'other'.*spftcore\.verify\.families"):
        family_of(tmp_path, shop.with_name("other.sqlite"))


def test_a_schema_that_cannot_be_filled_is_reported_and_does_not_stop_the_others(
    shop: Path, tmp_path: Path
) -> None:
    impossible = make(
        tmp_path / "db", "no", "create table t (a int not null check (a > 1 and a < 1));"
    )
    broken = tmp_path / "db" / "bad.sqlite"
    broken.write_bytes(b"not a database")
    databases = {"no": impossible, "bad": broken, "shop": shop}
    golds = {"no": ["SELECT a FROM t"], "bad": ["SELECT 1"], "shop": list(SHOP_GOLDS)}
    no, bad, good = build_families(databases, golds, tmp_path / "out", variants=2)
    assert "'t' accepts no row (CHECK constraint failed" in no.error
    assert "bad.sqlite" in bad.error
    assert good.error == ""
    assert good.files
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["shop"]


def test_golds_that_do_not_run_or_are_always_empty_are_reported(shop: Path, tmp_path: Path) -> None:
    missing = "SELECT age FROM maker"
    empty = "SELECT name FROM maker WHERE 1 = 2"
    golds = [*SHOP_GOLDS, missing, empty]
    (report,) = build_families({"shop": shop}, {"shop": golds}, tmp_path, variants=2)
    assert [sql for sql, _ in report.not_run] == [missing]
    assert "no such column: age" in report.not_run[0][1]
    assert report.empty == (empty,)


def test_the_record_states_inputs_counts_and_what_is_left(
    shop: Path, built: tuple[Path, FamilyReport]
) -> None:
    output, report = built
    record = json.loads((output / "shop" / "family.json").read_text())
    assert record["inputs"]["source"] == hashlib.sha256(shop.read_bytes()).hexdigest()
    assert record["inputs"]["seed"] == 0
    assert [entry["name"] for entry in record["files"]] == [f.name for f in report.files]
    assert len(record["unseparated"]) == report.mutants - report.separated
    assert report.by_original < report.separated


def test_a_string_in_double_quotes_is_a_value_and_a_column_in_them_is_not(shop: Path) -> None:
    schema = read_schema(shop)
    gold = read_gold('SELECT "title" FROM product WHERE title = "Lamp"', schema)
    assert gold.compared == [(("product", 2), "Lamp", False)]
    # The same name is a column where the query's tables have it.
    other = read_gold('SELECT title FROM product WHERE title = "price"', schema)
    assert other.compared == []


def test_joined_columns_share_their_values_even_without_a_declared_key(tmp_path: Path) -> None:
    script = """create table a (code text, x int); create table b (ref text, y int);
        insert into a values ('k1', 1), ('k2', 2); insert into b values ('zz', 1);"""
    database = make(tmp_path / "db", "loose", script)
    gold = "SELECT a.x FROM a JOIN b ON a.code = b.ref"
    (report,) = build_families({"loose": database}, {"loose": [gold]}, tmp_path / "out")
    assert report.empty == ()  # the original has no such pair


def test_neighbours_surround_a_literal() -> None:
    assert neighbours(5)[:3] == [5, 4, 6]
    assert {"Lima", "lima", "LIMA"} <= set(neighbours("Lima"))
    assert {"2024-02-28", "2024-03-01"} <= set(neighbours("2024-02-29"))
    assert {"1999", "2001"} <= set(neighbours("2000"))
    near = neighbours("%ab%", pattern=True)
    assert {"ab", "ab x", "x ab", "x ab x"} <= set(near)


def test_mutants_are_distinct_runnable_changes_of_every_kind(shop: Path) -> None:
    schema = read_schema(shop)
    golds = [
        read_gold(sql, schema)
        for sql in (
            *SHOP_GOLDS,
            "SELECT DISTINCT title FROM product WHERE price > 5 AND stock = 1 OR maker_id = 2",
            "SELECT country, name, max(maker_id) FROM maker GROUP BY country, name",
        )
    ]
    space = value_space(schema, golds)
    found = [mutant for gold in golds for mutant in mutants(gold, schema, space)]
    assert {mutant.kind for mutant in found} == set(KINDS)
    with Executor(threads=1) as executor:
        outcomes = executor.execute([(shop, mutant.sql) for mutant in found])
    assert sum(outcome.ran for outcome in outcomes) >= 0.95 * len(found)


def test_probes_agree_with_a_gold_that_the_data_determine(shop: Path) -> None:
    schema = read_schema(shop)
    with Executor(threads=1) as executor:
        for sql in SHOP_GOLDS:
            probes = stability_probes(read_gold(sql, schema), schema)
            judged = executor.verify([(shop, sql, probes)])[0]
            assert probes
            assert {j.verdict for j in judged} == {Verdict.RIGHT}


def test_the_command_prints_a_table_and_names_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "db", "shop", SHOP)
    pairs = tmp_path / "pairs.jsonl"
    records = [{"database": "shop", "question": "?", "sql": sql} for sql in SHOP_GOLDS]
    records.append({"database": "gone", "question": "?", "sql": "SELECT 1"})
    pairs.write_text("\n".join(map(json.dumps, records)))
    arguments = ["--databases", str(tmp_path / "db"), "--pairs", str(pairs)]
    output = tmp_path / "out"
    command = [*arguments, "--output", str(output), "--limit-per-database", "2"]
    assert main(command) == 0
    said = capsys.readouterr()
    assert "shop" in said.out
    assert "No database 'gone'" in said.err
    assert len(family_of(output, tmp_path / "db" / "shop.sqlite")) == 2
    assert main([*arguments, "--output", str(tmp_path / "db")]) == 2
    assert "Choose another folder" in capsys.readouterr().err.replace("\n", " ")
