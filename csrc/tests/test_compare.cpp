// The comparison modes on results made by hand, and the matching of permuted columns.
#include <algorithm>
#include <numeric>
#include <random>

#include "check.h"
#include "columns.h"
#include "compare.h"
#include "digest.h"

using namespace spft;

namespace {

using Row = std::vector<int64_t>;
using Rows = std::vector<Row>;

Result result_of(const Rows& rows, int columns, bool order_matters = false) {
    Result result;
    result.outcome.status = rows.empty() ? Status::Empty : Status::Ok;
    result.outcome.rows = static_cast<int64_t>(rows.size());
    result.outcome.columns = columns;
    result.order_matters = order_matters;
    for (const Row& row : rows) {
        for (const int64_t value : row) result.cells.push_back(cell_integer(value));
    }
    return result;
}

Result result_of(const Rows& rows) { return result_of(rows, static_cast<int>(rows[0].size())); }

Judgement judge_rows(Compare mode, const Rows& gold, const Rows& candidate) {
    return judge(mode, result_of(gold), result_of(candidate), {});
}

bool is_right(Compare mode, const Rows& gold, const Rows& candidate) {
    return judge_rows(mode, gold, candidate).verdict == Verdict::Right;
}

Rows permuted(const Rows& rows, const std::vector<size_t>& columns) {
    Rows result;
    for (const Row& row : rows) {
        Row moved;
        for (const size_t column : columns) moved.push_back(row[column]);
        result.push_back(moved);
    }
    return result;
}

std::vector<size_t> shuffled(size_t count, std::mt19937& random) {
    std::vector<size_t> order(count);
    std::iota(order.begin(), order.end(), size_t{0});
    std::shuffle(order.begin(), order.end(), random);
    return order;
}

Match match(const Rows& gold, const Rows& candidate, int64_t visits = kSearchVisits) {
    const Result a = result_of(gold);
    const Result b = result_of(candidate);
    return same_bags({a.cells.data(), gold.size(), gold[0].size()},
                     {b.cells.data(), candidate.size(), candidate[0].size()}, visits);
}

// Every permutation tried.
bool reference(Rows gold, const Rows& candidate) {
    std::sort(gold.begin(), gold.end());
    std::vector<size_t> order(gold[0].size());
    std::iota(order.begin(), order.end(), size_t{0});
    do {
        Rows moved = permuted(candidate, order);
        std::sort(moved.begin(), moved.end());
        if (moved == gold) return true;
    } while (std::next_permutation(order.begin(), order.end()));
    return false;
}

// The 0/1 table of a graph of cycles: a row per vertex, a column per edge. All rows are alike and
// all columns are alike, and colour refinement cannot tell one long cycle from two short ones.
Rows cycles(const std::vector<size_t>& lengths) {
    const size_t total = std::accumulate(lengths.begin(), lengths.end(), size_t{0});
    Rows rows(total, Row(total, 0));
    size_t start = 0;
    for (const size_t length : lengths) {
        for (size_t i = 0; i < length; ++i) {
            rows[start + i][start + i] = 1;
            rows[start + (i + 1) % length][start + i] = 1;
        }
        start += length;
    }
    return rows;
}

}  // namespace

TEST(spider_takes_columns_in_any_order) {
    CHECK(is_right(Compare::Spider, {{1, 2}, {3, 4}}, {{2, 1}, {4, 3}}));
    CHECK(is_right(Compare::Spider, {{1, 2}, {3, 4}}, {{4, 3}, {2, 1}}));
    CHECK(!is_right(Compare::Spider, {{1, 2}, {3, 4}}, {{2, 1}, {3, 4}}));
    CHECK(!is_right(Compare::Spider, {{1}, {1}, {2}}, {{1}, {2}, {2}}));
    CHECK(!is_right(Compare::Spider, {{1, 1, 2}}, {{1, 2, 2}}));
    CHECK(is_right(Compare::Spider, {{1, 1, 2}}, {{1, 2, 1}}));
    CHECK(judge_rows(Compare::Spider, {{1}}, {{1, 1}}).reason == Reason::ColumnsDiffer);
    CHECK(judge_rows(Compare::Spider, {{1}}, {{1}, {1}}).reason == Reason::RowCountDiffers);
    CHECK(judge_rows(Compare::Spider, {{1}}, {{2}}).reason == Reason::RowsDiffer);
}

