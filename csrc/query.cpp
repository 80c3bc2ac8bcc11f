// Runs one query on one connection within its limits and digests its rows.
//
// How an ordered gold yields its tie groups: the sort keys of the outermost ORDER BY are read as
// values beside each row. A key that is an output column (by position, by name) is there already;
// any other is appended to the SELECT as an extra column, which changes nothing else in a query
// without DISTINCT and without UNION and its like. Where a key can be had neither way, every row
// is a group of its own: order then counts everywhere.
#include "query.h"

#include <chrono>
#include <cstring>
#include <memory>
#include <utility>

#include "digest.h"
#include "lexer.h"
#include "vfs.h"

namespace spft {
namespace {

using Clock = std::chrono::steady_clock;

// Of a query that reads a full-text table: its MATCH pattern cannot be longer.
constexpr size_t kLongestSearch = 1000;

struct Finalize {
    void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
};
using Statement = std::unique_ptr<sqlite3_stmt, Finalize>;

bool starts_with_any(std::string_view text, std::initializer_list<std::string_view> heads) {
    for (const std::string_view head : heads) {
        if (text.starts_with(head)) return true;
    }
    return false;
}

std::string in_seconds(double seconds) {
    std::string text = std::to_string(seconds);
    text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.pop_back();
    return text;
}

// A column of the result whose values are the gold's sort key.
struct SortKeys {
    bool known = true;
    std::vector<int> columns;
};

class Execution {
  public:
    Execution(Connection& connection, std::string_view sql, const Limits& limits,
              const Wanted& wanted)
        : connection_(connection), sql_(sql), limits_(limits), wanted_(wanted) {}

    Result run() {
        const auto start = Clock::now();
        Watch& watch = connection_.watch;
        watch.steps = 0;
        watch.steps_limit = limits_.steps;
        watch.stop = Watch::Stop::None;
        watch.cancelled = wanted_.cancelled;
        watch.deadline_ns =
            std::chrono::duration_cast<std::chrono::nanoseconds>(start.time_since_epoch()).count() +
            static_cast<int64_t>(limits_.seconds * 1e9);
        temp_storage().limit = limits_.temp_bytes;
        temp_storage().exceeded = false;
        execute();
        Outcome& outcome = result_.outcome;
        outcome.seconds = std::chrono::duration<double>(Clock::now() - start).count();
        if (!ran(outcome.status)) {
            outcome.rows = 0;
            outcome.columns = 0;
            outcome.all_null = false;
            outcome.bag = {};
            result_.ordered = false;
            result_.groups.clear();
            result_.cells = {};
            if (wanted_.rows != nullptr) wanted_.rows->clear();
        }
        return std::move(result_);
    }

  private:
    void end(Status status, std::string message) {
        result_.outcome.status = status;
        result_.outcome.message = std::move(message);
    }

