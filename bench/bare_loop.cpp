// The least that running untrusted SQL costs on this SQLite: the limit bench/executor.py measures
// by.
//
// Each thread owns one read-only, immutable connection per database, open from one run to the next,
// with an authorizer that allows everything and a progress handler that never stops. A statement is
// compiled, stepped to its end and every column is read by its own type. Nothing is copied,
// compared, counted against a budget or kept.
//
// Like the executor it is a loadable extension, so that apsw hands it the SQLite inside apsw.

#include <sqlite3ext.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

SQLITE_EXTENSION_INIT1

namespace {

constexpr int kProgressSteps = 1000;  // as the executor's
constexpr std::int64_t kClaim = 32;   // statements a thread takes at a time

int allow(void*, int, const char*, const char*, const char*, const char*) { return SQLITE_OK; }
int go_on(void*) { return 0; }

struct Loop {
    std::vector<std::string> uris;
    std::vector<std::vector<sqlite3*>> connections;  // [thread][database], opened at first use
};

struct Totals {
    std::atomic<std::int64_t> rows{0};
    std::atomic<std::int64_t> failed{0};
    std::atomic<std::int64_t> sum{0};  // of what was read, so that no read can be left out
};

sqlite3* connect(const std::string& uri) {
    sqlite3* connection = nullptr;
    const int flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX;
    if (sqlite3_open_v2(uri.c_str(), &connection, flags, nullptr) != SQLITE_OK) {
        sqlite3_close(connection);
        return nullptr;
    }
    sqlite3_set_authorizer(connection, allow, nullptr);
    sqlite3_progress_handler(connection, kProgressSteps, go_on, nullptr);
    return connection;
}

std::int64_t read(sqlite3_stmt* statement, int column) {
    switch (sqlite3_column_type(statement, column)) {
        case SQLITE_INTEGER:
            return sqlite3_column_int64(statement, column);
        case SQLITE_FLOAT:
            return sqlite3_column_double(statement, column) > 0;
        case SQLITE_TEXT:
            return (sqlite3_column_text(statement, column) != nullptr) +
                   sqlite3_column_bytes(statement, column);
        case SQLITE_BLOB:
            return (sqlite3_column_blob(statement, column) != nullptr) +
                   sqlite3_column_bytes(statement, column);
        default:
            return 0;
    }
}

void work(Loop& loop, std::vector<sqlite3*>& connections, const std::int32_t* databases,
          const char* const* sqls, std::int64_t count, std::atomic<std::int64_t>& next,
          Totals& totals) {
    std::int64_t rows = 0;
    std::int64_t failed = 0;
    std::uint64_t sum = 0;
    for (;;) {
        const std::int64_t begin = next.fetch_add(kClaim);
        if (begin >= count) break;
        const std::int64_t end = begin + kClaim < count ? begin + kClaim : count;
        for (std::int64_t i = begin; i < end; ++i) {
            sqlite3*& connection = connections[databases[i]];
            if (!connection) connection = connect(loop.uris[databases[i]]);
            sqlite3_stmt* statement = nullptr;
            if (!connection ||
                sqlite3_prepare_v2(connection, sqls[i], -1, &statement, nullptr) != SQLITE_OK) {
                ++failed;
                continue;
            }
            const int columns = sqlite3_column_count(statement);
            int code = SQLITE_ROW;
            while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
                ++rows;
                for (int column = 0; column < columns; ++column) {
                    sum += static_cast<std::uint64_t>(read(statement, column));
                }
            }
            failed += code != SQLITE_DONE;
            sqlite3_finalize(statement);
        }
    }
    totals.rows += rows;
    totals.failed += failed;
    totals.sum += static_cast<std::int64_t>(sum);
}

}  // namespace

extern "C" {

int sqlite3_bareloop_init(sqlite3*, char**, const sqlite3_api_routines* api) {
    SQLITE_EXTENSION_INIT2(api);
    return SQLITE_OK_LOAD_PERMANENTLY;
}

// `uris`: one per database, with mode=ro&immutable=1.
void* bare_open(const char* const* uris, std::int32_t databases, std::int32_t threads) {
    auto* loop = new Loop;
    loop->uris.assign(uris, uris + databases);
    loop->connections.assign(threads, std::vector<sqlite3*>(databases, nullptr));
    return loop;
}

// Runs statement i on database `databases[i]`. Returns seconds from the start of the threads to the
// end of the last one.
double bare_run(void* handle, const std::int32_t* databases, const char* const* sqls,
                std::int64_t count, std::int64_t* rows, std::int64_t* failed) {
    auto& loop = *static_cast<Loop*>(handle);
    std::atomic<std::int64_t> next{0};
    Totals totals;
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> pool;
    for (auto& connections : loop.connections) {
        pool.emplace_back([&] { work(loop, connections, databases, sqls, count, next, totals); });
    }
    for (auto& thread : pool) thread.join();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    *rows = totals.rows;
    *failed = totals.failed;
    return seconds.count();
}

void bare_close(void* handle) {
    auto* loop = static_cast<Loop*>(handle);
    for (auto& connections : loop->connections) {
        for (sqlite3* connection : connections) sqlite3_close(connection);
    }
    delete loop;
}

}  // extern "C"
