// Just enough of a test harness: named tests, checks that print what differs, an exit code.
#pragma once

#include <iostream>
#include <string>
#include <vector>

struct Test {
    const char* name;
    void (*body)();
};

inline std::vector<Test>& tests() {
    static std::vector<Test> all;
    return all;
}

inline int& failures() {
    static int count = 0;
    return count;
}

struct Register {
    Register(const char* name, void (*body)()) { tests().push_back({name, body}); }
};

#define TEST(name)                                   \
    static void name();                              \
    static const Register name##_entry{#name, name}; \
    static void name()

#define CHECK(condition)                                                                   \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            ++failures();                                                                  \
            std::cerr << __FILE__ << ":" << __LINE__ << ": not true: " #condition << "\n"; \
        }                                                                                  \
    } while (false)

#define CHECK_EQUAL(actual, expected)                                                           \
    do {                                                                                        \
        const auto& got_ = (actual);                                                            \
        const auto& want_ = (expected);                                                         \
        if (!(got_ == want_)) {                                                                 \
            ++failures();                                                                       \
            std::cerr << __FILE__ << ":" << __LINE__ << ": " #actual " is " << got_ << ", not " \
                      << want_ << "\n";                                                         \
        }                                                                                       \
    } while (false)
