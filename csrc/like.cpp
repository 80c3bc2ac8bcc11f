// LIKE and GLOB that can be stopped; why stands in the header.
#include "like.h"

#include <cstdint>
#include <cstring>
#include <string_view>

#include "watch.h"

namespace spft {
namespace {

// Comparisons that count as one step: a step takes about as long as this many of them.
constexpr int64_t kComparisonsPerStep = 8;
// How many comparisons are made between two looks at the budget. A call that makes fewer, as nearly
// every call does, is not charged at all.
constexpr int64_t kBetweenLooks = 1 << 14;

enum class Match : uint8_t { No, Yes, Stopped };

constexpr uint32_t kNone = 0xFFFFFFFF;  // no character of Unicode

// The characters that mean something in a pattern.
struct Syntax {
    uint32_t any;     // any number of characters
    uint32_t one;     // exactly one
    uint32_t escape;  // LIKE's ESCAPE character, kNone without
    bool sets;        // GLOB's [a-z]
    bool fold;        // ASCII letters of either case are equal
};

uint32_t fold(uint32_t c) { return c - 'A' < 26u ? c + ('a' - 'A') : c; }

// Decodes as SQLite does: whatever follows a lead byte as continuation belongs to the character;
// overlong forms and surrogates read as U+FFFD.
uint32_t next(const unsigned char*& at, const unsigned char* end) {
    uint32_t c = *at++;
    if (c < 0xC0) return c;
    c &= c < 0xE0 ? 0x1F : c < 0xF0 ? 0x0F : c < 0xF8 ? 0x07 : c < 0xFC ? 0x03 : c < 0xFE ? 1 : 0;
    while (at < end && (*at & 0xC0) == 0x80) c = (c << 6) + (*at++ & 0x3F);
    const bool bad = c < 0x80 || (c & 0xFFFFF800) == 0xD800;
    return bad ? 0xFFFD : c;
}

// Whether `c` is in the set whose text begins at `at`, behind its bracket; moves `at` behind the
// closing one. A set that never closes holds nothing.
bool in_set(uint32_t c, const unsigned char*& at, const unsigned char* end) {
    const unsigned char* from = at;
    bool found = false;
    bool inverted = false;
    bool has_low = false;  // `low` may begin a range
    uint32_t low = 0;
    if (at < end && *at == '^') {
        inverted = true;
        ++at;
    }
    if (at < end && *at == ']') {  // first in the set it is a member
        found = c == ']';
        ++at;
    }
    while (at < end && *at != ']') {
        uint32_t member = next(at, end);
        if (member == '-' && has_low && at < end && *at != ']') {
            member = next(at, end);
            found = found || (c >= low && c <= member);
            has_low = false;
        } else {
            found = found || c == member;
            has_low = true;
            low = member;
        }
    }
    if (at >= end) {
        at = from;
        return false;
    }
    ++at;
    return found != inverted;
}

// One pass with a way back to the last `any`: when a part behind it does not match, that `any`
// takes one character more. An earlier one never has to, because the last one can take as much.
class Comparison {
  public:
    Comparison(std::string_view pattern, std::string_view text, const Syntax& syntax, Watch& watch)
        : p_(begin(pattern)),
          p_end_(p_ + pattern.size()),
          t_(begin(text)),
          t_end_(t_ + text.size()),
          syntax_(syntax),
          watch_(watch) {}

    Match run() {
        while (true) {
            const Match forward = go_forward();
            if (forward != Match::No) return forward;
            if (after_any_ == nullptr || retry_ == t_end_) return Match::No;
            next(retry_, t_end_);
            if (!seek()) return Match::No;
            p_ = after_any_;
        }
    }

  private:
    static const unsigned char* begin(std::string_view text) {
        return reinterpret_cast<const unsigned char*>(text.data());
    }

    // From where both stand to the end of the pattern or the first difference.
    Match go_forward() {
        while (p_ < p_end_) {
            if (++work_ >= kBetweenLooks) {
                if (!watch_.charge(work_ / kComparisonsPerStep)) return Match::Stopped;
                work_ = 0;
            }
            uint32_t c = next(p_, p_end_);
            if (c == syntax_.any) {
                if (!begin_part()) return Match::No;
                if (p_ == p_end_) return Match::Yes;
                continue;
            }
            if (t_ == t_end_) {
                retry_ = t_end_;  // what is left of the text only gets shorter
                return Match::No;
            }
            const uint32_t d = next(t_, t_end_);
            if (c == syntax_.one) continue;
            if (c == '[' && syntax_.sets) {
                const unsigned char* const set = p_;
                const bool member = in_set(d, p_, p_end_);
                work_ += p_ - set;
                if (!member) return Match::No;
                continue;
            }
            if (c == syntax_.escape) c = p_ < p_end_ ? next(p_, p_end_) : kNone;
            if (c != d && !(syntax_.fold && fold(c) == fold(d))) return Match::No;
        }
        return t_ == t_end_ ? Match::Yes : Match::No;
    }

