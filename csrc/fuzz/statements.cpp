// Random statements by a small grammar; depth bounds their size, not their variety.
#include "statements.h"

std::string Statements::literal() {
    static const char* const kLiterals[] = {"0",
                                            "1",
                                            "-1",
                                            "7",
                                            "2.5",
                                            "1e308",
                                            "9223372036854775807",
                                            "-9223372036854775808",
                                            "NULL",
                                            "''",
                                            "'x'",
                                            "'value 3'",
                                            "'%a_'",
                                            "'2024-05-01'",
                                            "'{\"k\": [1, 2]}'",
                                            "x'00ff'",
                                            "TRUE",
                                            "'é𝄞'",
                                            "CURRENT_DATE",
                                            "\"text\"",
                                            "'now'",
                                            "'+1 day'",
                                            "'$.k'",
                                            "zeroblob(9)"};
    return one_of(kLiterals);
}

std::string Statements::function(int depth) {
    static const char* const kOne[] = {
        "abs",        "lower", "upper", "length", "typeof",    "hex",       "quote", "round",
        "trim",       "min",   "max",   "date",   "unicode",   "char",      "sign",  "likely",
        "json_quote", "ltrim", "sqrt",  "unhex",  "julianday", "json_valid"};
    static const char* const kAggregates[] = {"sum", "avg", "count", "total", "group_concat"};
    static const char* const kRefused[] = {"random", "load_extension", "median", "sqlite_version",
                                           "no_such"};
    static const char* const kTwo[] = {
        "instr", "substr", "ifnull",   "nullif",       "coalesce",   "max",
        "min",   "round",  "printf",   "like",         "glob",       "trim",
        "rtrim", "date",   "strftime", "json_extract", "json_array", "group_concat",
        "pow",   "concat", "mod",      "json_remove",  "unhex"};
    static const char* const kThree[] = {"replace", "substr",   "iif",    "coalesce",
                                         "like",    "json_set", "printf", "char"};
    static const char* const kWindow[] = {"row_number()",    "rank()",          "ntile(3)",
                                          "lag(a)",          "lead(b, 2, 'z')", "first_value(c)",
                                          "sum(a)",          "count(*)",        "group_concat(b)",
                                          "nth_value(a, 2)", "max(b)"};
    static const char* const kFrame[] = {
        "", " ROWS 2 PRECEDING", " RANGE UNBOUNDED PRECEDING",
        " GROUPS BETWEEN 1 PRECEDING AND 1 FOLLOWING EXCLUDE TIES"};
    if (below(60) == 0) return one_of(kRefused) + "(" + expression(depth) + ")";
    if (below(12) == 0) return one_of(kAggregates) + "(" + expression(depth) + ")";
    switch (below(5)) {
        case 0:
        case 1:
            return one_of(kOne) + "(" + expression(depth) + ")";
        case 2:
            return one_of(kTwo) + "(" + expression(depth) + ", " + expression(depth) + ")";
        case 3:
            return one_of(kThree) + "(" + expression(depth) + ", " + expression(depth) + ", " +
                   expression(depth) + ")";
        default:
            return one_of(kWindow) + " OVER (PARTITION BY " + expression(0) + " ORDER BY " +
                   expression(0) + one_of(kFrame) + ")";
    }
}

std::string Statements::expression(int depth) {
    static const char* const kColumns[] = {"t.a", "t.b", "t.c",     "t.a",
                                           "t.b", "t.c", "t.rowid", "b"};
    static const char* const kOperators[] = {"+",
                                             "-",
                                             "*",
                                             "/",
                                             "%",
                                             "||",
                                             "=",
                                             "<>",
                                             "<",
                                             ">=",
                                             "AND",
                                             "OR",
                                             "IS",
                                             "IS NOT",
                                             "LIKE",
                                             "NOT LIKE",
                                             "GLOB",
                                             "&",
                                             "<<",
                                             "->",
                                             "->>",
                                             "MATCH",
                                             "IS DISTINCT FROM"};
    static const char* const kBefore[] = {"-", "NOT ", "~", "+"};
    static const char* const kTypes[] = {"INTEGER", "TEXT", "REAL", "BLOB", "NUMERIC"};
    if (depth <= 0) return below(3) == 0 ? literal() : one_of(kColumns);
    --depth;
    switch (below(12)) {
        case 0:
        case 1:
            return literal();
        case 2:
        case 3:
        case 4:
            return expression(depth) + " " + one_of(kOperators) + " " + expression(depth);
        case 5:
        case 6:
            return function(depth);
        case 7:
            return "(" + single() + ")";
        case 8:
            return expression(depth) + " IN (" +
                   (below(2) == 0 ? single() : literal() + ", " + literal()) + ")";
        case 9:
            return "CASE WHEN " + expression(depth) + " THEN " + expression(depth) + " ELSE " +
                   expression(depth) + " END";
        case 10:
            return "CAST(" + expression(depth) + " AS " + one_of(kTypes) + ")";
        default:
            return below(4) == 0 ? "EXISTS (" + select(depth) + ")"
                                 : one_of(kBefore) + expression(depth);
    }
}

