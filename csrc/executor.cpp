// The executor: a fixed pool of threads that runs batches of queries and judges them.
#include "executor.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <list>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <utility>

#include "batch.h"
#include "caches.h"
#include "lexer.h"
#include "sqlite_api.h"
#include "vfs.h"
#include "watchdog.h"

namespace spft {
namespace {

constexpr auto kPollInterval = std::chrono::milliseconds(40);

// A thread whose run took this long hands the rest of it to whoever is free.
constexpr int64_t kLongRunNs = 5'000'000;

int64_t now_ns() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

// What one thread of the pool holds.
struct Worker {
    size_t number;
    ConnectionCache connections;
    Counters counters;
};

// The judging of a batch: items wait for their executions, and the thread that ends an item's last
// one judges it. Results are let go as soon as nobody compares them any more.
class Judging {
  public:
    Judging(Batch& batch, Verified& verified, GoldCache& golds)
        : batch_(batch),
          verified_(verified),
          golds_(golds),
          missing_(std::make_unique<std::atomic<uint32_t>[]>(verified.gold.size())),
          readers_(std::make_unique<std::atomic<uint32_t>[]>(batch.works.size())),
          begin_(batch.works.size() + 1) {
        const auto items = static_cast<uint32_t>(verified.gold.size());
        for (uint32_t i = 0; i < items; ++i) {
            uint32_t missing = 0;
            each_work(i, [&](uint32_t number) {
                readers_[number].fetch_add(1, std::memory_order_relaxed);
                if (batch_.works[number].result != nullptr) return;
                ++begin_[number + 1];
                ++missing;
            });
            missing_[i].store(missing, std::memory_order_relaxed);
        }
        std::partial_sum(begin_.begin(), begin_.end(), begin_.begin());
        waiting_.resize(begin_.back());
        std::vector<uint64_t> next(begin_.begin(), begin_.end() - 1);
        for (uint32_t i = 0; i < items; ++i) {
            each_work(i, [&](uint32_t number) {
                if (batch_.works[number].result == nullptr) waiting_[next[number]++] = i;
            });
        }
    }

    // Items that wait for nothing: their results are cached or preset.
    void judge_settled() {
        for (uint32_t i = 0; i < verified_.gold.size(); ++i) {
            if (missing_[i].load(std::memory_order_relaxed) == 0) judge(i);
        }
    }

    void settle(uint32_t number) {
        for (uint64_t k = begin_[number]; k < begin_[number + 1]; ++k) {
            const uint32_t item = waiting_[k];
            if (missing_[item].fetch_sub(1, std::memory_order_acq_rel) == 1) judge(item);
        }
    }

  private:
    template <typename Do>
    void each_work(uint32_t item, Do action) {
        action(verified_.gold[item]);
        for (uint64_t k = verified_.offsets[item]; k < verified_.offsets[item + 1]; ++k) {
            action(verified_.judged[k].candidate);
        }
    }

    void judge(uint32_t item) {
        const Result& gold = *batch_.works[verified_.gold[item]].result;
        for (uint64_t k = verified_.offsets[item]; k < verified_.offsets[item + 1]; ++k) {
            const Work& candidate = batch_.works[verified_.judged[k].candidate];
            verified_.judged[k].judgement =
                spft::judge(batch_.compare, gold, *candidate.result, candidate.rows);
        }
        each_work(item, [&](uint32_t number) {
            if (readers_[number].fetch_sub(1, std::memory_order_acq_rel) == 1) retire(number);
        });
    }

    void retire(uint32_t number) {
        Work& work = batch_.works[number];
        work.outcome = work.result->outcome;
        work.rows = {};
        if (work.as_gold && !work.from_cache && golds_.enabled() &&
            repeatable(work.outcome.status) && !work.result->reads_clock) {
            golds_.put(GoldCache::key(batch_.files[work.database], batch_.compare, work.sql),
                       work.result);
        }
        work.result.reset();
    }

    Batch& batch_;
    Verified& verified_;
    GoldCache& golds_;
    std::unique_ptr<std::atomic<uint32_t>[]> missing_;  // per item: mentions not yet run
    std::unique_ptr<std::atomic<uint32_t>[]> readers_;  // per work: mentions not yet judged
    std::vector<uint64_t> begin_;    // per work, and one more: where its waiting items begin
    std::vector<uint32_t> waiting_;  // items, once per mention
};

}  // namespace

struct Executor::State {
    Limits limits;
    size_t connections_per_thread;
    size_t pool;
    RunningQuery* running;
    GoldCache golds;
    Watchdog watchdog;

    std::mutex mutex;  // guards all below
    std::condition_variable start;
    std::condition_variable finish;
    std::list<Batch*> batches;  // oldest first
    bool closing = false;
    Counters counters;
    std::vector<std::thread> threads;

    State(int threads_, const Limits& limits_, int connections, int64_t gold_cache_bytes,
          RunningQuery* running_)
        : limits(limits_),
          connections_per_thread(static_cast<size_t>(std::max(connections, 1))),
          pool(static_cast<size_t>(std::max(threads_, 1))),
          running(running_),
          golds(gold_cache_bytes),
          watchdog(pool) {}

