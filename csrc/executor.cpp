// The executor: a fixed pool of threads that runs batches of queries and judges them.
#include "executor.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <list>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <unordered_map>
#include <utility>

#include "connection.h"
#include "lexer.h"
#include "sqlite_api.h"
#include "vfs.h"

namespace spft {
namespace {

constexpr auto kPollInterval = std::chrono::milliseconds(50);
constexpr size_t kLongestRun = 32;

// Connections of one thread, least recently used last.
class ConnectionCache {
  public:
    ConnectionCache(size_t capacity, const Limits& limits) : capacity_(capacity), limits_(limits) {}

    Connection& get(const DatabaseFile& file, bool& opened) {
        const auto found = index_.find(file.identity);
        if (found != index_.end()) {
            entries_.splice(entries_.begin(), entries_, found->second);
            opened = false;
            return *entries_.front().connection;
        }
        if (entries_.size() >= capacity_) {
            index_.erase(entries_.back().identity);
            entries_.pop_back();
        }
        entries_.push_front({file.identity, std::make_unique<Connection>(file, limits_)});
        index_.emplace(file.identity, entries_.begin());
        opened = true;
        return *entries_.front().connection;
    }

    // A connection whose database failed is opened afresh next time.
    void drop(const DatabaseFile& file) {
        const auto found = index_.find(file.identity);
        if (found == index_.end()) return;
        entries_.erase(found->second);
        index_.erase(found);
    }

  private:
    struct Entry {
        std::string identity;
        std::unique_ptr<Connection> connection;
    };
    size_t capacity_;
    Limits limits_;
    std::list<Entry> entries_;
    std::unordered_map<std::string, std::list<Entry>::iterator> index_;
};

// Results of golds across batches, least recently used dropped beyond a budget of bytes.
class GoldCache {
  public:
    explicit GoldCache(int64_t budget) : budget_(budget) {}

    std::shared_ptr<const Result> get(const std::string& key) {
        const auto found = index_.find(key);
        if (found == index_.end()) return nullptr;
        entries_.splice(entries_.begin(), entries_, found->second);
        return found->second->result;
    }

    void put(std::string key, std::shared_ptr<const Result> result) {
        const int64_t size = cost(key, *result);
        if (size > budget_ || index_.contains(key)) return;
        entries_.push_front({std::move(key), std::move(result), size});
        index_.emplace(entries_.front().key, entries_.begin());
        bytes_ += size;
        while (bytes_ > budget_) {
            bytes_ -= entries_.back().size;
            index_.erase(entries_.back().key);
            entries_.pop_back();
        }
    }

    int64_t bytes() const { return bytes_; }
    int64_t entries() const { return static_cast<int64_t>(index_.size()); }

  private:
    struct Entry {
        std::string key;
        std::shared_ptr<const Result> result;
        int64_t size;
    };

    static int64_t cost(const std::string& key, const Result& result) {
        // The list and map nodes take about 200 bytes beside what the entry itself holds.
        return static_cast<int64_t>(200 + key.size() + sizeof(Result) +
                                    result.outcome.message.size() +
                                    result.groups.size() * sizeof(TieGroup));
    }

