// One sandboxed, read-only connection, and the identity of the file it was opened on.
#include "connection.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "full_text.h"
#include "functions.h"
#include "lexer.h"
#include "like.h"
#include "vfs.h"

namespace spft {
namespace {

// Functions a query may call: those whose result follows from their arguments (and, for dates, the
// clock). Left out on purpose: random() and randomblob() (the verdict would be chance); functions
// that no limit holds (docs/sandbox.md has the measurements): json_patch(), json_pretty(),
// json_group_array() and its like, median() and its like, matchinfo(), offsets(), highlight(),
// snippet(); load_extension(), fts3_tokenizer(), and what reports on the library or the connection.
// Names of the operators -> and ->> are function names too.
const std::unordered_set<std::string_view>& allowed_functions() {
    static const std::unordered_set<std::string_view> names = {
        "->",
        "->>",
        "abs",
        "acos",
        "acosh",
        "asin",
        "asinh",
        "atan",
        "atan2",
        "atanh",
        "avg",
        "bm25",
        "ceil",
        "ceiling",
        "char",
        "coalesce",
        "concat",
        "concat_ws",
        "cos",
        "cosh",
        "count",
        "cume_dist",
        "current_date",
        "current_time",
        "current_timestamp",
        "date",
        "datetime",
        "degrees",
        "dense_rank",
        "exp",
        "first_value",
        "floor",
        "format",
        "glob",
        "group_concat",
        "hex",
        "if",
        "ifnull",
        "iif",
        "instr",
        "json",
        "json_array",
        "json_array_length",
        "json_error_position",
        "json_extract",
        "json_insert",
        "json_object",
        "json_quote",
        "json_remove",
        "json_replace",
        "json_set",
        "json_type",
        "json_valid",
        "jsonb",
        "jsonb_array",
        "jsonb_extract",
        "jsonb_insert",
        "jsonb_object",
        "jsonb_remove",
        "jsonb_replace",
        "jsonb_set",
        "julianday",
        "lag",
        "last_value",
        "lead",
        "length",
        "like",
        "likelihood",
        "likely",
        "ln",
        "log",
        "log10",
        "log2",
        "lower",
        "ltrim",
        "match",
        "max",
        "median",
        "min",
        "mod",
        "nth_value",
        "ntile",
        "nullif",
        "octet_length",
        "percent_rank",
        "percentile",
        "percentile_cont",
        "percentile_disc",
        "pi",
        "pow",
        "power",
        "printf",
        "quote",
        "radians",
        "rank",
        "replace",
        "round",
        "row_number",
        "rtrim",
        "sign",
        "sin",
        "sinh",
        "soundex",
        "sqrt",
        "strftime",
        "string_agg",
        "substr",
        "substring",
        "subtype",
        "sum",
        "tan",
        "tanh",
        "time",
        "timediff",
        "total",
        "trim",
        "trunc",
        "typeof",
        "unhex",
        "unicode",
        "unistr",
        "unixepoch",
        "unlikely",
        "upper",
        "zeroblob",
    };
    return names;
}

// Modules whose tables read only the database's own rows, or only their arguments.
bool is_table_function(std::string_view name) {
    return name == "json_each" || name == "json_tree" || name == "jsonb_each" ||
           name == "jsonb_tree";
}
// Functions that read the clock for 'now' or without arguments.
bool is_of_time(std::string_view function) {
    static const std::unordered_set<std::string_view> names = {
        "current_date", "current_time", "current_timestamp", "date",      "datetime", "julianday",
        "strftime",     "time",         "timediff",          "unixepoch",
    };
    return names.contains(function);
}

// Functions whose result can be far longer than their arguments.
bool builds_text(std::string_view function) {
    static const std::unordered_set<std::string_view> names = {
        "char",   "concat", "concat_ws", "format",     "group_concat", "hex",
        "printf", "quote",  "replace",   "string_agg", "zeroblob",
    };
    return names.contains(function);
}

bool is_storage_module(std::string_view name) {
    return name == "fts3" || name == "fts4" || name == "fts5" || name == "rtree" ||
           name == "rtree_i32" || name == "geopoly";
}

const char* action_name(int action) {
    switch (action) {
        case SQLITE_ATTACH:
            return "ATTACH";
        case SQLITE_DETACH:
            return "DETACH";
        case SQLITE_PRAGMA:
            return "PRAGMA";
        case SQLITE_TRANSACTION:
            return "a transaction statement";
        case SQLITE_SAVEPOINT:
            return "SAVEPOINT";
        case SQLITE_INSERT:
            return "INSERT";
        case SQLITE_UPDATE:
            return "UPDATE";
        case SQLITE_DELETE:
            return "DELETE";
        case SQLITE_ANALYZE:
            return "ANALYZE";
        case SQLITE_REINDEX:
            return "REINDEX";
        case SQLITE_ALTER_TABLE:
            return "ALTER TABLE";
        case SQLITE_CREATE_VTABLE:
            return "CREATE VIRTUAL TABLE";
        case SQLITE_DROP_VTABLE:
            return "DROP TABLE";
        default:
            return "anything but a SELECT";
    }
}

// The name in lower case, in place where it is of ordinary length.
class Folded {
  public:
    explicit Folded(std::string_view name) {
        if (name.size() > sizeof buffer_) {
            long_ = lower(name);
            view_ = long_;
            return;
        }
        for (size_t i = 0; i < name.size(); ++i) {
            const char c = name[i];
            buffer_[i] = c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
        }
        view_ = {buffer_, name.size()};
    }
    Folded(const Folded&) = delete;
    Folded& operator=(const Folded&) = delete;
    std::string_view view() const { return view_; }

