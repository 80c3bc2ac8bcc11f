// Reads SQL text as SQLite's own tokenizer splits it: enough to find the outermost ORDER BY and to
// see whether anything follows the first statement.
//
// A tokenizer and not a parser: in a SELECT that SQLite accepts, every nested SELECT, window and
// ordered aggregate stands in parentheses, so an ORDER BY outside all parentheses is the outermost
// query's, and there is at most one. That holds for every text SQLite can run, which no second
// parser could promise.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace spft {

enum class TokenKind : uint8_t {
    Word,
    Quoted,
    String,
    Number,
    Open,
    Close,
    Comma,
    Semicolon,
    Other
};

struct Token {
    TokenKind kind;
    size_t begin;  // byte offsets into the text
    size_t end;
    int depth;  // enclosing parentheses
};

// Tokens without white space and comments; a byte-order mark is white space, as in SQLite.
std::vector<Token> tokenize(std::string_view sql);

// True when `tail` holds nothing but white space, comments and semicolons.
bool is_blank(std::string_view tail);

// One term of the outermost ORDER BY, without ASC, DESC and NULLS.
struct SortTerm {
    std::string text;        // as written
    std::string identifier;  // unquoted last part when the term is a name (a, "a", t.a), else empty
    bool qualified = false;  // the name had a table in front
    int position = 0;        // 1-based output column when the term is an integer, else 0
};

struct GoldOrder {
    bool ordered = false;   // the outermost query has an ORDER BY
    bool simple = false;    // one SELECT without DISTINCT: extra output columns change nothing else
    size_t select_end = 0;  // where the output columns of that SELECT end
    bool fold_case = false;   // NOCASE occurs in the text
    bool trim_right = false;  // RTRIM occurs in the text
    std::vector<SortTerm> terms;
};

GoldOrder find_outer_order(std::string_view sql);

// Cheap test before the full one.
bool may_have_order(std::string_view sql);

// What Spider's test-suite evaluator runs in place of `sql`: `> =`, `< =`, `! =` joined everywhere,
// every DISTINCT outside quotes and comments removed, YEAR(CURDATE()) read as 2020.
std::string spider_text(std::string_view sql);

// That evaluator's test of whether the order of rows counts: `order by`, with one space and in any
// case, occurs anywhere in the gold's text.
bool spider_ordered(std::string_view gold);

// ASCII-lower-cased copy.
std::string lower(std::string_view text);

// Lower-cased and without white space: to compare an ORDER BY term with an output column's name.
std::string squeeze(std::string_view text);

}  // namespace spft
