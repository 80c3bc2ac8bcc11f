// A thread that interrupts queries past their deadline or of a cancelled batch.
//
// The progress callback sees a deadline only every thousand steps, and a thousand steps can hold a
// thousand slow functions. SQLite looks at its interrupt flag at every jump, so an interrupt ends a
// query within one step of the deadline, and within one period of a cancellation.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "sqlite_api.h"

namespace spft {

class Watchdog {
  public:
    // One slot for each thread of the pool.
    explicit Watchdog(size_t slots);
    ~Watchdog();
    Watchdog(const Watchdog&) = delete;
    Watchdog& operator=(const Watchdog&) = delete;

    // Watches a query on `db` while it lives; `deadline_ns` is of std::chrono::steady_clock.
    class Guard {
      public:
        Guard(Watchdog& dog, size_t slot, sqlite3* db, int64_t deadline_ns,
              const std::atomic<bool>* cancelled);
        ~Guard();
        Guard(const Guard&) = delete;
        Guard& operator=(const Guard&) = delete;

      private:
        Watchdog& dog_;
        size_t slot_;
    };

  private:
    struct Slot {
        std::mutex mutex;
        sqlite3* db = nullptr;
        int64_t deadline_ns = 0;
        const std::atomic<bool>* cancelled = nullptr;
    };

    void watch();

    std::vector<Slot> slots_;
    std::mutex mutex_;
    std::condition_variable wake_;
    bool closing_ = false;
    std::thread thread_;
};

}  // namespace spft