    int64_t budget_;
    int64_t bytes_ = 0;
    std::list<Entry> entries_;
    std::unordered_map<std::string_view, std::list<Entry>::iterator> index_;
};

std::string gold_key(const DatabaseFile& file, std::string_view sql) {
    std::string key = file.identity;
    key.push_back('\0');
    key.append(sql);
    return key;
}

// One distinct (database, text) of a batch.
struct Work {
    uint32_t database;
    std::string_view sql;
    bool as_gold = false;
    bool keep_rows = false;  // a candidate for an ordered gold
    std::shared_ptr<const Result> result;
    std::vector<Digest> rows;
    std::vector<uint32_t> items;  // those that wait for it, once per mention
};

struct WorkKey {
    uint32_t database;
    std::string_view sql;
    bool operator==(const WorkKey&) const = default;
};
struct WorkKeyHash {
    size_t operator()(const WorkKey& key) const {
        return std::hash<std::string_view>()(key.sql) ^ (key.database * 0x9E3779B97F4A7C15ULL);
    }
};

// A batch: what is to run, who waits for it, and what to do when an item has all it needs.
struct Batch {
    std::vector<DatabaseFile> files;
    std::vector<Work> works;
    std::unordered_map<WorkKey, uint32_t, WorkKeyHash> index;
    std::vector<uint32_t> order;  // works to run, sorted by database
    std::atomic<size_t> cursor{0};
    std::unique_ptr<std::atomic<uint32_t>[]> missing;  // per item: mentions not yet run
    std::unique_ptr<std::atomic<uint32_t>[]> readers;  // per work: mentions not yet judged
    std::function<void(uint32_t)> judge;               // item
    Table* table = nullptr;
    std::atomic<bool> cancelled{false};

    uint32_t add(uint32_t database, std::string_view sql) {
        const auto [place, fresh] =
            index.try_emplace({database, sql}, static_cast<uint32_t>(works.size()));
        if (fresh) {
            Work work;
            work.database = database;
            work.sql = sql;
            works.push_back(std::move(work));
        }
        return place->second;
    }
};

}  // namespace

struct Executor::State {
    Limits limits;
    size_t connections_per_thread;
    GoldCache golds;

    std::mutex batches;  // held by the caller whose batch runs

    std::mutex mutex;  // guards all below
    std::condition_variable start;
    std::condition_variable finish;
    Batch* batch = nullptr;
    uint64_t generation = 0;
    size_t busy = 0;
    bool closing = false;
    Counters counters;
    std::vector<std::thread> threads;

    State(const Limits& limits_, int connections, int64_t gold_cache_bytes)
        : limits(limits_),
          connections_per_thread(static_cast<size_t>(std::max(connections, 1))),
          golds(gold_cache_bytes) {}

    void worker() {
        ConnectionCache connections(connections_per_thread, limits);
        uint64_t seen = 0;
        while (true) {
            Batch* current;
            {
                std::unique_lock lock(mutex);
                start.wait(lock, [&] { return closing || generation != seen; });
                if (closing) return;
                seen = generation;
                current = batch;
            }
            Counters local;
            serve(*current, connections, local);
            {
                const std::lock_guard lock(mutex);
                counters.executed += local.executed;
                counters.connections_opened += local.connections_opened;
                counters.connections_reused += local.connections_reused;
                for (size_t i = 0; i < counters.statuses.size(); ++i) {
                    counters.statuses[i] += local.statuses[i];
                }
                if (--busy == 0) finish.notify_one();
            }
        }
    }

    void serve(Batch& current, ConnectionCache& connections, Counters& local) {
        const size_t total = current.order.size();
        const size_t sharers = 4 * threads.size();
        while (true) {
            size_t begin = current.cursor.load(std::memory_order_relaxed);
            size_t count;
            do {
                if (begin >= total) return;
                count = std::clamp<size_t>((total - begin) / sharers, 1, kLongestRun);
            } while (!current.cursor.compare_exchange_weak(begin, begin + count));
            for (size_t i = begin; i < begin + count; ++i) {
                if (current.cancelled.load(std::memory_order_relaxed)) return;
                run(current, current.order[i], connections, local);
            }
        }
    }

    void run(Batch& current, uint32_t number, ConnectionCache& connections, Counters& local) {
        Work& work = current.works[number];
        const DatabaseFile& file = current.files[work.database];
        auto result = std::make_shared<Result>();
        try {
            if (!file.error.empty()) {
                result->outcome.message = file.error;
            } else {
                bool opened = false;
                Connection& connection = connections.get(file, opened);
                ++(opened ? local.connections_opened : local.connections_reused);
                if (!connection.error().empty()) {
                    result->outcome.message = connection.error();
                } else {
                    Wanted wanted;
                    wanted.as_gold = work.as_gold;
                    wanted.rows = work.keep_rows ? &work.rows : nullptr;
                    wanted.table = current.table;
                    wanted.cancelled = &current.cancelled;
                    *result = run_query(connection, work.sql, limits, wanted);
                }
                if (result->outcome.status == Status::DatabaseError) connections.drop(file);
            }
        } catch (const std::bad_alloc&) {
            *result = {};
            result->outcome.message = "out of memory";
            work.rows = {};
        }
        ++local.executed;
        ++local.statuses[static_cast<size_t>(result->outcome.status)];
        work.result = std::move(result);
        settle(current, work);
    }

