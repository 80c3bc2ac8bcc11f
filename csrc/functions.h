// Linear-time versions of the SQL functions that could loop for minutes inside one VM step.
//
// SQLite's instr(), replace() and trim() compare at every position, so on two strings of n bytes
// they take n^2 steps that no progress handler sees: replace() of 1 MB by 500 kB patterns runs for
// tens of seconds. These versions give the same results in time linear in their input and output.
// LIKE and GLOB, which have no such version, are in like.h.
#pragma once

#include "sqlite_api.h"

namespace spft {

// Overrides the functions on one connection; returns a SQLite result code.
int register_linear_functions(sqlite3* db);

}  // namespace spft
