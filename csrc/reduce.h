// The defined order of every sum: within a block, lane j of 32 adds elements j, j+32, … in float64 and the lanes fold
// pairwise; blocks then fold pairwise in order. Thread count and tiling never enter.
#pragma once

#include <type_traits>

#include "dtype.h"
#include "plan.h"

namespace fastupdate::FASTUPDATE_TARGET {

template <class T>
using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

// The lanes of one block, filled tile by tile (a tile holds whole rows of lanes, the last one of a tensor aside).
template <class T>
struct Lanes {
  double gg[kLanes], pp[kLanes], uu[kLanes], gm[kLanes], mm[kLanes];
  Bits<T> largest[kLanes];  // of |update|: numbers without a sign are in the order of their bits, and NaN is above all
  int nonfinite[kLanes], zeros[kLanes], stalled[kLanes];
};

// Calls visit(lane, i) for i = 0 … n − 1, element i in lane i mod 32.
template <class Visit>
FASTUPDATE_HD void by_lanes(int n, Visit visit) {
  int i = 0;
  for (; i + kLanes <= n; i += kLanes)
#pragma omp simd
    for (int j = 0; j < kLanes; ++j) visit(j, i + j);
  for (int j = 0; i + j < n; ++j) visit(j, i + j);
}

// sum + x·y. The product of two float32 is exact in float64, so that a fused multiply-add rounds the same.
FASTUPDATE_HD double add_product(double sum, float x, float y) {
#if defined(__FMA__)
  return __builtin_fma(double(x), double(y), sum);
#else
  return sum + double(x) * double(y);
#endif
}
FASTUPDATE_HD double add_product(double sum, double x, double y) { return sum + x * y; }

template <int width = kLanes / 2, class T>
FASTUPDATE_HD T fold_lanes(T* lane) {
  for (int j = 0; j < width; ++j) lane[j] += lane[j + width];
  if constexpr (width > 1) return fold_lanes<width / 2>(lane);
  return lane[0];
}

template <class T>
Sums fold(Lanes<T>& lanes) {
  Sums sums;
  sums.gg = fold_lanes(lanes.gg);
  sums.pp = fold_lanes(lanes.pp);
  sums.uu = fold_lanes(lanes.uu);
  sums.gm = fold_lanes(lanes.gm);
  sums.mm = fold_lanes(lanes.mm);
  Bits<T> largest = 0;
  for (int j = 0; j < kLanes; ++j) largest = lanes.largest[j] > largest ? lanes.largest[j] : largest;
  sums.largest = double(reinterpret<T>(largest));
  sums.nonfinite = fold_lanes(lanes.nonfinite);
  sums.zeros = fold_lanes(lanes.zeros);
  sums.stalled = fold_lanes(lanes.stalled);
  return sums;
}

// Folds a sequence pairwise: neighbours first, then neighbouring pairs …; the odd one out moves up a level.
struct Pairwise {
  double level[48];
  int64_t count = 0;

  FASTUPDATE_HD void add(double x) {
    int depth = 0;
    for (int64_t k = count++; k & 1; k >>= 1) x = level[depth++] + x;
    level[depth] = x;
  }

  FASTUPDATE_HD double total() const {
    double sum = 0;
    bool any = false;
    for (int depth = 0; count >> depth; ++depth)
      if (count >> depth & 1) {
        sum = any ? level[depth] + sum : level[depth];
        any = true;
      }
    return sum;
  }
};

template <class T>
void sum_weight(int n, const T* p, Lanes<T>& lanes) {
  by_lanes(n, [&](int j, int i) { lanes.pp[j] = add_product(lanes.pp[j], p[i], p[i]); });
}

inline bool all_finite(const double (&lanes)[kLanes]) {
  double nothing = 0;
#pragma omp simd reduction(+ : nothing)
  for (int j = 0; j < kLanes; ++j) nothing += lanes[j] - lanes[j];
  return nothing == 0;
}

// Where the squares add up to a finite number, nothing was infinite or NaN, and there is nothing to count.
template <class T>
void count_nonfinite(int n, const T* g, Lanes<T>& lanes) {
  if (!all_finite(lanes.gg)) by_lanes(n, [&](int j, int i) { lanes.nonfinite[j] += !is_finite(g[i]); });
}

template <class T>
FASTUPDATE_HD void note_gradient(T g, int lane, Lanes<T>& lanes) {
  lanes.gg[lane] = add_product(lanes.gg[lane], g, g);
  lanes.zeros[lane] += g == 0;
}

template <class T>
FASTUPDATE_HD void note_update(T before, T after, int lane, Lanes<T>& lanes) {
  const T u = after - before;
  lanes.pp[lane] = add_product(lanes.pp[lane], after, after);
  lanes.uu[lane] = add_product(lanes.uu[lane], u, u);
  const Bits<T> size = reinterpret<Bits<T>>(absolute(u));
  lanes.largest[lane] = size > lanes.largest[lane] ? size : lanes.largest[lane];
}

template <class T>
void sum_gradient(int n, const T* g, Lanes<T>& lanes) {
  by_lanes(n, [&](int j, int i) { note_gradient(g[i], j, lanes); });
  count_nonfinite(n, g, lanes);
}

template <class T>
void sum_gradient_and_momentum(int n, const T* g, const T* m, Lanes<T>& lanes) {
  by_lanes(n, [&](int j, int i) {
    note_gradient(g[i], j, lanes);
    lanes.gm[j] = add_product(lanes.gm[j], g[i], m[i]);
    lanes.mm[j] = add_product(lanes.mm[j], m[i], m[i]);
  });
  count_nonfinite(n, g, lanes);
}

template <class T>
void sum_update(int n, const T* before, const T* after, Lanes<T>& lanes) {
  by_lanes(n, [&](int j, int i) { note_update(before[i], after[i], j, lanes); });
}

}  // namespace fastupdate::FASTUPDATE_TARGET
