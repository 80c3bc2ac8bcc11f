// Fuzz target over the bytes of a database file: no crash, no leak, whatever the file holds.
//
// An input is a list of changes to a good file, three bytes each (two of position, one of value):
// whole files as inputs would spend most of the fuzzer's time on what is not a database at all.
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <iterator>

#include "target.h"
#include "vfs.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const std::string path = "/tmp/spft-fuzz-database-" + std::to_string(::getpid());
    static const std::string good = [] {
        if (!spft::register_read_only_vfs() || !make_target(path)) std::abort();
        std::ifstream in(path, std::ios::binary);
        return std::string(std::istreambuf_iterator<char>(in), {});
    }();
    std::string bytes = good;
    for (size_t i = 0; i + 2 < size; i += 3) {
        bytes[(data[i] * 256u + data[i + 1]) % bytes.size()] = static_cast<char>(data[i + 2]);
    }
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
    const spft::DatabaseFile file = spft::inspect_file(path);
    spft::Connection connection(file, kTargetLimits);
    if (connection.error().empty()) {
        for (const char* sql :
             {"SELECT * FROM t JOIN u USING (a)", "SELECT * FROM v ORDER BY b",
              "SELECT * FROM u WHERE b > 'a'", "SELECT name, sql FROM sqlite_master",
              "SELECT * FROM f WHERE f MATCH 'hello'", "SELECT * FROM box"}) {
            run_twice(connection, sql);
        }
    }
    ::unlink(path.c_str());
    return 0;
}