TEST(spider_keeps_the_order_that_the_gold_asks_for) {
    const Result gold = result_of({{1, 2}, {3, 4}, {5, 6}}, 2, true);
    const auto verdict = [&](const Rows& rows) {
        return judge(Compare::Spider, gold, result_of(rows), {});
    };
    CHECK(verdict({{2, 1}, {4, 3}, {6, 5}}).verdict == Verdict::Right);
    CHECK(verdict({{4, 3}, {2, 1}, {6, 5}}).reason == Reason::OrderDiffers);
    CHECK(verdict({{2, 1}, {4, 3}, {6, 7}}).reason == Reason::RowsDiffer);
}

TEST(no_rows_equal_no_rows_whatever_the_columns) {
    for (const Compare mode : {Compare::Spider, Compare::Bird, Compare::SoftF1}) {
        const Judgement judgement = judge(mode, result_of({}, 1), result_of({}, 2), {});
        CHECK(judgement.verdict == Verdict::Right);
        CHECK(judgement.both_empty);
        CHECK_EQUAL(judgement.score, 1.0F);
        CHECK(judge(mode, result_of({}, 1), result_of({{1}}), {}).verdict == Verdict::Wrong);
        CHECK(judge(mode, result_of({{1}}), result_of({}, 1), {}).verdict == Verdict::Wrong);
    }
}

TEST(what_did_not_run_is_judged_alike_in_every_mode) {
    for (const Compare mode : {Compare::Bag, Compare::Spider, Compare::Bird, Compare::SoftF1}) {
        const Result good = result_of({{1}});
        Result failed;
        failed.outcome.status = Status::SyntaxError;
        Result stopped;
        stopped.outcome.status = Status::TimeBudget;
        CHECK(judge(mode, failed, good, {}).verdict == Verdict::Unjudged);
        CHECK(judge(mode, good, stopped, {}).verdict == Verdict::Unjudged);
        CHECK(judge(mode, good, failed, {}).reason == Reason::CandidateDidNotRun);
        CHECK_EQUAL(judge(mode, good, failed, {}).score, 0.0F);
        CHECK_EQUAL(judge(mode, good, good, {}).score, 1.0F);
    }
}

TEST(bird_compares_sets_of_rows) {
    CHECK(is_right(Compare::Bird, {{1, 2}, {3, 4}}, {{3, 4}, {1, 2}, {1, 2}}));
    CHECK(!is_right(Compare::Bird, {{1, 2}, {3, 4}}, {{3, 4}}));
    CHECK(!is_right(Compare::Bird, {{3, 4}}, {{1, 2}, {3, 4}}));
    CHECK(!is_right(Compare::Bird, {{1, 2}}, {{2, 1}}));
    CHECK(judge_rows(Compare::Bird, {{1}}, {{1, 1}}).reason == Reason::ColumnsDiffer);
}

