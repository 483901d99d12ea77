// Gradients of few rows of a tensor: read as if all others were zero, or for the touched rows alone.
#pragma once

#include "core/views.h"
#include "cpu/fetch.h"
#include "cpu/window.h"

namespace fastupdate::FASTUPDATE_TARGET {

inline const Rows& rows_of(const Tensor& t) { return *reinterpret_cast<const Rows*>(t.touched); }
inline bool is_lazy(const Tensor& t) { return t.touched && rows_of(t).lazy; }
inline const int64_t* integers(uint64_t array) { return reinterpret_cast<const int64_t*>(array); }

constexpr int64_t kSummedAhead = 4;  // of what is summed in one row, so many rows of the gradient are fetched

// out ← what touches the k-th of these rows, summed in order: n elements from a column on.
template <class T>
void sum_row(const Tensor& t, int64_t k, int64_t column, int n, T* __restrict out) {
  const Rows& rows = rows_of(t);
  const int64_t *starts = integers(rows.starts), *positions = integers(rows.positions);
  const int64_t item = item_size(t.g_dtype);
  const auto element = [&](int64_t s) { return positions[s] * rows.length + column; };
  T sample[kTile];
  load_array(t.g_dtype, t.g, element(starts[k]), n, out);
  for (int64_t s = starts[k] + 1; s < starts[k + 1]; ++s) {
    const int64_t later = s + kSummedAhead - 1;
    if (later < starts[k + 1]) fetch<0>(t.g + uint64_t(element(later) * item), n * item);
    load_array(t.g_dtype, t.g, element(s), n, sample);
#pragma omp simd
    for (int i = 0; i < n; ++i) out[i] += sample[i];
  }
}

// The gradient of the k-th of these rows where it lies, if it can be read there: one of the tensor's type that touches
// it alone. Else null.
template <class T>
const T* single_gradient(const Tensor& t, int64_t k) {
  const Rows& rows = rows_of(t);
  const int64_t first = integers(rows.starts)[k];
  if (integers(rows.starts)[k + 1] - first != 1 || t.g_dtype != t.dtype) return nullptr;
  return reinterpret_cast<const T*>(t.g) + integers(rows.positions)[first] * rows.length;
}

// Calls use(column, n, g) for runs of n ≤ kTile elements of what touches the k-th of these rows.
template <class T, class Use>
__attribute__((noinline)) void for_each_sum(const Tensor& t, int64_t k, int64_t column, int64_t stop, Use use) {
  T sum[kTile];
  for (int n; column < stop; column += n) {
    n = stop - column < kTile ? int(stop - column) : kTile;
    sum_row(t, k, column, n, sum);
    use(column, n, sum);
  }
}

// The gradient of n elements of the k-th of these rows from a column on, where it lies or in `out`.
template <class T>
const T* row_gradient(const Tensor& t, int64_t k, int64_t column, int n, T* out) {
  if (const T* const g = single_gradient<T>(t, k)) return g + column;
  sum_row(t, k, column, n, out);
  return out;
}

// The first of the touched rows that is not before `row`.
inline int64_t find_row(const Rows& rows, int64_t row) {
  int64_t low = 0, high = rows.count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (integers(rows.at)[middle] < row)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

// out ← the gradient of n ≤ kTile elements: of the touched rows, one after the other, if those alone are counted; else
// of the tensor, where rows that are not touched have zeros.
template <class T>
void load_rows(const Tensor& t, int64_t begin, int n, T* out) {
  const Rows& rows = rows_of(t);
  const int64_t end = begin + n;
  if (!rows.lazy)
    for (int i = 0; i < n; ++i) out[i] = 0;
  for (int64_t k = rows.lazy ? begin / rows.length : find_row(rows, begin / rows.length); k < rows.count; ++k) {
    const int64_t row = (rows.lazy ? k : integers(rows.at)[k]) * rows.length;
    if (row >= end) break;
    const int64_t first = row < begin ? begin : row, stop = row + rows.length < end ? row + rows.length : end;
    sum_row(t, k, first - row, int(stop - first), out + (first - begin));
  }
}

// The tensor as if its gradient were a dense one of its own type, whose address is still to be set.
inline Tensor untouched(Tensor t) {
  t.touched = 0;
  t.g_dtype = t.dtype;
  return t;
}

// Of the touched rows' elements begin … end − 1: calls visit(k, column, i, n) for runs of n ≤ kTile of them, from a
// column of the k-th of these rows on, which is element i of the tensor. No run goes beyond a multiple of `most`.
template <class Visit>
void for_each_run(const Tensor& t, int64_t begin, int64_t end, int64_t most, Visit visit) {
  const Rows& rows = rows_of(t);
  for (int64_t at = begin; at < end;) {
    const int64_t k = at / rows.length, column = at % rows.length;
    int64_t n = most - column % most;
    if (n > end - at) n = end - at;
    if (n > kTile) n = kTile;
    visit(k, column, integers(rows.at)[k] * rows.length + column, int(n));
    at += n;
  }
}

// Fetches what a step will read of rows that come later: they are scattered all over memory. What it needs for each of
// them it holds itself, so that little is to be done for one.
template <int known>  // arrays, as of ArraysOfRows::fetch_row
class RowsAhead {
 public:
  RowsAhead(const Tensor& t, const ArraysOfRows& arrays)
      : arrays_(arrays),
        rows_(rows_of(t)),
        values_(t.g),
        value_size_(rows_.length * item_size(t.g_dtype)),
        fetched_(fetched(value_size_)),
        distance_(arrays.size() < kFetched ? kFetched / arrays.size() : 1) {}

  // While the k-th of the touched rows is worked on. Inlined, as `fetch`.
  FASTUPDATE_HD void prefetch(int64_t k) const {
    const int64_t next = k + distance_;
    if (next >= rows_.count) return;
    arrays_.template fetch_row<known>(uint64_t(integers(rows_.at)[next]));
    const int64_t first = integers(rows_.starts)[next], end = integers(rows_.starts)[next + 1];
    for (int64_t s = first; s < end && s < first + kSummedAhead; ++s)
      fetch<0>(values_ + uint64_t(integers(rows_.positions)[s] * value_size_), fetched_);
  }

 private:
  const ArraysOfRows arrays_;
  const Rows rows_;
  uint64_t values_;
  int64_t value_size_, fetched_, distance_;  // bytes of a row of the gradient; rows ahead
};

}  // namespace fastupdate::FASTUPDATE_TARGET
