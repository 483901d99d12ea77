// How kernels of the CUDA engine find their elements: a thread block works through blocks of 1024 elements.
#pragma once

#if defined(__CUDACC__)
#include "cuda/intrinsics.cuh"
#else
#include "cuda_shim.h"
#endif
#include "core/views.h"
#include "cuda/sweep.h"

namespace fastupdate::FASTUPDATE_TARGET {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kLanes;
constexpr int kQuad = kBlock / kThreads;

template <class T>
FASTUPDATE_DEVICE T* array_at(uint64_t address) {
  return reinterpret_cast<T*>(address);
}

template <class T>
FASTUPDATE_DEVICE constexpr DType dtype_of() {
  return sizeof(T) == 4 ? kFloat32 : kFloat64;
}

FASTUPDATE_DEVICE int elements_from(int64_t begin, int64_t end) {
  return end - begin < kBlock ? int(end - begin) : int(kBlock);
}

// Calls visit(index, tensor, first block, last block + 1) for this thread block's share of the plan.
template <class Visit>
FASTUPDATE_DEVICE void walk(const DeviceSweep& sweep, Visit visit) {
  const int64_t first = sweep.blocks * block_index() / grid_size();
  const int64_t last = sweep.blocks * (block_index() + 1) / grid_size();
  int64_t low = 0, high = sweep.count;
  while (low < high) {  // the first tensor that ends after block `first`
    const int64_t middle = (low + high) / 2;
    const Tensor& t = sweep.tensors[middle];
    if (t.first_block + block_count(t) > first)
      high = middle;
    else
      low = middle + 1;
  }
  for (; low < sweep.count && sweep.tensors[low].first_block < last; ++low) {
    const Tensor& t = sweep.tensors[low];
    const int64_t begin = first > t.first_block ? first - t.first_block : 0;
    const int64_t rest = last - t.first_block, all = block_count(t);
    if (begin < all) visit(low, t, begin, rest < all ? rest : all);
  }
}

// ---- elements -------------------------------------------------------------------------------------------------------

template <class T>
FASTUPDATE_DEVICE T load_element(uint64_t array, uint64_t layout, int64_t i) {
  return layout ? load_strided<T>(array, *array_at<const Layout>(layout), i) : array_at<const T>(array)[i];
}

template <class T>
FASTUPDATE_DEVICE void store_element(uint64_t array, uint64_t layout, int64_t i, T x) {
  if (layout)
    store_strided(array, *array_at<const Layout>(layout), i, x);
  else
    array_at<T>(array)[i] = x;
}

FASTUPDATE_DEVICE uint64_t sample_of(const Tensor& t, int64_t k) { return t.g + uint64_t(k * t.sample_stride); }

// An element of any storage type.
template <class T>
FASTUPDATE_DEVICE T load_stored(uint8_t dtype, uint64_t array, uint64_t layout, int64_t i) {
  if (!is_narrow(dtype)) return load_element<T>(array, layout, i);
  T x = 0;
  with_codec(dtype,
             [&](auto codec) { x = T(codec.decode(load_element<typename decltype(codec)::Bits>(array, layout, i))); });
  return x;
}

// The raw gradient: the sum of its samples, in order.
template <class T>
FASTUPDATE_DEVICE_CALL T gradient_element(const Tensor& t, int64_t i) {
  T g = load_stored<T>(t.g_dtype, t.g, t.g_layout, i);
  for (int64_t k = 1; k < t.samples; ++k) g += load_stored<T>(t.g_dtype, sample_of(t, k), t.g_layout, i);
  return g;
}

template <class T>
FASTUPDATE_DEVICE void clear_gradient_element(const Tensor& t, int64_t i) {
  for (int64_t k = 0; k < t.samples; ++k)
    if (is_narrow(t.g_dtype))
      with_codec(t.g_dtype,
                 [&](auto codec) { store_element(sample_of(t, k), t.g_layout, i, typename decltype(codec)::Bits(0)); });
    else
      store_element(sample_of(t, k), t.g_layout, i, T(0));
}

template <class T>
FASTUPDATE_DEVICE_CALL T weight_element(const Tensor& t, int64_t i) {
  return load_element<T>(t.p, t.p_layout, i);
}

// Elements i … i + 3 of arrays that are 16-byte aligned there.
struct Vector {
  static constexpr int width = kQuad;
  int64_t i;

