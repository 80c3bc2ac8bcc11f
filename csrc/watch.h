// What a running query has used of its steps and its time, and what stopped it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace spft {

// Set before a query runs; read and written by the thread that runs it alone.
struct Watch {
    int64_t steps_limit = 0;
    int64_t steps_per_call = 0;
    int64_t steps = 0;
    int64_t deadline_ns = 0;          // of std::chrono::steady_clock
    const void* cancelled = nullptr;  // std::atomic<bool>
    enum class Stop : uint8_t { None, Steps, Time, Cancel } stop = Stop::None;

    // Counts `more` steps; false when the query must end, with `stop` saying why. Functions that
    // do much inside one step of the virtual machine count that work here, in their own coin.
    bool charge(int64_t more) {
        steps += more;
        if (steps >= steps_limit) {
            stop = Stop::Steps;
        } else if (cancelled != nullptr && static_cast<const std::atomic<bool>*>(cancelled)->load(
                                               std::memory_order_relaxed)) {
            stop = Stop::Cancel;
        } else if (std::chrono::duration_cast<std::chrono::nanoseconds>(
                       std::chrono::steady_clock::now().time_since_epoch())
                       .count() >= deadline_ns) {
            stop = Stop::Time;
        }
        return stop == Stop::None;
    }
};

}  // namespace spft
