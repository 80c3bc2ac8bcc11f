// Failures on demand: the n-th allocation of SQLite or of C++, the n-th read of a database file.
//
// In place from the start of the test program (SQLite takes a memory allocator and a default file
// system only before its first use), idle until armed, and then for the arming thread alone.
#pragma once

#include <cstdint>

struct Faults {
    int64_t allocation = 0;       // fails when this many more were made; 0: none
    bool allocations_on = false;  // and every one after it
    int64_t read = 0;             // the same for reads
    enum class Read { Error, Short, Flip } kind = Read::Error;
    int64_t fired = 0;
};

Faults& faults();  // of this thread

// True when the wrappers could be installed.
bool faults_installed();
