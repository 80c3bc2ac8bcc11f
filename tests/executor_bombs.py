"""Queries that ask for more than they may have, by what grows, for test_executor_escapes.

Values may have a million bytes here (the default), steps and temporary storage are fewer, so that
the suite stays quick: every bomb must end by a count, never by the clock.
"""

from __future__ import annotations

from executor_attacks import (
    COUNTING,
    DENIED,
    EMPTY,
    ERROR,
    LARGE,
    MISSING,
    OK,
    STEPS,
    SYNTAX,
    Cases,
    all_end,
    counting,
    text,
)

MEGABYTE = text("a", 999_000)

LARGE_TEXT = all_end(
    ERROR,
    deep_sum="SELECT " + "+".join(["1"] * 5000),
    deep_and="SELECT 1 WHERE " + " AND ".join(["1"] * 5000),
    deep_or="SELECT 1 FROM t WHERE " + " OR ".join(f"a = {i}" for i in range(5000)),
    deep_concatenation="SELECT " + "||".join(["'a'"] * 5000),
    deep_not="SELECT " + "NOT " * 9000 + "1",
    deep_minus="SELECT " + "- " * 9000 + "1",
    deep_case="SELECT " + "CASE WHEN 1 THEN " * 900 + "1" + " END" * 900,
    deep_collate="SELECT 'a'" + " COLLATE nocase" * 4000,
    deep_subqueries="SELECT " + "(SELECT " * 500 + "1" + ")" * 500,
    many_compound_selects="SELECT 1" + " UNION ALL SELECT 1" * 200,
    many_intersects="SELECT 1" + " INTERSECT SELECT 1" * 2000,
    many_columns="SELECT " + ", ".join(["1"] * 3000),
    many_sort_terms="SELECT 1 ORDER BY " + ", ".join(["1"] * 3000),
    many_groups="SELECT 1 FROM t GROUP BY " + ", ".join(["a"] * 3000),
    many_joins="SELECT count(*) FROM " + ", ".join(f"t t{i}" for i in range(65)),
    many_arguments="SELECT max(" + ", ".join(["1"] * 5000) + ")",
    stars_that_multiply="WITH w AS (SELECT " + ", ".join(["1"] * 1500) + ") SELECT * FROM w a, w b",
    circular_cte="WITH a AS (SELECT * FROM b), b AS (SELECT * FROM a) SELECT * FROM a",
) | {
    "deep_brackets": ("SELECT " + "(" * 9000 + "1" + ")" * 9000, (ERROR, SYNTAX)),
    "deep_functions": ("SELECT " + "abs(" * 2000 + "1" + ")" * 2000, (ERROR, SYNTAX)),
    "deep_from": ("SELECT * FROM " + "(SELECT * FROM " * 900 + "t" + ")" * 900, (ERROR, SYNTAX)),
    "deep_from_brackets": ("SELECT * FROM " + "(" * 900 + "t" + ")" * 900, (ERROR, SYNTAX, OK)),
    "deep_json_arrows": ("SELECT '{}'" + " -> 'a'" * 4000, (ERROR,)),
    "deep_exists": (
        "SELECT 1 WHERE " + "EXISTS (SELECT 1 WHERE " * 400 + "1" + ")" * 400,
        (ERROR, SYNTAX),
    ),
    "doubling_ctes": (
        "WITH c0(x) AS (SELECT 1)"
        + "".join(f", c{i}(x) AS (SELECT a.x FROM c{i - 1} a, c{i - 1} b)" for i in range(1, 26))
        + " SELECT * FROM c25",
        (ERROR, STEPS, LARGE),
    ),
    "doubling_compound_ctes": (
        "WITH c0(x) AS (SELECT 1)"
        + "".join(
            f", c{i}(x) AS (SELECT x FROM c{i - 1} UNION ALL SELECT x FROM c{i - 1})"
            for i in range(1, 40)
        )
        + " SELECT * FROM c39",
        (ERROR, STEPS, LARGE),
    ),
    "giant_in_list": (
        "SELECT 1 FROM t WHERE a IN (" + ", ".join(map(str, range(12_000))) + ")",
        (OK,),
    ),
    "giant_in_list_of_texts": (
        "SELECT 1 FROM t WHERE b IN (" + ", ".join(f"'{i}'" for i in range(9_000)) + ")",
        (EMPTY,),
    ),
    "giant_values": ("VALUES " + ", ".join(["(1)"] * 15_000), (OK,)),
    "giant_text": ("SELECT length('" + "a" * 99_000 + "')", (OK,)),
    "giant_blob": ("SELECT length(x'" + "00" * 49_000 + "')", (OK,)),
    "giant_number": ("SELECT " + "9" * 99_000, (OK,)),
    "giant_fraction": ("SELECT 0." + "0" * 90_000 + "1e-99999", (OK,)),
    "giant_name": ("SELECT " + "n" * 99_000, (MISSING,)),
    "longer_than_allowed": ("SELECT '" + "a" * 200_000 + "'", (LARGE,)),
    "many_windows": (
        "SELECT " + ", ".join(f"sum(a) OVER (ORDER BY a + {i})" for i in range(60)) + " FROM t",
        (OK, ERROR),
    ),
}

