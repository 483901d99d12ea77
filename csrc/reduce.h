// The defined order of every sum: within a block, lane j of 32 adds elements j, j+32, … in float64 and the lanes fold
// pairwise; blocks then fold pairwise in order. Thread count and tiling never enter.
#pragma once

#include "plan.h"
#include "scalar.h"

namespace fastupdate::FASTUPDATE_TARGET {

// Σ term(i), i < n ≤ kBlock.
template <class Term>
FASTUPDATE_HD double block_sum(int n, Term term) {
  double lane[kLanes] = {};
  int i = 0;
  for (; i + kLanes <= n; i += kLanes)
#pragma omp simd
    for (int j = 0; j < kLanes; ++j) lane[j] += term(i + j);
  for (int j = 0; i + j < n; ++j) lane[j] += term(i + j);
  for (int width = kLanes / 2; width; width /= 2)
    for (int j = 0; j < width; ++j) lane[j] += lane[j + width];
  return lane[0];
}

// Folds a sequence pairwise: neighbours first, then neighbouring pairs …; the odd one out moves up a level.
struct Pairwise {
  double level[48];
  int64_t count = 0;

  void add(double x) {
    int depth = 0;
    for (int64_t k = count++; k & 1; k >>= 1) x = level[depth++] + x;
    level[depth] = x;
  }

  double total() const {
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
double sum_of_squares(int n, const T* x) {
  return block_sum(n, [=](int i) { return double(x[i]) * double(x[i]); });
}

template <class T>
void sum_gradient(int n, const T* g, Sums& sums) {
  sums.gg = sum_of_squares(n, g);
  int nonfinite = 0, zeros = 0;
  for (int i = 0; i < n; ++i) {
    nonfinite += !is_finite(g[i]);
    zeros += g[i] == 0;
  }
  sums.nonfinite = nonfinite;
  sums.zeros = zeros;
}

template <class T>
void sum_update(int n, const T* before, const T* after, Sums& sums) {
  sums.pp = sum_of_squares(n, after);
  sums.uu = block_sum(n, [=](int i) {
    double u = double(after[i]) - double(before[i]);
    return u * u;
  });
  double largest = 0;
  for (int i = 0; i < n; ++i) {
    double u = absolute(double(after[i]) - double(before[i]));
    largest = maximum(largest, u);
  }
  sums.largest = largest;
}

template <class T>
void sum_momentum(int n, const T* g, const T* m, Sums& sums) {
  sums.gm = block_sum(n, [=](int i) { return double(g[i]) * double(m[i]); });
  sums.mm = sum_of_squares(n, m);
}

}  // namespace fastupdate::FASTUPDATE_TARGET
