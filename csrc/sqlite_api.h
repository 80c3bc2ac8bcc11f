// The one way to SQLite's functions: the routines of whichever SQLite loaded this library.
//
// The executor is a SQLite loadable extension, so that it runs on the SQLite inside apsw, whose
// version pip pins. `sqlite3ext.h` turns every sqlite3_* call into a call through a table that is
// empty until the extension's entry point has run: ask `sqlite_attached()` before the first call.
// Built with SQLITE_CORE (the C++ unit tests) the same calls go to the library linked in.
#pragma once

#include <sqlite3ext.h>
#ifndef SQLITE_CORE
extern "C" {
SQLITE_EXTENSION_INIT3
}
#endif

namespace spft {

// True once sqlite3_* calls are safe to make.
bool sqlite_attached();

}  // namespace spft
