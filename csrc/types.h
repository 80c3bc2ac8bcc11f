// What goes into an execution and what comes out: limits, statuses, outcomes, verdicts.
#pragma once

#include <cstdint>
#include <string>

namespace spft {

// Bounds on one query. `steps` is the main one: it depends on the query and the data alone, so a
// busy laptop and an idle server agree. `seconds` is the back-stop for what steps cannot see.
struct Limits {
    int64_t steps;        // SQLite virtual-machine steps
    double seconds;       // wall-clock
    int64_t rows;         // rows of the result
    int64_t bytes;        // bytes of all values of the result, 8 for a number
    int64_t value_bytes;  // bytes of any one value or table row, also in between
    int64_t sql_bytes;    // bytes of the SQL text
    int64_t temp_bytes;   // temporary storage of sorts and materialised sub-queries, in memory
};

// Numbers are shared with spftcore/verify/outcomes.py.
enum class Status : uint8_t {
    Ok = 0,
    Empty,
    SyntaxError,
    MissingName,
    SqlError,
    Denied,
    StepBudget,
    TimeBudget,
    TooLarge,
    DatabaseError,
    Crashed,  // its process died; only ever a preset
};
constexpr int kStatusCount = 11;

inline bool ran(Status status) { return status == Status::Ok || status == Status::Empty; }

// True when running the same text on the same file again must end the same way.
inline bool repeatable(Status status) {
    return status != Status::TimeBudget && status != Status::DatabaseError &&
           status != Status::Crashed;
}

// How a candidate's rows are compared with the gold's; docs/comparison.md states the rules.
enum class Compare : uint8_t { Bag = 0, Spider, Bird, SoftF1 };

enum class Verdict : uint8_t { Wrong = 0, Right = 1, Unjudged = 2 };

// Why a verdict is what it is; spftcore/verify/results.py words it.
enum class Reason : uint8_t {
    SameResult = 0,
    GoldDidNotRun,
    CandidateUndecided,  // stopped by the clock, or its database failed
    CandidateDidNotRun,
    ColumnsDiffer,
    RowCountDiffers,
    RowsDiffer,
    OrderDiffers,
    SearchBound,  // too many columns that could be each other: the search was given up
};

// A 128-bit digest of a row, or the sum (mod 2^128) of the digests of a bag of rows.
struct Digest {
    uint64_t low = 0;
    uint64_t high = 0;

    bool operator==(const Digest&) const = default;

    // Addition commutes, so the sum over rows does not depend on their order, and unlike xor it
    // does not lose rows that occur twice.
    void add(const Digest& other) {
        low += other.low;
        high += other.high + (low < other.low ? 1 : 0);
    }
};

struct Outcome {
    Status status = Status::DatabaseError;
    bool all_null = false;  // at least one row, and every value of every row is NULL
    int32_t columns = 0;
    int64_t rows = 0;
    int64_t steps = 0;
    double seconds = 0.0;
    Digest bag;           // sum of the row digests; meaningful when the query ran
    std::string message;  // empty when the query ran
};

}  // namespace spft