LARGE_VALUES = all_end(
    LARGE,
    zeroblob="SELECT zeroblob(2000000000)",
    zeroblob_beyond_32_bits="SELECT zeroblob(9000000000000000000)",
    zeroblob_not_shown="SELECT length(zeroblob(1000001))",
    printf_width="SELECT printf('%2000000000d', 1)",
    printf_star="SELECT printf('%*d', 2000000000, 1)",
    printf_precision="SELECT printf('%.2000000000f', 1.0)",
    printf_characters="SELECT printf('%.*c', 2000000000, 'a')",
    format_text="SELECT format('%1500000s', 'a')",
    hex="SELECT hex(zeroblob(900000))",
    hex_of_hex="SELECT hex(hex(zeroblob(400000)))",
    quote="SELECT quote(zeroblob(900000))",
    concatenation=f"SELECT {MEGABYTE} || {MEGABYTE}",
    concat=f"SELECT concat({MEGABYTE}, {MEGABYTE})",
    concat_separator=f"SELECT concat_ws({text('a', 600_000)}, 'x', 'y', 'z')",
    replace=f"SELECT replace({text('a', 900_000)}, 'a', {text('b', 900_000)})",
    replace_by_little=f"SELECT replace({text('a', 900_000)}, 'a', 'bb')",
    doubling="WITH RECURSIVE c(x) AS (SELECT 'a' UNION ALL SELECT x || x FROM c)"
    " SELECT max(x) FROM c",
    group_concat=f"{counting(10_000)}SELECT group_concat(hex(zeroblob(500))) FROM c",
    group_concat_separator=f"{counting(100)}SELECT group_concat(x, {text('s', 100_000)}) FROM c",
    string_agg=f"{counting(10_000)}SELECT string_agg(hex(zeroblob(500)), ',') FROM c",
    json_array=f"SELECT json_array({MEGABYTE}, {MEGABYTE})",
    json_quote=f"SELECT json_quote({text(chr(1), 900_000)})",
    json_nested="SELECT json_array(json_array(json_quote(hex(zeroblob(400000))),"
    " json_quote(hex(zeroblob(400000)))))",
    wide_row=f"SELECT b || {MEGABYTE} AS x, b || {MEGABYTE} AS y FROM t ORDER BY a + 1",
) | {
    "unistr": (f"SELECT unistr({MEGABYTE})", (OK,)),
    "largest_value": (f"SELECT {MEGABYTE}", (OK,)),
    "char_of_many": ("SELECT char(" + ", ".join(["1114111"] * 30) + ")", (OK,)),
    "sum_overflow": (f"{counting(9)}SELECT sum(9223372036854775807) FROM c", (ERROR,)),
    "abs_overflow": ("SELECT abs(-9223372036854775808)", (ERROR,)),
    "shift": ("SELECT 1 << 9223372036854775807, 1 << -9223372036854775808", (OK,)),
    "divide": ("SELECT -9223372036854775808 / -1, -9223372036854775808 % -1, 1 / 0", (OK,)),
    "substr_extremes": (
        "SELECT substr('abc', -9223372036854775808, 9223372036854775807)",
        (OK,),
    ),
    "limit_extremes": ("SELECT a FROM t LIMIT -9223372036854775808 OFFSET -1", (OK,)),
    "offset_overflow": (
        "SELECT a FROM t LIMIT 9223372036854775807 OFFSET 9223372036854775807",
        (EMPTY,),
    ),
    "round_extremes": ("SELECT round(1e308, 99), round(1.5, -9)", (OK,)),
}