    // Words the failure `rc` of the library.
    void end_with_error(int rc) {
        const std::string message = sqlite3_errmsg(connection_.handle());
        Watch::Stop stop = connection_.watch.stop;
        if (stop == Watch::Stop::None && (rc & 0xff) == SQLITE_INTERRUPT) {
            // The watchdog's: past the deadline, or the batch is cancelled.
            stop = wanted_.cancelled != nullptr && *wanted_.cancelled ? Watch::Stop::Cancel
                                                                      : Watch::Stop::Time;
        }
        switch (stop) {
            case Watch::Stop::Steps:
                return end(Status::StepBudget, "stopped after the budget of " +
                                                   std::to_string(limits_.steps) + " steps");
            case Watch::Stop::Time:
                return end(Status::TimeBudget,
                           "stopped after " + in_seconds(limits_.seconds) + " s of wall-clock");
            case Watch::Stop::Cancel:
                return end(Status::TimeBudget, "the batch was cancelled");
            case Watch::Stop::None:
                break;
        }
        if (temp_storage().exceeded) {
            return end(Status::TooLarge, "needs more than " + std::to_string(limits_.temp_bytes) +
                                             " bytes of temporary storage");
        }
        if (!connection_.denied.empty()) return end(Status::Denied, connection_.denied);
        switch (rc & 0xff) {
            case SQLITE_AUTH:
                return end(Status::Denied, message);
            case SQLITE_TOOBIG:
                return end(Status::TooLarge,
                           message + " (limit " + std::to_string(limits_.value_bytes) + " bytes)");
            case SQLITE_CORRUPT:
            case SQLITE_NOTADB:
            case SQLITE_IOERR:
            case SQLITE_CANTOPEN:
            case SQLITE_PERM:
            case SQLITE_BUSY:
            case SQLITE_LOCKED:
            case SQLITE_PROTOCOL:
            case SQLITE_FULL:
            case SQLITE_NOMEM:
                return end(Status::DatabaseError,
                           "Database file '" + connection_.path() + "': " + message + ".");
            default:
                break;
        }
        if (message.ends_with("may not be modified")) return end(Status::Denied, message);
        if (message.ends_with("syntax error") || message == "incomplete input" ||
            message.starts_with("unrecognized token")) {
            return end(Status::SyntaxError, message);
        }
        const bool name = starts_with_any(
            message, {"no such table", "no such column", "no such function", "no such collation",
                      "no such module", "no such index", "no such view"});
        end(name ? Status::MissingName : Status::SqlError, message);
    }

    // Compiles `sql`; null when it is refused or wrong, with the outcome set.
    Statement compile(std::string_view sql) {
        connection_.denied.clear();
        connection_.uses = {};
        connection_.compiling = true;
        sqlite3_stmt* raw = nullptr;
        const char* tail = nullptr;
        const int rc = sqlite3_prepare_v2(connection_.handle(), sql.data(),
                                          static_cast<int>(sql.size()), &raw, &tail);
        connection_.compiling = false;
        Statement statement(raw);
        if (rc != SQLITE_OK) {
            end_with_error(rc);
        } else if (raw == nullptr) {
            end(Status::SyntaxError, "the text holds no statement");
        } else if (!is_blank(sql.substr(static_cast<size_t>(tail - sql.data())))) {
            end(Status::Denied, "more than one statement is not allowed");
        } else if (sqlite3_stmt_isexplain(raw) != 0) {
            end(Status::Denied, "EXPLAIN is not allowed");
        } else if (sqlite3_stmt_readonly(raw) == 0 || sqlite3_column_count(raw) == 0) {
            end(Status::Denied, "anything but a SELECT is not allowed");
        } else if (sqlite3_bind_parameter_count(raw) != 0) {
            end(Status::SqlError, "the query has a parameter without a value");
        } else if (connection_.uses.full_text &&
                   (connection_.uses.growth || sql.size() > kLongestSearch)) {
            end(Status::Denied,
                "a query of a full-text table may not recurse, build texts (replace, group_concat, "
                "hex, printf, ...) or be longer than " +
                    std::to_string(kLongestSearch) + " bytes");
        } else {
            return statement;
        }
        return nullptr;
    }

    void execute() {
        if (sql_.find('\0') != std::string_view::npos) {
            return end(Status::SyntaxError, "the text holds a NUL character");
        }
        if (static_cast<int64_t>(sql_.size()) > limits_.sql_bytes) {
            return end(Status::TooLarge,
                       "the text is longer than " + std::to_string(limits_.sql_bytes) + " bytes");
        }
        Statement statement = compile(sql_);
        if (statement == nullptr) return;
        result_.reads_clock = connection_.uses.clock;
        const int columns = sqlite3_column_count(statement.get());
        SortKeys keys;
        if (wanted_.as_gold) {
            const GoldOrder order = find_outer_order(sql_);
            result_.ordered = order.ordered;
            fold_case_ = order.fold_case || connection_.fold_case();
            trim_right_ = order.trim_right || connection_.trim_right();
            if (order.ordered) keys = find_sort_keys(order, statement, columns);
        }
        if (wanted_.table != nullptr) {
            for (int c = 0; c < columns; ++c) {
                wanted_.table->columns.emplace_back(sqlite3_column_name(statement.get(), c));
            }
        }
        if (wanted_.spider) result_.order_matters = spider_ordered(sql_);
        read_rows(statement.get(), columns, keys);
    }

