// Random statements over the schema of fuzz/target.h: mostly queries that run, some that cannot.
#pragma once

#include <cstdint>
#include <random>
#include <string>

class Statements {
  public:
    explicit Statements(uint64_t seed) : random_(seed) {}
    std::string next();

  private:
    unsigned below(unsigned n) { return static_cast<unsigned>(random_() % n); }
    template <size_t n>
    std::string one_of(const char* const (&choices)[n]) {
        return choices[below(n)];
    }
    std::string select(int depth);
    std::string core(int depth);
    std::string single();
    std::string source(int depth);
    std::string expression(int depth);
    std::string function(int depth);
    std::string literal();
    std::string garble(std::string text);

    std::mt19937_64 random_;
};
