// What breaks around the executor: memory that runs out, reads that fail, files that change.
//
// The rule of all: a failure may end a query, it never changes its result, and the next query on
// the same connection runs as if nothing had happened.
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "connection.h"
#include "executor.h"
#include "faults.h"
#include "query.h"
#include "vfs.h"

using namespace spft;

namespace {

const Limits kLimits{1000000, 60.0, 1000, 1 << 20, 100000, 10000, 4 << 20};

constexpr const char* kSchema =
    "CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT, c REAL);"
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n LIMIT 400)"
    " INSERT INTO t SELECT x, 'value ' || x || hex(zeroblob(40)), x / 7.0 FROM n;"
    "CREATE INDEX t_b ON t(b); CREATE VIEW v AS SELECT a, b FROM t WHERE a % 2;"
    "CREATE VIRTUAL TABLE f USING fts5(body); INSERT INTO f SELECT b FROM t LIMIT 20;";

const std::vector<std::string> kQueries = {
    "SELECT count(*), sum(a) FROM t",
    "SELECT b, c FROM t WHERE b LIKE '%9%' ORDER BY c DESC",
    "SELECT a % 7, group_concat(b) FROM t GROUP BY 1 ORDER BY 2",
    "SELECT replace(b, 'value', 'x'), trim(b, 'v0'), instr(b, '1') FROM t LIMIT 30",
    "SELECT count(*) FROM t x JOIN v y USING (b) WHERE x.a IN (SELECT a FROM t WHERE c < 20)",
    "SELECT DISTINCT substr(b, 1, 7) || hex(zeroblob(2000)) FROM t",
    "SELECT row_number() OVER (ORDER BY b), json_extract('{\"k\": 1}', '$.k') FROM t",
    "SELECT count(*) FROM f WHERE f MATCH 'value'",
};

class File {
  public:
    File() {
        char name[] = "/tmp/spft-faults-XXXXXX";
        const int descriptor = mkstemp(name);
        if (descriptor >= 0) ::close(descriptor);
        path = name;
    }
    explicit File(const char* sql) : File() { run(sql); }
    ~File() { ::unlink(path.c_str()); }
    File(const File&) = delete;
    File& operator=(const File&) = delete;

    void run(const char* sql) const {
        sqlite3* db = nullptr;
        sqlite3_open(path.c_str(), &db);
        CHECK_EQUAL(sqlite3_exec(db, sql, nullptr, nullptr, nullptr), SQLITE_OK);
        sqlite3_close(db);
    }
    std::string bytes() const {
        std::ifstream in(path, std::ios::binary);
        return {std::istreambuf_iterator<char>(in), {}};
    }
    void write(const std::string& bytes) const {
        std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
    }
    std::string path;
};

int number(Status status) { return static_cast<int>(status); }

// The outcome of one query as a gold, on a connection of its own or on one that is open.
Outcome run_on(Connection& connection, const std::string& sql) {
    Outcome outcome;
    try {
        Wanted wanted;
        wanted.as_gold = true;
        outcome = run_query(connection, sql, kLimits, wanted).outcome;
    } catch (const std::bad_alloc&) {
        outcome.status = Status::DatabaseError;
    }
    return outcome;
}

Outcome run_afresh(const std::string& path, const std::string& sql) {
    Outcome outcome;
    try {
        Connection connection(inspect_file(path), kLimits);
        if (!connection.error().empty()) return outcome;
        outcome = run_on(connection, sql);
    } catch (const std::bad_alloc&) {
    }
    return outcome;
}

// A failure ends the query with a database error, or did not matter.
void check_unharmed(const Outcome& outcome, const Outcome& expected, const std::string& sql,
                    int64_t n) {
    const bool good = outcome.status == Status::DatabaseError ||
                      (outcome.status == expected.status && outcome.bag == expected.bag);
    if (!good) {
        std::cerr << sql << " at " << n << ": " << number(outcome.status) << " " << outcome.message
                  << "\n";
    }
    CHECK(good);
}

const Executor::Poll kGoOn = [](int64_t, int64_t) { return true; };

Outcome execute(Executor& executor, const std::string& path, const std::string& sql) {
    const Executed executed = executor.execute({path}, {{0, sql}}, {}, kGoOn);
    return executed.outcomes[executed.of_query[0]];
}

}  // namespace

TEST(running_out_of_memory_ends_a_query_and_changes_no_result) {
    CHECK(faults_installed());
    CHECK(register_read_only_vfs());
    const File file(kSchema);
    for (const bool on : {false, true}) {
        for (const std::string& sql : kQueries) {
            const Outcome expected = run_afresh(file.path, sql);
            CHECK_EQUAL(number(expected.status), number(Status::Ok));
            Connection open(inspect_file(file.path), kLimits);
            // The open connection, every allocation; then opening one, a sample.
            for (int64_t n = 1;; n += 1 + n / 40) {
                faults() = {n, on, 0, Faults::Read::Error, 0};
                const Outcome outcome = run_on(open, sql);
                const int64_t fired = faults().fired;
                faults() = {};
                check_unharmed(outcome, expected, sql, n);
                const Outcome after = run_on(open, sql);
                CHECK_EQUAL(number(after.status), number(Status::Ok));
                CHECK(after.bag == expected.bag);
                if (fired == 0) break;
            }
        }
        for (int64_t n = 1;; n += 1 + n / 40) {
            const Outcome expected = run_afresh(file.path, kQueries[0]);
            faults() = {n, on, 0, Faults::Read::Error, 0};
            const Outcome outcome = run_afresh(file.path, kQueries[0]);
            const int64_t fired = faults().fired;
            faults() = {};
            check_unharmed(outcome, expected, kQueries[0], n);
            if (fired == 0) break;
        }
    }
}