// Worked by hand from the rule: tp, fp, fn in columns of the gold.
TEST(soft_f1_counts_values_of_paired_rows) {
    const auto score = [](const Rows& gold, const Rows& candidate) {
        return judge_rows(Compare::SoftF1, gold, candidate).score;
    };
    CHECK_EQUAL(score({{1, 2}, {3, 4}}, {{1, 2}, {3, 4}}), 1.0F);
    CHECK_EQUAL(score({{1, 2}}, {{2, 1}}), 1.0F);          // columns in any order
    CHECK_EQUAL(score({{1, 2}, {1, 2}}, {{1, 2}}), 1.0F);  // duplicates dropped
    CHECK_EQUAL(score({{1, 2}}, {{3, 4}}), 0.0F);
    CHECK_EQUAL(score({{1, 2}}, {{1, 3}}), 0.5F);  // tp 1/2, fp 1/2, fn 1/2
    // tp 2/2, fn 1 for the row without a partner: precision 1, recall 1/2.
    CHECK_EQUAL(score({{1, 2}, {3, 4}}, {{1, 2}}), static_cast<float>(2.0 / 3.0));
    // Three values against two: tp 2/2, fp 1/2: precision 2/3, recall 1.
    CHECK_EQUAL(score({{1, 2}}, {{1, 2, 3}}), static_cast<float>(4.0 / 5.0));
    CHECK_EQUAL(score({{1, 1}}, {{1, 1, 1}}), 1.0F);   // every value occurs in the other row
    CHECK_EQUAL(score({{1}, {2}}, {{2}, {1}}), 0.0F);  // rows are paired by position
    CHECK(judge_rows(Compare::SoftF1, {{1}}, {{2}}).verdict == Verdict::Wrong);
    CHECK(judge_rows(Compare::SoftF1, {{1, 2}}, {{1, 3}}).verdict == Verdict::Wrong);
}

TEST(small_tables_match_exactly_when_some_permutation_does) {
    std::mt19937 random(1);
    int same = 0;
    int different = 0;
    for (int trial = 0; trial < 20000; ++trial) {
        const size_t columns = 1 + random() % 5;
        const size_t count = 1 + random() % 6;
        const int64_t values = 1 + static_cast<int64_t>(random() % 3);
        Rows gold(count, Row(columns));
        for (Row& row : gold) {
            for (int64_t& value : row) value = static_cast<int64_t>(random()) % values;
        }
        Rows candidate = permuted(gold, shuffled(columns, random));
        std::shuffle(candidate.begin(), candidate.end(), random);
        // Two values swapped within a column keep the column's bag: the hardest near misses.
        for (size_t swaps = random() % 3; swaps > 0; --swaps) {
            const size_t column = random() % columns;
            std::swap(candidate[random() % count][column], candidate[random() % count][column]);
        }
        const bool expected = reference(gold, candidate);
        CHECK(match(gold, candidate) == (expected ? Match::Same : Match::Different));
        ++(expected ? same : different);
    }
    CHECK(same > 2000);
    CHECK(different > 2000);
}

TEST(lists_match_exactly_when_some_permutation_does) {
    std::mt19937 random(2);
    for (int trial = 0; trial < 5000; ++trial) {
        const size_t columns = 1 + random() % 5;
        Rows gold(1 + random() % 4, Row(columns));
        for (Row& row : gold) {
            for (int64_t& value : row) value = static_cast<int64_t>(random() % 2);
        }
        std::vector<size_t> order = shuffled(columns, random);
        Rows candidate = permuted(gold, order);
        if (random() % 2 == 0) candidate[0][random() % columns] ^= 1;
        bool expected = false;
        std::sort(order.begin(), order.end());
        do {
            expected = expected || permuted(candidate, order) == gold;
        } while (std::next_permutation(order.begin(), order.end()));
        const Result a = result_of(gold);
        const Result b = result_of(candidate);
        CHECK_EQUAL(same_lists({a.cells.data(), gold.size(), columns},
                               {b.cells.data(), gold.size(), columns}),
                    expected);
    }
}

TEST(thirty_columns_that_are_permutations_of_the_same_values) {
    std::mt19937 random(3);
    Rows gold(200, Row(30));
    for (size_t column = 0; column < 30; ++column) {
        const std::vector<size_t> values = shuffled(gold.size(), random);
        for (size_t i = 0; i < values.size(); ++i)
            gold[i][column] = static_cast<int64_t>(values[i]);
    }
    Rows candidate = permuted(gold, shuffled(30, random));
    std::shuffle(candidate.begin(), candidate.end(), random);
    CHECK(match(gold, candidate) == Match::Same);
    std::swap(candidate[0][7], candidate[1][7]);
    CHECK(match(gold, candidate) == Match::Different);
}

