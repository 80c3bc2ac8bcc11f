"""Hostile queries by category and the status each must end in, for test_executor_escapes.

A category maps a name to (SQL, statuses allowed). More than one status is allowed only where the
library's own limits and the executor's meet, and either of them is a good end.
"""

from __future__ import annotations

from spftcore.verify import Status

OK, EMPTY = Status.OK, Status.EMPTY
SYNTAX, MISSING, ERROR = Status.SYNTAX_ERROR, Status.MISSING_NAME, Status.SQL_ERROR
DENIED, STEPS, LARGE = Status.DENIED, Status.STEP_BUDGET, Status.TOO_LARGE

Cases = dict[str, tuple[str, tuple[Status, ...]]]

SCHEMA = """
CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT);
INSERT INTO t VALUES (1, 'x'), (2, 'y');
CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT, n INTEGER);
INSERT INTO counted (n) VALUES (1), (2);
CREATE INDEX t_b ON t (b);
CREATE VIEW v AS SELECT b FROM t;
CREATE TRIGGER noted AFTER INSERT ON t BEGIN DELETE FROM counted; END;
CREATE VIRTUAL TABLE f USING fts5(body, title);
INSERT INTO f VALUES ('hello world', 'one'), ('good bye', 'two');
CREATE VIRTUAL TABLE f4 USING fts4(body);
INSERT INTO f4 VALUES ('hello world'), ('good bye');
CREATE VIRTUAL TABLE box USING rtree(id, low, high);
INSERT INTO box VALUES (1, 0, 1), (2, 5, 6);
CREATE VIRTUAL TABLE words USING fts5vocab(f, row);
"""

BOM = "\ufeff"
COUNTING = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) "


def all_end(status: Status, **queries: str) -> Cases:
    return {name: (sql, (status,)) for name, sql in queries.items()}


def counting(rows: int) -> str:
    return COUNTING.replace("FROM c)", f"FROM c LIMIT {rows})")


def text(letter: str, size: int) -> str:
    return f"printf('%.*c', {size}, '{letter}')"


SECOND_STATEMENTS = all_end(
    DENIED,
    select="SELECT 1; SELECT 2",
    write="SELECT 1; DROP TABLE t",
    without_a_space="SELECT 1;DELETE FROM t",
    behind_a_byte_order_mark=f"SELECT 1;{BOM}DROP TABLE t",
    behind_two_byte_order_marks=f"SELECT 1;{BOM}{BOM}DROP TABLE t",
    behind_comments="SELECT 1; /* c */ -- c\n SELECT 2",
    behind_empty_statements="SELECT 1;;;; DELETE FROM t",
    behind_a_form_feed="SELECT 1;\f\r\n\tDELETE FROM t",
    behind_an_open_comment_line="SELECT 1; --\nDELETE FROM t",
    of_garbage="SELECT 1; x",
    of_a_quote="SELECT 1; '",
    of_a_lone_operator="SELECT 1; /",
    write_first="DELETE FROM t; SELECT 1",
    transaction_first="BEGIN; SELECT 1",
    non_breaking_space="SELECT 1;\u00a0SELECT 2",
    zero_width_space="SELECT 1;\u200bSELECT 2",
) | all_end(
    OK,
    only_a_semicolon="SELECT 1;",
    only_semicolons_and_comments="SELECT 1;; /* c */ ; -- c",
    byte_order_mark_first=f"{BOM}SELECT 1",
    byte_order_mark_last=f"SELECT 1;{BOM}",
    semicolon_in_a_text="SELECT '; DROP TABLE t'",
    open_comment_last="SELECT 1 /* never closed; DROP TABLE t",
)

