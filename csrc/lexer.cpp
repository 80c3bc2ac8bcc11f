// Reads SQL text as SQLite's own tokenizer splits it; what for stands in the header.
#include "lexer.h"

#include <algorithm>
#include <array>

namespace spft {
namespace {

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\f' || c == '\r'; }

bool is_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '$' || static_cast<unsigned char>(c) >= 0x80;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

// The offset behind the white space or comment that starts at `at`, or `at` when none does.
size_t skip_blank(std::string_view sql, size_t at) {
    const char c = sql[at];
    if (is_space(c)) return at + 1;
    if (sql.substr(at, 3) == kByteOrderMark) return at + 3;
    if (sql.substr(at, 2) == "--") {
        const size_t line = sql.find('\n', at);
        return line == std::string_view::npos ? sql.size() : line + 1;
    }
    if (sql.substr(at, 2) == "/*") {
        const size_t close = sql.find("*/", at + 2);
        // SQLite lets the end of the text close a comment.
        return close == std::string_view::npos ? sql.size() : close + 2;
    }
    return at;
}

// The offset behind the quoted run that starts at `at`; a doubled quote stays inside.
size_t skip_quoted(std::string_view sql, size_t at) {
    const char close = sql[at] == '[' ? ']' : sql[at];
    for (size_t i = at + 1; i < sql.size(); ++i) {
        if (sql[i] != close) continue;
        if (close != ']' && i + 1 < sql.size() && sql[i + 1] == close) {
            ++i;
            continue;
        }
        return i + 1;
    }
    return sql.size();
}

std::string unquote(std::string_view text) {
    if (text.size() < 2) return std::string(text);
    const char open = text.front();
    if (open == '[') return std::string(text.substr(1, text.size() - 2));
    if (open != '"' && open != '`' && open != '\'') return std::string(text);
    std::string plain;
    for (size_t i = 1; i + 1 < text.size(); ++i) {
        plain.push_back(text[i]);
        if (text[i] == open) ++i;
    }
    return plain;
}

class Reader {
  public:
    explicit Reader(std::string_view sql) : sql_(sql), tokens_(tokenize(sql)) {}

    size_t size() const { return tokens_.size(); }
    const Token& operator[](size_t i) const { return tokens_[i]; }
    std::string_view text(size_t i) const {
        return sql_.substr(tokens_[i].begin, tokens_[i].end - tokens_[i].begin);
    }
    // Token `i` is the keyword, outside all parentheses.
    bool is_keyword(size_t i, std::string_view keyword) const {
        return i < tokens_.size() && tokens_[i].kind == TokenKind::Word && tokens_[i].depth == 0 &&
               lower(text(i)) == keyword;
    }

