// Python's door to the executor: conversions only. The GIL is released for the whole of a batch.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <chrono>
#include <cstring>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "digest.h"
#include "executor.h"
#include "sqlite_api.h"

namespace py = pybind11;

namespace {

// Texts and paths of a batch. Texts are views into the Python strings, which stay alive and
// unchanged here while the batch runs, whatever becomes of the caller's list.
class Inputs {
  public:
    uint32_t database(py::handle path) {
        // Items of a batch mostly share the objects that name their files.
        const auto known = by_object_.find(path.ptr());
        if (known != by_object_.end()) return known->second;
        const uint32_t number = number_of(path);
        by_object_.emplace(path.ptr(), number);
        kept_.push_back(py::reinterpret_borrow<py::object>(path));
        return number;
    }

    std::string_view text(py::handle sql) {
        if (!PyUnicode_Check(sql.ptr())) throw py::type_error("SQL must be a str");
        Py_ssize_t size = 0;
        const char* data = PyUnicode_AsUTF8AndSize(sql.ptr(), &size);
        if (data != nullptr) {
            kept_.push_back(py::reinterpret_borrow<py::object>(sql));
            return {data, static_cast<size_t>(size)};
        }
        // A lone surrogate, which a tokenizer can produce: SQLite gets the bytes and judges them.
        PyErr_Clear();
        PyObject* raw = PyUnicode_AsEncodedString(sql.ptr(), "utf-8", "surrogatepass");
        if (raw == nullptr) throw py::error_already_set();
        kept_.push_back(py::reinterpret_steal<py::object>(raw));
        return {PyBytes_AS_STRING(raw), static_cast<size_t>(PyBytes_GET_SIZE(raw))};
    }

    std::vector<std::string> paths;

  private:
    uint32_t number_of(py::handle path) {
        PyObject* raw = nullptr;
        if (PyUnicode_FSConverter(path.ptr(), &raw) == 0) throw py::error_already_set();
        const auto bytes = py::reinterpret_steal<py::object>(raw);
        std::string text(PyBytes_AS_STRING(raw), static_cast<size_t>(PyBytes_GET_SIZE(raw)));
        const auto [place, fresh] =
            index_.try_emplace(std::move(text), static_cast<uint32_t>(paths.size()));
        if (fresh) paths.push_back(place->first);
        return place->second;
    }

    std::unordered_map<const PyObject*, uint32_t> by_object_;
    std::unordered_map<std::string, uint32_t> index_;
    std::vector<py::object> kept_;
};

// A sequence's items, whatever kind of sequence it is.
class Items {
  public:
    Items(py::handle sequence, const char* message)
        : fast_(py::reinterpret_steal<py::object>(PySequence_Fast(sequence.ptr(), message))) {
        if (!fast_) throw py::error_already_set();
    }
    Py_ssize_t size() const { return PySequence_Fast_GET_SIZE(fast_.ptr()); }
    py::handle operator[](Py_ssize_t i) const { return PySequence_Fast_GET_ITEM(fast_.ptr(), i); }