    // Behind an `any`: sets where to come back to. False when the text cannot match any more.
    bool begin_part() {
        uint32_t c = kNone;
        const unsigned char* q = p_;
        for (; p_ < p_end_; p_ = q) {
            c = next(q, p_end_);
            if (c == syntax_.one) {  // single characters that follow can be taken at once
                if (t_ == t_end_) {
                    retry_ = t_end_;
                    return false;
                }
                next(t_, t_end_);
            } else if (c != syntax_.any) {
                break;
            }
        }
        const bool plain = c < 0x80 && c != syntax_.escape && !(c == '[' && syntax_.sets);
        first_ = !plain ? kNone : syntax_.fold ? fold(c) : c;
        after_any_ = p_;
        retry_ = t_;
        return p_ == p_end_ || seek();
    }

    // Moves both text positions to where the part behind the last `any` can begin.
    bool seek() {
        if (first_ != kNone) {
            const unsigned char* const from = retry_;
            while (retry_ < t_end_ && (syntax_.fold ? fold(*retry_) : *retry_) != first_) ++retry_;
            work_ += (retry_ - from) / 4;
        }
        t_ = retry_;
        return first_ == kNone || retry_ < t_end_;
    }

    const unsigned char* p_;
    const unsigned char* const p_end_;
    const unsigned char* t_;
    const unsigned char* const t_end_;
    const Syntax& syntax_;
    Watch& watch_;
    const unsigned char* after_any_ = nullptr;  // the pattern behind the last `any`
    const unsigned char* retry_ = nullptr;      // where its part was tried last
    uint32_t first_ = kNone;                    // the ASCII character it begins with, folded
    int64_t work_ = 0;
};

// The text of a value up to its first NUL, which is where SQLite's own functions stop.
std::string_view c_text(sqlite3_value* value) {
    const auto* text = reinterpret_cast<const char*>(sqlite3_value_text(value));
    return text == nullptr ? std::string_view() : std::string_view(text, std::strlen(text));
}

bool blobs_never_match() {
    static const bool answer = sqlite3_compileoption_used("LIKE_DOESNT_MATCH_BLOBS") != 0;
    return answer;
}

void finish(sqlite3_context* context, Match match) {
    if (match == Match::Stopped) {
        sqlite3_result_error_code(context, SQLITE_INTERRUPT);
    } else {
        sqlite3_result_int(context, match == Match::Yes ? 1 : 0);
    }
}

// like(pattern, text[, escape]) and glob(pattern, text).
void pattern_function(sqlite3_context* context, int count, sqlite3_value** arguments,
                      Syntax syntax) {
    if (blobs_never_match() && (sqlite3_value_type(arguments[0]) == SQLITE_BLOB ||
                                sqlite3_value_type(arguments[1]) == SQLITE_BLOB)) {
        sqlite3_result_int(context, 0);
        return;
    }
    if (count == 3) {
        if (sqlite3_value_type(arguments[2]) == SQLITE_NULL) return;
        const std::string_view escape = c_text(arguments[2]);
        const auto* at = reinterpret_cast<const unsigned char*>(escape.data());
        const unsigned char* const end = at + escape.size();
        if (at != end) syntax.escape = next(at, end);
        if (syntax.escape == kNone || at != end) {
            sqlite3_result_error(context, "ESCAPE expression must be a single character", -1);
            return;
        }
        // As an escape a wildcard is one no longer.
        if (syntax.escape == syntax.any) syntax.any = kNone;
        if (syntax.escape == syntax.one) syntax.one = kNone;
    }
    if (sqlite3_value_type(arguments[0]) == SQLITE_NULL ||
        sqlite3_value_type(arguments[1]) == SQLITE_NULL) {
        return;
    }
    auto& watch = *static_cast<Watch*>(sqlite3_user_data(context));
    finish(context, Comparison(c_text(arguments[0]), c_text(arguments[1]), syntax, watch).run());
}

void like_function(sqlite3_context* context, int count, sqlite3_value** arguments) {
    pattern_function(context, count, arguments, {'%', '_', kNone, false, true});
}

void glob_function(sqlite3_context* context, int count, sqlite3_value** arguments) {
    pattern_function(context, count, arguments, {'*', '?', kNone, true, false});
}

}  // namespace

int register_patterns(sqlite3* db, Watch& watch) {
    struct Entry {
        const char* name;
        int arguments;
        void (*function)(sqlite3_context*, int, sqlite3_value**);
    };
    const Entry entries[] = {
        {"like", 2, like_function},
        {"like", 3, like_function},
        {"glob", 2, glob_function},
    };
    for (const Entry& entry : entries) {
        const int rc = sqlite3_create_function_v2(
            db, entry.name, entry.arguments, SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS,
            &watch, entry.function, nullptr, nullptr, nullptr);
        if (rc != SQLITE_OK) return rc;
    }
    return SQLITE_OK;
}

}  // namespace spft
