// Where the elements of arrays are that are strided or misaligned, and what they are in arrays of a narrow type.
#pragma once

#include <stddef.h>

#include "core/plan.h"
#include "core/scalar.h"
#include "core/storage.h"

namespace fastupdate::FASTUPDATE_TARGET {

// Some axes of an array, the last ones of a layout.
struct Axes {
  int64_t count;
  const int64_t *shape, *stride;
};
inline Axes axes_of(const Layout& layout, int64_t first = 0) {
  return {layout.ndim - first, layout.shape + first, layout.stride + first};
}

// The axis along which elements lie closest in memory: elements that differ in it alone are one row apart, and a row is
// all that comes after it in C order.
inline int64_t closest_axis(const Layout& layout) {
  const auto distance = [&](int64_t d) { return layout.stride[d] < 0 ? -layout.stride[d] : layout.stride[d]; };
  int64_t closest = layout.ndim - 1;
  for (int64_t d = closest - 1; d >= 0; --d)
    if (distance(d) < distance(closest)) closest = d;
  return closest;
}

// The elements of a row; 1 where elements lie closest along the last axis.
inline int64_t row_length(const Layout& layout) {
  int64_t length = 1;
  for (int64_t d = layout.ndim - 1, axis = closest_axis(layout); d > axis; --d) length *= layout.shape[d];
  return length;
}

// Calls visit(k, address, count, stride) for elements begin … begin + n − 1, in C order: `count` of them from begin + k
// on, which lie `stride` bytes apart.
template <class Visit>
void for_each_line(uint64_t base, const Axes& axes, int64_t begin, int64_t n, Visit visit) {
  int64_t index[kMaxDims];
  uint64_t at = base;
  const int64_t last = axes.count - 1;
  for (int64_t d = last, rest = begin; d >= 0; --d) {
    index[d] = rest % axes.shape[d];
    rest /= axes.shape[d];
    at += uint64_t(index[d] * axes.stride[d]);
  }
  for (int64_t k = 0; k < n;) {
    int64_t count = axes.shape[last] - index[last];
    if (count > n - k) count = n - k;
    visit(k, at, count, axes.stride[last]);
    k += count;
    at += uint64_t(count * axes.stride[last]);
    index[last] += count;
    for (int64_t d = last; d > 0 && index[d] == axes.shape[d]; --d) {  // carry into the next axis
      at += uint64_t(axes.stride[d - 1] - axes.shape[d] * axes.stride[d]);
      index[d] = 0;
      ++index[d - 1];
    }
  }
}

// Calls visit(k, address) for each of them.
template <class Visit>
void for_each_strided(uint64_t base, const Axes& axes, int64_t begin, int64_t n, Visit visit) {
  for_each_line(base, axes, begin, n, [&](int64_t k, uint64_t at, int64_t count, int64_t stride) {
    for (int64_t i = 0; i < count; ++i) visit(k + i, at + uint64_t(i * stride));
  });
}

// The address of element i, in C order. Out of line on devices, where a copy per array would crowd the kernels.
FASTUPDATE_HD_CALL uint64_t strided_address(uint64_t base, const Layout& layout, int64_t i) {
  for (int64_t d = layout.ndim - 1; d >= 0; --d) {
    base += uint64_t(i % layout.shape[d] * layout.stride[d]);
    i /= layout.shape[d];
  }
  return base;
}

// One element, which may be misaligned.
template <class T>
FASTUPDATE_HD T load_strided(uint64_t base, const Layout& layout, int64_t i) {
  T x;
  __builtin_memcpy(&x, reinterpret_cast<const void*>(strided_address(base, layout, i)), sizeof x);
  return x;
}

template <class T>
FASTUPDATE_HD void store_strided(uint64_t base, const Layout& layout, int64_t i, T x) {
  __builtin_memcpy(reinterpret_cast<void*>(strided_address(base, layout, i)), &x, sizeof x);
}

// Elements of any storage type, of a contiguous array, as T.
template <class T>
void load_array(uint8_t dtype, uint64_t array, int64_t begin, int n, T* __restrict out) {
  if (!is_narrow(dtype)) {
    __builtin_memcpy(out, reinterpret_cast<const T*>(array) + begin, size_t(n) * sizeof(T));
    return;
  }
  with_codec(dtype, [=](auto codec) {
    const auto* in = reinterpret_cast<const typename decltype(codec)::Bits*>(array) + begin;
#pragma omp simd
    for (int i = 0; i < n; ++i) out[i] = T(codec.decode(in[i]));
  });
}

}  // namespace fastupdate::FASTUPDATE_TARGET
