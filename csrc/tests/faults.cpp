// Failures on demand; how to use them stands in the header.
#include "faults.h"

#include <cstdlib>
#include <cstring>
#include <new>

#include "sqlite_api.h"

Faults& faults() {
    thread_local Faults state;
    return state;
}

namespace {

bool allocation_fails() {
    Faults& state = faults();
    if (state.allocation <= 0) return false;
    if (--state.allocation > 0) return false;
    ++state.fired;
    if (state.allocations_on) state.allocation = 1;
    return true;
}

sqlite3_mem_methods original;

void* allocate(int size) { return allocation_fails() ? nullptr : original.xMalloc(size); }
void* reallocate(void* old, int size) {
    return allocation_fails() ? nullptr : original.xRealloc(old, size);
}

// A file whose reads can fail: the header SQLite knows, the real file behind it.
struct File {
    sqlite3_file base;
    sqlite3_file* real() { return reinterpret_cast<sqlite3_file*>(this + 1); }
};
File* own(sqlite3_file* file) { return reinterpret_cast<File*>(file); }

sqlite3_vfs* system_vfs = nullptr;

int file_close(sqlite3_file* file) {
    sqlite3_file* real = own(file)->real();
    return real->pMethods == nullptr ? SQLITE_OK : real->pMethods->xClose(real);
}
int file_read(sqlite3_file* file, void* buffer, int size, sqlite3_int64 offset) {
    sqlite3_file* real = own(file)->real();
    Faults& state = faults();
    const bool fails = state.read > 0 && --state.read == 0;
    if (fails) ++state.fired;
    if (fails && state.kind == Faults::Read::Error) return SQLITE_IOERR_READ;
    const int rc = real->pMethods->xRead(real, buffer, size, offset);
    if (!fails || rc != SQLITE_OK) return rc;
    if (state.kind == Faults::Read::Short) {
        std::memset(static_cast<char*>(buffer) + size / 2, 0, static_cast<size_t>(size - size / 2));
        return SQLITE_IOERR_SHORT_READ;
    }
    for (int at = 0; at < size; at += 97) static_cast<char*>(buffer)[at] ^= 0x55;
    return SQLITE_OK;
}
int file_write(sqlite3_file* file, const void* buffer, int size, sqlite3_int64 offset) {
    sqlite3_file* real = own(file)->real();
    return real->pMethods->xWrite(real, buffer, size, offset);
}
int file_truncate(sqlite3_file* file, sqlite3_int64 size) {
    sqlite3_file* real = own(file)->real();
    return real->pMethods->xTruncate(real, size);
}
int file_sync(sqlite3_file* file, int flags) {
    sqlite3_file* real = own(file)->real();
    return real->pMethods->xSync(real, flags);
}
int file_size(sqlite3_file* file, sqlite3_int64* size) {
    sqlite3_file* real = own(file)->real();
    return real->pMethods->xFileSize(real, size);
}
int file_lock(sqlite3_file* file, int level) {
    sqlite3_file* real = own(file)->real();
    return real->pMethods->xLock(real, level);
}
int file_unlock(sqlite3_file* file, int level) {
    sqlite3_file* real = own(file)->real();
    return real->pMethods->xUnlock(real, level);
}
int file_reserved(sqlite3_file* file, int* held) {
    sqlite3_file* real = own(file)->real();
    return real->pMethods->xCheckReservedLock(real, held);
}
int file_control(sqlite3_file* file, int operation, void* argument) {
    sqlite3_file* real = own(file)->real();
    return real->pMethods->xFileControl(real, operation, argument);
}
int file_sector(sqlite3_file* file) {
    sqlite3_file* real = own(file)->real();
    return real->pMethods->xSectorSize(real);
}
int file_characteristics(sqlite3_file* file) {
    sqlite3_file* real = own(file)->real();
    return real->pMethods->xDeviceCharacteristics(real);
}

// Version 1: no shared memory and no memory map, so every page is read through file_read.
const sqlite3_io_methods kMethods = {
    1,
    file_close,
    file_read,
    file_write,
    file_truncate,
    file_sync,
    file_size,
    file_lock,
    file_unlock,
    file_reserved,
    file_control,
    file_sector,
    file_characteristics,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
};

int vfs_open(sqlite3_vfs*, const char* name, sqlite3_file* file, int flags, int* out) {
    File* self = own(file);
    self->base.pMethods = nullptr;
    self->real()->pMethods = nullptr;
    const int rc = system_vfs->xOpen(system_vfs, name, self->real(), flags, out);
    if (self->real()->pMethods != nullptr) self->base.pMethods = &kMethods;
    return rc;
}

bool install() {
    if (sqlite3_config(SQLITE_CONFIG_GETMALLOC, &original) != SQLITE_OK) return false;
    sqlite3_mem_methods methods = original;
    methods.xMalloc = allocate;
    methods.xRealloc = reallocate;
    if (sqlite3_config(SQLITE_CONFIG_MALLOC, &methods) != SQLITE_OK) return false;
    if (sqlite3_initialize() != SQLITE_OK) return false;
    system_vfs = sqlite3_vfs_find(nullptr);
    static sqlite3_vfs vfs = *system_vfs;  // all but xOpen as it is
    vfs.zName = "faulty";
    vfs.pNext = nullptr;
    vfs.szOsFile = static_cast<int>(sizeof(File)) + system_vfs->szOsFile;
    vfs.xOpen = vfs_open;
    return sqlite3_vfs_register(&vfs, 1) == SQLITE_OK;
}

const bool installed = install();

}  // namespace

bool faults_installed() { return installed; }

// C++'s allocations fail by the same count; the sanitizers bring their own operators and see the
// memory all the same, through malloc.
void* operator new(size_t size) {
    void* memory = allocation_fails() ? nullptr : std::malloc(size == 0 ? 1 : size);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
}
void* operator new(size_t size, const std::nothrow_t&) noexcept {
    return allocation_fails() ? nullptr : std::malloc(size == 0 ? 1 : size);
}
void* operator new[](size_t size) { return operator new(size); }
void* operator new[](size_t size, const std::nothrow_t& tag) noexcept {
    return operator new(size, tag);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