  template <class T>
  FASTUPDATE_DEVICE Pack<T, width> load(uint64_t array) const {
    return load_vector(array_at<const T>(array) + i);
  }
  template <class T>
  FASTUPDATE_DEVICE void store(uint64_t array, const Pack<T, width>& x) const {
    store_vector(array_at<T>(array) + i, x);
  }
  template <class T>
  FASTUPDATE_DEVICE Pack<T, width> load_weight(const Tensor& t) const {
    return load<T>(t.p);
  }
  template <class T>
  FASTUPDATE_DEVICE void store_weight(const Tensor& t, const Pack<T, width>& x) const {
    store(t.p, x);
  }
  template <class T>
  FASTUPDATE_DEVICE Pack<T, width> load_gradient(const Tensor& t) const {
    if (!is_narrow(t.g_dtype)) return load<T>(t.g);
    Pack<T, width> g = {};
    with_codec(t.g_dtype, [&](auto codec) {
      const auto held = load<typename decltype(codec)::Bits>(t.g);
      for (int j = 0; j < width; ++j) g.at[j] = T(codec.decode(held.at[j]));
    });
    return g;
  }
  template <class T>
  FASTUPDATE_DEVICE void clear_gradient(const Tensor& t) const {
    if (!is_narrow(t.g_dtype)) return store(t.g, Pack<T, width>{});
    with_codec(t.g_dtype, [&](auto codec) { store(t.g, Pack<typename decltype(codec)::Bits, width>{}); });
  }
};

// Element i of arrays that are contiguous; the gradient is one sample.
struct Single {
  static constexpr int width = 1;
  int64_t i;

  template <class T>
  FASTUPDATE_DEVICE Pack<T, width> load(uint64_t array) const {
    return {{array_at<const T>(array)[i]}};
  }
  template <class T>
  FASTUPDATE_DEVICE void store(uint64_t array, const Pack<T, width>& x) const {
    array_at<T>(array)[i] = x.at[0];
  }
  template <class T>
  FASTUPDATE_DEVICE Pack<T, width> load_weight(const Tensor& t) const {
    return load<T>(t.p);
  }
  template <class T>
  FASTUPDATE_DEVICE void store_weight(const Tensor& t, const Pack<T, width>& x) const {
    store(t.p, x);
  }
  template <class T>
  FASTUPDATE_DEVICE Pack<T, width> load_gradient(const Tensor& t) const {
    return load<T>(t.g);
  }
};

// Element i; weight and gradient may lie in memory in any way.
struct Anywhere : Single {
  template <class T>
  FASTUPDATE_DEVICE Pack<T, width> load_weight(const Tensor& t) const {
    return {{weight_element<T>(t, i)}};
  }
  template <class T>
  FASTUPDATE_DEVICE void store_weight(const Tensor& t, const Pack<T, width>& x) const {
    store_element(t.p, t.p_layout, i, x.at[0]);
  }
  template <class T>
  FASTUPDATE_DEVICE Pack<T, width> load_gradient(const Tensor& t) const {
    return {{gradient_element<T>(t, i)}};
  }
  template <class T>
  FASTUPDATE_DEVICE void clear_gradient(const Tensor& t) const {
    clear_gradient_element<T>(t, i);
  }
};

// How many elements lie before an array's first 16-byte boundary.
template <class T>
FASTUPDATE_DEVICE int head_of(uint64_t array) {
  return int(-array % 16 / sizeof(T));
}

// Whether four elements of T, `head` elements into the array, can be accessed at once. True where there is no array.
template <class T>
FASTUPDATE_DEVICE bool reaches(uint64_t array, int head) {
  constexpr uint64_t bytes = kQuad * sizeof(T) < 16 ? kQuad * sizeof(T) : 16;
  return !array || (array + uint64_t(head) * sizeof(T)) % bytes == 0;
}

// The same of a gradient that is one array.
template <class T>
FASTUPDATE_DEVICE bool gradient_reaches(const Tensor& t, int head) {
  bool reached = reaches<T>(t.g, head);
  if (is_narrow(t.g_dtype))
    with_codec(t.g_dtype, [&](auto codec) { reached = reaches<typename decltype(codec)::Bits>(t.g, head); });
  return is_whole(t) && reached;
}

// Hands this thread's elements of a block to `visit`: as one Vector, or else one by one as One. Vectors start `head`
// elements into the block, so the four elements that would run past its end are the block's head and tail.
template <class One, class Visit>
FASTUPDATE_DEVICE void visit_block(int64_t n, int64_t block, bool vectors, int head, Visit visit) {
  const int64_t begin = block * kBlock;
  const int here = elements_from(begin, n), first = vectors ? head + kQuad * thread_index() : thread_index();
  if (vectors && first + kQuad <= here) return visit(Vector{begin + first});
#pragma unroll 1
  for (int j = 0; j < kQuad; ++j) {
    const int e = (first + j * (vectors ? 1 : kThreads)) % kBlock;
    One one;
    one.i = begin + e;
    if (e < here) visit(one);
  }
}

}  // namespace fastupdate::FASTUPDATE_TARGET