    // The result columns that hold the sort keys; swaps `statement` for one with extra columns
    // where that is needed.
    SortKeys find_sort_keys(const GoldOrder& order, Statement& statement, int columns) {
        SortKeys keys;
        std::string extra;
        int next = columns;
        for (const SortTerm& term : order.terms) {
            int column = output_column(term, order.simple, statement.get(), columns);
            if (column < 0 && order.simple) {
                extra += ", (" + term.text + ")";
                column = next++;
            }
            if (column < 0) return {false, {}};
            keys.columns.push_back(column);
        }
        if (extra.empty()) return keys;
        std::string text(sql_.substr(0, order.select_end));
        text += extra;
        text += ' ';
        text += sql_.substr(order.select_end);
        Statement with_keys = compile(text);
        result_.outcome = {};
        connection_.watch.stop = Watch::Stop::None;
        if (with_keys == nullptr || sqlite3_column_count(with_keys.get()) != next) {
            return {false, {}};
        }
        statement = std::move(with_keys);
        return keys;
    }

    // The output column that `term` names, or -1.
    static int output_column(const SortTerm& term, bool simple, sqlite3_stmt* statement,
                             int columns) {
        if (term.position > 0) return term.position <= columns ? term.position - 1 : -1;
        // In a simple SELECT a qualified name is read as an extra column: exact, and as cheap.
        if (term.qualified && simple) return -1;
        const std::string wanted =
            term.identifier.empty() ? squeeze(term.text) : lower(term.identifier);
        if (term.identifier.empty() && simple) return -1;
        int found = -1;
        for (int c = 0; c < columns; ++c) {
            const char* raw = sqlite3_column_name(statement, c);
            const std::string_view name = raw == nullptr ? "" : raw;
            if ((term.identifier.empty() ? squeeze(name) : lower(name)) != wanted) continue;
            if (found >= 0 && term.qualified) return -1;  // two columns of that name
            if (found < 0) found = c;
        }
        return found;
    }

    void encode(RowEncoder& encoder, sqlite3_stmt* statement, int column, bool as_key) {
        const bool keep = wanted_.cells && !as_key;
        switch (sqlite3_column_type(statement, column)) {
            case SQLITE_NULL:
                encoder.null();
                if (keep) result_.cells.push_back(cell_null());
                if (!as_key) bytes_ += 1;
                return;
            case SQLITE_INTEGER: {
                const int64_t number = sqlite3_column_int64(statement, column);
                encoder.integer(number);
                if (keep) result_.cells.push_back(cell_integer(number));
                if (!as_key) bytes_ += 8;
                break;
            }
            case SQLITE_FLOAT: {
                const double number = sqlite3_column_double(statement, column);
                encoder.real(number);
                if (keep) result_.cells.push_back(cell_real(number));
                if (!as_key) bytes_ += 8;
                break;
            }
            case SQLITE_TEXT: {
                const unsigned char* text = sqlite3_column_text(statement, column);
                const int size = sqlite3_column_bytes(statement, column);
                if (text == nullptr) throw std::bad_alloc();
                encoder.text(text, static_cast<size_t>(size), as_key && fold_case_,
                             as_key && trim_right_);
                if (keep) {
                    result_.cells.push_back(
                        cell_text(text, static_cast<size_t>(size), wanted_.spider));
                }
                if (!as_key) bytes_ += size;
                break;
            }
            default: {
                const void* blob = sqlite3_column_blob(statement, column);
                const int size = sqlite3_column_bytes(statement, column);
                if (blob == nullptr && size > 0) throw std::bad_alloc();
                encoder.blob(blob, static_cast<size_t>(size));
                if (keep) result_.cells.push_back(cell_blob(blob, static_cast<size_t>(size)));
                if (!as_key) bytes_ += size;
                break;
            }
        }
        if (!as_key) only_nulls_ = false;
    }