  private:
    char buffer_[64];
    std::string long_;
    std::string_view view_;
};

// Finalizes a statement also when memory runs out while its rows are read.
class Prepared {
  public:
    Prepared() = default;
    ~Prepared() { sqlite3_finalize(statement); }
    Prepared(const Prepared&) = delete;
    Prepared& operator=(const Prepared&) = delete;
    int finalize() { return sqlite3_finalize(std::exchange(statement, nullptr)); }
    sqlite3_stmt* statement = nullptr;
};

std::string quoted(std::string_view path) { return "'" + std::string(path) + "'"; }

// The path as a URI: everything but the unreserved characters and the slash as %XX, so that no
// space, '?', '#' or '%' in a folder's name is read as syntax.
std::string uri(const std::string& path) {
    static constexpr char kHex[] = "0123456789ABCDEF";
    std::string text = path.starts_with('/') ? "file://" : "file:";
    for (const char c : path) {
        const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                           (c >= '0' && c <= '9') || c == '/' || c == '_' || c == '-' || c == '.' ||
                           c == '~';
        if (plain) {
            text.push_back(c);
        } else {
            const auto byte = static_cast<unsigned char>(c);
            text.push_back('%');
            text.push_back(kHex[byte >> 4]);
            text.push_back(kHex[byte & 15]);
        }
    }
    return text + "?immutable=1";
}

bool has_content(const std::string& path) {
    struct stat status;
    return ::stat(path.c_str(), &status) == 0 && status.st_size > 0;
}

std::string module_of(std::string_view create_statement) {
    const std::vector<Token> tokens = tokenize(create_statement);
    for (size_t i = 0; i + 1 < tokens.size(); ++i) {
        const auto text = [&](size_t k) {
            return lower(create_statement.substr(tokens[k].begin, tokens[k].end - tokens[k].begin));
        };
        if (tokens[i].kind == TokenKind::Word && text(i) == "using") return text(i + 1);
    }
    return {};
}

}  // namespace

DatabaseFile inspect_file(const std::string& path) {
    DatabaseFile file{path, {}, {}};
    struct stat status;
    if (path.find('\0') != std::string::npos) {
        file.error = "A database path holds a NUL character.";
    } else if (::stat(path.c_str(), &status) != 0) {
        file.error = errno == ENOENT ? "Database file " + quoted(path) + " does not exist."
                                     : "Database file " + quoted(path) +
                                           " cannot be read: " + std::strerror(errno) + ".";
    } else if (!S_ISREG(status.st_mode)) {
        file.error = "Database file " + quoted(path) + " is not a regular file.";
    } else if (status.st_size == 0) {
        file.error = "Database file " + quoted(path) + " is empty (0 bytes).";
    } else if (has_content(path + "-wal")) {
        file.error = "Database file " + quoted(path) +
                     " has a write-ahead log beside it, so the file alone is not up to date. Close "
                     "the program that writes it, or run PRAGMA wal_checkpoint(TRUNCATE) on it.";
    } else if (has_content(path + "-journal")) {
        file.error = "Database file " + quoted(path) +
                     " has a rollback journal beside it, so it may hold half a transaction. Close "
                     "the program that writes it, or open it once with sqlite3 to roll back.";
    } else {
        const int64_t fields[] = {
            static_cast<int64_t>(status.st_dev),
            static_cast<int64_t>(status.st_ino),
            static_cast<int64_t>(status.st_size),
#ifdef __APPLE__
            static_cast<int64_t>(status.st_mtimespec.tv_sec) * 1000000000 +
                status.st_mtimespec.tv_nsec,
            static_cast<int64_t>(status.st_ctimespec.tv_sec) * 1000000000 +
                status.st_ctimespec.tv_nsec,
#else
            static_cast<int64_t>(status.st_mtim.tv_sec) * 1000000000 + status.st_mtim.tv_nsec,
            static_cast<int64_t>(status.st_ctim.tv_sec) * 1000000000 + status.st_ctim.tv_nsec,
#endif
        };
        file.identity.assign(reinterpret_cast<const char*>(fields), sizeof fields);
        file.identity += path;
    }
    return file;
}

Connection::Connection(const DatabaseFile& file, const Limits& limits)
    : path_(file.path), limits_(limits) {
    try {
        open();
    } catch (...) {  // out of memory; no destructor runs for what was never constructed
        if (db_ != nullptr) sqlite3_close_v2(db_);
        throw;
    }
}

void Connection::open() {
    // The schema is not the query's: it is read without its budgets, but may not spill either.
    temp_storage().limit = limits_.temp_bytes;
    const int rc =
        sqlite3_open_v2(uri(path_).c_str(), &db_,
                        SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX, kReadOnlyVfs);
    if (rc != SQLITE_OK) {
        fail(rc, "cannot be opened");
        return;
    }
    if (!configure() || !read_schema() || !connect_virtual_tables()) return;
    sqlite3_set_authorizer(db_, authorize, this);
    const std::pair<int, int64_t> bounds[] = {
        {SQLITE_LIMIT_LENGTH, limits_.value_bytes},
        {SQLITE_LIMIT_SQL_LENGTH, limits_.sql_bytes},
        {SQLITE_LIMIT_COLUMN, 2000},
        {SQLITE_LIMIT_EXPR_DEPTH, 500},
        {SQLITE_LIMIT_COMPOUND_SELECT, 100},
        {SQLITE_LIMIT_VDBE_OP, 1000000},
        // json_array() and its like hold all arguments, escaped, before any limit is looked at.
        {SQLITE_LIMIT_FUNCTION_ARG, 32},
        {SQLITE_LIMIT_ATTACHED, 0},
        // A query's own parameters are refused; FTS5 binds one for each column of its tables.
        {SQLITE_LIMIT_VARIABLE_NUMBER, 2100},
        {SQLITE_LIMIT_TRIGGER_DEPTH, 1},
        {SQLITE_LIMIT_WORKER_THREADS, 0},
    };
    for (const auto& [category, value] : bounds) {
        sqlite3_limit(db_, category, static_cast<int>(std::min<int64_t>(value, INT32_MAX)));
    }
    watch.steps_per_call = std::clamp<int64_t>(limits_.steps / 16, 1, 1000);
    sqlite3_progress_handler(db_, static_cast<int>(watch.steps_per_call), on_progress, this);
}

Connection::~Connection() {
    if (db_ != nullptr) sqlite3_close_v2(db_);
}

bool Connection::fail(int rc, const char* doing) {
    const int code = rc & 0xff;
    error_ = "Database file " + quoted(path_);
    if (code == SQLITE_NOTADB) {
        error_ += " is not a SQLite database.";
    } else {
        error_ += std::string(" ") + doing + ": " +
                  (db_ == nullptr ? "out of memory" : sqlite3_errmsg(db_)) + ".";
    }
    if (db_ != nullptr) sqlite3_close_v2(db_);
    db_ = nullptr;
    return false;
}

bool Connection::configure() {
    const std::pair<int, int> switches[] = {
        {SQLITE_DBCONFIG_DEFENSIVE, 1},
        {SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0},
        {SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0},
        {SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, 0},
        {SQLITE_DBCONFIG_WRITABLE_SCHEMA, 0},
        {SQLITE_DBCONFIG_ENABLE_TRIGGER, 0},
        // "x" means the text x where no column has that name: half of Spider's golds rely on it.
        {SQLITE_DBCONFIG_DQS_DML, 1},
        {SQLITE_DBCONFIG_DQS_DDL, 1},
    };
    for (const auto& [option, value] : switches) {
        const int rc = sqlite3_db_config(db_, option, value, nullptr);
        if (rc != SQLITE_OK) return fail(rc, "cannot be secured");
    }
    int rc = register_linear_functions(db_);
    if (rc == SQLITE_OK) rc = register_patterns(db_, watch);
    if (rc != SQLITE_OK) return fail(rc, "cannot be prepared");
    // Spills go to the file system of vfs.h, which charges them to the query. No memory map: a
    // file that shrinks under a map kills the process.
    rc = sqlite3_exec(db_,
                      "PRAGMA temp_store=FILE; PRAGMA mmap_size=0; PRAGMA cache_size=-2000;"
                      "PRAGMA query_only=ON; PRAGMA cell_size_check=ON;",
                      nullptr, nullptr, nullptr);
    return rc == SQLITE_OK || fail(rc, "cannot be read");
}

bool Connection::read_schema() {
    Prepared rows;
    sqlite3_stmt*& statement = rows.statement;
    int rc = sqlite3_prepare_v2(db_, "SELECT lower(name), type, sql FROM sqlite_master", -1,
                                &statement, nullptr);
    while (rc == SQLITE_OK && (rc = sqlite3_step(statement)) == SQLITE_ROW) {
        const auto text = [&](int column) {
            const unsigned char* value = sqlite3_column_text(statement, column);
            return std::string(value == nullptr ? "" : reinterpret_cast<const char*>(value));
        };
        rc = SQLITE_OK;
        const std::string type = text(1);
        if (type != "table" && type != "view") continue;
        const std::string sql = text(2);
        const std::string folded = lower(sql);
        fold_case_ = fold_case_ || folded.find("nocase") != std::string::npos;
        trim_right_ = trim_right_ || folded.find("rtrim") != std::string::npos;
        // sqlite3_column_int on the root page would tell virtual tables apart too, but not their
        // module.
        const std::string head = squeeze(folded.substr(0, 64));
        const bool is_virtual = type == "table" && head.starts_with("createvirtual");
        if (is_virtual && !is_storage_module(module_of(sql))) {
            refused_.insert(text(0));
        } else {
            readable_.insert(text(0));
            if (is_virtual && module_of(sql).starts_with("fts")) full_text_.insert(text(0));
        }
    }
    rows.finalize();
    if (rc != SQLITE_DONE) return fail(rc, "cannot be read");
    rc = sqlite3_prepare_v2(db_, "PRAGMA module_list", -1, &statement, nullptr);
    while (rc == SQLITE_OK && sqlite3_step(statement) == SQLITE_ROW) {
        const unsigned char* name = sqlite3_column_text(statement, 0);
        if (name != nullptr) modules_.insert(lower(reinterpret_cast<const char*>(name)));
    }
    rc = rows.finalize();
    return rc == SQLITE_OK || fail(rc, "cannot be read");
}

bool Connection::connect_virtual_tables() {
    // A virtual table compiles statements of its own when it is first used, and the authorizer
    // would refuse those that could write. Compiling a query over it connects it now.
    Prepared rows;
    sqlite3_stmt*& list = rows.statement;
    std::vector<std::string> names;
    if (sqlite3_prepare_v2(db_, "SELECT name FROM sqlite_master WHERE type='table' AND rootpage=0",
                           -1, &list, nullptr) == SQLITE_OK) {
        while (sqlite3_step(list) == SQLITE_ROW) {
            const unsigned char* name = sqlite3_column_text(list, 0);
            if (name != nullptr) names.emplace_back(reinterpret_cast<const char*>(name));
        }
    }
    const int listed = rows.finalize();
    if (listed != SQLITE_OK) return fail(listed, "cannot be read");
    // Virtual tables are rare, and this costs as much as opening a small database.
    const int prepared = names.empty() ? SQLITE_OK : refuse_full_text_marks(db_);
    if (prepared != SQLITE_OK) return fail(prepared, "cannot be prepared");
    for (const std::string& name : names) {
        if (!readable_.contains(lower(name))) continue;
        char* sql = sqlite3_mprintf("SELECT * FROM \"%w\" LIMIT 0", name.c_str());
        const int rc = sql == nullptr ? SQLITE_NOMEM
                                      : sqlite3_exec(db_, sql, nullptr, nullptr, nullptr) & 0xff;
        sqlite3_free(sql);
        // A broken table fails its own queries; what may go better next time fails the connection.
        if (rc == SQLITE_IOERR || rc == SQLITE_NOMEM) return fail(rc, "cannot be read");
    }
    return true;
}

int Connection::on_progress(void* pointer) {
    Watch& watch = static_cast<Connection*>(pointer)->watch;
    return watch.charge(watch.steps_per_call) ? 0 : 1;
}

int Connection::deny(std::string what) {
    if (denied.empty()) denied = std::move(what);
    return SQLITE_DENY;
}

int Connection::authorize(void* self, int action, const char* first, const char* second,
                          const char* database, const char* /*view*/) {
    try {
        return static_cast<Connection*>(self)->decide(action, first, second, database);
    } catch (...) {  // out of memory; an exception must not cross SQLite's frames
        return SQLITE_DENY;
    }
}

int Connection::decide(int action, const char* first, const char* second, const char* database) {
    const std::string_view name = first == nullptr ? "" : first;
    switch (action) {
        case SQLITE_SELECT:
            return SQLITE_OK;
        case SQLITE_RECURSIVE:
            uses.growth = true;
            return SQLITE_OK;
        case SQLITE_READ:
            if (!full_text_.empty() && full_text_.contains(Folded(name).view())) {
                uses.full_text = true;
            }
            if (readable(name, second == nullptr ? "" : second, database)) return SQLITE_OK;
            return deny("reading " + std::string(name) + " is not allowed");
        case SQLITE_FUNCTION: {
            const Folded function(second == nullptr ? "" : second);
            if (builds_text(function.view())) uses.growth = true;
            if (is_of_time(function.view())) uses.clock = true;
            if (allowed_functions().contains(function.view())) return SQLITE_OK;
            return deny("the function " + std::string(function.view()) + "() is not allowed");
        }
        case SQLITE_PRAGMA:
            // FTS5 asks for it while it runs; a query's own PRAGMA is refused when compiled.
            if (!compiling && name == "data_version" && second == nullptr) return SQLITE_OK;
            return deny("PRAGMA is not allowed");
        default:
            return deny(std::string(action_name(action)) + " is not allowed");
    }
}

bool Connection::own_table(std::string_view table) {
    if (table == last_table_ && !table.empty()) return true;
    const Folded folded(table);
    const std::string_view name = folded.view();
    if (!readable_.contains(name) && name != "sqlite_master" && name != "sqlite_schema") {
        return false;
    }
    last_table_.assign(table);
    return true;
}

bool Connection::readable(std::string_view table, std::string_view column, const char* database) {
    const bool own = database == nullptr || std::strcmp(database, "main") == 0;
    if (own && own_table(table)) return true;
    const Folded folded(table);
    const std::string_view name = folded.view();
    if (is_table_function(name)) return true;
    // Without a column SQLite asks about a table of which only the rows are counted, under the name
    // the query uses, which may be that of a CTE or a sub-query.
    return column.empty() && !refused_.contains(name) && !modules_.contains(name) &&
           !name.starts_with("pragma_") && !name.starts_with("sqlite_");
}

}  // namespace spft
