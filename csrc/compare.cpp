// Judges a candidate's result against a gold's.
//
// In Bag with an ordered gold the candidate's rows are cut into runs as long as the gold's tie
// groups, and each run must be the same bag as its group: exactly the orders the gold's ORDER BY
// allows. The other modes work on the digests of single values; Spider's columns are matched in
// columns.cpp.
#include "compare.h"

#include <algorithm>
#include <cmath>
#include <unordered_set>

#include "columns.h"
#include "digest.h"

namespace spft {
namespace {

Judgement right(bool both_empty) { return {Verdict::Right, Reason::SameResult, both_empty, 1.0F}; }

Judgement wrong(Reason reason, bool both_empty = false) {
    return {Verdict::Wrong, reason, both_empty, 0.0F};
}

bool same_order(const Result& gold, const std::vector<Digest>& rows) {
    size_t at = 0;
    for (const TieGroup& group : gold.groups) {
        Digest bag;
        for (int64_t i = 0; i < group.rows; ++i) bag.add(rows[at++]);
        if (bag != group.bag) return false;
    }
    return true;
}

Judgement judge_bag(const Result& gold, const Result& candidate, const std::vector<Digest>& rows) {
    const Outcome& g = gold.outcome;
    const Outcome& c = candidate.outcome;
    const bool both_empty = g.rows == 0 && c.rows == 0;
    if (g.columns != c.columns) return wrong(Reason::ColumnsDiffer, both_empty);
    if (g.rows != c.rows) return wrong(Reason::RowCountDiffers);
    if (g.bag != c.bag) return wrong(Reason::RowsDiffer);
    if (gold.ordered && !same_order(gold, rows)) return wrong(Reason::OrderDiffers);
    return right(both_empty);
}

struct DigestHash {
    size_t operator()(const Digest& digest) const { return static_cast<size_t>(digest.low); }
};
using DigestSet = std::unordered_set<Digest, DigestHash>;

size_t columns_of(const Result& result) { return static_cast<size_t>(result.outcome.columns); }
size_t rows_of(const Result& result) { return static_cast<size_t>(result.outcome.rows); }

// A row's digest from its values': what makes two rows one in a set of rows.
Digest row_digest(const Result& result, size_t row) {
    const size_t columns = columns_of(result);
    return siphash128(result.cells.data() + row * columns, columns * sizeof(Digest));
}

Judgement judge_bird(const Result& gold, const Result& candidate) {
    if (gold.outcome.columns != candidate.outcome.columns) return wrong(Reason::ColumnsDiffer);
    DigestSet expected;
    for (size_t i = 0; i < rows_of(gold); ++i) expected.insert(row_digest(gold, i));
    DigestSet found;
    for (size_t i = 0; i < rows_of(candidate); ++i) {
        const Digest row = row_digest(candidate, i);
        if (!expected.contains(row)) return wrong(Reason::RowsDiffer);
        found.insert(row);
    }
    return found.size() == expected.size() ? right(false) : wrong(Reason::RowsDiffer);
}

// The numbers of the rows that differ from all before them.
std::vector<size_t> distinct_rows(const Result& result) {
    std::vector<size_t> kept;
    DigestSet seen;
    for (size_t i = 0; i < rows_of(result); ++i) {
        if (seen.insert(row_digest(result, i)).second) kept.push_back(i);
    }
    return kept;
}

// How many of `values` do not occur among `others`.
size_t missing(const Digest* values, size_t count, const Digest* others, size_t others_count) {
    return static_cast<size_t>(std::count_if(values, values + count, [&](const Digest& value) {
        return std::find(others, others + others_count, value) == others + others_count;
    }));
}

// Counts are kept in whole numbers of 1 / (the gold's columns), where an unpaired row counts as
// many as the gold has columns: F1 = 2 tp / (2 tp + fp + fn) then has no rounding but the last.
Judgement judge_soft_f1(const Result& gold, const Result& candidate) {
    const std::vector<size_t> expected = distinct_rows(gold);
    const std::vector<size_t> found = distinct_rows(candidate);
    const size_t gold_columns = columns_of(gold);
    const size_t columns = columns_of(candidate);
    const size_t pairs = std::min(expected.size(), found.size());
    size_t matched = 0;
    size_t found_only = (found.size() - pairs) * gold_columns;
    size_t gold_only = (expected.size() - pairs) * gold_columns;
    for (size_t i = 0; i < pairs; ++i) {
        const Digest* gold_row = gold.cells.data() + expected[i] * gold_columns;
        const Digest* row = candidate.cells.data() + found[i] * columns;
        const size_t extra = missing(row, columns, gold_row, gold_columns);
        matched += columns - extra;
        found_only += extra;
        gold_only += missing(gold_row, gold_columns, row, columns);
    }
    if (found_only == 0 && gold_only == 0) return right(false);
    Judgement judgement = wrong(Reason::RowsDiffer);
    const double twice = 2.0 * static_cast<double>(matched);
    const double score = twice / (twice + static_cast<double>(found_only + gold_only));
    judgement.score = std::min(static_cast<float>(score), std::nextafter(1.0F, 0.0F));
    return judgement;
}

Judgement judge_spider(const Result& gold, const Result& candidate) {
    if (gold.outcome.columns != candidate.outcome.columns) return wrong(Reason::ColumnsDiffer);
    if (gold.outcome.rows != candidate.outcome.rows) return wrong(Reason::RowCountDiffers);
    const Grid expected{gold.cells.data(), rows_of(gold), columns_of(gold)};
    const Grid found{candidate.cells.data(), rows_of(candidate), columns_of(candidate)};
    if (gold.order_matters && same_lists(expected, found)) return right(false);
    const Match match = same_bags(expected, found);
    if (gold.order_matters) {
        return wrong(match == Match::Same ? Reason::OrderDiffers : Reason::RowsDiffer);
    }
    switch (match) {
        case Match::Same:
            return right(false);
        case Match::Different:
            return wrong(Reason::RowsDiffer);
        default:
            return {Verdict::Unjudged, Reason::SearchBound, false, 0.0F};
    }
}

}  // namespace

Judgement judge(Compare mode, const Result& gold, const Result& candidate,
                const std::vector<Digest>& rows) {
    const Outcome& g = gold.outcome;
    const Outcome& c = candidate.outcome;
    if (!ran(g.status)) return {Verdict::Unjudged, Reason::GoldDidNotRun, false, 0.0F};
    if (!repeatable(c.status)) return {Verdict::Unjudged, Reason::CandidateUndecided, false, 0.0F};
    if (!ran(c.status)) return wrong(Reason::CandidateDidNotRun);
    const bool both_empty = g.rows == 0 && c.rows == 0;
    if (&gold == &candidate) return right(both_empty);
    if (mode == Compare::Bag) return judge_bag(gold, candidate, rows);
    // The official evaluators look at no columns where there are no rows.
    if (both_empty) return right(true);
    if (g.columns == c.columns && gold.cells == candidate.cells) return right(false);
    switch (mode) {
        case Compare::Bird:
            return judge_bird(gold, candidate);
        case Compare::SoftF1:
            return judge_soft_f1(gold, candidate);
        default:
            return judge_spider(gold, candidate);
    }
}

}  // namespace spft