    // Judges the items whose last missing execution this was.
    static void settle(Batch& current, const Work& work) {
        for (const uint32_t item : work.items) {
            if (current.missing[item].fetch_sub(1, std::memory_order_acq_rel) == 1) {
                current.judge(item);
            }
        }
    }

    // Runs what `current.order` lists and waits, asking `poll` now and then.
    void submit(Batch& current, const Poll& poll) {
        std::stable_sort(current.order.begin(), current.order.end(), [&](uint32_t a, uint32_t b) {
            return current.works[a].database < current.works[b].database;
        });
        if (current.order.empty()) return;
        std::unique_lock lock(mutex);
        batch = &current;
        ++generation;
        busy = threads.size();
        start.notify_all();
        bool stopped = false;
        while (!finish.wait_for(lock, kPollInterval, [&] { return busy == 0; })) {
            if (stopped) continue;
            lock.unlock();
            stopped = !poll();
            if (stopped) current.cancelled = true;
            lock.lock();
        }
        batch = nullptr;
        if (stopped) throw Cancelled{};
    }

    void inspect(Batch& current, const std::vector<std::string>& paths) {
        current.files.reserve(paths.size());
        for (const std::string& path : paths) current.files.push_back(inspect_file(path));
    }

    void count(int64_t queries, int64_t distinct, int64_t hits, int64_t misses) {
        const std::lock_guard lock(mutex);
        counters.queries += queries;
        counters.duplicates += queries - distinct;
        counters.gold_hits += hits;
        counters.gold_misses += misses;
        counters.gold_bytes = golds.bytes();
        counters.gold_entries = golds.entries();
    }
};

Executor::Executor(int threads, const Limits& limits, int connections_per_thread,
                   int64_t gold_cache_bytes)
    : state_(nullptr), process_(::getpid()) {
    if (!sqlite_attached()) {
        throw std::runtime_error(
            "SQLite is not attached to spftcore._executor: create executors through "
            "spftcore.verify.Executor, which lets apsw load it first.");
    }
    if (!register_read_only_vfs()) throw std::runtime_error("SQLite refused the file system.");
    auto state = std::make_unique<State>(limits, connections_per_thread, gold_cache_bytes);
    state_ = state.release();
    for (int i = 0; i < std::max(threads, 1); ++i) {
        state_->threads.emplace_back([state = state_] { state->worker(); });
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

int Executor::threads() const { return static_cast<int>(state_->threads.size()); }

Counters Executor::counters() const {
    const std::lock_guard lock(state_->mutex);
    return state_->counters;
}

Executed Executor::execute(const std::vector<std::string>& paths, const std::vector<Query>& queries,
                           const Poll& poll) {
    const std::lock_guard lock(state_->batches);
    Batch batch;
    state_->inspect(batch, paths);
    Executed executed;
    executed.of_query.reserve(queries.size());
    for (const Query& query : queries) {
        executed.of_query.push_back(batch.add(query.database, query.sql));
    }
    for (uint32_t i = 0; i < batch.works.size(); ++i) batch.order.push_back(i);
    state_->submit(batch, poll);
    state_->count(static_cast<int64_t>(queries.size()), static_cast<int64_t>(batch.works.size()), 0,
                  0);
    executed.outcomes.reserve(batch.works.size());
    for (const Work& work : batch.works) executed.outcomes.push_back(work.result->outcome);
    return executed;
}

Verified Executor::verify(const std::vector<std::string>& paths, const std::vector<Item>& items,
                          const Poll& poll) {
    const std::lock_guard lock(state_->batches);
    Batch batch;
    state_->inspect(batch, paths);
    Verified verified;
    verified.gold.reserve(items.size());
    verified.judged.resize(items.size());
    int64_t mentions = 0;
    for (size_t i = 0; i < items.size(); ++i) {
        const Item& item = items[i];
        const uint32_t gold = batch.add(item.database, item.gold);
        verified.gold.push_back(gold);
        batch.works[gold].as_gold = true;
        // A loose test suffices here: a text that merely mentions "order" keeps a few digests more.
        const bool ordered = may_have_order(item.gold);
        for (const std::string_view sql : item.candidates) {
            const uint32_t candidate = batch.add(item.database, sql);
            verified.judged[i].push_back({{}, candidate});
            if (ordered && candidate != gold) batch.works[candidate].keep_rows = true;
        }
        mentions += 1 + static_cast<int64_t>(item.candidates.size());
    }

    // Golds seen before, unless the same text is also a candidate whose rows are needed.
    int64_t hits = 0;
    int64_t misses = 0;
    for (uint32_t i = 0; i < batch.works.size(); ++i) {
        Work& work = batch.works[i];
        const DatabaseFile& file = batch.files[work.database];
        if (work.as_gold && file.error.empty()) {
            if (!work.keep_rows) work.result = state_->golds.get(gold_key(file, work.sql));
            ++(work.result != nullptr ? hits : misses);
        }
        if (work.result == nullptr) batch.order.push_back(i);
    }
    const auto fresh = batch.order;

    batch.missing = std::make_unique<std::atomic<uint32_t>[]>(items.size());
    batch.readers = std::make_unique<std::atomic<uint32_t>[]>(batch.works.size());
    for (uint32_t i = 0; i < items.size(); ++i) {
        uint32_t missing = 0;
        const auto wait_for = [&](uint32_t number) {
            Work& work = batch.works[number];
            if (work.result != nullptr) return;
            work.items.push_back(i);
            ++missing;
        };
        wait_for(verified.gold[i]);
        for (const Judged& judged : verified.judged[i]) {
            wait_for(judged.candidate);
            batch.readers[judged.candidate].fetch_add(1, std::memory_order_relaxed);
        }
        batch.missing[i].store(missing, std::memory_order_relaxed);
    }
    batch.judge = [&](uint32_t i) {
        const Work& gold = batch.works[verified.gold[i]];
        for (Judged& judged : verified.judged[i]) {
            Work& candidate = batch.works[judged.candidate];
            judged.judgement = judge_bag(*gold.result, *candidate.result, candidate.rows);
            if (batch.readers[judged.candidate].fetch_sub(1, std::memory_order_acq_rel) == 1) {
                candidate.rows = {};  // nobody else compares it
            }
        }
    };
    for (uint32_t i = 0; i < items.size(); ++i) {
        if (batch.missing[i].load(std::memory_order_relaxed) == 0) batch.judge(i);
    }
    state_->submit(batch, poll);

    for (const uint32_t number : fresh) {
        const Work& work = batch.works[number];
        if (work.as_gold && repeatable(work.result->outcome.status)) {
            state_->golds.put(gold_key(batch.files[work.database], work.sql), work.result);
        }
    }
    state_->count(mentions, static_cast<int64_t>(batch.works.size()), hits, misses);
    verified.outcomes.reserve(batch.works.size());
    for (const Work& work : batch.works) verified.outcomes.push_back(work.result->outcome);
    return verified;
}

Outcome Executor::rows(const std::string& path, std::string_view sql, Table& table,
                       const Poll& poll) {
    const std::lock_guard lock(state_->batches);
    Batch batch;
    state_->inspect(batch, {path});
    batch.table = &table;
    batch.order.push_back(batch.add(0, sql));
    state_->submit(batch, poll);
    state_->count(1, 1, 0, 0);
    return batch.works[0].result->outcome;
}

}  // namespace spft
