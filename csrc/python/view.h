// What the border sees of an array, whoever made it.
#pragma once

#include <stdint.h>

#include "core/plan.h"

namespace fastupdate {

// A look at an array's header. It lasts as long as nobody changes the array.
struct View {
  uint64_t data;
  const int64_t *shape, *strides;
  int64_t stride_unit;  // bytes
  int ndim;
  uint8_t dtype;          // DType; kNone: of none of these types in native byte order
  bool direct, writable;  // direct: contiguous in C order, and aligned
  int device = 0;         // of torch's tensors: which one has the memory
};

// Whether the numbers are the same; they are few, and calling memcmp costs more than comparing them.
inline bool same_numbers(const int64_t* a, const int64_t* b, int count) {
  for (int d = 0; d < count; ++d)
    if (a[d] != b[d]) return false;
  return true;
}

inline bool same_shape(const View& a, int ndim, const int64_t* shape) {
  return a.ndim == ndim && same_numbers(shape, a.shape, ndim);
}

// Whether elements follow upon each other alike in two arrays of one shape; the second is aligned.
inline bool same_strides(const View& a, const View& b) {
  const int64_t a_size = item_size(a.dtype), b_size = item_size(b.dtype);
  for (int d = 0; d < a.ndim; ++d)
    if (a.shape[d] > 1 && a.strides[d] * a.stride_unit * b_size != b.strides[d] * b.stride_unit * a_size) return false;
  return a.data % uint64_t(a_size) == 0;
}

inline int64_t product(const int64_t* shape, int ndim) {
  int64_t n = 1;
  for (int d = 0; d < ndim; ++d) n *= shape[d];
  return n;
}

inline int64_t element_count(const View& a) { return product(a.shape, a.ndim); }

// Finds out whether an array is direct, from strides in elements; returns how many elements it has.
inline int64_t measure(View& a) {
  int64_t n = 1;
  bool contiguous = true;
  for (int d = a.ndim - 1; d >= 0; --d) {
    contiguous = contiguous && (a.shape[d] == 1 || a.strides[d] == n);
    n *= a.shape[d];
  }
  a.direct = a.dtype != kNone && (contiguous || !n) && a.data % uint64_t(a.stride_unit) == 0;
  return n;
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
