// A SQLite file system that can read databases and nothing else.
//
// Two needs meet here. Queries written by a model must not create files, whatever hole in the
// authorizer they find: this layer opens existing files read-only and refuses every other open,
// every delete. And a sort or a materialised sub-query may spill without bound (one query wrote
// 605 MB in a trial): spilled pages stay in memory, and their number is charged to the query.
#pragma once

#include <cstdint>

namespace spft {

// The name to pass to sqlite3_open_v2.
extern const char* const kReadOnlyVfs;

// Registers the file system once per process; returns false when SQLite refuses.
bool register_read_only_vfs();

// Temporary storage of the query that runs on this thread. Spilled pages beyond `limit` fail with
// SQLITE_FULL and set `exceeded`.
struct TempStorage {
    int64_t limit = 0;
    int64_t used = 0;
    bool exceeded = false;
};
TempStorage& temp_storage();  // one per thread

}  // namespace spft
