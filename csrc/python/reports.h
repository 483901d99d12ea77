// Reports of steps that are taken without running any Python.
#pragma once

#include <pybind11/pybind11.h>
#include <structmember.h>

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace fastupdate {

namespace py = pybind11;

// The reports that calls return: instances of Python's class, made without running its code.
class Reports {
 public:
  explicit Reports(const py::type& type) : example_(type(0, 0.0)) {
    for (const py::handle name : type.attr("__slots__")) {
      const py::object slot = type.attr(name);
      if (Py_TYPE(slot.ptr()) != &PyMemberDescr_Type) throw std::invalid_argument("report: expected slots");
      const Py_ssize_t offset = reinterpret_cast<PyMemberDescrObject*>(slot.ptr())->d_member->offset;
      slots_.push_back(offset);
      if (name.cast<std::string>() == "step") step_ = offset;
      if (name.cast<std::string>() == "lr") lr_ = offset;
    }
  }

  PyObject* make(int64_t step, double lr) const {
    PyTypeObject* const type = Py_TYPE(example_.ptr());
    PyObject* const report = type->tp_alloc(type, 0);
    PyObject* const values[] = {PyLong_FromLongLong(step), PyFloat_FromDouble(lr)};
    if (report && values[0] && values[1]) {
      for (const Py_ssize_t offset : slots_)
        if (offset != step_ && offset != lr_) *at(report, offset) = Py_XNewRef(*at(example_.ptr(), offset));
      *at(report, step_) = values[0];
      *at(report, lr_) = values[1];
      return report;
    }
    for (PyObject* made : {report, values[0], values[1]}) Py_XDECREF(made);
    return nullptr;
  }

 private:
  static PyObject** at(PyObject* object, Py_ssize_t offset) {
    return reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object) + offset);
  }

  py::object example_;
  std::vector<Py_ssize_t> slots_;
  Py_ssize_t step_ = 0, lr_ = 0;
};

}  // namespace fastupdate
