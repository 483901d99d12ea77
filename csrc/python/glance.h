// What one look at the header of each array of a list tells, as Python reads it (fastupdate/arrays/memory.py).
#pragma once

#include <pybind11/numpy.h>

#include <stdexcept>

#include "python/readers.h"
#include "python/records.h"

namespace fastupdate {

struct Glance {
  uint64_t address;
  int64_t n, units;
  uint8_t dtype;
  bool direct, writable, seen;
  uint32_t pad;
};

// Fills in the rows of those that are exactly NumPy's arrays, of a type known at a glance; the others' are left.
inline void glance(const py::list& objects, py::array rows) {
  Glance* const row = records<Glance>(rows, "rows");
  if (rows.size() != py::ssize_t(objects.size())) throw std::invalid_argument("glance: one row for each object");
  const PyTypeObject* const type = host_array_type();
  for (py::ssize_t i = 0; i < rows.size(); ++i) {
    PyObject* const object = PyList_GET_ITEM(objects.ptr(), i);
    if (Py_TYPE(object) != type) continue;
    const View view = view_of(*py::detail::array_proxy(object));
    if (view.dtype == kNone) continue;  // or of a known one under another name, as ctypes' little-endian numbers
    const int64_t units = view.ndim > 1 ? view.shape[0] : 1;
    row[i] = {view.data, element_count(view), units, view.dtype, view.direct, view.writable, true, 0};
  }
}

}  // namespace fastupdate
