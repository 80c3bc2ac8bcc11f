// The database the fuzz targets run on, and what must hold of every query.
#include "target.h"

#include <unistd.h>

using namespace spft;

bool make_target(const std::string& path) {
    ::unlink(path.c_str());
    sqlite3* db = nullptr;
    const bool made = sqlite3_open(path.c_str(), &db) == SQLITE_OK &&
                      sqlite3_exec(db, kTargetSchema, nullptr, nullptr, nullptr) == SQLITE_OK;
    sqlite3_close(db);
    return made;
}

bool run_twice(Connection& connection, const std::string& sql) {
    Wanted gold;
    gold.as_gold = true;
    const Outcome first = run_query(connection, sql, kTargetLimits, gold).outcome;
    const Outcome second = run_query(connection, sql, kTargetLimits, {}).outcome;
    const auto by_chance = [](Status status) {
        return status == Status::TimeBudget || status == Status::StepBudget;
    };
    // A gold that carries its sort keys along takes more steps and more bytes.
    if (by_chance(first.status) || by_chance(second.status)) return true;
    if (first.status == Status::TooLarge || second.status == Status::TooLarge) return true;
    return first.status == second.status;
}
