// Runs random statements for long and watches memory: `soak STATEMENTS [SEED]`.
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iostream>

#include "statements.h"
#include "target.h"
#include "vfs.h"

namespace {

// Resident memory now, in MB.
long resident() {
    std::ifstream in("/proc/self/statm");
    long pages = 0;
    in >> pages >> pages;
    return pages * ::sysconf(_SC_PAGESIZE) / (1 << 20);
}

}  // namespace

int main(int count, char** arguments) {
    const long statements = count > 1 ? std::atol(arguments[1]) : 100000;
    const auto seed = static_cast<uint64_t>(count > 2 ? std::atol(arguments[2]) : 1);
    const std::string path = "/tmp/spft-soak-" + std::to_string(::getpid());
    if (!spft::register_read_only_vfs() || !make_target(path)) return 2;
    Statements random(seed);
    std::array<long, spft::kStatusCount> statuses{};
    long warm = 0;
    const auto start = std::chrono::steady_clock::now();
    {
        spft::Connection connection(spft::inspect_file(path), kTargetLimits);
        for (long i = 0; i < statements; ++i) {
            const std::string sql = random.next();
            spft::Wanted wanted;
            wanted.as_gold = i % 2 == 0;
            const spft::Outcome outcome =
                spft::run_query(connection, sql, kTargetLimits, wanted).outcome;
            ++statuses[static_cast<size_t>(outcome.status)];
            if (outcome.status == spft::Status::DatabaseError) {
                std::cerr << "database error: " << outcome.message << "\n" << sql << "\n";
            }
            if (i == statements / 10) warm = resident();
        }
    }
    ::unlink(path.c_str());
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::cout << statements << " statements, seed " << seed << ", " << seconds << " s; statuses";
    for (const long number : statuses) std::cout << ' ' << number;
    std::cout << "; resident " << warm << " MB after a tenth, " << resident() << " MB at the end\n";
    return resident() > warm + 50 ? 1 : 0;
}
