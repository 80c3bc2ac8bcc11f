// A batch: what is to run, who waits for it, and what to do when an item has all it needs.
#include "batch.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <utility>

#include "digest.h"
#include "lexer.h"

namespace spft {
namespace {

constexpr size_t kLongestRun = 32;

std::string digest_text(std::string_view path, std::string_view sql) {
    std::string text(path);
    text.push_back('\0');
    text.append(sql);
    return text;
}

}  // namespace

Digest query_digest(std::string_view path, std::string_view sql, Compare compare) {
    const std::string text =
        digest_text(path, compare == Compare::Spider ? spider_text(sql) : std::string(sql));
    return siphash128(text.data(), text.size());
}

Batch::Batch(const std::vector<std::string>& paths, Compare compare_, size_t mentions)
    : compare(compare_), slots_(std::bit_ceil(2 * mentions + 1)) {
    files.reserve(paths.size());
    for (const std::string& path : paths) files.push_back(inspect_file(path));
    works.reserve(mentions);
}

uint32_t Batch::add(uint32_t database, std::string_view sql) {
    if (compare == Compare::Spider) {
        std::string text = spider_text(sql);
        if (text != sql) sql = texts_.emplace_back(std::move(text));
    }
    const uint64_t hash =
        std::hash<std::string_view>()(sql) ^ ((database + 1) * 0x9E3779B97F4A7C15ULL);
    size_t at = hash & (slots_.size() - 1);
    for (; slots_[at].work != kEmpty; at = (at + 1) & (slots_.size() - 1)) {
        const Work& work = works[slots_[at].work];
        if (slots_[at].hash == hash && work.database == database && work.sql == sql) {
            return slots_[at].work;
        }
    }
    const auto number = static_cast<uint32_t>(works.size());
    slots_[at] = {hash, number};
    Work& work = works.emplace_back();
    work.database = database;
    work.sql = sql;
    return number;
}

void Batch::arrange(const std::vector<Preset>& presets) {
    for (uint32_t i = 0; i < works.size(); ++i) {
        Work& work = works[i];
        if (!presets.empty() && work.result == nullptr) {
            const std::string text = digest_text(files[work.database].path, work.sql);
            const Digest digest = siphash128(text.data(), text.size());
            for (const Preset& preset : presets) {
                if (preset.query != digest) continue;
                work.result = std::make_shared<Result>();
                work.result->outcome.status = preset.status;
                work.result->outcome.message = preset.message;
            }
        }
        if (work.result == nullptr) order.push_back(i);
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](uint32_t a, uint32_t b) { return works[a].database < works[b].database; });
}

bool Batch::take(size_t threads, size_t& begin, size_t& end) {
    if (returned_count_.load(std::memory_order_acquire) > 0 && !cancelled) {
        const std::lock_guard lock(returned_mutex_);
        if (!returned_.empty()) {
            auto& [first, last] = returned_.back();
            begin = first++;
            end = begin + 1;
            if (first == last) returned_.pop_back();
            returned_count_.fetch_sub(1, std::memory_order_release);
            return true;
        }
    }
    begin = cursor_.load(std::memory_order_relaxed);
    do {
        if (begin >= order.size() || cancelled.load(std::memory_order_relaxed)) return false;
        end = begin + std::clamp<size_t>((order.size() - begin) / (4 * threads), 1, kLongestRun);
    } while (!cursor_.compare_exchange_weak(begin, end));
    return true;
}

void Batch::give_back(size_t begin, size_t end) {
    const std::lock_guard lock(returned_mutex_);
    returned_.emplace_back(begin, end);
    returned_count_.fetch_add(end - begin, std::memory_order_release);
}

bool Batch::exhausted() const {
    return cancelled.load(std::memory_order_relaxed) ||
           (cursor_.load(std::memory_order_relaxed) >= order.size() &&
            returned_count_.load(std::memory_order_acquire) == 0);
}

}  // namespace spft
