// A batch: what is to run, who waits for it, and what to do when an item has all it needs.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "connection.h"
#include "executor.h"
#include "query.h"
#include "types.h"

namespace spft {

// One distinct (database, text) of a batch.
struct Work {
    uint32_t database = 0;
    std::string_view sql;
    bool as_gold = false;
    bool from_cache = false;
    bool keep_rows = false;  // a candidate for an ordered gold
    std::shared_ptr<Result> result;
    Outcome outcome;  // of `result`, once that is let go
    std::vector<Digest> rows;
};

class Batch {
  public:
    // `mentions`: texts that will be added at most.
    Batch(const std::vector<std::string>& paths, Compare compare, size_t mentions);

    // The number of the work for this text; the same text on the same database is one work.
    uint32_t add(uint32_t database, std::string_view sql);

    // Settles works by their presets and lists the rest to be run, database after database.
    void arrange(const std::vector<Preset>& presets);

    // Takes the next run of `order`: [begin, end); false when nothing is left.
    bool take(size_t threads, size_t& begin, size_t& end);
    // Hands the rest of a run to whoever asks next, one query at a time.
    void give_back(size_t begin, size_t end);
    bool exhausted() const;

    std::vector<DatabaseFile> files;
    Compare compare;
    std::vector<Work> works;
    std::vector<uint32_t> order;  // works to run
    std::atomic<int64_t> done{0};
    std::atomic<bool> cancelled{false};
    std::exception_ptr failure;            // guarded by the pool's mutex
    size_t threads_inside = 0;             // guarded by the pool's mutex
    std::function<void(uint32_t)> settle;  // called when a work has its result
    Table* table = nullptr;

  private:
    std::deque<std::string> texts_;  // those that the comparison rewrote
    // An open-addressing table of works by hash: half the slots stay empty, so probes are short,
    // and a million texts cost no allocation each.
    struct Slot {
        uint64_t hash = 0;
        uint32_t work = kEmpty;
    };
    static constexpr uint32_t kEmpty = UINT32_MAX;
    std::vector<Slot> slots_;
    std::atomic<size_t> cursor_{0};
    std::mutex returned_mutex_;
    std::vector<std::pair<size_t, size_t>> returned_;  // guarded
    std::atomic<size_t> returned_count_{0};            // of queries in it
};

}  // namespace spft
