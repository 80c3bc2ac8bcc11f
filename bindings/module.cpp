// Python's door to the executor: conversions only. The GIL is released for the whole of a batch.
#include <pybind11/pybind11.h>

#include <string>
#include <string_view>
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
        PyObject* raw = nullptr;
        if (PyUnicode_FSConverter(path.ptr(), &raw) == 0) throw py::error_already_set();
        const auto bytes = py::reinterpret_steal<py::object>(raw);
        std::string text(PyBytes_AS_STRING(raw), static_cast<size_t>(PyBytes_GET_SIZE(raw)));
        const auto [place, fresh] =
            index_.try_emplace(std::move(text), static_cast<uint32_t>(paths.size()));
        if (fresh) paths.push_back(place->first);
        return place->second;
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

// (status, message, rows, columns, steps, seconds, fingerprint, all_null)
py::tuple outcome_tuple(const spft::Outcome& outcome) {
    return py::make_tuple(static_cast<int>(outcome.status), decode(outcome.message), outcome.rows,
                          outcome.columns, outcome.steps, outcome.seconds,
                          spft::ran(outcome.status)
                              ? spft::fingerprint(outcome.bag, outcome.rows, outcome.columns)
                              : std::string(),
                          outcome.all_null);
}

py::list outcome_list(const std::vector<spft::Outcome>& outcomes) {
    py::list list(outcomes.size());
    for (size_t i = 0; i < outcomes.size(); ++i) list[i] = outcome_tuple(outcomes[i]);
    return list;
}

// Runs `work` without the GIL; a Ctrl-C that arrives meanwhile stops the batch and is raised.
template <typename Work>
auto without_gil(Work work) {
    const spft::Executor::Poll poll = [] {
        const py::gil_scoped_acquire acquire;
        return PyErr_CheckSignals() == 0;
    };
    try {
        const py::gil_scoped_release release;
        return work(poll);
    } catch (const spft::Cancelled&) {
        throw py::error_already_set();
    }
}

py::tuple execute(spft::Executor& executor, py::handle queries) {
    Inputs inputs;
    std::vector<spft::Query> batch;
    const Items list(queries, "queries must be a sequence of (database, sql)");
    batch.reserve(static_cast<size_t>(list.size()));
    for (Py_ssize_t i = 0; i < list.size(); ++i) {
        const Items pair(list[i], "a query must be (database, sql)");
        if (pair.size() != 2) throw py::value_error("a query must be (database, sql)");
        const uint32_t database = inputs.database(pair[0]);
        batch.push_back({database, inputs.text(pair[1])});
    }
    const spft::Executed executed = without_gil([&](const spft::Executor::Poll& poll) {
        return executor.execute(inputs.paths, batch, poll);
    });
    py::list of_query(executed.of_query.size());
    for (size_t i = 0; i < executed.of_query.size(); ++i) of_query[i] = executed.of_query[i];
    return py::make_tuple(outcome_list(executed.outcomes), of_query);
}

py::tuple verify(spft::Executor& executor, py::handle items) {
    Inputs inputs;
    std::vector<spft::Item> batch;
    const Items list(items, "items must be a sequence of (database, gold, candidates)");
    batch.reserve(static_cast<size_t>(list.size()));
    for (Py_ssize_t i = 0; i < list.size(); ++i) {
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
        for (Py_ssize_t k = 0; k < candidates.size(); ++k) {
            item.candidates.push_back(inputs.text(candidates[k]));
        }
        batch.push_back(std::move(item));
    }
    const spft::Verified verified = without_gil([&](const spft::Executor::Poll& poll) {
        return executor.verify(inputs.paths, batch, poll);
    });
    py::list judged(verified.judged.size());
    for (size_t i = 0; i < verified.judged.size(); ++i) {
        py::list row(verified.judged[i].size());
        for (size_t k = 0; k < verified.judged[i].size(); ++k) {
            const spft::Judged& one = verified.judged[i][k];
            row[k] = py::make_tuple(static_cast<int>(one.judgement.verdict),
                                    static_cast<int>(one.judgement.reason),
                                    one.judgement.both_empty, one.candidate);
        }
        judged[i] = py::make_tuple(verified.gold[i], row);
    }
    return py::make_tuple(outcome_list(verified.outcomes), judged);
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
    const spft::Outcome outcome = without_gil([&](const spft::Executor::Poll& poll) {
        return executor.rows(inputs.paths[0], text, table, poll);
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
    return py::make_tuple(outcome_tuple(outcome), names, values);
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

    py::class_<spft::Executor>(module, "Executor")
        .def(py::init([](int threads, int64_t steps, double seconds, int64_t rows, int64_t bytes,
                         int64_t value_bytes, int64_t sql_bytes, int64_t temp_bytes,
                         int connections_per_thread, int64_t gold_cache_bytes) {
                 const spft::Limits limits{steps,       seconds,   rows,      bytes,
                                           value_bytes, sql_bytes, temp_bytes};
                 return std::make_unique<spft::Executor>(threads, limits, connections_per_thread,
                                                         gold_cache_bytes);
             }),
             py::kw_only(), py::arg("threads"), py::arg("steps"), py::arg("seconds"),
             py::arg("rows"), py::arg("bytes"), py::arg("value_bytes"), py::arg("sql_bytes"),
             py::arg("temp_bytes"), py::arg("connections_per_thread"), py::arg("gold_cache_bytes"))
        .def("execute", &execute, py::arg("queries"))
        .def("verify", &verify, py::arg("items"))
        .def("rows", &rows, py::arg("database"), py::arg("sql"))
        .def("counters", &counters)
        .def_property_readonly("threads", &spft::Executor::threads);
}
