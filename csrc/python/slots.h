// What objects of Python's classes with slots hold, looked at without running any Python.
#pragma once

#include <pybind11/pybind11.h>
#include <structmember.h>

#include <stdexcept>

namespace fastupdate {

namespace py = pybind11;

// Where they keep one of them, as its descriptor says.
inline Py_ssize_t slot_offset(py::handle descriptor) {
  if (Py_TYPE(descriptor.ptr()) != &PyMemberDescr_Type) throw std::invalid_argument("expected a class with slots");
  return reinterpret_cast<PyMemberDescrObject*>(descriptor.ptr())->d_member->offset;
}

// Null if there is nothing in it.
inline PyObject*& in_slot(PyObject* object, Py_ssize_t offset) {
  return *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object) + offset);
}

}  // namespace fastupdate