    Batch* unfinished() {
        for (Batch* batch : batches) {
            if (!batch->exhausted()) return batch;
        }
        return nullptr;
    }

    void work(size_t number) {
        Worker worker{number, ConnectionCache(connections_per_thread, limits), {}};
        std::unique_lock lock(mutex);
        while (true) {
            Batch* batch = nullptr;
            start.wait(lock, [&] { return closing || (batch = unfinished()) != nullptr; });
            if (closing) return;
            ++batch->threads_inside;
            lock.unlock();
            try {
                serve(*batch, worker);
            } catch (...) {  // out of memory beside a query: the batch fails, the pool goes on
                const std::lock_guard held(mutex);
                batch->failure = std::current_exception();
                batch->cancelled = true;
            }
            lock.lock();
            add_up(worker.counters);
            worker.counters = {};
            if (--batch->threads_inside == 0) finish.notify_all();
        }
    }

    void add_up(const Counters& local) {
        counters.executed += local.executed;
        counters.connections_opened += local.connections_opened;
        counters.connections_reused += local.connections_reused;
        for (size_t i = 0; i < counters.statuses.size(); ++i) {
            counters.statuses[i] += local.statuses[i];
        }
    }

    void serve(Batch& batch, Worker& worker) {
        size_t begin = 0;
        size_t end = 0;
        while (batch.take(pool, begin, end)) {
            const int64_t started = now_ns();
            for (; begin < end; ++begin) {
                if (batch.cancelled.load(std::memory_order_relaxed)) return;
                run(batch, batch.order[begin], worker);
                batch.done.fetch_add(1, std::memory_order_relaxed);
                if (begin + 1 < end && now_ns() - started > kLongRunNs) {
                    // Slow queries lie together: the others shall not wait behind this one.
                    batch.give_back(begin + 1, end);
                    const std::lock_guard lock(mutex);
                    start.notify_all();
                    break;
                }
            }
        }
    }

    void run(Batch& batch, uint32_t number, Worker& worker) {
        Work& work = batch.works[number];
        auto result = std::make_shared<Result>();
        // Opening the file and judging count too: a crash there is this query's.
        if (running != nullptr) {
            running->query = query_digest(batch.files[work.database].path, work.sql, Compare::Bag);
            running->started_ns.store(now_ns(), std::memory_order_release);
        }
        try {
            run_on_file(batch, work, worker, *result);
        } catch (const std::bad_alloc&) {
            *result = {};
            result->outcome.message = "out of memory";
            work.rows = {};
        }
        ++worker.counters.executed;
        ++worker.counters.statuses[static_cast<size_t>(result->outcome.status)];
        work.result = std::move(result);
        if (batch.settle) batch.settle(number);
        if (running != nullptr) running->started_ns.store(0, std::memory_order_release);
    }

    void run_on_file(Batch& batch, Work& work, Worker& worker, Result& result) {
        const DatabaseFile& file = batch.files[work.database];
        if (!file.error.empty()) {
            result.outcome.message = file.error;
            return;
        }
        bool opened = false;
        Connection& connection = worker.connections.get(file, opened);
        ++(opened ? worker.counters.connections_opened : worker.counters.connections_reused);
        if (!connection.error().empty()) {
            result.outcome.message = connection.error();
        } else {
            Wanted wanted;
            wanted.as_gold = work.as_gold && batch.compare == Compare::Bag;
            wanted.rows = work.keep_rows ? &work.rows : nullptr;
            wanted.cells = batch.compare != Compare::Bag;
            wanted.spider = batch.compare == Compare::Spider;
            wanted.table = batch.table;
            wanted.cancelled = &batch.cancelled;
            const Watchdog::Guard guard(watchdog, worker.number, connection.handle(),
                                        now_ns() + static_cast<int64_t>(limits.seconds * 1e9),
                                        &batch.cancelled);
            result = run_query(connection, work.sql, limits, wanted);
        }
        if (result.outcome.status == Status::DatabaseError) worker.connections.drop(file);
    }

    // Runs what the batch lists and waits, asking `poll` now and then.
    void submit(Batch& batch, const Poll& poll) {
        const auto total = static_cast<int64_t>(batch.order.size());
        if (total == 0) return;
        std::unique_lock lock(mutex);
        const auto place = batches.insert(batches.end(), &batch);
        start.notify_all();
        while (!finish.wait_for(lock, kPollInterval,
                                [&] { return batch.threads_inside == 0 && batch.exhausted(); })) {
            if (batch.cancelled) continue;
            lock.unlock();
            if (!poll(batch.done.load(std::memory_order_relaxed), total)) batch.cancelled = true;
            lock.lock();
        }
        batches.erase(place);
        if (batch.failure) std::rethrow_exception(batch.failure);
        if (batch.cancelled) throw Cancelled{};
    }

