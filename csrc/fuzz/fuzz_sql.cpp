// Fuzz target over the text of a query: no crash, no leak, the same status twice.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "target.h"
#include "vfs.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static spft::Connection* const connection = [] {
        const std::string path = "/tmp/spft-fuzz-sql-" + std::to_string(::getpid());
        if (!spft::register_read_only_vfs() || !make_target(path)) std::abort();
        auto* opened = new spft::Connection(spft::inspect_file(path), kTargetLimits);
        ::unlink(path.c_str());
        return opened;
    }();
    if (!run_twice(*connection, std::string(reinterpret_cast<const char*>(data), size))) {
        std::fprintf(stderr, "gold and candidate end differently\n");
        std::abort();
    }
    return 0;
}
