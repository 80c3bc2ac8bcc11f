// Which values are equal under the `bag` comparison, and what sums of row digests keep.
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>

#include "check.h"
#include "digest.h"

using spft::Digest;
using spft::RowEncoder;

namespace {

std::string real(double value) {
    RowEncoder row;
    row.real(value);
    return row.bytes();
}
std::string integer(int64_t value) {
    RowEncoder row;
    row.integer(value);
    return row.bytes();
}
std::string text(const std::string& value, bool fold = false, bool trim = false) {
    RowEncoder row;
    row.text(value.data(), value.size(), fold, trim);
    return row.bytes();
}

}  // namespace

TEST(whole_floats_equal_their_integers) {
    CHECK(real(1.0) == integer(1));
    CHECK(real(-0.0) == integer(0));
    CHECK(real(1e15) == integer(1000000000000000));
    CHECK(real(9007199254740992.0) == integer(9007199254740992));
    CHECK(real(9007199254740992.0) != integer(9007199254740993));
    CHECK(real(-9223372036854775808.0) == integer(std::numeric_limits<int64_t>::min()));
    CHECK(real(9223372036854775808.0) != integer(std::numeric_limits<int64_t>::max()));
}

TEST(other_floats_compare_by_twelve_digits) {
    CHECK(real(0.1 + 0.2) == real(0.3));
    CHECK(real(1.0 / 3.0) == real(0.333333333333333));
    CHECK(real(0.123456789012) != real(0.123456789013));
    CHECK(real(2.9999999999999996) == integer(3));
    CHECK(real(2.99999999999) != integer(3));
    CHECK(real(1.5e300) == real(1.5e300 * (1 + 1e-15)));
    CHECK(real(HUGE_VAL) == real(HUGE_VAL));
    CHECK(real(HUGE_VAL) != real(-HUGE_VAL));
}

// The rule in the C library's words: print 12 digits, and read them back to see whether they are
// whole.
std::string rounded(double value) {
    char decimal[40];
    std::snprintf(decimal, sizeof decimal, "%.11e", value);
    const double read = std::strtod(decimal, nullptr);
    if (std::fabs(value) < 1e12 && read == std::trunc(read) && std::fabs(read) < 1e12) {
        return integer(static_cast<int64_t>(read));
    }
    const std::string text(decimal);
    return std::string("r") + static_cast<char>(text.size()) + text;
}

TEST(every_float_is_rounded_as_the_c_library_prints_it) {
    std::mt19937_64 random(7);
    const auto check = [](double value) {
        if (!std::isfinite(value) || value == std::trunc(value)) return;
        if (real(value) != rounded(value)) {
            CHECK_EQUAL(value, 0.0);  // names the value
        }
    };
    for (int i = 0; i < 200000; ++i) {
        check(std::bit_cast<double>(random()));  // any exponent
        const double unit = static_cast<double>(random() >> 11) * 0x1p-53;
        check((unit - 0.5) * std::pow(10.0, static_cast<int>(random() % 40) - 20));
        check(static_cast<double>(static_cast<int64_t>(random() % 2000000) - 1000000) / 1000.0);
        // Close to and exactly at a half in the 13th digit, and close to a power of ten.
        const double digits = static_cast<double>(random() % 900000000000 + 100000000000);
        check((digits + 0.5) / 1024.0);
        check(digits + 0.5);
        check((digits + 0.5) / 1e6);
        const double power = std::pow(10.0, static_cast<int>(random() % 34) - 17);
        check(std::nextafter(power, static_cast<double>(random() % 2) * 1e300));
        check(power * (1.0 - static_cast<double>(random() % 1000) * 1e-15));
        check(-power * (1.0 + static_cast<double>(random() % 1000) * 1e-15));
    }
}

TEST(texts_blobs_numbers_and_null_are_distinct) {
    RowEncoder blob;
    blob.blob("1", 1);
    RowEncoder null;
    null.null();
    CHECK(text("1") != integer(1));
    CHECK(text("1") != blob.bytes());
    CHECK(null.bytes() != text(""));
    CHECK(null.bytes() != integer(0));
    CHECK(text("a") != text("A"));
    CHECK(text("a ") != text("a"));
    CHECK(text("Ab", true) == text("aB", true));
    CHECK(text("a  ", false, true) == text("a", false, true));
}

TEST(rows_do_not_run_into_each_other) {
    RowEncoder first;
    first.text("ab", 2);
    first.text("c", 1);
    RowEncoder second;
    second.text("a", 1);
    second.text("bc", 2);
    CHECK(first.digest() != second.digest());
}

TEST(a_bag_ignores_order_and_keeps_duplicates) {
    const Digest a = spft::siphash128("a", 1);
    const Digest b = spft::siphash128("b", 1);
    Digest ab, ba, aab, abb;
    for (const Digest& d : {a, b}) ab.add(d);
    for (const Digest& d : {b, a}) ba.add(d);
    for (const Digest& d : {a, a, b}) aab.add(d);
    for (const Digest& d : {a, b, b}) abb.add(d);
    CHECK(ab == ba);
    CHECK(aab != abb);
    Digest carry{~uint64_t{0}, 0};
    carry.add({1, 0});
    CHECK(carry == (Digest{0, 1}));
}

TEST(fingerprints_tell_empty_shapes_apart) {
    CHECK_EQUAL(spft::fingerprint({}, 0, 1).size(), size_t{32});
    CHECK(spft::fingerprint({}, 0, 1) != spft::fingerprint({}, 0, 2));
}