TEST(a_failed_read_ends_a_query_and_changes_no_result) {
    const File file(kSchema);
    for (const auto kind : {Faults::Read::Error, Faults::Read::Short}) {
        for (const std::string& sql : kQueries) {
            const Outcome expected = run_afresh(file.path, sql);
            for (int64_t n = 1;; ++n) {
                Outcome outcome;
                faults() = {0, false, n, kind, 0};
                {
                    Connection connection(inspect_file(file.path), kLimits);
                    if (connection.error().empty()) {
                        outcome = run_on(connection, sql);
                        faults().read = 0;
                        // A page that came back short is the file's fault, and may stay in the
                        // cache; a read that failed is not there at all.
                        if (kind == Faults::Read::Error) {
                            const Outcome after = run_on(connection, sql);
                            CHECK_EQUAL(number(after.status), number(Status::Ok));
                            CHECK(after.bag == expected.bag);
                        }
                    }
                }
                const int64_t fired = faults().fired;
                faults() = {};
                if (kind == Faults::Read::Error) check_unharmed(outcome, expected, sql, n);
                if (fired == 0) break;
            }
        }
    }
}

TEST(a_corrupt_or_cut_file_ends_in_a_status) {
    const File whole(kSchema);
    const std::string bytes = whole.bytes();
    const File file;
    Executor executor(1, kLimits, 2, 0);
    std::mt19937 random(3);
    for (int round = 0; round < 150; ++round) {
        std::string damaged = bytes;
        if (round % 3 == 0) {
            damaged.resize(random() % bytes.size());
        } else {
            // Where it hurts: the headers of pages and what follows them.
            for (int k = 0; k < 8; ++k) {
                const size_t page = random() % (bytes.size() / 4096) * 4096;
                damaged[page + random() % (round % 3 == 1 ? 40 : 4096)] =
                    static_cast<char>(random());
            }
        }
        file.write(damaged);
        std::vector<Query> queries;
        for (const std::string& sql : kQueries) queries.push_back({0, sql});
        const Executed executed = executor.execute({file.path}, queries, {}, kGoOn);
        CHECK_EQUAL(executed.outcomes.size(), kQueries.size());
        for (const Outcome& outcome : executed.outcomes) {
            CHECK(ran(outcome.status) || !outcome.message.empty());
        }
        CHECK_EQUAL(number(execute(executor, whole.path, kQueries[0]).status), number(Status::Ok));
    }
    file.write("");
    CHECK_EQUAL(number(execute(executor, file.path, "SELECT 1").status),
                number(Status::DatabaseError));
    file.write("not a database, but long enough to be taken for the header of one: " + bytes);
    CHECK_EQUAL(number(execute(executor, file.path, "SELECT a FROM t").status),
                number(Status::DatabaseError));
}

TEST(a_file_may_be_deleted_replaced_or_grown_between_batches) {
    Executor executor(1, kLimits, 2, 1 << 20);
    const auto rows = [&](const std::string& path) {
        const Outcome outcome = execute(executor, path, "SELECT a FROM t");
        return ran(outcome.status) ? outcome.rows : -1;
    };
    const File file(kSchema);
    const File other("CREATE TABLE t(a); INSERT INTO t VALUES (1), (2);");
    CHECK_EQUAL(rows(file.path), int64_t{400});
    file.run("INSERT INTO t(b) SELECT hex(zeroblob(500)) FROM t;");
    CHECK_EQUAL(rows(file.path), int64_t{800});
    CHECK_EQUAL(std::rename(other.path.c_str(), file.path.c_str()), 0);
    CHECK_EQUAL(rows(file.path), int64_t{2});
    ::unlink(file.path.c_str());
    CHECK_EQUAL(rows(file.path), int64_t{-1});
    file.run(kSchema);
    CHECK_EQUAL(rows(file.path), int64_t{400});
}

TEST(a_file_deleted_or_cut_under_an_open_connection_ends_in_a_status) {
    const File file(kSchema);
    Connection connection(inspect_file(file.path), kLimits);
    CHECK_EQUAL(number(run_on(connection, kQueries[0]).status), number(Status::Ok));
    const std::string bytes = file.bytes();
    ::unlink(file.path.c_str());
    CHECK_EQUAL(number(run_on(connection, kQueries[1]).status), number(Status::Ok));

    const File cut(kSchema);
    Connection second(inspect_file(cut.path), kLimits);
    CHECK_EQUAL(number(run_on(second, "SELECT a FROM t WHERE a = 1").status), number(Status::Ok));
    CHECK_EQUAL(::truncate(cut.path.c_str(), 4096), 0);
    const Outcome outcome = run_on(second, kQueries[1]);
    CHECK(outcome.status == Status::DatabaseError || outcome.status == Status::Ok);
    cut.write(bytes);
    CHECK_EQUAL(number(run_afresh(cut.path, kQueries[1]).status), number(Status::Ok));
}

TEST(what_may_not_be_read_is_named) {
    Executor executor(1, kLimits, 2, 0);
    const Outcome folder = execute(executor, "/tmp", "SELECT 1");
    CHECK_EQUAL(number(folder.status), number(Status::DatabaseError));
    CHECK(folder.message.find("/tmp") != std::string::npos);
    if (::geteuid() == 0) return;  // nothing is forbidden to root
    const File file(kSchema);
    CHECK_EQUAL(::chmod(file.path.c_str(), 0), 0);
    CHECK_EQUAL(number(execute(executor, file.path, "SELECT 1").status),
                number(Status::DatabaseError));
}
