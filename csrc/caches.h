// What outlives a batch: each thread's open databases, and the results of golds.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>

#include "connection.h"
#include "query.h"
#include "types.h"

namespace spft {

// Connections of one thread, the least recently used closed first. Not shared between threads.
class ConnectionCache {
  public:
    ConnectionCache(size_t capacity, const Limits& limits);

    // `opened` tells whether the connection is new.
    Connection& get(const DatabaseFile& file, bool& opened);

    // A connection whose database failed is opened afresh next time.
    void drop(const DatabaseFile& file);

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

// Results of golds across batches, the least recently used dropped beyond a budget of bytes.
class GoldCache {
  public:
    explicit GoldCache(int64_t budget) : budget_(budget) {}

    static std::string key(const DatabaseFile& file, Compare compare, std::string_view sql);

    std::shared_ptr<Result> get(const std::string& key);
    void put(std::string key, const std::shared_ptr<Result>& result);

    bool enabled() const { return budget_ > 0; }
    int64_t bytes() const;
    int64_t entries() const;

  private:
    struct Entry {
        std::string key;
        std::shared_ptr<Result> result;
        int64_t size;
    };

    mutable std::mutex mutex_;
    int64_t budget_;
    int64_t bytes_ = 0;
    std::list<Entry> entries_;
    std::unordered_map<std::string_view, std::list<Entry>::iterator> index_;
};

}  // namespace spft