  private:
    std::string_view sql_;
    std::vector<Token> tokens_;
};

// YEAR(CURDATE()), with any white space inside and behind it, becomes 2020.
std::string replace_current_year(const std::string& sql) {
    static constexpr std::array<std::string_view, 6> kParts{"year", "(", "curdate", "(", ")", ")"};
    const std::string folded = lower(sql);
    const auto match = [&](size_t at) {  // the offset behind a match at `at`, else `at`
        size_t end = at;
        for (const std::string_view part : kParts) {
            if (folded.compare(end, part.size(), part) != 0) return at;
            end += part.size();
            while (end < folded.size() && (is_space(folded[end]) || folded[end] == '\v')) ++end;
        }
        return end;
    };
    std::string result;
    for (size_t i = 0; i < sql.size();) {
        const size_t end = match(i);
        if (end == i) {
            result.push_back(sql[i++]);
        } else {
            result += "2020";
            i = end;
        }
    }
    return result;
}

// The sort term made of tokens [first, last).
SortTerm read_term(const Reader& tokens, std::string_view sql, size_t first, size_t last) {
    const auto ends_with = [&](std::string_view word) {
        return last > first && tokens.is_keyword(last - 1, word);
    };
    if ((ends_with("first") || ends_with("last")) && last - first >= 3 &&
        tokens.is_keyword(last - 2, "nulls")) {
        last -= 2;
    }
    if (ends_with("asc") || ends_with("desc")) --last;
    SortTerm term;
    if (last == first) return term;
    term.text =
        std::string(sql.substr(tokens[first].begin, tokens[last - 1].end - tokens[first].begin));
    const size_t count = last - first;
    const auto is_name = [&](size_t i) {
        return tokens[i].kind == TokenKind::Word || tokens[i].kind == TokenKind::Quoted;
    };
    if (count == 1 && tokens[first].kind == TokenKind::Number && term.text.size() < 6 &&
        std::all_of(term.text.begin(), term.text.end(), is_digit)) {
        term.position = std::stoi(term.text);
    } else if (count == 1 && is_name(first)) {
        term.identifier = unquote(term.text);
    } else if (count == 3 && is_name(first) && is_name(last - 1) && tokens.text(first + 1) == ".") {
        term.identifier = unquote(tokens.text(last - 1));
        term.qualified = true;
    }
    return term;
}

}  // namespace

std::string lower(std::string_view text) {
    std::string result(text);
    for (char& c : result) {
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
    }
    return result;
}

std::string squeeze(std::string_view text) {
    std::string result;
    for (const char c : lower(text)) {
        if (!is_space(c)) result.push_back(c);
    }
    return result;
}

std::vector<Token> tokenize(std::string_view sql) {
    std::vector<Token> tokens;
    int depth = 0;
    size_t at = 0;
    while (at < sql.size()) {
        const size_t behind_blank = skip_blank(sql, at);
        if (behind_blank != at) {
            at = behind_blank;
            continue;
        }
        const char c = sql[at];
        Token token{TokenKind::Other, at, at + 1, depth};
        if (c == '\'') {
            token.kind = TokenKind::String;
            token.end = skip_quoted(sql, at);
        } else if (c == '"' || c == '`' || c == '[') {
            token.kind = TokenKind::Quoted;
            token.end = skip_quoted(sql, at);
        } else if (c == '(') {
            token.kind = TokenKind::Open;
            ++depth;
        } else if (c == ')') {
            token.kind = TokenKind::Close;
            token.depth = --depth;
        } else if (c == ',') {
            token.kind = TokenKind::Comma;
        } else if (c == ';') {
            token.kind = TokenKind::Semicolon;
        } else if (is_digit(c) || (c == '.' && at + 1 < sql.size() && is_digit(sql[at + 1]))) {
            token.kind = TokenKind::Number;
            while (token.end < sql.size() && (is_word(sql[token.end]) || sql[token.end] == '.')) {
                ++token.end;
            }
        } else if (is_word(c)) {
            token.kind = TokenKind::Word;
            while (token.end < sql.size() && is_word(sql[token.end])) ++token.end;
        }
        at = token.end;
        tokens.push_back(token);
    }
    return tokens;
}

bool is_blank(std::string_view tail) {
    size_t at = 0;
    while (at < tail.size()) {
        const size_t behind = skip_blank(tail, at);
        if (behind == at && tail[at] != ';') return false;
        at = std::max(behind, at + 1);
    }
    return true;
}

bool may_have_order(std::string_view sql) {
    for (size_t i = 0; i + 5 <= sql.size(); ++i) {
        if ((sql[i] | 32) == 'o' && (sql[i + 1] | 32) == 'r' && (sql[i + 2] | 32) == 'd' &&
            (sql[i + 3] | 32) == 'e' && (sql[i + 4] | 32) == 'r') {
            return true;
        }
    }
    return false;
}

std::string spider_text(std::string_view sql) {
    std::string joined;
    joined.reserve(sql.size());
    for (size_t i = 0; i < sql.size(); ++i) {
        joined.push_back(sql[i]);
        const bool comparison = sql[i] == '>' || sql[i] == '<' || sql[i] == '!';
        if (comparison && sql.substr(i + 1, 2) == " =") ++i;
    }
    // Most texts hold neither word; looking for both costs less than splitting into tokens.
    const std::string folded = lower(joined);
    if (folded.find("distinct") != std::string::npos) {
        std::string kept;
        size_t from = 0;
        for (const Token& token : tokenize(joined)) {
            const auto text = std::string_view(folded).substr(token.begin, token.end - token.begin);
            if (token.kind != TokenKind::Word || text != "distinct") continue;
            kept.append(joined, from, token.begin - from);
            from = token.end;
        }
        joined = kept.append(joined, from, std::string::npos);
    }
    return folded.find("curdate") == std::string::npos ? joined : replace_current_year(joined);
}

bool spider_ordered(std::string_view gold) {
    return may_have_order(gold) && lower(gold).find("order by") != std::string::npos;
}

GoldOrder find_outer_order(std::string_view sql) {
    GoldOrder order;
    if (!may_have_order(sql)) return order;
    const Reader tokens(sql);
    size_t select = tokens.size();
    size_t select_end = tokens.size();
    size_t order_by = tokens.size();
    bool compound = false;
    for (size_t i = 0; i < tokens.size(); ++i) {
        if (tokens[i].kind == TokenKind::Semicolon && tokens[i].depth == 0) break;
        if (tokens[i].kind != TokenKind::Word || tokens[i].depth != 0) continue;
        const std::string word = lower(tokens.text(i));
        const bool clause = word == "where" || word == "group" || word == "having" ||
                            word == "window" || word == "order" || word == "limit" ||
                            // `a IS DISTINCT FROM b` is an expression.
                            (word == "from" && !tokens.is_keyword(i - 1, "distinct"));
        if (word == "select" && select == tokens.size()) {
            select = i;
        } else if (word == "union" || word == "intersect" || word == "except") {
            compound = true;
        } else if (clause && select != tokens.size() && select_end == tokens.size()) {
            select_end = i;
        }
        if (word == "order" && tokens.is_keyword(i + 1, "by")) {
            order_by = i + 2;
            break;
        }
    }
    if (order_by >= tokens.size() || select == tokens.size()) return order;
    order.ordered = true;
    order.simple =
        !compound && !tokens.is_keyword(select + 1, "distinct") && select_end < tokens.size();
    if (order.simple) order.select_end = tokens[select_end].begin;
    size_t first = order_by;
    for (size_t i = order_by;; ++i) {
        const bool end = i == tokens.size() ||
                         (tokens[i].depth == 0 && (tokens[i].kind == TokenKind::Semicolon ||
                                                   tokens.is_keyword(i, "limit")));
        if (end || (tokens[i].kind == TokenKind::Comma && tokens[i].depth == 0)) {
            order.terms.push_back(read_term(tokens, sql, first, i));
            first = i + 1;
        }
        if (end) break;
    }
    const std::string folded = lower(sql);
    order.fold_case = folded.find("nocase") != std::string::npos;
    order.trim_right = folded.find("rtrim") != std::string::npos;
    return order;
}

}  // namespace spft
