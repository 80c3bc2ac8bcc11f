// Judges a candidate's result against a gold's; docs/comparison.md states each mode's rules.
#pragma once

#include <vector>

#include "query.h"
#include "types.h"

namespace spft {

struct Judgement {
    Verdict verdict = Verdict::Unjudged;
    Reason reason = Reason::GoldDidNotRun;
    bool both_empty = false;
    float score =
        0.0F;  // 1 right, 0 wrong or unjudged; in SoftF1 the F1, which is below 1 if wrong
};

// Every mode but Bag needs `Wanted::cells` on both sides, and Spider `Wanted::spider` too.
// `rows` are the candidate's row digests in order: needed only in Bag against an ordered gold, and
// ignored when gold and candidate are the same execution.
Judgement judge(Compare mode, const Result& gold, const Result& candidate,
                const std::vector<Digest>& rows);

}  // namespace spft
