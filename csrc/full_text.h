// Takes highlight() and snippet() out of FTS5.
//
// They copy their result once per match: 7 s inside one step on a document of 500 kB, without end
// when the marks are large. An authorizer alone does not keep them out, because
// `rank MATCH 'highlight(...)'` calls them without asking it; so the functions themselves are
// replaced by a refusal.
#pragma once

#include "sqlite_api.h"

namespace spft {

// A library without FTS5 is no error. Returns a SQLite result code.
int refuse_full_text_marks(sqlite3* db);

}  // namespace spft
