// What outlives a batch: each thread's open databases, and the results of golds.
#include "caches.h"

#include <utility>

namespace spft {
namespace {

// The list and map nodes take about this much beside what an entry itself holds.
constexpr size_t kNodeBytes = 200;

int64_t cost(const std::string& key, const Result& result) {
    return static_cast<int64_t>(
        kNodeBytes + key.size() + sizeof(Result) + result.outcome.message.size() +
        result.groups.size() * sizeof(TieGroup) + result.cells.size() * sizeof(Digest));
}

}  // namespace

ConnectionCache::ConnectionCache(size_t capacity, const Limits& limits)
    : capacity_(capacity), limits_(limits) {}

Connection& ConnectionCache::get(const DatabaseFile& file, bool& opened) {
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

void ConnectionCache::drop(const DatabaseFile& file) {
    const auto found = index_.find(file.identity);
    if (found == index_.end()) return;
    entries_.erase(found->second);
    index_.erase(found);
}

std::string GoldCache::key(const DatabaseFile& file, Compare compare, std::string_view sql) {
    std::string key;
    key.reserve(file.identity.size() + sql.size() + 2);
    key.push_back(static_cast<char>('0' + static_cast<int>(compare)));
    key.append(file.identity);
    key.push_back('\0');
    key.append(sql);
    return key;
}

std::shared_ptr<Result> GoldCache::get(const std::string& key) {
    const std::lock_guard lock(mutex_);
    const auto found = index_.find(key);
    if (found == index_.end()) return nullptr;
    entries_.splice(entries_.begin(), entries_, found->second);
    return found->second->result;
}

void GoldCache::put(std::string key, const std::shared_ptr<Result>& result) {
    const int64_t size = cost(key, *result);
    const std::lock_guard lock(mutex_);
    if (size > budget_ || index_.contains(key)) return;
    entries_.push_front({std::move(key), result, size});
    index_.emplace(entries_.front().key, entries_.begin());
    bytes_ += size;
    while (bytes_ > budget_) {
        bytes_ -= entries_.back().size;
        index_.erase(entries_.back().key);
        entries_.pop_back();
    }
}

int64_t GoldCache::bytes() const {
    const std::lock_guard lock(mutex_);
    return bytes_;
}

int64_t GoldCache::entries() const {
    const std::lock_guard lock(mutex_);
    return static_cast<int64_t>(index_.size());
}

}  // namespace spft