    void count(int64_t queries, const Batch& batch, int64_t hits, int64_t misses) {
        const std::lock_guard lock(mutex);
        counters.queries += queries;
        counters.duplicates += queries - static_cast<int64_t>(batch.works.size());
        counters.gold_hits += hits;
        counters.gold_misses += misses;
    }
};

Executor::Executor(int threads, const Limits& limits, int connections_per_thread,
                   int64_t gold_cache_bytes, RunningQuery* running)
    : state_(nullptr), process_(::getpid()) {
    if (!sqlite_attached()) {
        throw std::runtime_error(
            "SQLite is not attached to spftcore._executor: create executors through "
            "spftcore.verify.Executor, which lets apsw load it first.");
    }
    if (!register_read_only_vfs()) throw std::runtime_error("SQLite refused the file system.");
    state_ = new State(threads, limits, connections_per_thread, gold_cache_bytes, running);
    for (size_t i = 0; i < state_->pool; ++i) {
        state_->threads.emplace_back([state = state_, i] { state->work(i); });
    }
}

Executor::~Executor() {
    if (state_ == nullptr || process_ != ::getpid()) return;
    {
        const std::lock_guard lock(state_->mutex);
        state_->closing = true;
        state_->start.notify_all();
    }
    for (std::thread& thread : state_->threads) thread.join();
    delete state_;
}

int Executor::threads() const { return static_cast<int>(state_->pool); }

Counters Executor::counters() const {
    const std::lock_guard lock(state_->mutex);
    Counters counters = state_->counters;
    counters.gold_bytes = state_->golds.bytes();
    counters.gold_entries = state_->golds.entries();
    return counters;
}

Executed Executor::execute(const std::vector<std::string>& paths, const std::vector<Query>& queries,
                           const std::vector<Preset>& presets, const Poll& poll) {
    Batch batch(paths, Compare::Bag, queries.size());
    Executed executed;
    executed.of_query.reserve(queries.size());
    for (const Query& query : queries) {
        executed.of_query.push_back(batch.add(query.database, query.sql));
    }
    batch.arrange(presets);
    batch.settle = [&](uint32_t number) {
        Work& work = batch.works[number];
        work.outcome = std::move(work.result->outcome);
        work.result.reset();
    };
    for (uint32_t i = 0; i < batch.works.size(); ++i) {
        if (batch.works[i].result != nullptr) batch.settle(i);
    }
    state_->submit(batch, poll);
    state_->count(static_cast<int64_t>(queries.size()), batch, 0, 0);
    executed.outcomes.reserve(batch.works.size());
    for (Work& work : batch.works) executed.outcomes.push_back(std::move(work.outcome));
    return executed;
}

Verified Executor::verify(const std::vector<std::string>& paths, const std::vector<Item>& items,
                          Compare compare, const std::vector<Preset>& presets, const Poll& poll) {
    size_t candidates = 0;
    for (const Item& item : items) candidates += item.candidates.size();
    Batch batch(paths, compare, items.size() + candidates);
    Verified verified;
    verified.judged.reserve(candidates);
    verified.gold.reserve(items.size());
    verified.offsets.reserve(items.size() + 1);
    verified.offsets.push_back(0);
    for (const Item& item : items) {
        const uint32_t gold = batch.add(item.database, item.gold);
        verified.gold.push_back(gold);
        batch.works[gold].as_gold = true;
        // A loose test suffices here: a text that merely mentions "order" keeps a few digests more.
        const bool ordered = compare == Compare::Bag && may_have_order(item.gold);
        for (const std::string_view sql : item.candidates) {
            const uint32_t candidate = batch.add(item.database, sql);
            verified.judged.push_back({{}, candidate});
            if (ordered && candidate != gold) batch.works[candidate].keep_rows = true;
        }
        verified.offsets.push_back(verified.judged.size());
    }

    // Golds seen before, unless the same text is also a candidate whose rows are needed.
    int64_t hits = 0;
    int64_t misses = 0;
    for (Work& work : batch.works) {
        const DatabaseFile& file = batch.files[work.database];
        if (!work.as_gold || !file.error.empty()) continue;
        if (!work.keep_rows && state_->golds.enabled()) {
            work.result = state_->golds.get(GoldCache::key(file, compare, work.sql));
            work.from_cache = work.result != nullptr;
        }
        ++(work.from_cache ? hits : misses);
    }
    batch.arrange(presets);
    Judging judging(batch, verified, state_->golds);
    batch.settle = [&](uint32_t number) { judging.settle(number); };
    judging.judge_settled();
    state_->submit(batch, poll);

    state_->count(static_cast<int64_t>(items.size() + verified.judged.size()), batch, hits, misses);
    verified.outcomes.reserve(batch.works.size());
    for (Work& work : batch.works) verified.outcomes.push_back(std::move(work.outcome));
    return verified;
}

Outcome Executor::rows(const std::string& path, std::string_view sql, Table& table,
                       const Poll& poll) {
    Batch batch({path}, Compare::Bag, 1);
    batch.table = &table;
    batch.add(0, sql);
    batch.arrange({});
    state_->submit(batch, poll);
    state_->count(1, batch, 0, 0);
    return batch.works[0].result->outcome;
}

}  // namespace spft
