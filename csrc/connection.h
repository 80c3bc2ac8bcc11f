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
#include <functional>
#include <string>
#include <string_view>
#include <unordered_set>

#include "sqlite_api.h"
#include "types.h"
#include "watch.h"

namespace spft {

// A database file as it is now. `error` says why it cannot be used, and names the file.
struct DatabaseFile {
    std::string path;
    std::string identity;  // key of the caches; empty when there is an error
    std::string error;
};

DatabaseFile inspect_file(const std::string& path);

// Lower-case names, looked up without making a string.
struct NameHash {
    using is_transparent = void;
    size_t operator()(std::string_view name) const { return std::hash<std::string_view>()(name); }
};
using Names = std::unordered_set<std::string, NameHash, std::equal_to<>>;

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
    // What the text that was compiled last does, in view of full-text search: a pattern of tens of
    // thousands of terms runs for half a minute inside one step, out of reach of every limit.
    struct Uses {
        bool full_text = false;  // reads a full-text table
        bool growth = false;     // may build a text far longer than itself
        bool clock = false;      // calls a date function, which may read the clock
    } uses;
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
    bool own_table(std::string_view table);
    int deny(std::string what);
    bool fail(int rc, const char* doing);
    void open();
    bool configure();
    bool read_schema();
    bool connect_virtual_tables();

    std::string path_;
    std::string error_;
    sqlite3* db_ = nullptr;
    Limits limits_;
    bool fold_case_ = false;
    bool trim_right_ = false;
    Names readable_;   // lower-case names of the database's own tables
    Names refused_;    // tables of modules that are not allowed
    Names full_text_;  // those of the readable ones that are full-text tables
    Names modules_;    // modules SQLite knows, usable as tables or not
    // The readable table asked about last: SQLite asks once for each column a query mentions.
    std::string last_table_;
};

}  // namespace spft
