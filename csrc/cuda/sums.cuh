// Sums on the device, in the defined order (core/sums.h).
#pragma once

#include "core/sums.h"
#include "cuda/blocks.cuh"

namespace fastupdate::FASTUPDATE_TARGET {

constexpr int64_t kPitch = sizeof(Sums) / sizeof(double);

struct Larger {
  template <class V>
  FASTUPDATE_DEVICE V operator()(V a, V b) const {
    return maximum(a, b);
  }
};

// The lanes of a warp, folded pairwise; the result is lane 0's.
template <class V, class Op>
FASTUPDATE_DEVICE V fold_lanes(V x, Op op) {
  for (int distance = kLanes / 2; distance; distance /= 2) x = op(x, from_lane_above(x, distance));
  return x;
}

// Σ term(i), i < n ≤ kBlock, by one warp; the result is lane 0's.
template <class Term>
FASTUPDATE_DEVICE double warp_sum(int n, Term term) {
  double sum = 0;
#pragma unroll 8
  for (int i = thread_index() % kLanes; i < n; i += kLanes) sum += term(i);
  return fold_lanes(sum, Add());
}

// Folds a[0], a[pitch], a[2·pitch] … pairwise, in place; the result is a[0]. Three levels at a time, by all threads.
template <class V, class Op>
FASTUPDATE_DEVICE void fold(V* a, int64_t n, int64_t pitch, Op op) {
  constexpr int kRadix = 8;
  for (int64_t stride = 1; stride < n; stride *= kRadix) {
    for (int64_t k = thread_index() * kRadix * stride; k + stride < n; k += int64_t(thread_count()) * kRadix * stride) {
      V x[kRadix] = {};
      for (int j = 0; j < kRadix; ++j)
        if (k + j * stride < n) x[j] = load_coherent(&a[(k + j * stride) * pitch]);
      for (int w = 1; w < kRadix; w *= 2)
        for (int j = 0; j + w < kRadix; j += 2 * w)
          if (k + (j + w) * stride < n) x[j] = op(x[j], x[j + w]);
      a[k * pitch] = x[0];
    }
    barrier();
  }
}

// A sequence of numbers in memory, so many apart.
struct Run {
  const double* at;
  int64_t count, pitch;
};

// What a run comes to, by one thread, eight loads at a time.
FASTUPDATE_DEVICE double fold_run(const Run& run, Joined op) {
  constexpr int kAtOnce = 8;
  Pairwise<double, Joined> groups, rest;
  groups.op = rest.op = op;
  int64_t i = 0;
  for (; i + kAtOnce <= run.count; i += kAtOnce) {
    double x[kAtOnce];
    for (int j = 0; j < kAtOnce; ++j) x[j] = load_coherent(run.at + (i + j) * run.pitch);
    for (int w = 1; w < kAtOnce; w *= 2)
      for (int j = 0; j < kAtOnce; j += 2 * w) x[j] = op(x[j], x[j + w]);
    groups.add(x[0]);
  }
  for (; i < run.count; ++i) rest.add(load_coherent(run.at + i * run.pitch));
  return rest.count ? groups.total(rest.total()) : groups.total();
}

constexpr size_t kFoldBytes = kThreads * sizeof(double);  // of shared memory, for fold_together

// The same by a thread block, whose threads fold stretches of a power of two; all of them get the result.
FASTUPDATE_DEVICE double fold_together(const Run& run, Joined op) {
  double* const folded = reinterpret_cast<double*>(shared_memory());
  int64_t length = 1;
  while (length * kThreads < run.count) length *= 2;
  const int64_t first = thread_index() * length, rest = run.count - first;
  const int64_t pieces = (run.count + length - 1) / length;
  if (rest > 0)
    folded[thread_index()] = fold_run({run.at + first * run.pitch, rest < length ? rest : length, run.pitch}, op);
  barrier();
  for (int64_t stride = 1; stride < pieces; stride *= 2) {
    const int64_t k = thread_index() * 2 * stride;
    if (k + stride < pieces) folded[k] = op(folded[k], folded[k + stride]);
    barrier();
  }
  const double result = folded[0];
  barrier();
  return result;
}

}  // namespace fastupdate::FASTUPDATE_TARGET