LARGE_RESULTS = all_end(
    LARGE,
    rows=f"{COUNTING}SELECT x FROM c",
    bytes=f"{COUNTING}SELECT {text('a', 900_000)} FROM c",
    columns_times_rows=f"{counting(2000)}SELECT " + ", ".join([text("a", 1000)] * 100) + " FROM c",
    sort=f"{COUNTING}SELECT x FROM c ORDER BY zeroblob(100000) || x",
    distinct=f"{COUNTING}SELECT DISTINCT zeroblob(100000) || x FROM c",
    group=f"{COUNTING}SELECT count(*) FROM c GROUP BY zeroblob(100000) || x",
    union=f"{counting(5000)}SELECT zeroblob(50000) || x FROM c UNION SELECT 1",
    except_=f"{counting(5000)}SELECT zeroblob(50000) || x FROM c EXCEPT SELECT 1",
    materialized=f"{counting(2000)}, m AS MATERIALIZED (SELECT zeroblob(100000) || x AS z FROM c)"
    " SELECT max(m.z < n.z) FROM m, m n",
    in_subquery=f"{counting(5000)}SELECT 1 WHERE 1 IN (SELECT zeroblob(50000) || x FROM c)",
    queue="WITH RECURSIVE c(x, z) AS (SELECT 1, zeroblob(100000) UNION ALL"
    " SELECT x + 1, z FROM c, t) SELECT count(*) FROM c",
    window=f"{COUNTING}SELECT sum(x) OVER (ORDER BY zeroblob(100000) || x) FROM c",
    window_frame=f"{counting(5000)}SELECT max(z) OVER (ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)"
    " FROM (SELECT zeroblob(50000) || x AS z FROM c)",
    automatic_index=f"{counting(5000)}, m(z) AS MATERIALIZED (SELECT zeroblob(20000) || x FROM c)"
    " SELECT count(*) FROM m JOIN m n USING (z)",
    distinct_aggregate=f"{counting(5000)}SELECT count(DISTINCT zeroblob(50000) || x) FROM c",
)

