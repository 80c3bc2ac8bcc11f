// Linear-time versions of the SQL functions that could loop for minutes inside one VM step.
#include "functions.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>
#include <unordered_set>

namespace spft {
namespace {

// The value as SQLite's own functions see it: blobs by their bytes, all else as text.
std::string_view bytes_of(sqlite3_value* value) {
    const void* data = sqlite3_value_type(value) == SQLITE_BLOB
                           ? sqlite3_value_blob(value)
                           : static_cast<const void*>(sqlite3_value_text(value));
    const auto size = static_cast<size_t>(sqlite3_value_bytes(value));
    return data == nullptr ? std::string_view()
                           : std::string_view(static_cast<const char*>(data), size);
}

std::string_view text_of(sqlite3_value* value) {
    const unsigned char* data = sqlite3_value_text(value);
    const auto size = static_cast<size_t>(sqlite3_value_bytes(value));
    return data == nullptr ? std::string_view()
                           : std::string_view(reinterpret_cast<const char*>(data), size);
}

bool is_null(sqlite3_value* value) { return sqlite3_value_type(value) == SQLITE_NULL; }

// First occurrence by memmem, which glibc and macOS bound linearly in the haystack.
size_t find_bytes(std::string_view haystack, std::string_view needle, size_t from) {
    if (needle.empty()) return from;
    if (haystack.size() - from < needle.size()) return std::string_view::npos;
    const void* hit =
        memmem(haystack.data() + from, haystack.size() - from, needle.data(), needle.size());
    return hit == nullptr ? std::string_view::npos
                          : static_cast<size_t>(static_cast<const char*>(hit) - haystack.data());
}

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

// instr(haystack, needle): 1-based position in characters, in bytes when both are blobs, 0 if none.
void instr_function(sqlite3_context* context, int, sqlite3_value** arguments) {
    if (is_null(arguments[0]) || is_null(arguments[1])) return;
    const bool blobs = sqlite3_value_type(arguments[0]) == SQLITE_BLOB &&
                       sqlite3_value_type(arguments[1]) == SQLITE_BLOB;
    const std::string_view needle = blobs ? bytes_of(arguments[1]) : text_of(arguments[1]);
    const std::string_view haystack = blobs ? bytes_of(arguments[0]) : text_of(arguments[0]);
    if (needle.empty()) {
        sqlite3_result_int64(context, 1);
        return;
    }
    const size_t hit = find_bytes(haystack, needle, 0);
    if (hit == std::string_view::npos) {
        sqlite3_result_int64(context, 0);
        return;
    }
    sqlite3_int64 position = 1;
    for (size_t i = 0; i < hit; ++i) position += blobs || !is_continuation(haystack[i]) ? 1 : 0;
    sqlite3_result_int64(context, position);
}

// replace(text, pattern, replacement): every occurrence, left to right.
void replace_function(sqlite3_context* context, int, sqlite3_value** arguments) {
    if (is_null(arguments[0]) || is_null(arguments[1])) return;
    const std::string_view text = text_of(arguments[0]);
    const std::string_view pattern = text_of(arguments[1]);
    if (pattern.empty()) {
        // Older libraries (3.40) hand a number back unconverted; the one in apsw makes it text.
        sqlite3_result_text64(context, text.data() == nullptr ? "" : text.data(), text.size(),
                              SQLITE_TRANSIENT, SQLITE_UTF8);
        return;
    }
    if (is_null(arguments[2])) return;
    const std::string_view replacement = text_of(arguments[2]);
    const auto limit = static_cast<size_t>(
        sqlite3_limit(sqlite3_context_db_handle(context), SQLITE_LIMIT_LENGTH, -1));
    std::string result;
    size_t from = 0;
    while (true) {
        const size_t hit = find_bytes(text, pattern, from);
        const size_t end = hit == std::string_view::npos ? text.size() : hit;
        result.append(text.substr(from, end - from));
        if (hit == std::string_view::npos) break;
        result.append(replacement);
        if (result.size() > limit) {
            sqlite3_result_error_toobig(context);
            return;
        }
        from = hit + pattern.size();
    }
    sqlite3_result_text64(context, result.data(), result.size(), SQLITE_TRANSIENT, SQLITE_UTF8);
}

constexpr intptr_t kLeft = 1;
constexpr intptr_t kRight = 2;

// The character that starts at `at`: a lead byte and its continuation bytes.
std::string_view character(std::string_view text, size_t at) {
    size_t end = at + 1;
    if (static_cast<unsigned char>(text[at]) >= 0xC0) {
        while (end < text.size() && is_continuation(text[end])) ++end;
    }
    return text.substr(at, end - at);
}

// trim(text[, characters]), ltrim, rtrim: strips characters of the set; spaces by default.
void trim_function(sqlite3_context* context, int count, sqlite3_value** arguments) {
    if (is_null(arguments[0]) || (count == 2 && is_null(arguments[1]))) return;
    const auto sides = reinterpret_cast<intptr_t>(sqlite3_user_data(context));
    std::string_view text = text_of(arguments[0]);
    const std::string_view set = count == 2 ? text_of(arguments[1]) : std::string_view(" ");
    std::unordered_set<std::string_view> strip;
    size_t longest = 0;
    for (size_t at = 0; at < set.size();) {
        const std::string_view one = character(set, at);
        strip.insert(one);
        longest = std::max(longest, one.size());
        at += one.size();
    }
    if ((sides & kLeft) != 0) {
        while (!text.empty() && strip.contains(character(text, 0))) {
            text.remove_prefix(character(text, 0).size());
        }
    }
    while ((sides & kRight) != 0 && !text.empty()) {
        size_t at = text.size() - 1;
        while (at > 0 && is_continuation(text[at]) && text.size() - at < longest) --at;
        if (!strip.contains(text.substr(at))) break;
        text.remove_suffix(text.size() - at);
    }
    sqlite3_result_text64(context, text.data() == nullptr ? "" : text.data(), text.size(),
                          SQLITE_TRANSIENT, SQLITE_UTF8);
}

// unhex(text, ignored) looks every character of one up in the other: 10^12 comparisons for two
// values of a megabyte, in one step.
void refuse_unhex(sqlite3_context* context, int, sqlite3_value**) {
    sqlite3_result_error(context, "unhex() with two arguments is not allowed", -1);
}

// An exception must not cross SQLite's C frames; running out of memory is the only one there is.
template <void (*function)(sqlite3_context*, int, sqlite3_value**)>
void guarded(sqlite3_context* context, int count, sqlite3_value** arguments) {
    try {
        function(context, count, arguments);
    } catch (...) {
        sqlite3_result_error_nomem(context);
    }
}

}  // namespace

int register_linear_functions(sqlite3* db) {
    struct Entry {
        const char* name;
        int arguments;
        intptr_t data;
        void (*function)(sqlite3_context*, int, sqlite3_value**);
    };
    const Entry entries[] = {
        {"instr", 2, 0, guarded<instr_function>},
        {"replace", 3, 0, guarded<replace_function>},
        {"unhex", 2, 0, refuse_unhex},
        {"trim", 1, kLeft | kRight, guarded<trim_function>},
        {"trim", 2, kLeft | kRight, guarded<trim_function>},
        {"ltrim", 1, kLeft, guarded<trim_function>},
        {"ltrim", 2, kLeft, guarded<trim_function>},
        {"rtrim", 1, kRight, guarded<trim_function>},
        {"rtrim", 2, kRight, guarded<trim_function>},
    };
    for (const Entry& entry : entries) {
        const int rc = sqlite3_create_function_v2(
            db, entry.name, entry.arguments, SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS,
            reinterpret_cast<void*>(entry.data), entry.function, nullptr, nullptr, nullptr);
        if (rc != SQLITE_OK) return rc;
    }
    return SQLITE_OK;
}

}  // namespace spft