OTHER_FILES = all_end(
    DENIED,
    attach="ATTACH 'other.db' AS o",
    attach_memory="ATTACH ':memory:' AS o",
    attach_nothing="ATTACH '' AS o",
    attach_uri="ATTACH 'file:other.db?mode=rwc' AS o",
    attach_expression="ATTACH 'oth' || 'er.db' AS o",
    attach_behind_a_byte_order_mark=f"{BOM}ATTACH 'other.db' AS o",
    attach_itself="ATTACH DATABASE 'target.sqlite' AS o",
    detach="DETACH main",
    detach_temp="DETACH temp",
    vacuum="VACUUM",
    vacuum_main="VACUUM main",
    vacuum_into="VACUUM INTO 'copy.db'",
    vacuum_into_expression="VACUUM main INTO (SELECT 'copy' || '.db')",
    load_extension="SELECT load_extension('evil.so')",
    load_extension_entry="SELECT load_extension('evil.so', 'init')",
    load_extension_in_where="SELECT a FROM t WHERE b = (SELECT load_extension('x'))",
    load_extension_never_reached="SELECT CASE WHEN 0 THEN load_extension('x') END",
    load_extension_quoted="SELECT \"load_extension\"('x')",
    load_extension_upper="SELECT LOAD_EXTENSION('x')",
) | all_end(
    MISSING,
    readfile="SELECT readfile('/etc/passwd')",
    writefile="SELECT writefile('x', 'y')",
    edit="SELECT edit('x')",
    fsdir="SELECT * FROM fsdir('/')",
    lsmode="SELECT lsmode(33188)",
    eval="SELECT eval('DROP TABLE t')",
    csv_module="SELECT * FROM csv",
    zipfile="SELECT * FROM zipfile('x.zip')",
    other_schema="SELECT * FROM other.t",
    temp_schema="SELECT * FROM temp.t",
    sqlar="SELECT sqlar_compress('x')",
)

SETTINGS = all_end(
    DENIED,
    read="PRAGMA table_info(t)",
    write="PRAGMA writable_schema = 1",
    reset="PRAGMA writable_schema = RESET",
    journal="PRAGMA journal_mode = DELETE",
    query_only="PRAGMA query_only = OFF",
    trusted="PRAGMA trusted_schema = ON",
    temp_store_directory="PRAGMA temp_store_directory = '/tmp'",
    mmap="PRAGMA mmap_size = 1000000000",
    cache="PRAGMA main.cache_size = 1000000",
    heap="PRAGMA hard_heap_limit = 1",
    checkpoint="PRAGMA wal_checkpoint(TRUNCATE)",
    integrity="PRAGMA integrity_check",
    optimize="PRAGMA optimize",
    allowed_to_fts5_alone="PRAGMA data_version",
    data_version_of_main="PRAGMA main.data_version",
    function="SELECT * FROM pragma_table_info('t')",
    function_column="SELECT name FROM pragma_table_info('t')",
    function_counted="SELECT count(*) FROM pragma_database_list",
    function_joined="SELECT 1 FROM t, pragma_database_list LIMIT 0",
    function_in_a_subquery="SELECT (SELECT file FROM pragma_database_list)",
    function_in_a_cte="WITH p AS (SELECT * FROM pragma_compile_options) SELECT 1 FROM p",
    function_renamed="SELECT 1 FROM pragma_function_list AS t",
    function_upper="SELECT * FROM PRAGMA_TABLE_LIST",
    function_quoted='SELECT * FROM "pragma_module_list"',
    function_bracketed="SELECT * FROM [pragma_table_xinfo]('t')",
    function_of_main="SELECT * FROM main.pragma_table_info('t')",
    function_data_version="SELECT * FROM pragma_data_version",
    function_exists="SELECT EXISTS (SELECT 1 FROM pragma_collation_list)",
    function_in_order_by="SELECT a FROM t ORDER BY (SELECT count(*) FROM pragma_table_list)",
)

SHADOWS = all_end(
    DENIED,
    temp_table="CREATE TEMP TABLE t (a, b)",
    temp_table_as="CREATE TEMPORARY TABLE t AS SELECT 9 AS a",
    temp_view="CREATE TEMP VIEW t AS SELECT 1",
    temp_trigger="CREATE TEMP TRIGGER g AFTER DELETE ON t BEGIN SELECT 1; END",
    temp_schema="SELECT * FROM sqlite_temp_master",
    temp_schema_new_name="SELECT * FROM sqlite_temp_schema",
    temp_schema_qualified="SELECT * FROM temp.sqlite_master",
    temp_virtual_table="CREATE VIRTUAL TABLE temp.t USING fts5(x)",
    cte_over_temp="WITH t AS (SELECT * FROM temp.sqlite_schema) SELECT * FROM t",
) | all_end(
    OK,
    cte_named_as_a_table="WITH t AS (SELECT 1 AS q) SELECT q FROM t",
    cte_named_as_the_schema="WITH sqlite_master AS (SELECT 1 AS q) SELECT q FROM sqlite_master",
)