ENDLESS = all_end(
    STEPS,
    count=f"{COUNTING}SELECT count(*) FROM c",
    concatenate=f"{COUNTING}SELECT max(x || 'a') FROM c",
    filtered=f"{COUNTING}SELECT x FROM c WHERE x < 0",
    union="WITH RECURSIVE c(x) AS (SELECT 1 UNION SELECT x + 1 FROM c) SELECT count(*) FROM c",
    branching="WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + a FROM c, t)"
    " SELECT count(*) FROM c",
    same_row="WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x FROM c) SELECT sum(x) FROM c",
    large_offset=f"{COUNTING}SELECT x FROM c LIMIT 1 OFFSET 9000000000",
    in_exists=f"{COUNTING}SELECT EXISTS (SELECT 1 FROM c WHERE x < 0)",
    correlated=f"{counting(3000)}SELECT count(*) FROM c WHERE (SELECT count(*) FROM c d"
    " WHERE d.x < c.x) < 0",
    cross_join="SELECT count(*) FROM " + ", ".join(f"t t{i}" for i in range(60)),
    cross_join_of_generated=f"{counting(3000)}SELECT count(*) FROM c a, c b",
    inequality_join=f"{counting(3000)}SELECT count(*) FROM c a JOIN c b ON a.x <> b.x",
    self_join_of_texts=f"{counting(3000)}SELECT count(*) FROM c a, c b WHERE a.x || 'q' LIKE b.x",
    full_join=f"{counting(3000)}SELECT count(*) FROM c a FULL JOIN c b ON a.x < b.x",
    window_all_pairs=f"{counting(20_000)}SELECT max(x) OVER (ORDER BY x ROWS BETWEEN 5000 PRECEDING"
    " AND 5000 FOLLOWING EXCLUDE CURRENT ROW) FROM c",
    window_groups=f"{counting(100_000)}SELECT count(*) FROM (SELECT group_concat(x) OVER"
    " (ORDER BY x ROWS 3 PRECEDING) FROM c)",
    json_each=f"{COUNTING}SELECT count(*) FROM c, json_each('[1, 2, 3]')",
    json_tree_squared="SELECT count(*) FROM json_each(" + f"'[{'1,' * 3000}1]') a, "
    f"json_each('[{'1,' * 3000}1]') b",
    dates=f"{COUNTING}SELECT count(date('now', x || ' days')) FROM c",
    date_series="WITH RECURSIVE d(x) AS (SELECT '0000-01-01' UNION ALL"
    " SELECT date(x, '+1 day') FROM d WHERE x IS NOT NULL OR 1) SELECT count(*) FROM d",
    percentile=f"{COUNTING}SELECT percentile(x, 50), median(x) FROM c",
    mandelbrot="WITH RECURSIVE m(i, x, y) AS (SELECT 0, 0.0, 0.0 UNION ALL SELECT i + 1,"
    " x * x - y * y, 2 * x * y FROM m) SELECT max(i) FROM m",
    r_tree_squared=f"{counting(1000)}SELECT count(*) FROM c a, c b, box WHERE low < 9",
    view_squared=f"{counting(1000)}SELECT count(*) FROM c a, c b, v",
)

