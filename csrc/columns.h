// Decides whether two tables are the same up to the order of their columns (and of their rows).
//
// Trying permutations is k! work. Instead, columns and rows are told apart by what they hold, as in
// colour refinement for graph isomorphism (Weisfeiler and Leman 1968; Berkholz, Bonsma and Grohe
// 2017): a column's colour comes from its bag of values, a row's from its values and the colours of
// their columns, a column's next colour from its values and the colours of their rows, and so on.
// Columns of equal content are interchangeable and count as one. Only where unequal columns keep
// one colour is one of them paired with each of its possible partners in turn, with a bound on the
// work. Colours are hashes without proof against collision, which cannot make an answer wrong: they
// only ever exclude pairings that do differ, and a pairing found is checked on 128-bit row digests.
#pragma once

#include <cstddef>
#include <cstdint>

#include "types.h"

namespace spft {

// Values under exact equality, row by row.
struct Grid {
    const Digest* cells;
    size_t rows;
    size_t columns;

    const Digest& at(size_t row, size_t column) const { return cells[row * columns + column]; }
};

enum class Match : uint8_t { Same, Different, GaveUp };

// Values looked at before the search among tied columns is given up.
constexpr int64_t kSearchVisits = 100'000'000;

// True when some order of the candidate's columns gives the gold's list of rows. Both have the same
// number of rows and columns. No search is needed: a column must meet one of the same content.
bool same_lists(const Grid& gold, const Grid& candidate);

// Whether some order of the candidate's columns gives the gold's bag of rows; same shapes again.
Match same_bags(const Grid& gold, const Grid& candidate, int64_t visits = kSearchVisits);

}  // namespace spft