WRITES = all_end(
    DENIED,
    insert="INSERT INTO t VALUES (3, 'z')",
    insert_default="INSERT INTO counted DEFAULT VALUES",
    insert_returning="INSERT INTO t VALUES (3, 'z') RETURNING a",
    insert_or_replace="INSERT OR REPLACE INTO t VALUES (1, 'z')",
    insert_from_select="INSERT INTO t SELECT a + 10, b FROM t",
    upsert="INSERT INTO t VALUES (1, 'q') ON CONFLICT DO UPDATE SET b = 'q'",
    replace="REPLACE INTO t VALUES (1, 'z')",
    insert_in_a_cte="WITH w AS (SELECT 9 x) INSERT INTO t SELECT x, x FROM w",
    update="UPDATE t SET b = 'z'",
    update_returning="UPDATE t SET b = 'z' RETURNING *",
    update_nothing="UPDATE t SET b = 'z' WHERE 0",
    update_from="UPDATE t SET b = u.b FROM t u",
    delete="DELETE FROM t",
    delete_returning="DELETE FROM t RETURNING a",
    delete_in_a_cte="WITH w AS (SELECT 1) DELETE FROM t WHERE a IN w",
    schema_delete="DELETE FROM sqlite_master",
    schema_insert="INSERT INTO sqlite_master VALUES ('table', 'q', 'q', 0, 'x')",
    schema_update="UPDATE sqlite_schema SET sql = 'x' RETURNING 1",
    sequence="UPDATE sqlite_sequence SET seq = 1000",
    full_text_command="INSERT INTO f(f) VALUES ('optimize')",
    full_text_config="INSERT INTO f(f, rank) VALUES ('rank', 'bm25(9)')",
    full_text_shadow="DELETE FROM f_content",
    full_text_4_command="INSERT INTO f4(f4) VALUES ('rebuild')",
    r_tree="INSERT INTO box VALUES (3, 0, 1)",
    r_tree_shadow="DELETE FROM box_node",
    create="CREATE TABLE u (x)",
    create_as="CREATE TABLE u AS SELECT 1",
    create_if_not_exists="CREATE TABLE IF NOT EXISTS t (x)",
    view="CREATE VIEW w AS SELECT 1",
    index="CREATE INDEX i ON t (b)",
    trigger="CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1; END",
    virtual_table="CREATE VIRTUAL TABLE w USING fts5(x)",
    statistics="CREATE VIRTUAL TABLE w USING dbstat",
    drop="DROP TABLE t",
    drop_if_exists="DROP TABLE IF EXISTS t",
    drop_view="DROP VIEW v",
    drop_index="DROP INDEX t_b",
    drop_trigger="DROP TRIGGER noted",
    drop_virtual="DROP TABLE f",
    rename="ALTER TABLE t RENAME TO u",
    add_column="ALTER TABLE t ADD COLUMN c",
    drop_column="ALTER TABLE t DROP COLUMN b",
    reindex="REINDEX",
    analyze="ANALYZE",
    analyze_table="ANALYZE main.t",
    begin="BEGIN",
    begin_immediate="BEGIN IMMEDIATE",
    begin_exclusive="BEGIN EXCLUSIVE",
    commit="COMMIT",
    end="END",
    rollback="ROLLBACK",
    rollback_to="ROLLBACK TO s",
    savepoint="SAVEPOINT s",
    release="RELEASE s",
) | all_end(
    SYNTAX,
    delete_as_a_table="SELECT * FROM (DELETE FROM t RETURNING a)",
    insert_in_a_subquery="SELECT (INSERT INTO t VALUES (4, 'q') RETURNING a)",
    update_in_a_cte="WITH w AS (UPDATE t SET b = 1 RETURNING a) SELECT * FROM w",
    raise_outside_a_trigger="SELECT RAISE(ABORT, 'x'",
)

