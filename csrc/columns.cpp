// Decides whether two tables are the same up to the order of their columns; the method stands in
// the header.
#include "columns.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "digest.h"

namespace spft {
namespace {

using Colours = std::vector<uint64_t>;

// Both halves of a 64 x 64 bit product, folded: quick, and good enough for colours.
uint64_t mix(uint64_t a, uint64_t b) {
    using Wide = unsigned __int128;
    const Wide product = static_cast<Wide>(a ^ 0x9E3779B97F4A7C15ULL) * (b ^ 0xD6E8FEB86659FD93ULL);
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

uint64_t hash(const Digest& cell) { return mix(cell.low, cell.high); }

bool precedes(const Digest& a, const Digest& b) {
    return a.high != b.high ? a.high < b.high : a.low < b.low;
}

// -1, 0 or 1: columns compared from the first row down.
int compare(const Grid& a, size_t a_column, const Grid& b, size_t b_column) {
    for (size_t i = 0; i < a.rows; ++i) {
        const Digest& left = a.at(i, a_column);
        const Digest& right = b.at(i, b_column);
        if (left != right) return precedes(left, right) ? -1 : 1;
    }
    return 0;
}

std::vector<size_t> sorted_columns(const Grid& grid) {
    std::vector<size_t> columns(grid.columns);
    std::iota(columns.begin(), columns.end(), size_t{0});
    std::sort(columns.begin(), columns.end(),
              [&](size_t a, size_t b) { return compare(grid, a, grid, b) < 0; });
    return columns;
}

Colours sorted(Colours colours) {
    std::sort(colours.begin(), colours.end());
    return colours;
}

// Per column, a hash of its bag of values.
Colours column_bags(const Grid& grid) {
    Colours sums(grid.columns, 0);
    const Digest* cell = grid.cells;
    for (size_t i = 0; i < grid.rows; ++i) {
        for (uint64_t& sum : sums) sum += hash(*cell++);
    }
    return sums;
}

// One table with its columns of equal content taken together.
struct Side {
    const Grid& grid;
    std::vector<size_t> columns;   // of each content the first
    Colours first;                 // their colours by bag of values and by how often they occur
    std::vector<uint64_t> hashes;  // of the values of `columns`, row by row; made when needed

    Side(const Grid& from, const Colours& bags) : grid(from) {
        const std::vector<size_t> order = sorted_columns(grid);
        for (size_t i = 0; i < order.size();) {
            size_t end = i + 1;
            while (end < order.size() && compare(grid, order[i], grid, order[end]) == 0) ++end;
            columns.push_back(order[i]);
            first.push_back(mix(bags[order[i]], end - i));
            i = end;
        }
    }

    void hash_values() {
        hashes.reserve(grid.rows * columns.size());
        for (size_t i = 0; i < grid.rows; ++i) {
            for (const size_t column : columns) hashes.push_back(hash(grid.at(i, column)));
        }
    }

    // Colours the rows by the colours of their values' columns; the sum names the bag of them.
    uint64_t colour_rows(const Colours& of_columns, Colours& of_rows) const {
        uint64_t bag = 0;
        const uint64_t* value = hashes.data();
        for (uint64_t& row : of_rows) {
            uint64_t sum = 0;
            for (const uint64_t colour : of_columns) sum += mix(colour, *value++);
            row = mix(sum, 1);
            bag += mix(row, 2);
        }
        return bag;
    }

    void colour_columns(const Colours& of_rows, Colours& of_columns) const {
        Colours sums(of_columns.size(), 0);
        const uint64_t* value = hashes.data();
        for (const uint64_t colour : of_rows) {
            for (uint64_t& sum : sums) sum += mix(colour, *value++);
        }
        for (size_t j = 0; j < sums.size(); ++j) of_columns[j] = mix(of_columns[j], sums[j]);
    }

    // The digest of the bag of rows, their columns taken in the order of their colours.
    Digest bag(const Colours& colours) const {
        std::vector<size_t> order(columns.size());
        std::iota(order.begin(), order.end(), size_t{0});
        std::sort(order.begin(), order.end(),
                  [&](size_t a, size_t b) { return colours[a] < colours[b]; });
        std::vector<Digest> row(columns.size());
        Digest sum;
        for (size_t i = 0; i < grid.rows; ++i) {
            for (size_t j = 0; j < order.size(); ++j) row[j] = grid.at(i, columns[order[j]]);
            sum.add(siphash128(row.data(), row.size() * sizeof(Digest)));
        }
        return sum;
    }
};

class Search {
  public:
    Search(Side& gold, Side& candidate, int64_t visits)
        : gold_(gold), candidate_(candidate), visits_(visits) {}

    // The colours of both sides are the same bag.
    Match run(Colours gold, Colours candidate) {
        Colours order = sorted(gold);
        size_t classes = count(order);
        while (classes < order.size()) {
            if (!spend(4)) return Match::GaveUp;
            prepare();
            if (gold_.colour_rows(gold, gold_rows_) !=
                candidate_.colour_rows(candidate, candidate_rows_)) {
                return Match::Different;
            }
            gold_.colour_columns(gold_rows_, gold);
            candidate_.colour_columns(candidate_rows_, candidate);
            order = sorted(gold);
            if (order != sorted(candidate)) return Match::Different;
            const size_t before = classes;
            classes = count(order);
            // Row colours follow from column colours, so nothing can change from here on.
            if (classes == before) return pair_one(gold, candidate, order);
        }
        if (!checked_once_) {
            checked_once_ = true;  // one check is as dear as reading the rows, and always allowed
        } else if (!spend(16)) {
            return Match::GaveUp;
        }
        return gold_.bag(gold) == candidate_.bag(candidate) ? Match::Same : Match::Different;
    }

  private:
    // Pairs one column of the smallest tied class with each possible partner.
    Match pair_one(const Colours& gold, const Colours& candidate, const Colours& order) {
        uint64_t tied = 0;
        size_t fewest = order.size() + 1;
        for (size_t i = 0; i < order.size();) {
            const size_t end =
                static_cast<size_t>(std::upper_bound(order.begin() + static_cast<std::ptrdiff_t>(i),
                                                     order.end(), order[i]) -
                                    order.begin());
            if (end - i > 1 && end - i < fewest) {
                fewest = end - i;
                tied = order[i];
            }
            i = end;
        }
        const uint64_t own = mix(tied, 3);
        Colours marked = gold;
        *std::find(marked.begin(), marked.end(), tied) = own;
        for (size_t j = 0; j < candidate.size(); ++j) {
            if (candidate[j] != tied) continue;
            Colours partner = candidate;
            partner[j] = own;
            const Match match = run(marked, std::move(partner));
            if (match != Match::Different) return match;
        }
        return Match::Different;
    }

    static size_t count(const Colours& order) {
        size_t classes = 0;
        for (size_t i = 0; i < order.size(); ++i) {
            if (i == 0 || order[i] != order[i - 1]) ++classes;
        }
        return classes;
    }

    void prepare() {
        if (!gold_rows_.empty()) return;
        gold_.hash_values();
        candidate_.hash_values();
        gold_rows_.resize(gold_.grid.rows);
        candidate_rows_.resize(candidate_.grid.rows);
    }

    // Charges `passes` over one table; a pass costs something however few the rows.
    bool spend(int64_t passes) {
        visits_ -= passes * static_cast<int64_t>((gold_.grid.rows + 8) * gold_.columns.size());
        return visits_ >= 0;
    }

    Side& gold_;
    Side& candidate_;
    int64_t visits_;
    bool checked_once_ = false;
    Colours gold_rows_;
    Colours candidate_rows_;
};

}  // namespace

bool same_lists(const Grid& gold, const Grid& candidate) {
    const std::vector<size_t> left = sorted_columns(gold);
    const std::vector<size_t> right = sorted_columns(candidate);
    for (size_t j = 0; j < left.size(); ++j) {
        if (compare(gold, left[j], candidate, right[j]) != 0) return false;
    }
    return true;
}

Match same_bags(const Grid& gold, const Grid& candidate, int64_t visits) {
    const Colours gold_bags = column_bags(gold);
    const Colours candidate_bags = column_bags(candidate);
    if (sorted(gold_bags) != sorted(candidate_bags)) return Match::Different;
    Side left(gold, gold_bags);
    Side right(candidate, candidate_bags);
    if (sorted(left.first) != sorted(right.first)) return Match::Different;
    return Search(left, right, visits).run(left.first, right.first);
}

}  // namespace spft
