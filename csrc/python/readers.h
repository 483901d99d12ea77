// Who can be looked at: arrays of NumPy's, by their headers, and torch's tensors, by torch's own functions.
#pragma once

#include <pybind11/numpy.h>

#include <cstring>

#include "python/torch.h"
#include "python/view.h"

namespace fastupdate {

namespace py = pybind11;

using Header = py::detail::PyArray_Proxy;
static_assert(sizeof(py::ssize_t) == sizeof(int64_t));  // NumPy's dimensions are read as they are

inline PyTypeObject* host_array_type() { return py::detail::npy_api::get().PyArray_Type_; }

// Whether a type that was added to NumPy has this name.
inline bool is_named(const py::detail::PyArrayDescr_Proxy& descr, const char* name) {
  const char* const full = reinterpret_cast<PyTypeObject*>(descr.typeobj)->tp_name;
  const char* const dot = std::strrchr(full, '.');
  return !std::strcmp(dot ? dot + 1 : full, name);
}

inline uint8_t dtype_of(const py::detail::PyArrayDescr_Proxy& descr) {
  constexpr int kFirstAdded = 256;  // NPY_USERDEF
  if (descr.byteorder != '=') return kNone;
#define ROW(type, name, bytes, number, ...) \
  if (number ? descr.type_num == number : descr.type_num >= kFirstAdded && is_named(descr, name)) return k##type;
  FASTUPDATE_STORAGE_TYPES(ROW)
#undef ROW
  return kNone;
}

constexpr int kDirectFlags = py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
constexpr int kWritableFlag = py::detail::npy_api::NPY_ARRAY_WRITEABLE_;

// Whether an array's memory begins there, its flags are among others these, and it is otherwise like another one.
inline bool is_there(const Header& a, uint64_t data, int flags, const Header& other) {
  return uint64_t(a.data) == data && a.descr == other.descr && (a.flags & flags) == flags && a.nd == other.nd &&
         same_numbers(reinterpret_cast<const int64_t*>(a.dimensions),
                      reinterpret_cast<const int64_t*>(other.dimensions), a.nd);
}

inline View view_of(const Header& a) {
  using namespace py::detail;
  return {
      uint64_t(a.data),
      reinterpret_cast<const int64_t*>(a.dimensions),
      reinterpret_cast<const int64_t*>(a.strides),
      1,
      a.nd,
      dtype_of(*py::detail::array_descriptor_proxy(a.descr)),
      (a.flags & kDirectFlags) == kDirectFlags,
      (a.flags & kWritableFlag) != 0,
  };
}

// Looks at an array of exactly this type of NumPy's, for subclasses may be headers over memory that is elsewhere
// (fastupdate/arrays/device.py). Or at a tensor of torch's, for which the caller has the GIL.
inline bool look(PyObject* object, const PyTypeObject* type, View& view) {
  if (Py_TYPE(object) != type) return is_torch(object) && look_at_torch(object, view);
  view = view_of(*py::detail::array_proxy(object));
  return true;
}

// The same for an array that was accepted before: the memory of a subclass is known to be where its type has it.
inline bool look_again(PyObject* object, PyTypeObject* type, View& view) {
  if (is_torch(object) || !PyObject_TypeCheck(object, type)) return look(object, type, view);
  view = view_of(*py::detail::array_proxy(object));
  return true;
}

}  // namespace fastupdate
