// LIKE and GLOB that can be stopped.
//
// SQLite's own loop for as long as value times pattern inside one VM step, where no callback and no
// interrupt reaches them: one call took 0.85 s with a pattern of 500 bytes on a value of a million,
// and a query can hold thousands of calls in a row. These give the same results, count what they
// compare as steps of the query, and end with its budget. What that costs: an index never serves a
// LIKE or a GLOB.
#pragma once

#include "sqlite_api.h"

namespace spft {

struct Watch;

// Overrides like() and glob() on one connection; returns a SQLite result code. `watch` must live as
// long as the connection.
int register_patterns(sqlite3* db, Watch& watch);

}  // namespace spft