    static Value value(sqlite3_stmt* statement, int column) {
        switch (sqlite3_column_type(statement, column)) {
            case SQLITE_NULL:
                return std::monostate{};
            case SQLITE_INTEGER:
                return static_cast<int64_t>(sqlite3_column_int64(statement, column));
            case SQLITE_FLOAT:
                return sqlite3_column_double(statement, column);
            case SQLITE_TEXT: {
                const auto* text =
                    reinterpret_cast<const char*>(sqlite3_column_text(statement, column));
                return std::string(text == nullptr ? "" : text,
                                   static_cast<size_t>(sqlite3_column_bytes(statement, column)));
            }
            default: {
                const auto* blob = static_cast<const char*>(sqlite3_column_blob(statement, column));
                return Blob{blob == nullptr
                                ? std::string()
                                : std::string(blob, static_cast<size_t>(
                                                        sqlite3_column_bytes(statement, column)))};
            }
        }
    }

    void read_rows(sqlite3_stmt* statement, int columns, const SortKeys& keys) {
        Outcome& outcome = result_.outcome;
        RowEncoder row;
        RowEncoder key;
        std::string last_key;
        int rc;
        while ((rc = sqlite3_step(statement)) == SQLITE_ROW) {
            if (++outcome.rows > limits_.rows) {
                outcome.steps = sqlite3_stmt_status(statement, SQLITE_STMTSTATUS_VM_STEP, 0);
                return end(Status::TooLarge,
                           "the result has more than " + std::to_string(limits_.rows) + " rows");
            }
            row.clear();
            for (int c = 0; c < columns; ++c) encode(row, statement, c, false);
            // The digests of values are what stays in memory, and a NULL's is larger than a NULL.
            const auto kept = static_cast<int64_t>(result_.cells.size() * sizeof(Digest));
            if (bytes_ > limits_.bytes || kept > limits_.bytes) {
                outcome.steps = sqlite3_stmt_status(statement, SQLITE_STMTSTATUS_VM_STEP, 0);
                return end(Status::TooLarge,
                           "the result has more than " + std::to_string(limits_.bytes) + " bytes");
            }
            const Digest digest = row.digest();
            outcome.bag.add(digest);
            if (wanted_.rows != nullptr) wanted_.rows->push_back(digest);
            if (wanted_.table != nullptr) {
                auto& values = wanted_.table->rows.emplace_back();
                for (int c = 0; c < columns; ++c) values.push_back(value(statement, c));
                bytes_ += columns * static_cast<int64_t>(sizeof(Value));
            }
            if (result_.ordered) {
                key.clear();
                for (const int c : keys.columns) encode(key, statement, c, true);
                if (result_.groups.empty() || !keys.known || key.bytes() != last_key) {
                    result_.groups.emplace_back();
                    last_key = key.bytes();
                }
                ++result_.groups.back().rows;
                result_.groups.back().bag.add(digest);
            }
        }
        outcome.steps = sqlite3_stmt_status(statement, SQLITE_STMTSTATUS_VM_STEP, 0);
        if (rc != SQLITE_DONE) return end_with_error(rc);
        outcome.columns = columns;
        outcome.all_null = outcome.rows > 0 && only_nulls_;
        outcome.status = outcome.rows > 0 ? Status::Ok : Status::Empty;
    }

    Connection& connection_;
    std::string_view sql_;
    const Limits& limits_;
    const Wanted& wanted_;
    Result result_;
    int64_t bytes_ = 0;
    bool only_nulls_ = true;
    bool fold_case_ = false;
    bool trim_right_ = false;
};

}  // namespace

Result run_query(Connection& connection, std::string_view sql, const Limits& limits,
                 const Wanted& wanted) {
    return Execution(connection, sql, limits, wanted).run();
}

}  // namespace spft
