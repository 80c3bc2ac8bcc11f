// A SQLite file system that can read databases and nothing else; why stands in the header.
#include "vfs.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "sqlite_api.h"

namespace spft {

const char* const kReadOnlyVfs = "spftcore-read-only";

TempStorage& temp_storage() {
    thread_local TempStorage storage;
    return storage;
}

namespace {

// Large enough that a spill takes few allocations, small enough that a tiny one costs little.
constexpr int64_t kBlock = 64 * 1024;

// A temporary file in memory, as blocks, so that growing never copies.
struct TempFile {
    sqlite3_file base;
    std::vector<std::unique_ptr<char[]>>* blocks;
    int64_t size;
};

TempFile* temp(sqlite3_file* file) { return reinterpret_cast<TempFile*>(file); }

void release_blocks(TempFile* file, size_t keep) {
    while (file->blocks->size() > keep) {
        file->blocks->pop_back();
        temp_storage().used -= kBlock;
    }
}

int temp_close(sqlite3_file* file) {
    release_blocks(temp(file), 0);
    delete temp(file)->blocks;
    temp(file)->blocks = nullptr;
    return SQLITE_OK;
}

int temp_read(sqlite3_file* file, void* buffer, int amount, sqlite3_int64 offset) {
    TempFile* self = temp(file);
    auto* out = static_cast<char*>(buffer);
    const int64_t available = std::clamp<int64_t>(self->size - offset, 0, amount);
    for (int64_t done = 0; done < available;) {
        const int64_t at = offset + done;
        const int64_t part = std::min(available - done, kBlock - at % kBlock);
        std::memcpy(out + done,
                    (*self->blocks)[static_cast<size_t>(at / kBlock)].get() + at % kBlock,
                    static_cast<size_t>(part));
        done += part;
    }
    if (available == amount) return SQLITE_OK;
    std::memset(out + available, 0, static_cast<size_t>(amount - available));
    return SQLITE_IOERR_SHORT_READ;
}

int temp_write(sqlite3_file* file, const void* buffer, int amount, sqlite3_int64 offset) {
    TempFile* self = temp(file);
    TempStorage& storage = temp_storage();
    const int64_t end = offset + amount;
    while (static_cast<int64_t>(self->blocks->size()) * kBlock < end) {
        if (storage.used + kBlock > storage.limit) {
            storage.exceeded = true;
            return SQLITE_FULL;
        }
        char* block = new (std::nothrow) char[kBlock]();
        if (block == nullptr) return SQLITE_IOERR_NOMEM;
        self->blocks->emplace_back(block);
        storage.used += kBlock;
    }
    const auto* in = static_cast<const char*>(buffer);
    for (int64_t done = 0; done < amount;) {
        const int64_t at = offset + done;
        const int64_t part = std::min<int64_t>(amount - done, kBlock - at % kBlock);
        std::memcpy((*self->blocks)[static_cast<size_t>(at / kBlock)].get() + at % kBlock,
                    in + done, static_cast<size_t>(part));
        done += part;
    }
    self->size = std::max(self->size, end);
    return SQLITE_OK;
}

int temp_truncate(sqlite3_file* file, sqlite3_int64 size) {
    TempFile* self = temp(file);
    if (size < self->size) {
        self->size = size;
        release_blocks(self, static_cast<size_t>((size + kBlock - 1) / kBlock));
    }
    return SQLITE_OK;
}

int temp_file_size(sqlite3_file* file, sqlite3_int64* size) {
    *size = temp(file)->size;
    return SQLITE_OK;
}

int temp_sync(sqlite3_file*, int) { return SQLITE_OK; }
int temp_lock(sqlite3_file*, int) { return SQLITE_OK; }
int temp_check_lock(sqlite3_file*, int* held) {
    *held = 0;
    return SQLITE_OK;
}
int temp_control(sqlite3_file*, int, void*) { return SQLITE_NOTFOUND; }
int temp_sector_size(sqlite3_file*) { return 4096; }
int temp_characteristics(sqlite3_file*) { return 0; }

const sqlite3_io_methods kTempMethods = {
    1,
    temp_close,
    temp_read,
    temp_write,
    temp_truncate,
    temp_sync,
    temp_file_size,
    temp_lock,
    temp_lock,
    temp_check_lock,
    temp_control,
    temp_sector_size,
    temp_characteristics,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
};

sqlite3_vfs* base(sqlite3_vfs* vfs) { return static_cast<sqlite3_vfs*>(vfs->pAppData); }

int vfs_open(sqlite3_vfs* vfs, const char* name, sqlite3_file* file, int flags, int* out_flags) {
    file->pMethods = nullptr;
    if (name == nullptr || (flags & (SQLITE_OPEN_TEMP_DB | SQLITE_OPEN_TRANSIENT_DB |
                                     SQLITE_OPEN_TEMP_JOURNAL | SQLITE_OPEN_SUBJOURNAL)) != 0) {
        TempFile* self = temp(file);
        self->blocks = new (std::nothrow) std::vector<std::unique_ptr<char[]>>;
        if (self->blocks == nullptr) return SQLITE_NOMEM;
        self->size = 0;
        self->base.pMethods = &kTempMethods;
        if (out_flags != nullptr) *out_flags = flags;
        return SQLITE_OK;
    }
    if ((flags & SQLITE_OPEN_MAIN_DB) == 0 || (flags & SQLITE_OPEN_READONLY) == 0) {
        return SQLITE_CANTOPEN;  // a journal, a write-ahead log, a database to write to
    }
    return base(vfs)->xOpen(base(vfs), name, file, flags, out_flags);
}

int vfs_delete(sqlite3_vfs*, const char*, int) { return SQLITE_IOERR_DELETE; }
int vfs_access(sqlite3_vfs* vfs, const char* name, int flags, int* result) {
    return base(vfs)->xAccess(base(vfs), name, flags, result);
}
int vfs_full_pathname(sqlite3_vfs* vfs, const char* name, int size, char* out) {
    return base(vfs)->xFullPathname(base(vfs), name, size, out);
}
void* vfs_dl_open(sqlite3_vfs*, const char*) { return nullptr; }
void vfs_dl_error(sqlite3_vfs*, int size, char* message) {
    if (size > 0) message[0] = '\0';
}
void (*vfs_dl_sym(sqlite3_vfs*, void*, const char*))(void) { return nullptr; }
void vfs_dl_close(sqlite3_vfs*, void*) {}
int vfs_randomness(sqlite3_vfs* vfs, int size, char* out) {
    return base(vfs)->xRandomness(base(vfs), size, out);
}
int vfs_sleep(sqlite3_vfs* vfs, int microseconds) {
    return base(vfs)->xSleep(base(vfs), microseconds);
}
// A file system has one of the two clocks at least; builds without deprecated code lack the first.
int vfs_current_time_64(sqlite3_vfs* vfs, sqlite3_int64* milliseconds) {
    if (base(vfs)->iVersion >= 2 && base(vfs)->xCurrentTimeInt64 != nullptr) {
        return base(vfs)->xCurrentTimeInt64(base(vfs), milliseconds);
    }
    double days = 0.0;
    const int rc = base(vfs)->xCurrentTime(base(vfs), &days);
    *milliseconds = static_cast<sqlite3_int64>(days * 86400000.0);
    return rc;
}
int vfs_current_time(sqlite3_vfs* vfs, double* days) {
    sqlite3_int64 milliseconds = 0;
    const int rc = vfs_current_time_64(vfs, &milliseconds);
    *days = static_cast<double>(milliseconds) / 86400000.0;
    return rc;
}
int vfs_last_error(sqlite3_vfs* vfs, int size, char* out) {
    return base(vfs)->xGetLastError == nullptr ? 0 : base(vfs)->xGetLastError(base(vfs), size, out);
}

}  // namespace

bool register_read_only_vfs() {
    static std::mutex mutex;
    static sqlite3_vfs vfs;
    const std::lock_guard lock(mutex);
    if (sqlite3_vfs_find(kReadOnlyVfs) != nullptr) return true;
    sqlite3_vfs* system = sqlite3_vfs_find(nullptr);
    if (system == nullptr) return false;
    std::memset(&vfs, 0, sizeof vfs);
    vfs.iVersion = 2;
    vfs.szOsFile = std::max(system->szOsFile, static_cast<int>(sizeof(TempFile)));
    vfs.mxPathname = system->mxPathname;
    vfs.zName = kReadOnlyVfs;
    vfs.pAppData = system;
    vfs.xOpen = vfs_open;
    vfs.xDelete = vfs_delete;
    vfs.xAccess = vfs_access;
    vfs.xFullPathname = vfs_full_pathname;
    vfs.xDlOpen = vfs_dl_open;
    vfs.xDlError = vfs_dl_error;
    vfs.xDlSym = vfs_dl_sym;
    vfs.xDlClose = vfs_dl_close;
    vfs.xRandomness = vfs_randomness;
    vfs.xSleep = vfs_sleep;
    vfs.xCurrentTime = vfs_current_time;
    vfs.xGetLastError = vfs_last_error;
    vfs.xCurrentTimeInt64 = vfs_current_time_64;
    return sqlite3_vfs_register(&vfs, 0) == SQLITE_OK;
}

}  // namespace spft
