// The defined order of every sum: within a block, lane j of 32 adds elements j, j+32, … in float64 and the lanes fold
// pairwise; blocks then fold pairwise in order. Thread count and tiling never enter.
#pragma once

#include <type_traits>
#include <utility>

#include "core/extents.h"
#include "core/storage.h"

namespace fastupdate::FASTUPDATE_TARGET {

template <class T>
using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

// The lanes of one block, filled tile by tile (a tile holds whole rows of lanes, the last one of a tensor aside). Whole
// rows of them are loaded and stored at once, hence the alignment.
struct alignas(64) GradientLanes {
  double gg[kLanes];
  int64_t nonfinite;

  // Not `= {}`, which becomes a slow `rep stos`.
  void clear() {
#pragma omp simd
    for (int j = 0; j < kLanes; ++j) gg[j] = 0;
    nonfinite = 0;
  }
};

template <class T>
struct Lanes : GradientLanes {
  alignas(64) double pp[kLanes], uu[kLanes], gm[kLanes], mm[kLanes], gu[kLanes];
  Bits<T> largest[kLanes];  // of |update|: numbers without a sign are in the order of their bits, and NaN is above all
  int zeros[kLanes], stalled[kLanes];

  void clear() {
    GradientLanes::clear();
#pragma omp simd
    for (int j = 0; j < kLanes; ++j) pp[j] = uu[j] = gm[j] = mm[j] = gu[j] = 0;
#pragma omp simd
    for (int j = 0; j < kLanes; ++j) largest[j] = 0, zeros[j] = stalled[j] = 0;
  }
};

// Calls visit(lane, i) for i = 0 … n − 1, element i in lane i mod 32. N: int, or a constant where n is known.
template <class N, class Visit>
FASTUPDATE_HD void by_lanes(N n, Visit visit) {
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

struct Add {
  template <class V>
  FASTUPDATE_HD V operator()(V a, V b) const {
    return a + b;
  }
};

template <int width = kLanes / 2, class T, class Op = Add>
FASTUPDATE_HD T fold_lanes(T* lane, Op op = {}) {
  for (int j = 0; j < width; ++j) lane[j] = op(lane[j], lane[j + width]);
  if constexpr (width > 1) return fold_lanes<width / 2>(lane, op);
  return lane[0];
}

inline Sums fold(GradientLanes& lanes) {
  Sums sums = {};
  sums.gg = fold_lanes(lanes.gg);
  sums.nonfinite = lanes.nonfinite;
  return sums;
}

template <class T>
Sums fold(Lanes<T>& lanes) {
  Sums sums = fold(static_cast<GradientLanes&>(lanes));
  sums.pp = fold_lanes(lanes.pp);
  sums.uu = fold_lanes(lanes.uu);
  sums.gm = fold_lanes(lanes.gm);
  sums.mm = fold_lanes(lanes.mm);
  sums.gu = fold_lanes(lanes.gu);
  Bits<T> largest = 0;
  for (int j = 0; j < kLanes; ++j) largest = lanes.largest[j] > largest ? lanes.largest[j] : largest;
  sums.largest = double(reinterpret<T>(largest));
  sums.zeros = fold_lanes(lanes.zeros);
  sums.stalled = fold_lanes(lanes.stalled);
  return sums;
}

// Folds a sequence pairwise: neighbours first, then neighbouring pairs …; the odd one out moves up a level.
template <class V, class Op = Add>
struct Pairwise {
  Op op = {};
  int64_t count = 0;
  V level[48];

  FASTUPDATE_HD void add(V x) {
    int depth = 0;
    for (int64_t k = count++; k & 1; k >>= 1) x = op(level[depth++], x);
    level[depth] = x;
  }

  FASTUPDATE_HD V total() const {
    V sum = {};
    bool any = false;
    for (int depth = 0; count >> depth; ++depth)
      if (count >> depth & 1) {
        sum = any ? op(level[depth], sum) : level[depth];
        any = true;
      }
    return sum;
  }

  // The total with what comes after: fewer than there are in one of these.
  FASTUPDATE_HD V total(V rest) const {
    for (int depth = 0; count >> depth; ++depth)
      if (count >> depth & 1) rest = op(level[depth], rest);
    return rest;
  }
};

// What the 2^depth numbers from x on, `pitch` apart, come to.
template <int depth, bool largest>
FASTUPDATE_HD double fold_group(const double* x, int64_t pitch) {
  if constexpr (depth == 0)
    return *x;
  else {
    constexpr int half = 1 << (depth - 1);
    return Joined{largest}(fold_group<depth - 1, largest>(x, pitch),
                           fold_group<depth - 1, largest>(x + half * pitch, pitch));
  }
}

template <bool largest>
FASTUPDATE_HD double fold_parts(const double* x, int64_t count, int64_t pitch) {
  constexpr int kDepth = 3;  // of groups that fold at once
  constexpr Joined joined = {largest};
  Pairwise<double, Joined> groups, rest;
  groups.op = rest.op = joined;
  int64_t i = 0;
  for (; i + (1 << kDepth) <= count; i += 1 << kDepth) groups.add(fold_group<kDepth, largest>(x + i * pitch, pitch));
  for (; i < count; ++i) rest.add(x[i * pitch]);
  return rest.count ? groups.total(rest.total()) : groups.total();
}

// What `count` numbers, `pitch` apart, come to, folded pairwise.
FASTUPDATE_HD double fold_parts(const double* x, int64_t count, int64_t pitch, Joined joined) {
  return joined.largest ? fold_parts<true>(x, count, pitch) : fold_parts<false>(x, count, pitch);
}

// What adds up in float64 folds together.
struct Moments {
  double gg, pp, uu, gm, mm, gu;
};

inline Moments operator+(const Moments& a, const Moments& b) {
  return {a.gg + b.gg, a.pp + b.pp, a.uu + b.uu, a.gm + b.gm, a.mm + b.mm, a.gu + b.gu};
}

// Folds the sums of a tensor's blocks.
inline Sums fold_blocks(const Sums* blocks, int64_t count) {
  if (count == 1) return blocks[0];
  Pairwise<Moments> moments;
  Sums total = {};
  for (const Sums* block = blocks; block < blocks + count; ++block) {
    moments.add({block->gg, block->pp, block->uu, block->gm, block->mm, block->gu});
    total.largest = maximum(total.largest, block->largest);
    total.nonfinite += block->nonfinite;
    total.zeros += block->zeros;
    total.stalled += block->stalled;
  }
  const Moments sum = moments.total();
  total.gg = sum.gg, total.pp = sum.pp, total.uu = sum.uu;
  total.gm = sum.gm, total.mm = sum.mm, total.gu = sum.gu;
  return total;
}

// Of all tensors: Σ scale²·Σg², folded pairwise, and how many gradients are not finite.
inline std::pair<double, int64_t> overall(const Tensor* tensors, const Sums* total, int64_t count) {
  Pairwise<double> squares;
  int64_t nonfinite = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double scale = tensors[i].scale;
    squares.add(total[i].gg * (scale * scale));
    nonfinite += total[i].nonfinite;
  }
  return {squares.total(), nonfinite};
}

// min(1, limit / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_, the norm being in units; NaN stays NaN.
FASTUPDATE_HD double clip_factor(double limit, double norm, double unit) {
  const double factor = limit / unit / (norm + 1e-6 / unit);
  return factor > 1 ? 1 : factor;
}

template <class T, class N>
void sum_squares(N n, const T* x, double (&sums)[kLanes]) {
  by_lanes(n, [&](int j, int i) { sums[j] = add_product(sums[j], x[i], x[i]); });
}

FASTUPDATE_HD bool all_finite(const double (&lanes)[kLanes]) {
  double nothing = 0;
#pragma omp simd reduction(+ : nothing)
  for (int j = 0; j < kLanes; ++j) nothing += lanes[j] - lanes[j];
  return nothing == 0;
}

// Where the squares add up to a finite number, nothing was infinite or NaN, and there is nothing to count.
template <class T>
FASTUPDATE_HD void count_nonfinite(int n, const T* g, GradientLanes& lanes) {
  if (__builtin_expect(all_finite(lanes.gg), true)) return;
  for (int i = 0; i < n; ++i) lanes.nonfinite += !is_finite(g[i]);
}

template <class T>
FASTUPDATE_HD void note_gradient(T g, int lane, Lanes<T>& lanes) {
  lanes.gg[lane] = add_product(lanes.gg[lane], g, g);
  lanes.zeros[lane] += g == 0;
}

template <class T>
FASTUPDATE_HD void note_update(T before, T after, T g, int lane, Lanes<T>& lanes) {
  const T u = after - before;
  lanes.pp[lane] = add_product(lanes.pp[lane], after, after);
  lanes.uu[lane] = add_product(lanes.uu[lane], u, u);
  lanes.gu[lane] = add_product(lanes.gu[lane], g, u);
  const Bits<T> size = reinterpret<Bits<T>>(absolute(u));
  lanes.largest[lane] = size > lanes.largest[lane] ? size : lanes.largest[lane];
}

template <class T, class N>
void sum_gradient(N n, const T* g, GradientLanes& lanes) {
  sum_squares(n, g, lanes.gg);
  count_nonfinite(n, g, lanes);
}

template <class T, class N>
void sum_gradient_and_zeros(N n, const T* g, Lanes<T>& lanes) {
  by_lanes(n, [&](int j, int i) { note_gradient(g[i], j, lanes); });
  count_nonfinite(n, g, lanes);
}

template <class T, class N>
void sum_gradient_and_momentum(N n, const T* g, const T* m, Lanes<T>& lanes) {
  by_lanes(n, [&](int j, int i) {
    note_gradient(g[i], j, lanes);
    lanes.gm[j] = add_product(lanes.gm[j], g[i], m[i]);
    lanes.mm[j] = add_product(lanes.mm[j], m[i], m[i]);
  });
  count_nonfinite(n, g, lanes);
}

template <class T, class N>
void sum_update(N n, const T* before, const T* after, const T* g, Lanes<T>& lanes) {
  by_lanes(n, [&](int j, int i) { note_update(before[i], after[i], g[i], j, lanes); });
}

}  // namespace fastupdate::FASTUPDATE_TARGET
