// Judges a candidate's result against a gold's under the `bag` comparison.
#pragma once

#include <vector>

#include "query.h"
#include "types.h"

namespace spft {

struct Judgement {
    Verdict verdict = Verdict::Unjudged;
    Reason reason = Reason::GoldDidNotRun;
    bool both_empty = false;
};

// `rows` are the candidate's row digests in order; needed only against an ordered gold. They are
// ignored when gold and candidate are the same execution.
Judgement judge_bag(const Result& gold, const Result& candidate, const std::vector<Digest>& rows);

}  // namespace spft
