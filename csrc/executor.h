// The executor: a fixed pool of threads that runs batches of queries and judges them.
//
// Scheduling. The distinct queries of a batch are sorted by database and lie in one list, from
// which threads take runs that shrink towards the end (remaining / (4 x threads), at most 32): a
// thread mostly stays on one database, whose connection is warm, and at the end no thread waits
// for another's run. A popular database is split over all threads; a thread whose run takes long
// gives the rest of it back, so that slow queries side by side do not wait for one another. Batches
// of several callers share the pool: threads that find nothing left in the oldest batch go on with
// the next, so a slow last query does not idle the others.
//
// Each thread owns its connections, at most `connections_per_thread` of them, the least recently
// used closed first, so that ten thousand databases need few file handles.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "compare.h"
#include "query.h"
#include "types.h"

namespace spft {

struct Query {
    uint32_t database;  // index into the batch's list of paths
    std::string_view sql;
};

struct Item {
    uint32_t database;
    std::string_view gold;
    std::vector<std::string_view> candidates;
};

// Outcomes of a batch's distinct executions, and which of them answers which query.
struct Executed {
    std::vector<Outcome> outcomes;
    std::vector<uint32_t> of_query;
};

struct Judged {
    Judgement judgement;
    uint32_t candidate;  // index of an outcome
};

struct Verified {
    std::vector<Outcome> outcomes;
    std::vector<uint32_t> gold;     // per item: index of an outcome
    std::vector<uint64_t> offsets;  // per item, and one more: where its candidates begin
    std::vector<Judged> judged;     // per candidate, item after item
};

struct Counters {
    int64_t queries = 0;      // asked for, golds included
    int64_t executed = 0;     // run
    int64_t duplicates = 0;   // answered by an execution of the same batch
    int64_t gold_hits = 0;    // golds answered from the cache
    int64_t gold_misses = 0;  // golds that had to run
    int64_t gold_entries = 0;
    int64_t gold_bytes = 0;
    int64_t connections_opened = 0;
    int64_t connections_reused = 0;
    std::array<int64_t, kStatusCount> statuses{};  // of the executions
};

// Thrown when the caller's poll asked to stop; nothing of the batch runs any more by then.
struct Cancelled {};

// Names a query of a batch under a comparison, which may change the text that runs.
Digest query_digest(std::string_view path, std::string_view sql, Compare compare);

// An outcome settled before the batch: the query is not run.
struct Preset {
    Digest query;
    Status status;
    std::string message;
};

// Written while a query runs, for another process to read after this one died. Lies in memory both
// share; used by executors of one thread.
struct RunningQuery {
    std::atomic<int64_t> started_ns;  // std::chrono::steady_clock; 0 when idle
    Digest query;
};

class Executor {
  public:
    // Asked about 25 times a second from the calling thread with the number of distinct queries
    // done and to do; false stops the batch.
    using Poll = std::function<bool(int64_t done, int64_t total)>;

    // `threads` >= 1. Throws std::runtime_error when SQLite is not attached yet.
    Executor(int threads, const Limits& limits, int connections_per_thread,
             int64_t gold_cache_bytes, RunningQuery* running = nullptr);
    ~Executor();
    Executor(const Executor&) = delete;
    Executor& operator=(const Executor&) = delete;

    // Callable from several threads at once.
    Executed execute(const std::vector<std::string>& paths, const std::vector<Query>& queries,
                     const std::vector<Preset>& presets, const Poll& poll);
    Verified verify(const std::vector<std::string>& paths, const std::vector<Item>& items,
                    Compare compare, const std::vector<Preset>& presets, const Poll& poll);
    Outcome rows(const std::string& path, std::string_view sql, Table& table, const Poll& poll);

    Counters counters() const;
    int threads() const;

  private:
    struct State;
    State* state_;  // not freed in a forked child, where its threads do not exist
    int process_;
};

}  // namespace spft
