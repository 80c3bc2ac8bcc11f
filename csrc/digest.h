// Digests of rows under the equality of the `bag` comparison, and of values under exact equality.
//
// In `bag` two values are equal exactly when their encodings are the same bytes:
//   NULL      equals NULL;
//   INTEGER   by value, all 64 bits;
//   REAL      a whole number within 64 bits equals that integer (1.0 = 1); any other is rounded to
//             12 significant digits, and equals an integer if that gives one below 10^12
//             (2.9999999999999996 = 3); infinities equal themselves;
//   TEXT      byte for byte;      BLOB  byte for byte, never equal to text.
// A row's digest is SipHash-1-3 with 128-bit output (Aumasson and Bernstein 2012, and the authors'
// 128-bit variant) under a fixed key, so that fingerprints agree between runs and machines. A keyed
// cryptographic mixer rather than a faster hash: rows are chosen by a model that is rewarded when
// digests agree, and short rows make the difference in speed small.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "types.h"

namespace spft {

Digest siphash128(const void* data, size_t size);

// Collects one row's values; the buffer is reused from row to row.
class RowEncoder {
  public:
    void clear() { bytes_.clear(); }
    void null();
    void integer(int64_t value);
    void real(double value);
    // `fold_case` and `trim_right` are for sort keys under NOCASE and RTRIM only.
    void text(const void* data, size_t size, bool fold_case = false, bool trim_right = false);
    void blob(const void* data, size_t size);

    Digest digest() const { return siphash128(bytes_.data(), bytes_.size()); }
    const std::string& bytes() const { return bytes_; }

  private:
    void number(char tag, int64_t value);
    bool real_by_arithmetic(double value);
    std::string bytes_;
};

// One value under exact equality, for the comparisons that look at values and not at whole rows:
// NULL equals NULL, numbers are equal by value (1 = 1.0 = TRUE, 0.0 = -0.0) and otherwise by every
// bit, text and blobs byte for byte. Numbers are kept as they are, so they never collide.
Digest cell_null();
Digest cell_integer(int64_t value);
Digest cell_real(double value);
// With `only_utf8`, bytes that are not valid UTF-8 are left out first, as Python's
// `decode(errors="ignore")` does.
Digest cell_text(const void* data, size_t size, bool only_utf8);
Digest cell_blob(const void* data, size_t size);

// The text without the bytes that are not part of valid UTF-8.
std::string keep_utf8(std::string_view text);

// 32 lower-case hexadecimal digits naming a result up to the order of its rows. Row and column
// counts take part, so that empty results of different shape differ.
std::string fingerprint(const Digest& bag, int64_t rows, int32_t columns);

}  // namespace spft
