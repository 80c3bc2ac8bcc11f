#include <pybind11/pybind11.h>
#include "sqlite_api.h"
PYBIND11_MODULE(_executor, module) { module.def("attached", &spft::sqlite_attached); }
