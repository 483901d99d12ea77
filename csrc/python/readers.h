// What the border sees of an array, whoever made it.
#pragma once

#include <pybind11/numpy.h>

#include <cstring>

#include "core/plan.h"

namespace fastupdate {

namespace py = pybind11;

// A look at an array's header. It lasts as long as nobody changes the array.
struct View {
  uint64_t data;
  const int64_t *shape, *strides;
  int64_t stride_unit;  // bytes
  int ndim;
  uint8_t dtype;          // DType; kNone: neither float32 nor float64 in native byte order
  bool direct, writable;  // direct: contiguous in C order, and aligned
};

inline bool same_shape(const View& a, int ndim, const int64_t* shape) {
  return a.ndim == ndim && !std::memcmp(a.shape, shape, size_t(ndim) * sizeof *shape);
}

// Of two arrays of one shape and type; the second is aligned.
inline bool same_strides(const View& a, const View& b) {
  for (int d = 0; d < a.ndim; ++d)
    if (a.shape[d] > 1 && a.strides[d] * a.stride_unit != b.strides[d] * b.stride_unit) return false;
  return a.data % (a.dtype == kFloat32 ? 4 : 8) == 0;
}

inline int64_t element_count(const View& a) {
  int64_t n = 1;
  for (int d = 0; d < a.ndim; ++d) n *= a.shape[d];
  return n;
}

using Header = py::detail::PyArray_Proxy;
static_assert(sizeof(py::ssize_t) == sizeof(int64_t));  // NumPy's dimensions are read as they are

inline PyTypeObject* host_array_type() { return py::detail::npy_api::get().PyArray_Type_; }

inline uint8_t dtype_of(const py::detail::PyArrayDescr_Proxy& descr) {
  using namespace py::detail;
  if (descr.byteorder != '=') return kNone;
  return descr.type_num == npy_api::NPY_FLOAT_ ? kFloat32 : descr.type_num == npy_api::NPY_DOUBLE_ ? kFloat64 : kNone;
}

inline View view_of(const Header& a) {
  using namespace py::detail;
  constexpr int kDirect = py::array::c_style | npy_api::NPY_ARRAY_ALIGNED_;
  return {
      uint64_t(a.data),
      reinterpret_cast<const int64_t*>(a.dimensions),
      reinterpret_cast<const int64_t*>(a.strides),
      1,
      a.nd,
      dtype_of(*py::detail::array_descriptor_proxy(a.descr)),
      (a.flags & kDirect) == kDirect,
      (a.flags & npy_api::NPY_ARRAY_WRITEABLE_) != 0,
  };
}

// Looks at an array of exactly this type, for subclasses may be headers over memory that is elsewhere
// (fastupdate/arrays/device.py).
inline bool look(PyObject* object, const PyTypeObject* type, View& view) {
  if (Py_TYPE(object) != type) return false;
  view = view_of(*py::detail::array_proxy(object));
  return true;
}

// The same for an array that was accepted before, whose memory is known to be where arrays of this type have it.
inline bool look_again(PyObject* object, PyTypeObject* type, View& view) {
  if (!PyObject_TypeCheck(object, type)) return false;
  view = view_of(*py::detail::array_proxy(object));
  return true;
}

// Whether an array lies as the layout says, in which axes that are contiguous with each other are one.
inline bool lies_as(const View& a, const Layout& layout) {
  int64_t axis = -1, size = 1, stride = 0;
  const auto same = [&] { return axis < 0 || (layout.shape[axis] == size && layout.stride[axis] == stride); };
  for (int d = 0; d < a.ndim; ++d) {
    const int64_t step = a.strides[d] * a.stride_unit;
    if (a.shape[d] == 1) continue;
    if (axis >= 0 && stride == a.shape[d] * step) {
      size *= a.shape[d];
    } else {
      if (!same() || ++axis == layout.ndim) return false;
      size = a.shape[d];
    }
    stride = step;
  }
  return same() && (axis < 0 ? layout.ndim == 1 && layout.shape[0] == 1 : axis + 1 == layout.ndim);
}

}  // namespace fastupdate
