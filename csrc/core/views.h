// Reading and writing arrays that are strided, misaligned or of a narrow type, one tile at a time.
#pragma once

#include <stddef.h>

#include "core/plan.h"
#include "core/scalar.h"
#include "core/storage.h"

namespace fastupdate::FASTUPDATE_TARGET {

// Calls visit(k, address) for elements begin … begin + n − 1, in C order.
template <class Visit>
void for_each_strided(uint64_t base, const Layout& layout, int64_t begin, int n, Visit visit) {
  int64_t index[kMaxDims];
  uint64_t at = base;
  for (int64_t d = layout.ndim - 1, rest = begin; d >= 0; --d) {
    index[d] = rest % layout.shape[d];
    rest /= layout.shape[d];
    at += uint64_t(index[d] * layout.stride[d]);
  }
  const int64_t last = layout.ndim - 1;
  for (int k = 0; k < n;) {
    int64_t run = layout.shape[last] - index[last];
    if (run > n - k) run = n - k;
    for (int64_t r = 0; r < run; ++r) visit(k + int(r), at + uint64_t(r * layout.stride[last]));
    k += int(run);
    at += uint64_t(run * layout.stride[last]);
    index[last] += run;
    for (int64_t d = last; d > 0 && index[d] == layout.shape[d]; --d) {  // carry into the next axis
      at += uint64_t(layout.stride[d - 1] - layout.shape[d] * layout.stride[d]);
      index[d] = 0;
      ++index[d - 1];
    }
  }
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

template <class T>
void read_array(uint64_t array, uint64_t layout, int64_t begin, int n, T* out) {
  if (!layout) {
    __builtin_memcpy(out, reinterpret_cast<const T*>(array) + begin, size_t(n) * sizeof(T));
    return;
  }
  for_each_strided(array, *reinterpret_cast<const Layout*>(layout), begin, n, [=](int k, uint64_t at) {
    __builtin_memcpy(out + k, reinterpret_cast<const void*>(at), sizeof(T));  // may be misaligned
  });
}

// Elements of any storage type, as T; n ≤ kBlock.
template <class T>
void load_array(uint8_t dtype, uint64_t array, uint64_t layout, int64_t begin, int n, T* __restrict out) {
  if (!is_narrow(dtype)) return read_array(array, layout, begin, n, out);
  with_codec(dtype, [=](auto codec) {
    using Codec = decltype(codec);
    typename Codec::Bits gathered[kBlock];
    const auto* from = reinterpret_cast<const typename Codec::Bits*>(array) + begin;
    if (layout) read_array(array, layout, begin, n, gathered), from = gathered;
#pragma omp simd
    for (int i = 0; i < n; ++i) out[i] = T(Codec::decode(from[i]));
  });
}

template <class X, class N>
void clear_array(uint64_t array, uint64_t layout, int64_t begin, N n) {
  if (layout) {
    for_each_strided(array, *reinterpret_cast<const Layout*>(layout), begin, n,
                     [](int, uint64_t at) { __builtin_memset(reinterpret_cast<void*>(at), 0, sizeof(X)); });
    return;
  }
  __builtin_memset(reinterpret_cast<X*>(array) + begin, 0, size_t(n) * sizeof(X));  // samples may be misaligned
}

template <class T>
void write_array(uint64_t array, uint64_t layout, int64_t begin, int n, const T* in) {
  if (!layout) {
    __builtin_memcpy(reinterpret_cast<T*>(array) + begin, in, size_t(n) * sizeof(T));
    return;
  }
  for_each_strided(array, *reinterpret_cast<const Layout*>(layout), begin, n,
                   [=](int k, uint64_t at) { __builtin_memcpy(reinterpret_cast<void*>(at), in + k, sizeof(T)); });
}

}  // namespace fastupdate::FASTUPDATE_TARGET
