// Digests of rows under the equality of the `bag` comparison; the rules stand in the header.
#include "digest.h"

#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>

namespace spft {
namespace {

constexpr uint64_t kKey0 = 0x0706050403020100ULL;
constexpr uint64_t kKey1 = 0x0f0e0d0c0b0a0908ULL;

struct SipState {
    uint64_t v0, v1, v2, v3;

    void round() {
        v0 += v1;
        v1 = std::rotl(v1, 13) ^ v0;
        v0 = std::rotl(v0, 32);
        v2 += v3;
        v3 = std::rotl(v3, 16) ^ v2;
        v0 += v3;
        v3 = std::rotl(v3, 21) ^ v0;
        v2 += v1;
        v1 = std::rotl(v1, 17) ^ v2;
        v2 = std::rotl(v2, 32);
    }

    void absorb(uint64_t word) {
        v3 ^= word;
        round();
        v0 ^= word;
    }

    uint64_t squeeze() {
        for (int i = 0; i < 3; ++i) round();
        return v0 ^ v1 ^ v2 ^ v3;
    }
};

constexpr char kNull = 'n';
constexpr char kInteger = 'i';
constexpr char kReal = 'r';
constexpr char kText = 't';
constexpr char kBlob = 'b';

// 2^63: the first double above every 64-bit integer.
constexpr double kTwo63 = 9223372036854775808.0;
constexpr double kTenTo12 = 1e12;

constexpr std::array<long double, 28> kPowers = [] {
    std::array<long double, 28> powers{1.0L};
    for (size_t i = 1; i < powers.size(); ++i) powers[i] = powers[i - 1] * 10.0L;
    return powers;
}();

}  // namespace

Digest siphash128(const void* data, size_t size) {
    SipState s{kKey0 ^ 0x736f6d6570736575ULL, kKey1 ^ 0x646f72616e646f6dULL ^ 0xee,
               kKey0 ^ 0x6c7967656e657261ULL, kKey1 ^ 0x7465646279746573ULL};
    const auto* bytes = static_cast<const unsigned char*>(data);
    const size_t whole = size & ~size_t{7};
    for (size_t i = 0; i < whole; i += 8) {
        uint64_t word;
        std::memcpy(&word, bytes + i, 8);
        s.absorb(word);
    }
    uint64_t last = static_cast<uint64_t>(size) << 56;
    for (size_t i = whole; i < size; ++i) last |= uint64_t{bytes[i]} << (8 * (i - whole));
    s.absorb(last);
    s.v2 ^= 0xee;
    Digest result;
    result.low = s.squeeze();
    s.v1 ^= 0xdd;
    result.high = s.squeeze();
    return result;
}

void RowEncoder::number(char tag, int64_t value) {
    char packed[9];
    packed[0] = tag;
    std::memcpy(packed + 1, &value, 8);
    bytes_.append(packed, sizeof packed);
}

void RowEncoder::null() { bytes_.push_back(kNull); }

void RowEncoder::integer(int64_t value) { number(kInteger, value); }

void RowEncoder::real(double value) {
    if (value >= -kTwo63 && value < kTwo63 && value == std::trunc(value)) {
        number(kInteger, static_cast<int64_t>(value));
        return;
    }
    if (real_by_arithmetic(value)) return;
    // 11 digits behind the point of the mantissa: 12 significant ones.
    std::array<char, 40> decimal;
    const auto end = std::to_chars(decimal.data(), decimal.data() + decimal.size(), value,
                                   std::chars_format::scientific, 11)
                         .ptr;
    if (std::fabs(value) < kTenTo12) {
        double rounded = 0.0;
        std::from_chars(decimal.data(), end, rounded);
        if (rounded == std::trunc(rounded) && std::fabs(rounded) < kTenTo12) {
            number(kInteger, static_cast<int64_t>(rounded));
            return;
        }
    }
    bytes_.push_back(kReal);
    bytes_.push_back(static_cast<char>(end - decimal.data()));
    bytes_.append(decimal.data(), end);
}

// What to_chars and from_chars would give, for the values nearly all results hold, at a fifth of
// their cost. |value| x 10^p with p chosen for 12 digits before the point has one rounding, of less
// than 1e-7, as 10^p is exact in 64 bits of mantissa up to p = 27. Only where that could move the
// last digit (a fraction within 1e-6 of a half), or beyond the range, is nothing done.
bool RowEncoder::real_by_arithmetic(double value) {
    if constexpr (std::numeric_limits<long double>::digits < 64) return false;
    const double size = std::fabs(value);
    if (!(size >= 1e-15 && size < 1e15)) return false;
    // log10(2) is about 1233 / 4096; the estimate is the exponent or one less.
    int exponent = (std::ilogb(size) * 1233) >> 12;
    const auto scaled_by = [&](int e) {
        return e <= 11 ? static_cast<long double>(size) * kPowers[static_cast<size_t>(11 - e)]
                       : static_cast<long double>(size) / kPowers[static_cast<size_t>(e - 11)];
    };
    long double scaled = scaled_by(exponent);
    if (scaled >= 1e12L) scaled = scaled_by(++exponent);
    if (scaled < 1e11L || scaled >= 1e12L) return false;
    auto digits = static_cast<int64_t>(scaled);
    const long double fraction = scaled - static_cast<long double>(digits);
    if (std::fabs(fraction - 0.5L) < 1e-6L) return false;
    if (fraction > 0.5L && ++digits == 1'000'000'000'000) {
        digits = 100'000'000'000;
        ++exponent;
    }
    if (exponent >= 0 && exponent <= 11) {
        const auto unit = static_cast<int64_t>(kPowers[static_cast<size_t>(11 - exponent)]);
        if (digits % unit == 0) {
            number(kInteger, (value < 0 ? -digits : digits) / unit);
            return true;
        }
    }
    // [-]d.ddddddddddde[+-]dd, as to_chars writes it.
    std::array<char, 18> decimal;
    size_t at = decimal.size();
    const int magnitude = std::abs(exponent);
    decimal[--at] = static_cast<char>('0' + magnitude % 10);
    decimal[--at] = static_cast<char>('0' + magnitude / 10);
    decimal[--at] = exponent < 0 ? '-' : '+';
    decimal[--at] = 'e';
    for (int i = 0; i < 11; ++i, digits /= 10) {
        decimal[--at] = static_cast<char>('0' + digits % 10);
    }
    decimal[--at] = '.';
    decimal[--at] = static_cast<char>('0' + digits);
    if (value < 0) decimal[--at] = '-';
    bytes_.push_back(kReal);
    bytes_.push_back(static_cast<char>(decimal.size() - at));
    bytes_.append(decimal.data() + at, decimal.size() - at);
    return true;
}

void RowEncoder::text(const void* data, size_t size, bool fold_case, bool trim_right) {
    const char* bytes = static_cast<const char*>(data);
    if (trim_right) {
        while (size > 0 && bytes[size - 1] == ' ') --size;
    }
    number(kText, static_cast<int64_t>(size));
    const size_t start = bytes_.size();
    if (size > 0) bytes_.append(bytes, size);
    if (fold_case) {
        for (size_t i = start; i < bytes_.size(); ++i) {
            if (bytes_[i] >= 'A' && bytes_[i] <= 'Z') bytes_[i] = static_cast<char>(bytes_[i] + 32);
        }
    }
}

void RowEncoder::blob(const void* data, size_t size) {
    number(kBlob, static_cast<int64_t>(size));
    if (size > 0) bytes_.append(static_cast<const char*>(data), size);
}

namespace {

// What stands in a cell's high half: numbers and NULL are told apart from hashed values by the top
// bit, texts from blobs by the next.
constexpr uint64_t kNullCell = 1;
constexpr uint64_t kIntegerCell = 2;
constexpr uint64_t kRealCell = 3;
constexpr uint64_t kHashed = uint64_t{1} << 63;
constexpr uint64_t kBlobCell = uint64_t{1} << 62;

Digest hashed_cell(const void* data, size_t size, uint64_t kind) {
    Digest digest = siphash128(data, size);
    digest.high = (digest.high & ~kBlobCell) | kHashed | kind;
    return digest;
}

// The length of the valid UTF-8 sequence that `text` starts with, or 0 (RFC 3629, table 3-7 of the
// Unicode standard: no overlong forms, no surrogates, nothing above U+10FFFF).
size_t utf8_length(std::string_view text) {
    const auto byte = [&](size_t i) -> unsigned {
        return i < text.size() ? static_cast<unsigned char>(text[i]) : 0;
    };
    const auto tail = [&](size_t i) { return (byte(i) & 0xC0) == 0x80; };
    const unsigned lead = byte(0);
    if (lead < 0x80) return 1;
    if (lead >= 0xC2 && lead <= 0xDF) return tail(1) ? 2 : 0;
    if (lead >= 0xE0 && lead <= 0xEF) {
        const bool second = lead == 0xE0   ? byte(1) >= 0xA0 && byte(1) <= 0xBF
                            : lead == 0xED ? byte(1) >= 0x80 && byte(1) <= 0x9F
                                           : tail(1);
        return second && tail(2) ? 3 : 0;
    }
    if (lead >= 0xF0 && lead <= 0xF4) {
        const bool second = lead == 0xF0   ? byte(1) >= 0x90 && byte(1) <= 0xBF
                            : lead == 0xF4 ? byte(1) >= 0x80 && byte(1) <= 0x8F
                                           : tail(1);
        return second && tail(2) && tail(3) ? 4 : 0;
    }
    return 0;
}

}  // namespace

std::string keep_utf8(std::string_view text) {
    std::string kept;
    kept.reserve(text.size());
    for (size_t i = 0; i < text.size();) {
        // A byte that starts no sequence is dropped alone: the rest of a broken sequence starts
        // none either, so the decoder's larger steps end in the same text.
        const size_t length = utf8_length(text.substr(i, 4));
        kept.append(text, i, length);
        i += length == 0 ? 1 : length;
    }
    return kept;
}

Digest cell_null() { return {0, kNullCell}; }

Digest cell_integer(int64_t value) { return {static_cast<uint64_t>(value), kIntegerCell}; }

Digest cell_real(double value) {
    if (value >= -kTwo63 && value < kTwo63 && value == std::trunc(value)) {
        return cell_integer(static_cast<int64_t>(value));
    }
    return {std::bit_cast<uint64_t>(value), kRealCell};
}

Digest cell_text(const void* data, size_t size, bool only_utf8) {
    if (only_utf8) {
        const std::string_view text(static_cast<const char*>(data), size);
        size_t valid = 0;
        while (valid < size) {
            const size_t length = utf8_length(text.substr(valid, 4));
            if (length == 0) {
                const std::string kept = keep_utf8(text);
                return hashed_cell(kept.data(), kept.size(), 0);
            }
            valid += length;
        }
    }
    return hashed_cell(data, size, 0);
}

Digest cell_blob(const void* data, size_t size) { return hashed_cell(data, size, kBlobCell); }

std::string fingerprint(const Digest& bag, int64_t rows, int32_t columns) {
    const std::array<uint64_t, 4> packed{bag.low, bag.high, static_cast<uint64_t>(rows),
                                         static_cast<uint64_t>(columns)};
    const Digest mixed = siphash128(packed.data(), sizeof packed);
    static constexpr char kHex[] = "0123456789abcdef";
    std::string text(32, '0');
    for (int i = 0; i < 16; ++i) {
        text[static_cast<size_t>(i)] = kHex[(mixed.high >> (60 - 4 * i)) & 15];
        text[static_cast<size_t>(16 + i)] = kHex[(mixed.low >> (60 - 4 * i)) & 15];
    }
    return text;
}

}  // namespace spft
