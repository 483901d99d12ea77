// Reports of steps that are taken without running any Python.
#pragma once

#include <pybind11/pybind11.h>

#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/plan.h"
#include "python/slots.h"

namespace fastupdate {

namespace py = pybind11;

inline py::str interned(const std::string& text) {
  return py::reinterpret_steal<py::str>(PyUnicode_InternFromString(text.c_str()));
}

// The reports that calls return: instances of Python's class, made without running its code.
class Reports {
 public:
  explicit Reports(const py::type& type) : example_(type(0, 0.0)) {
    for (const py::handle name : type.attr("__slots__")) {
      const Py_ssize_t offset = slot_offset(type.attr(name));
      slots_.push_back(offset);
      for (size_t k = 0; k < std::size(kNames); ++k)
        if (name.cast<std::string>() == kNames[k]) filled_[k] = offset;
    }
  }

  // judged: null if nothing was asked for
  PyObject* make(int64_t step, double lr, const Judged* judged = nullptr) const {
    PyTypeObject* const type = Py_TYPE(example_.ptr());
    PyObject* const report = type->tp_alloc(type, 0);
    if (!report) return nullptr;
    for (const Py_ssize_t offset : slots_) in_slot(report, offset) = Py_XNewRef(in_slot(example_.ptr(), offset));
    const bool made =
        put(report, 0, PyLong_FromLongLong(step)) && put(report, 1, PyFloat_FromDouble(lr)) &&
        (!judged || (put(report, 2, PyFloat_FromDouble(judged->norm)) &&
                     put(report, 3, PyFloat_FromDouble(judged->factor)) && put(report, 4, PyLong_FromLong(0))));
    if (!made) Py_DECREF(report);
    return made ? report : nullptr;
  }

 private:
  static constexpr const char* kNames[] = {"step", "lr", "grad_norm", "clip_factor", "nonfinite"};

  // Puts a new object, if there was memory for it, in the place of one of kNames.
  bool put(PyObject* report, size_t name, PyObject* value) const {
    if (value) Py_SETREF(in_slot(report, filled_[name]), value);
    return value;
  }

  py::object example_;
  std::vector<Py_ssize_t> slots_;
  Py_ssize_t filled_[std::size(kNames)] = {};
};

}  // namespace fastupdate
