// Judges a candidate's result against a gold's under the `bag` comparison.
//
// With an ordered gold the candidate's rows are cut into runs as long as the gold's tie groups, and
// each run must be the same bag as its group: exactly the orders the gold's ORDER BY allows.
#include "compare.h"

namespace spft {
namespace {

bool same_order(const Result& gold, const std::vector<Digest>& rows) {
    size_t at = 0;
    for (const TieGroup& group : gold.groups) {
        Digest bag;
        for (int64_t i = 0; i < group.rows; ++i) bag.add(rows[at++]);
        if (bag != group.bag) return false;
    }
    return true;
}

}  // namespace

Judgement judge_bag(const Result& gold, const Result& candidate, const std::vector<Digest>& rows) {
    const Outcome& g = gold.outcome;
    const Outcome& c = candidate.outcome;
    if (!ran(g.status)) return {Verdict::Unjudged, Reason::GoldDidNotRun, false};
    if (!repeatable(c.status)) return {Verdict::Unjudged, Reason::CandidateUndecided, false};
    if (!ran(c.status)) return {Verdict::Wrong, Reason::CandidateDidNotRun, false};
    const bool both_empty = g.rows == 0 && c.rows == 0;
    if (&gold == &candidate) return {Verdict::Right, Reason::SameResult, both_empty};
    if (g.columns != c.columns) return {Verdict::Wrong, Reason::ColumnsDiffer, both_empty};
    if (g.rows != c.rows) return {Verdict::Wrong, Reason::RowCountDiffers, false};
    if (g.bag != c.bag) return {Verdict::Wrong, Reason::RowsDiffer, false};
    if (gold.ordered && !same_order(gold, rows)) {
        return {Verdict::Wrong, Reason::OrderDiffers, false};
    }
    return {Verdict::Right, Reason::SameResult, both_empty};
}

}  // namespace spft
