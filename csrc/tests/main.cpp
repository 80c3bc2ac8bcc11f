// Runs every test, or those whose name holds the first argument.
#include <cstring>

#include "check.h"

int main(int count, char** arguments) {
    int run = 0;
    for (const Test& test : tests()) {
        if (count > 1 && std::strstr(test.name, arguments[1]) == nullptr) continue;
        const int before = failures();
        test.body();
        ++run;
        if (failures() != before) std::cerr << "FAILED " << test.name << "\n";
    }
    std::cout << run << " tests, " << failures() << " failed checks\n";
    return failures() == 0 && run > 0 ? 0 : 1;
}
