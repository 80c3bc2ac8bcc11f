// Runs one query on one connection within its limits and digests its rows.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "connection.h"
#include "types.h"

namespace spft {

// Consecutive rows of an ordered gold that tie on its sort keys.
struct TieGroup {
    int64_t rows = 0;
    Digest bag;
};

struct Result {
    Outcome outcome;
    bool reads_clock = false;      // may differ from one moment to the next
    bool ordered = false;          // gold with an outermost ORDER BY that ran
    std::vector<TieGroup> groups;  // of an ordered gold, in its order
    std::vector<Digest> cells;     // every value, row by row; empty unless `Wanted::cells`
    bool order_matters = false;    // the text asks for order by Spider's rule; `Wanted::spider`
};

struct Blob {
    std::string bytes;
};
using Value = std::variant<std::monostate, int64_t, double, std::string, Blob>;

// The rows themselves, for showing them.
struct Table {
    std::vector<std::string> columns;
    std::vector<std::vector<Value>> rows;
};

struct Wanted {
    bool as_gold = false;                 // find the tie groups of its ORDER BY
    std::vector<Digest>* rows = nullptr;  // each row's digest, in order
    Table* table = nullptr;               // each row's values
    bool cells = false;   // keep each value's digest, for gold and candidate of every mode but Bag
    bool spider = false;  // read as Spider's evaluator does: no bytes that are not UTF-8, its order
    const std::atomic<bool>* cancelled = nullptr;
};

// Never throws for what a query does; running out of memory throws std::bad_alloc.
Result run_query(Connection& connection, std::string_view sql, const Limits& limits,
                 const Wanted& wanted);

}  // namespace spft