ENGINE = all_end(
    DENIED,
    explain="EXPLAIN SELECT 1",
    explain_plan="EXPLAIN QUERY PLAN SELECT 1",
    explain_behind_a_byte_order_mark=f"{BOM}EXPLAIN SELECT 1",
    explain_behind_a_comment="/* c */ EXPLAIN SELECT 1",
    explain_a_write="EXPLAIN DELETE FROM t",
    dbstat="SELECT * FROM dbstat",
    dbstat_counted="SELECT count(*) FROM dbstat",
    dbstat_as_a_function="SELECT name FROM dbstat('main')",
    vocabulary="SELECT * FROM words",
    vocabulary_counted="SELECT count(*) FROM words",
    fts3tokenize="SELECT * FROM fts3tokenize('simple', 'a b')",
    fts3_tokenizer="SELECT fts3_tokenizer('simple')",
    fts3_tokenizer_set="SELECT fts3_tokenizer('simple', x'4141414141414141')",
    fts5_pointer="SELECT fts5(NULL)",
    fts5_source="SELECT fts5_source_id()",
    version="SELECT sqlite_version()",
    source="SELECT sqlite_source_id()",
    option="SELECT sqlite_compileoption_get(1)",
    option_used="SELECT sqlite_compileoption_used('THREADSAFE')",
    log="SELECT sqlite_log(1, 'x')",
    changes="SELECT changes()",
    total_changes="SELECT total_changes()",
    last_insert_rowid="SELECT last_insert_rowid()",
    rtreecheck="SELECT rtreecheck('box')",
    rtreenode="SELECT rtreenode(2, x'00000000')",
    rename_internal="SELECT sqlite_rename_table('main', 't', 't', 'a', 'b', 'c', 0)",
    unknown_function_in_a_view_name="SELECT random() FROM v",
    carray="SELECT * FROM carray(1, 1)",
) | all_end(
    MISSING,
    dbpage="SELECT * FROM sqlite_dbpage",
    dbpage_as_a_function="SELECT * FROM sqlite_dbpage('main')",
    statements="SELECT * FROM sqlite_stmt",
    bytecode="SELECT * FROM bytecode('SELECT 1')",
    tables_used="SELECT * FROM tables_used('SELECT 1')",
    memory_statistics="SELECT * FROM sqlite_memstat",
    generate_series="SELECT * FROM generate_series(1, 9)",
    statistics_tables="SELECT * FROM sqlite_stat4",
    full_text_module="SELECT * FROM fts5vocab",
    rtree_module="SELECT count(*) FROM rtree",
)

CHANCE = all_end(
    DENIED,
    random="SELECT random()",
    ordered_by="SELECT a FROM t ORDER BY random()",
    blob="SELECT hex(randomblob(8))",
    in_a_cte="WITH c AS (SELECT random() r) SELECT count(*) FROM c WHERE r > 0",
    in_a_window="SELECT sum(a) OVER (ORDER BY random()) FROM t",
    in_a_limit="SELECT a FROM t LIMIT abs(random()) % 2",
    in_a_group="SELECT count(*) FROM t GROUP BY random() % 2",
)

PARAMETERS = all_end(
    ERROR,
    question_mark="SELECT ?",
    numbered="SELECT ?1, ?2",
    named="SELECT :name",
    at="SELECT @name",
    dollar="SELECT $name::x(y)",
    in_a_limit="SELECT a FROM t LIMIT ?",
    highest="SELECT ?32766",
    too_high="SELECT ?99999999999",
)

STRANGE_TEXT = (
    all_end(
        SYNTAX,
        empty="",
        only_space=" \t\n",
        only_a_byte_order_mark=BOM,
        only_a_comment="-- SELECT 1",
        only_an_open_comment="/* SELECT 1",
        only_a_semicolon=";",
        nul="\x00",
        nul_in_the_middle="SELECT 1\x00; DROP TABLE t",
        nul_in_a_text="SELECT 'a\x00b'",
        nul_last="SELECT 1\x00",
        unfinished="SELECT",
        unfinished_text="SELECT 'abc",
        unfinished_name='SELECT "abc',
        unfinished_blob="SELECT x'4",
        odd_blob="SELECT x'123'",
        prose="Here is the query: SELECT 1",
        code_fence="```sql\nSELECT 1\n```",
        smart_quotes="SELECT \u201cb\u201d\u2019 FROM t",
        full_width="\uff33\uff25\uff2c\uff25\uff23\uff34 1",
        dotted_i="\u0131NSERT INTO t VALUES (1, 2)",
        control="SELECT \x01",
        backslash="SELECT 1 \\",
    )
    | all_end(
        MISSING,
        smart_quotes="SELECT \u201cb\u201d FROM t",
        look_alike_table="SELECT * FROM \u0442",
        kelvin_sign="SELECT * FROM \u212a",
        right_to_left="SELECT * FROM t\u202e",
        zero_width_name="SELECT * FROM t\u200b",
        look_alike_function="SELECT \u0441ount(*) FROM t",
    )
    | all_end(
        OK,
        any_letter="SELECT '\U0001f600\u0301\u202e' AS \u540d\u524d",
        empty_name='SELECT 1 AS ""',
        very_long_name="SELECT 1 AS " + "n" * 50_000,
    )
)

CATEGORIES: dict[str, Cases] = {
    "second statements": SECOND_STATEMENTS,
    "other files": OTHER_FILES,
    "settings": SETTINGS,
    "shadows": SHADOWS,
    "writes": WRITES,
    "engine": ENGINE,
    "chance": CHANCE,
    "parameters": PARAMETERS,
    "strange text": STRANGE_TEXT,
}
