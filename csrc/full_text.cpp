// Takes highlight() and snippet() out of FTS5; why stands in the header.
#include "full_text.h"

#include <initializer_list>

namespace spft {
namespace {

void refuse(const Fts5ExtensionApi*, Fts5Context*, sqlite3_context* context, int, sqlite3_value**) {
    sqlite3_result_error(context, "highlight() and snippet() are not allowed", -1);
}

}  // namespace

int refuse_full_text_marks(sqlite3* db) {
    fts5_api* api = nullptr;
    sqlite3_stmt* statement = nullptr;
    if (sqlite3_prepare_v2(db, "SELECT fts5(?1)", -1, &statement, nullptr) == SQLITE_OK) {
        sqlite3_bind_pointer(statement, 1, static_cast<void*>(&api), "fts5_api_ptr", nullptr);
        sqlite3_step(statement);
    }
    sqlite3_finalize(statement);
    if (api == nullptr) return SQLITE_OK;
    for (const char* name : {"highlight", "snippet"}) {
        const int rc = api->xCreateFunction(api, name, nullptr, refuse, nullptr);
        if (rc != SQLITE_OK) return rc;
    }
    return SQLITE_OK;
}

}  // namespace spft