# Functions that do the work of millions of steps inside one: charged, linear, or refused.
ONE_STEP = (
    all_end(
        STEPS,
        like=f"SELECT {MEGABYTE} LIKE '%' || {text('a', 400)} || 'b'",
        like_function=f"SELECT like('%' || {text('a', 400)} || 'b', {MEGABYTE})",
        like_single_characters=f"SELECT {MEGABYTE} LIKE '%a' || {text('_', 490)} || 'b'",
        like_alternating=f"SELECT {MEGABYTE} LIKE '%' || replace({text('a', 249)}, 'a', '_a')"
        " || 'b'",
        like_beyond_ascii=f"SELECT {text('é', 499_000)} LIKE '%' || {text('é', 248)} || 'b'",
        like_escaped=f"SELECT {MEGABYTE} LIKE '%' || replace({text('a', 249)}, 'a', '!a') || 'b'"
        " ESCAPE '!'",
        like_long_pattern=f"SELECT {MEGABYTE} LIKE '%' || {text('a', 40_000)} || 'b'",
        like_in_a_row="SELECT "
        + " + ".join([f"(m LIKE '%' || {text('a', 490)} || 'b')"] * 200)
        + f" FROM (SELECT {MEGABYTE} AS m)",
        glob=f"SELECT {MEGABYTE} GLOB '*' || {text('a', 498)} || 'b'",
        glob_sets=f"SELECT {MEGABYTE} GLOB '*' || replace({text('a', 124)}, 'a', '[^b]') || 'b'",
        glob_one_set=f"SELECT {MEGABYTE} GLOB '*[' || {text('b', 490)} || ']'",
    )
    | all_end(
        OK,
        like_many_wildcards=f"SELECT {MEGABYTE} LIKE replace({text('a', 249)}, 'a', '%a') || 'b'",
        like_only_wildcards=f"SELECT {MEGABYTE} LIKE {text('%', 600)}",
        instr=f"SELECT instr({MEGABYTE}, {text('a', 400_000)} || 'b')",
        instr_from_the_front=f"SELECT instr({MEGABYTE}, 'b' || {text('a', 400_000)})",
        replace=f"SELECT length(replace({MEGABYTE}, {text('a', 400_000)} || 'b', ''))",
        replace_around=f"SELECT length(replace({MEGABYTE}, {text('a', 300_000)} || 'b' ||"
        f" {text('a', 300_000)}, ''))",
        trim=f"SELECT length(trim({MEGABYTE}, {text('b', 400_000)} || 'a'))",
        trim_beyond_ascii=f"SELECT length(rtrim({text('é', 400_000)}, {text('é', 400_000)}))",
        json_valid=f"SELECT json_valid({text('[', 900_000)})",
        json_wide=f"SELECT length(json('[' || replace({text('a', 450_000)}, 'a', '1,') || '1]'))",
        json_paths=f"SELECT json_extract('[' || replace({text('a', 400_000)}, 'a', '1,') || '1]'"
        + "".join(f", '$[#-{i + 1}]'" for i in range(30))
        + ")",
        hex=f"SELECT length(hex({text('a', 400_000)}))",
        upper=f"SELECT length(upper(lower({MEGABYTE})))",
        printf_many=f"SELECT length(printf(replace({text('a', 300_000)}, 'a', '%d'), 1))",
        date_modifiers="SELECT date('now'" + ", '+1 day', '-1 month'" * 15 + ")",
        date_far="SELECT date('0000-01-01', '+99999999999 months', '-9e18 years')",
        substr=f"SELECT length(substr({text('é', 490_000)}, 400000, 10000))",
    )
    | all_end(
        DENIED,
        json_pretty=f"SELECT json_pretty('[[1]]', {MEGABYTE})",
        json_patch="SELECT json_patch('{}', '{}')",
        json_group_array=f"{COUNTING}SELECT json_group_array({MEGABYTE}) FROM c",
        json_group_object=f"{COUNTING}SELECT json_group_object(x, {MEGABYTE}) FROM c",
        jsonb_group_array=f"{COUNTING}SELECT jsonb_group_array(x) FROM c",
        matchinfo=f"SELECT matchinfo(f4, {text('x', 900_000)}) FROM f4 WHERE f4 MATCH 'hello'",
        offsets="SELECT offsets(f4) FROM f4 WHERE f4 MATCH 'hello'",
        highlight=f"SELECT highlight(f, 0, {MEGABYTE}, '') FROM f WHERE f MATCH 'hello'",
        snippet="SELECT snippet(f, 0, '<', '>', '', 64) FROM f WHERE f MATCH 'hello'",
        optimize="SELECT optimize(f4) FROM f4",
        highlight_as_rank="SELECT title FROM f WHERE f MATCH 'hello'"
        " AND rank MATCH 'highlight(0, ''<'', ''>'')' ORDER BY rank",
        full_text_squared=f"{counting(1000)}SELECT count(*) FROM c a, c b, f WHERE f MATCH 'hello'",
        full_text_brackets=f"SELECT 1 FROM f WHERE f MATCH {text('(', 900_000)}",
        full_text_not=f"SELECT 1 FROM f WHERE f MATCH replace({text('a', 9000)}, 'a', 'ab NOT ')"
        " || 'a'",
        full_text_4_terms=f"SELECT 1 FROM f4 WHERE f4 MATCH replace({text('a', 9000)}, 'a', 'ab ')",
        full_text_many_terms=f"SELECT 1 FROM f WHERE f MATCH 'NEAR({'a ' * 500}, 9)'",
    )
    | all_end(
        ERROR,
        unhex=f"SELECT unhex({MEGABYTE}, {MEGABYTE})",
        many_arguments="SELECT json_array(" + ", ".join([MEGABYTE] * 99) + ")",
    )
)

CATEGORIES: dict[str, Cases] = {
    "large text": LARGE_TEXT,
    "large values": LARGE_VALUES,
    "large results": LARGE_RESULTS,
    "endless": ENDLESS,
    "one step": ONE_STEP,
}
