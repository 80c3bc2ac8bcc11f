// A thread that interrupts queries past their deadline or of a cancelled batch.
#include "watchdog.h"

#include <chrono>

namespace spft {
namespace {

constexpr auto kPeriod = std::chrono::milliseconds(20);

int64_t now_ns() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

}  // namespace

Watchdog::Watchdog(size_t slots) : slots_(slots), thread_([this] { watch(); }) {}

Watchdog::~Watchdog() {
    {
        const std::lock_guard lock(mutex_);
        closing_ = true;
        wake_.notify_one();
    }
    thread_.join();
}

void Watchdog::watch() {
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, kPeriod, [this] { return closing_; })) {
        const int64_t now = now_ns();
        for (Slot& slot : slots_) {
            // The slot's lock keeps the connection open and the query the one it was set for. An
            // interrupt is lost on a statement that has not started: the next round repeats it.
            const std::lock_guard held(slot.mutex);
            if (slot.db == nullptr) continue;
            const bool cancelled =
                slot.cancelled != nullptr && slot.cancelled->load(std::memory_order_relaxed);
            if (cancelled || now >= slot.deadline_ns) sqlite3_interrupt(slot.db);
        }
    }
}

Watchdog::Guard::Guard(Watchdog& dog, size_t slot, sqlite3* db, int64_t deadline_ns,
                       const std::atomic<bool>* cancelled)
    : dog_(dog), slot_(slot) {
    Slot& mine = dog_.slots_[slot_];
    const std::lock_guard held(mine.mutex);
    mine.db = db;
    mine.deadline_ns = deadline_ns;
    mine.cancelled = cancelled;
}

Watchdog::Guard::~Guard() {
    Slot& mine = dog_.slots_[slot_];
    const std::lock_guard held(mine.mutex);
    mine.db = nullptr;
}

}  // namespace spft