  private:
    py::object fast_;
};

py::str decode(std::string_view text) {
    PyObject* raw =
        PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace");
    if (raw == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::str>(raw);
}

template <typename T, typename Get>
py::array_t<T> column(size_t size, Get get) {
    py::array_t<T> array(static_cast<py::ssize_t>(size));
    T* data = array.mutable_data();
    for (size_t i = 0; i < size; ++i) data[i] = get(i);
    return array;
}

// Outcomes as columns; messages, of which there are few, as a dict by position.
py::dict outcome_columns(const std::vector<spft::Outcome>& outcomes) {
    const size_t n = outcomes.size();
    py::dict columns;
    columns["status"] =
        column<uint8_t>(n, [&](size_t i) { return static_cast<uint8_t>(outcomes[i].status); });
    columns["rows"] = column<int64_t>(n, [&](size_t i) { return outcomes[i].rows; });
    columns["columns"] = column<int32_t>(n, [&](size_t i) { return outcomes[i].columns; });
    columns["steps"] = column<int64_t>(n, [&](size_t i) { return outcomes[i].steps; });
    columns["seconds"] = column<double>(n, [&](size_t i) { return outcomes[i].seconds; });
    columns["all_null"] = column<bool>(n, [&](size_t i) { return outcomes[i].all_null; });
    constexpr py::ssize_t kDigits = 32;
    py::array_t<char> fingerprints({static_cast<py::ssize_t>(n), kDigits});
    char* digits = fingerprints.mutable_data();
    std::memset(digits, 0, n * kDigits);
    py::dict messages;
    for (size_t i = 0; i < n; ++i) {
        const spft::Outcome& outcome = outcomes[i];
        if (spft::ran(outcome.status)) {
            const std::string text = spft::fingerprint(outcome.bag, outcome.rows, outcome.columns);
            std::memcpy(digits + i * kDigits, text.data(), kDigits);
        }
        if (!outcome.message.empty()) messages[py::int_(i)] = decode(outcome.message);
    }
    columns["fingerprint"] = fingerprints;
    columns["messages"] = messages;
    return columns;
}

// A daemon thread that asks for the GIL while Python shuts down is ended there, and unwinding it
// through C++ would abort the process: it sleeps until the process has ended instead.
void rest_if_python_ends() {
#if PY_VERSION_HEX >= 0x030D0000
    const auto ending = [] { return Py_IsFinalizing() != 0; };
#else
    const auto ending = [] { return _Py_IsFinalizing() != 0; };
#endif
    while (ending()) std::this_thread::sleep_for(std::chrono::seconds(1));
}

// Python handles signals on its main thread alone.
bool signals_come_here() {
    const py::object main = py::module_::import("threading").attr("main_thread")();
    return main.attr("ident").cast<unsigned long>() == PyThread_get_thread_ident();
}

// Lets a Ctrl-C end the reading of a long list.
void look_for_signals(Py_ssize_t i) {
    if (i % 4096 == 0 && PyErr_CheckSignals() != 0) throw py::error_already_set();
}

// Runs `work` without the GIL. A Ctrl-C that arrives meanwhile stops the batch and is raised, and
// so does whatever the caller's own `poll(done, total)` raises.
template <typename Work>
auto without_gil(const py::object& caller_poll, Work work) {
    const bool look = signals_come_here();
    const spft::Executor::Poll poll = [&, look](int64_t done, int64_t total) {
        rest_if_python_ends();
        // Python may begin to end while this thread waits for the GIL: not asked for in vain.
        if (!look && caller_poll.is_none()) return true;
        const py::gil_scoped_acquire acquire;
        if (PyErr_CheckSignals() != 0) return false;
        if (caller_poll.is_none()) return true;
        const auto answer = py::reinterpret_steal<py::object>(PyObject_CallFunction(
            caller_poll.ptr(), "LL", static_cast<long long>(done), static_cast<long long>(total)));
        return static_cast<bool>(answer);
    };
    try {
        const py::gil_scoped_release release;
        auto result = work(poll);
        rest_if_python_ends();
        return result;
    } catch (const spft::Cancelled&) {
        throw py::error_already_set();
    }
}

spft::Digest to_digest(py::handle bytes) {
    if (!PyBytes_Check(bytes.ptr()) || PyBytes_GET_SIZE(bytes.ptr()) != 16) {
        throw py::value_error("a query's digest must be 16 bytes");
    }
    spft::Digest digest;
    std::memcpy(&digest, PyBytes_AS_STRING(bytes.ptr()), sizeof digest);
    return digest;
}

// [(digest, status, message), …]
std::vector<spft::Preset> to_presets(py::handle list) {
    std::vector<spft::Preset> presets;
    const Items items(list, "presets must be a sequence");
    for (Py_ssize_t i = 0; i < items.size(); ++i) {
        const auto fields = py::reinterpret_borrow<py::tuple>(items[i]);
        presets.push_back({to_digest(fields[0]), static_cast<spft::Status>(fields[1].cast<int>()),
                           fields[2].cast<std::string>()});
    }
    return presets;
}

py::tuple execute(spft::Executor& executor, py::handle queries, py::handle presets,
                  const py::object& poll) {
    Inputs inputs;
    std::vector<spft::Query> batch;
    const Items list(queries, "queries must be a sequence of (database, sql)");
    batch.reserve(static_cast<size_t>(list.size()));
    for (Py_ssize_t i = 0; i < list.size(); ++i) {
        look_for_signals(i);
        const Items pair(list[i], "a query must be (database, sql)");
        if (pair.size() != 2) throw py::value_error("a query must be (database, sql)");
        const uint32_t database = inputs.database(pair[0]);
        batch.push_back({database, inputs.text(pair[1])});
    }
    const std::vector<spft::Preset> settled = to_presets(presets);
    const spft::Executed executed = without_gil(poll, [&](const spft::Executor::Poll& ask) {
        return executor.execute(inputs.paths, batch, settled, ask);
    });
    const auto& of_query = executed.of_query;
    return py::make_tuple(outcome_columns(executed.outcomes),
                          column<uint32_t>(of_query.size(), [&](size_t i) { return of_query[i]; }));
}

py::dict verify(spft::Executor& executor, py::handle items, int compare, py::handle presets,
                const py::object& poll) {
    Inputs inputs;
    std::vector<spft::Item> batch;
    const Items list(items, "items must be a sequence of (database, gold, candidates)");
    batch.reserve(static_cast<size_t>(list.size()));
    for (Py_ssize_t i = 0; i < list.size(); ++i) {
        look_for_signals(i);
        const Items triple(list[i], "an item must be (database, gold, candidates)");
        if (triple.size() != 3) {
            throw py::value_error("an item must be (database, gold, candidates)");
        }
        if (PyUnicode_Check(triple[2].ptr())) {
            throw py::type_error("candidates must be a sequence of SQL texts, not one text");
        }
        spft::Item item;
        item.database = inputs.database(triple[0]);
        item.gold = inputs.text(triple[1]);
        const Items candidates(triple[2], "candidates must be a sequence of SQL texts");
        item.candidates.reserve(static_cast<size_t>(candidates.size()));
        for (Py_ssize_t k = 0; k < candidates.size(); ++k) {
            item.candidates.push_back(inputs.text(candidates[k]));
        }
        batch.push_back(std::move(item));
    }
    const std::vector<spft::Preset> settled = to_presets(presets);
    const spft::Verified verified = without_gil(poll, [&](const spft::Executor::Poll& ask) {
        return executor.verify(inputs.paths, batch, static_cast<spft::Compare>(compare), settled,
                               ask);
    });
    const auto& judged = verified.judged;
    const size_t n = judged.size();
    py::dict columns;
    columns["outcomes"] = outcome_columns(verified.outcomes);
    columns["gold"] =
        column<uint32_t>(verified.gold.size(), [&](size_t i) { return verified.gold[i]; });
    columns["offsets"] = column<int64_t>(verified.offsets.size(), [&](size_t i) {
        return static_cast<int64_t>(verified.offsets[i]);
    });
    columns["candidate"] = column<uint32_t>(n, [&](size_t i) { return judged[i].candidate; });
    columns["verdict"] = column<uint8_t>(
        n, [&](size_t i) { return static_cast<uint8_t>(judged[i].judgement.verdict); });
    columns["reason"] = column<uint8_t>(
        n, [&](size_t i) { return static_cast<uint8_t>(judged[i].judgement.reason); });
    columns["both_empty"] =
        column<bool>(n, [&](size_t i) { return judged[i].judgement.both_empty; });
    columns["score"] = column<float>(n, [&](size_t i) { return judged[i].judgement.score; });
    return columns;
}

py::object to_python(const spft::Value& value) {
    return std::visit(
        [](const auto& held) -> py::object {
            using Held = std::decay_t<decltype(held)>;
            if constexpr (std::is_same_v<Held, std::monostate>) {
                return py::none();
            } else if constexpr (std::is_same_v<Held, std::string>) {
                return decode(held);
            } else if constexpr (std::is_same_v<Held, spft::Blob>) {
                return py::bytes(held.bytes);
            } else {
                return py::cast(held);
            }
        },
        value);
}

py::tuple rows(spft::Executor& executor, py::handle database, py::handle sql) {
    Inputs inputs;
    inputs.database(database);
    const std::string_view text = inputs.text(sql);
    spft::Table table;
    const spft::Outcome outcome = without_gil(py::none(), [&](const spft::Executor::Poll& ask) {
        return executor.rows(inputs.paths[0], text, table, ask);
    });
    py::list names;
    py::list values;
    if (spft::ran(outcome.status)) {
        for (const std::string& name : table.columns) names.append(decode(name));
        for (const auto& row : table.rows) {
            py::tuple cells(row.size());
            for (size_t c = 0; c < row.size(); ++c) cells[c] = to_python(row[c]);
            values.append(cells);
        }
    }
    return py::make_tuple(static_cast<int>(outcome.status), decode(outcome.message), names, values);
}

// The digest that names a query of a batch, in the presets and in shared memory.
py::bytes query_digest(py::handle database, py::handle sql, int compare) {
    Inputs inputs;
    inputs.database(database);
    const spft::Digest digest =
        spft::query_digest(inputs.paths[0], inputs.text(sql), static_cast<spft::Compare>(compare));
    return {reinterpret_cast<const char*>(&digest), sizeof digest};
}

// The memory that a process and its parent share, as the executor writes it.
spft::RunningQuery* shared_memory(const py::object& buffer) {
    if (buffer.is_none()) return nullptr;
    const py::buffer_info info = py::reinterpret_borrow<py::buffer>(buffer).request(true);
    if (info.size * info.itemsize < static_cast<py::ssize_t>(sizeof(spft::RunningQuery))) {
        throw py::value_error("the shared memory is too small");
    }
    return static_cast<spft::RunningQuery*>(info.ptr);
}

py::dict counters(const spft::Executor& executor) {
    const spft::Counters c = executor.counters();
    py::dict dict;
    dict["queries"] = c.queries;
    dict["executed"] = c.executed;
    dict["duplicates"] = c.duplicates;
    dict["gold_hits"] = c.gold_hits;
    dict["gold_misses"] = c.gold_misses;
    dict["gold_entries"] = c.gold_entries;
    dict["gold_bytes"] = c.gold_bytes;
    dict["connections_opened"] = c.connections_opened;
    dict["connections_reused"] = c.connections_reused;
    py::list statuses;
    for (const int64_t n : c.statuses) statuses.append(n);
    dict["statuses"] = statuses;
    return dict;
}

}  // namespace

PYBIND11_MODULE(_executor, module) {
    module.doc() = "The C++ executor; use it through spftcore.verify.";
    module.def("attached", &spft::sqlite_attached,
               "True once apsw has loaded this module as a SQLite extension.");

    module.def("query_digest", &query_digest, py::arg("database"), py::arg("sql"),
               py::arg("compare"));
    module.attr("RUNNING_QUERY_BYTES") = sizeof(spft::RunningQuery);

    py::class_<spft::Executor>(module, "Executor")
        .def(py::init([](int threads, int64_t steps, double seconds, int64_t rows, int64_t bytes,
                         int64_t value_bytes, int64_t sql_bytes, int64_t temp_bytes,
                         int connections_per_thread, int64_t gold_cache_bytes,
                         const py::object& running) {
                 const spft::Limits limits{steps,       seconds,   rows,      bytes,
                                           value_bytes, sql_bytes, temp_bytes};
                 return std::make_unique<spft::Executor>(threads, limits, connections_per_thread,
                                                         gold_cache_bytes, shared_memory(running));
             }),
             py::kw_only(), py::arg("threads"), py::arg("steps"), py::arg("seconds"),
             py::arg("rows"), py::arg("bytes"), py::arg("value_bytes"), py::arg("sql_bytes"),
             py::arg("temp_bytes"), py::arg("connections_per_thread"), py::arg("gold_cache_bytes"),
             py::arg("running") = py::none(), py::keep_alive<1, 12>())
        .def("execute", &execute, py::arg("queries"), py::arg("presets"), py::arg("poll"))
        .def("verify", &verify, py::arg("items"), py::arg("compare"), py::arg("presets"),
             py::arg("poll"))
        .def("rows", &rows, py::arg("database"), py::arg("sql"))
        .def("counters", &counters)
        .def_property_readonly("threads", &spft::Executor::threads);
}