TEST(tables_without_any_difference_between_columns_are_searched) {
    std::mt19937 random(4);
    // A Latin square: every column a permutation, every row too.
    Rows latin(12, Row(12));
    for (size_t i = 0; i < 12; ++i) {
        for (size_t j = 0; j < 12; ++j) latin[i][j] = static_cast<int64_t>((i + j) % 12);
    }
    for (const Rows& gold :
         {latin, cycles({12}), cycles({4, 4, 4}), cycles({20, 10}), cycles({1})}) {
        Rows candidate = permuted(gold, shuffled(gold[0].size(), random));
        std::shuffle(candidate.begin(), candidate.end(), random);
        CHECK(match(gold, candidate) == Match::Same);
    }
    CHECK(match(cycles({12}), cycles({6, 6})) == Match::Different);
    CHECK(match(cycles({5, 7}), cycles({6, 6})) == Match::Different);
    CHECK(match(cycles({3, 9}), cycles({5, 7})) == Match::Different);
}

TEST(a_search_past_its_bound_is_no_verdict) {
    CHECK(match(cycles({12}), cycles({6, 6}), 100) == Match::GaveUp);
    // Many equal parts before the one that differs: the search would take ages.
    const Rows gold = cycles({6, 6, 6, 6, 6, 6, 6, 6, 6, 4, 8});
    const Rows other = cycles({6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6});
    CHECK(match(gold, gold) == Match::Same);
    const Match found = match(other, gold, 10'000'000);
    CHECK(found != Match::Same);
    // Equal columns never need the search.
    const Rows equal(50, Row(40, 1));
    CHECK(match(equal, equal, 0) == Match::Same);
}

TEST(exact_values) {
    CHECK(cell_real(1.0) == cell_integer(1));
    CHECK(cell_real(-0.0) == cell_integer(0));
    CHECK(cell_real(0.1 + 0.2) != cell_real(0.3));
    CHECK(cell_real(9007199254740992.0) != cell_integer(9007199254740993));
    CHECK(cell_real(9223372036854775808.0) != cell_integer(INT64_MAX));
    CHECK(cell_text("1", 1, false) != cell_integer(1));
    CHECK(cell_text("A", 1, false) != cell_blob("A", 1));
    CHECK(cell_text("", 0, false) != cell_null());
    CHECK(cell_null() != cell_integer(0));
    CHECK(cell_null() == cell_null());
}

TEST(bytes_that_are_not_utf8_are_left_out) {
    const auto kept = [](std::string_view text) { return keep_utf8(text); };
    CHECK_EQUAL(kept("plain"), std::string("plain"));
    CHECK_EQUAL(kept("caf\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80"),
                std::string("caf\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80"));
    CHECK_EQUAL(kept("caf\xE9!"), std::string("caf!"));
    CHECK_EQUAL(kept("\xC0\x80"
                     "a"),
                std::string("a"));  // overlong
    CHECK_EQUAL(kept("\xED\xA0\x80"
                     "b"),
                std::string("b"));  // a surrogate
    CHECK_EQUAL(kept("\xF4\x90\x80\x80"
                     "c"),
                std::string("c"));  // above U+10FFFF
    CHECK_EQUAL(kept("\xE2\x82"
                     "d\xE2"),
                std::string("d"));                               // broken off
    CHECK_EQUAL(kept("\xE2\xC3\xA9"), std::string("\xC3\xA9"));  // resumes at the next
    CHECK(cell_text("caf\xE9", 4, true) == cell_text("caf", 3, false));
    CHECK(cell_text("caf\xE9", 4, false) != cell_text("caf", 3, false));
}
