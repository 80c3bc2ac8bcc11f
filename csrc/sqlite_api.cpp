// The extension's entry point: SQLite hands its routines over here.
#include "sqlite_api.h"

#ifndef SQLITE_CORE
extern "C" {
SQLITE_EXTENSION_INIT1
}
#endif

namespace spft {

// The oldest library whose routines and constants the executor relies on.
constexpr int kOldestSqlite = 3038000;

bool sqlite_attached() {
#ifdef SQLITE_CORE
    return true;
#else
    return sqlite3_api != nullptr;
#endif
}

}  // namespace spft

// Called by sqlite3_load_extension. Registers nothing on `db`: only the table of routines counts.
extern "C" __attribute__((visibility("default"))) int sqlite3_spftexecutor_init(
    sqlite3* /*db*/, char** error, const sqlite3_api_routines* api) {
#ifndef SQLITE_CORE
    if (sqlite3_api != nullptr && sqlite3_api != api) {
        // Connections of the first library may be open: switching libraries under them would crash.
        *error = api->mprintf("the executor is already attached to another SQLite in this process");
        return SQLITE_ERROR;
    }
    if (api->libversion_number() < spft::kOldestSqlite) {
        *error =
            api->mprintf("the executor needs SQLite 3.38 or newer, found %s", api->libversion());
        return SQLITE_ERROR;
    }
    SQLITE_EXTENSION_INIT2(api);
#else
    (void)error;
    (void)api;
#endif
    // The Python import holds this library open anyway; say so, so that closing `db` keeps it.
    return SQLITE_OK_LOAD_PERMANENTLY;
}