std::string Statements::source(int depth) {
    static const char* const kTables[] = {"t",
                                          "t",
                                          "t",
                                          "t, u",
                                          "(SELECT a, b, 1.5 AS c FROM u) AS t",
                                          "t JOIN v USING (a)",
                                          "t CROSS JOIN v"};
    static const char* const kRare[] = {"f",      "box",    "sqlite_master",         "no_such",
                                        "dbstat", "temp.t", "pragma_table_info('t')"};
    static const char* const kJoins[] = {" JOIN ", " LEFT JOIN ", " FULL JOIN ", " RIGHT JOIN "};
    if (below(40) == 0) return one_of(kRare);
    if (depth > 0 && below(6) == 0) {
        return "(SELECT a, b, 1 AS c, 2 AS x FROM " + source(depth - 1) + " WHERE " +
               expression(depth - 1) + ") AS t";
    }
    std::string text = one_of(kTables);
    for (unsigned joins = below(4) == 0 ? 1 + below(2) : 0; joins > 0; --joins) {
        text += one_of(kJoins) + "u AS y" + std::to_string(joins) + " ON t.a = y" +
                std::to_string(joins) + ".a";
    }
    return text;
}

std::string Statements::core(int depth) {
    std::string text = below(6) == 0 ? "SELECT DISTINCT " : "SELECT ";
    for (unsigned columns = below(3); columns > 0; --columns) text += expression(depth) + ", ";
    text += expression(depth);
    text += " FROM " + source(depth);
    if (below(2) == 0) text += " WHERE " + expression(depth);
    if (below(4) == 0) {
        text += " GROUP BY " + expression(1);
        if (below(2) == 0) text += " HAVING " + expression(depth);
    }
    return text;
}

// A sub-query of one column.
std::string Statements::single() {
    return "SELECT " + expression(1) + " FROM " + source(1) + " WHERE " + expression(1) +
           " ORDER BY 1";
}

std::string Statements::select(int depth) {
    static const char* const kSets[] = {" UNION ", " UNION ALL ", " INTERSECT ", " EXCEPT "};
    std::string text = core(depth);
    if (below(10) == 0 && depth > 0) text += one_of(kSets) + core(depth - 1);
    if (below(3) == 0) {
        text +=
            " ORDER BY " + (below(2) == 0 ? "1" : expression(1)) + (below(2) == 0 ? " DESC" : "");
    }
    if (below(4) == 0) text += " LIMIT " + std::to_string(below(9));
    return text;
}

// Changes a few bytes: what a model writes when it goes astray.
std::string Statements::garble(std::string text) {
    for (unsigned changes = 1 + below(4); changes > 0 && !text.empty(); --changes) {
        const size_t at = random_() % text.size();
        switch (below(4)) {
            case 0:
                text.erase(at, 1 + below(5));
                break;
            case 1:
                text.insert(at, 1, static_cast<char>(below(256)));
                break;
            case 2:
                text[at] = "'\"()[];,.*?:@$%\n\0"[below(17)];
                break;
            default:
                text.insert(at, text.substr(random_() % text.size(), below(20)));
        }
    }
    return text;
}

std::string Statements::next() {
    static const char* const kOthers[] = {"DELETE FROM t",
                                          "PRAGMA table_info(t)",
                                          "ATTACH ':memory:' AS m",
                                          "VACUUM INTO 'x'",
                                          "INSERT INTO t VALUES (1, 2, 3) RETURNING a",
                                          "EXPLAIN SELECT 1",
                                          "BEGIN",
                                          "",
                                          "CREATE TEMP TABLE t (a)",
                                          "SELECT 1; SELECT 2",
                                          "UPDATE t SET a = 1",
                                          "SELECT ?1"};
    std::string text = select(static_cast<int>(below(4)));
    switch (below(24)) {
        case 0:
            return one_of(kOthers);
        case 1:
            text = "WITH RECURSIVE n(a) AS (SELECT 1 UNION ALL SELECT a + 1 FROM n LIMIT " +
                   std::to_string(below(3000)) + ") SELECT " + expression(0) + " FROM n AS t";
            break;
        case 2:
            text = "WITH x AS (" + select(1) + ") " + text;
            break;
        default:
            break;
    }
    return below(10) == 0 ? garble(text) : text;
}
