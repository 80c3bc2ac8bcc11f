// Finding the outermost ORDER BY and the end of the first statement.
#include "check.h"
#include "lexer.h"

using spft::find_outer_order;
using spft::GoldOrder;
using spft::is_blank;

TEST(what_may_follow_a_statement) {
    CHECK(is_blank(""));
    CHECK(is_blank(" ;; \n\t"));
    CHECK(is_blank("-- drop table t"));
    CHECK(is_blank("/* drop */ ; /* unclosed"));
    CHECK(is_blank("\xEF\xBB\xBF ;"));
    CHECK(
        !is_blank("\xEF\xBB\xBF"
                  "drop table t"));
    CHECK(!is_blank("-- a\ndrop"));
    CHECK(!is_blank("/* a */ select 1"));
    CHECK(!is_blank("-"));
}

TEST(only_the_outermost_order_counts) {
    CHECK(find_outer_order("SELECT a FROM t ORDER BY b").ordered);
    CHECK(find_outer_order("select a from t order/* */by b;").ordered);
    CHECK(!find_outer_order("SELECT a FROM (SELECT * FROM t ORDER BY b)").ordered);
    CHECK(!find_outer_order("SELECT rank() OVER (ORDER BY a) FROM t").ordered);
    CHECK(!find_outer_order("SELECT 'x order by y' FROM t -- order by z").ordered);
    CHECK(!find_outer_order("SELECT \"order by\" FROM [order by]").ordered);
    CHECK(find_outer_order("WITH c AS (SELECT 1 a) SELECT a FROM c ORDER BY a").ordered);
    CHECK(!find_outer_order("SELECT border FROM orders").ordered);
    CHECK(!find_outer_order("SELECT 1; SELECT 2 ORDER BY 1").ordered);
}

TEST(extra_columns_are_added_to_simple_selects_only) {
    CHECK(find_outer_order("SELECT a FROM t ORDER BY b").simple);
    CHECK(!find_outer_order("SELECT DISTINCT a FROM t ORDER BY a").simple);
    CHECK(!find_outer_order("SELECT a FROM t UNION SELECT b FROM u ORDER BY a").simple);
    CHECK(find_outer_order("SELECT count(DISTINCT a) FROM t ORDER BY b").simple);
    const std::string sql =
        "WITH c AS (SELECT 1 a FROM t) SELECT a IS DISTINCT FROM 1 FROM c ORDER BY a";
    CHECK_EQUAL(find_outer_order(sql).select_end, sql.find("FROM c"));
}

TEST(terms_lose_their_direction_and_keep_their_text) {
    const GoldOrder order = find_outer_order(
        "SELECT a FROM t ORDER BY 2 DESC, lower(b, 'x, y') ASC NULLS LAST, t.\"c\"\"d\" COLLATE "
        "NOCASE, [e] , T1.f DESC LIMIT 3, 4");
    CHECK_EQUAL(order.terms.size(), size_t{5});
    CHECK_EQUAL(order.terms[0].position, 2);
    CHECK_EQUAL(order.terms[1].text, std::string("lower(b, 'x, y')"));
    CHECK_EQUAL(order.terms[1].identifier, std::string());
    CHECK_EQUAL(order.terms[2].text, std::string("t.\"c\"\"d\" COLLATE NOCASE"));
    CHECK_EQUAL(order.terms[3].identifier, std::string("e"));
    CHECK(!order.terms[3].qualified);
    CHECK_EQUAL(order.terms[4].identifier, std::string("f"));
    CHECK(order.terms[4].qualified);
    CHECK(order.fold_case);
    CHECK(!order.trim_right);
}

TEST(broken_texts_are_read_without_harm) {
    for (const char* sql :
         {"", "(", ")", "order by", "select order by", "select 'a order by", "order",
          "select a from t order by", "select a from t order by ,", "select a from t order by desc",
          "/*", "--", "[", "\"", "))) order by x"}) {
        find_outer_order(sql);
        is_blank(sql);
    }
    CHECK(true);
}

TEST(what_spiders_evaluator_runs) {
    const auto same = [](const char* sql, const char* expected) {
        CHECK_EQUAL(spft::spider_text(sql), std::string(expected));
    };
    same("SELECT a FROM t", "SELECT a FROM t");
    same("SELECT DISTINCT a FROM t", "SELECT  a FROM t");
    same("select count( distinct a ), distinctive FROM t",
         "select count(  a ), distinctive FROM t");
    same("SELECT count(DISTINCT(a))", "SELECT count((a))");
    same("SELECT 'distinct', \"distinct\", [distinct], `distinct` -- distinct",
         "SELECT 'distinct', \"distinct\", [distinct], `distinct` -- distinct");
    same("a > = 1 AND b < = 2 AND c ! = 3 AND d >  = 4",
         "a >= 1 AND b <= 2 AND c != 3 AND d >  = 4");
    same("SELECT 'x > = y', a >", "SELECT 'x >= y', a >");
    same("WHERE y = year( curdate ()) AND 1", "WHERE y = 2020AND 1");
    same("WHERE y = YEAR(CURDATE())", "WHERE y = 2020");
    same("yearcurdate() year(curdate(1))", "yearcurdate() year(curdate(1))");
    same("", "");
}

TEST(spiders_rule_for_order_looks_at_the_letters) {
    CHECK(spft::spider_ordered("SELECT a FROM t Order By b"));
    CHECK(spft::spider_ordered("SELECT a FROM (SELECT a FROM t ORDER BY b)"));
    CHECK(spft::spider_ordered("SELECT 'order by'"));
    CHECK(!spft::spider_ordered("SELECT a FROM t ORDER  BY b"));
    CHECK(!spft::spider_ordered("SELECT a FROM t ORDER\nBY b"));
    CHECK(!spft::spider_ordered("SELECT a FROM orders"));
}
