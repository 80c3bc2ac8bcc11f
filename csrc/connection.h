// One sandboxed, read-only connection, and the identity of the file it was opened on.
//
// The sandbox has three walls, so that a hole in one is not a hole in all: the authorizer and the
// statement checks here (what may be compiled), SQLite's own switches (DEFENSIVE, no trusted
// schema, no ATTACH, limits), and the file system of vfs.h (what may be opened).
//
// What `immutable=1` costs: it skips locks and change counters, which is most of the speed of tiny
// queries, and it ignores a write-ahead log and a hot journal. So a database with either beside it
// is refused, and connections are keyed by path, device, inode, size and modification time: a
// replaced file is a different database.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_set>

#include "sqlite_api.h"
#include "types.h"

namespace spft {

// A database file as it is now. `error` says why it cannot be used, and names the file.
struct DatabaseFile {
    std::string path;
    std::string identity;  // key of the caches; empty when there is an error
    std::string error;
};

DatabaseFile inspect_file(const std::string& path);

// What ended a query from inside SQLite's callbacks, and the counters they check.
struct Watch {
    int64_t steps_limit = 0;
    int64_t steps_per_call = 0;
    int64_t steps = 0;
    int64_t deadline_ns = 0;          // of std::chrono::steady_clock
    const void* cancelled = nullptr;  // std::atomic<bool>
    enum class Stop : uint8_t { None, Steps, Time, Cancel } stop = Stop::None;
};

class Connection {
  public:
    // Opens and sandboxes; on failure `error()` is set and the connection is unusable.
    Connection(const DatabaseFile& file, const Limits& limits);
    ~Connection();
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;

    const std::string& error() const { return error_; }
    sqlite3* handle() const { return db_; }
    const std::string& path() const { return path_; }

    // True while the text of a query is compiled, false while it runs: FTS5 compiles statements of
    // its own when it runs, and one of them is a PRAGMA that no query may hold.
    bool compiling = false;
    // What the authorizer refused last; empty when nothing.
    std::string denied;
    Watch watch;

    // The schema's text names these collations, so ties of sort keys are judged under them.
    bool fold_case() const { return fold_case_; }
    bool trim_right() const { return trim_right_; }

  private:
    static int authorize(void* self, int action, const char* first, const char* second,
                         const char* database, const char* view);
    static int on_progress(void* self);
    int decide(int action, const char* first, const char* second, const char* database);
    bool readable(std::string_view table, std::string_view column, const char* database);
    int deny(std::string what);
    bool fail(int rc, const char* doing);
    bool configure();
    bool read_schema();
    void connect_virtual_tables();

    std::string path_;
    std::string error_;
    sqlite3* db_ = nullptr;
    Limits limits_;
    bool fold_case_ = false;
    bool trim_right_ = false;
    std::unordered_set<std::string> readable_;  // lower-case names of the database's own tables
    std::unordered_set<std::string> refused_;   // tables of modules that are not allowed
    std::unordered_set<std::string> modules_;   // modules SQLite knows, usable as tables or not
};

}  // namespace spft
