// What sums and states of a rule may be of: an element, a row, a column, a matrix, a unit, a tensor, or the whole list.
//
// The last two axes of a tensor are those of its matrices; a vector of n is a matrix of n rows. Its units are its
// slices along the first axis; a vector is one. States that are not of an element are float64, one number for each
// range.
#pragma once

#include "core/extent.h"
#include "core/plan.h"

namespace fastupdate {

// How two numbers come together: as their sum, or as the larger of them, which is NaN if either is.
struct Joined {
  bool largest;

  FASTUPDATE_HD double operator()(double a, double b) const {
    if (!largest) return a + b;
    return b > a || b != b ? b : a;
  }
};

constexpr int kMaxTerms = 4;       // sums and maxima of one phase
constexpr int64_t kRowChunk = 32;  // rows whose columns are added up together

// What a phase does. Unless it only settles numbers that go on from step to step, it measures elements, of which so
// many terms come together: they add up or, where a bit of `maxima` is set, the largest of them counts, or 0 if that is
// larger. Then ranges of the extents whose bits are set are settled.
struct PhaseShape {
  bool measures;
  int terms;
  uint8_t settled, maxima;

  FASTUPDATE_HD constexpr bool settles(Extent extent) const { return settled >> extent & 1; }
  // Whether it goes through a tensor row by row; else block by block.
  FASTUPDATE_HD constexpr bool by_rows() const {
    return settles(kRow) || settles(kColumn) || settles(kMatrix) || settles(kUnit);
  }
  FASTUPDATE_HD constexpr Joined joined(int term) const { return {bool(maxima >> term & 1)}; }
};

FASTUPDATE_HD int64_t matrix_size(const Tensor& t) { return t.rows * t.columns; }
FASTUPDATE_HD int64_t matrix_count(const Tensor& t) { return t.n ? t.n / matrix_size(t) : 0; }

// Chunks of rows: of a matrix, and of the tensor.
FASTUPDATE_HD int64_t chunks_of_matrix(const Tensor& t) { return (t.rows + kRowChunk - 1) / kRowChunk; }
FASTUPDATE_HD int64_t chunk_count(const Tensor& t) { return matrix_count(t) * chunks_of_matrix(t); }

// The first row of a chunk, and the row after its last.
FASTUPDATE_HD int64_t chunk_begin(const Tensor& t, int64_t chunk) {
  const int64_t per = chunks_of_matrix(t);
  return chunk / per * t.rows + chunk % per * kRowChunk;
}
FASTUPDATE_HD int64_t chunk_end(const Tensor& t, int64_t chunk) {
  const int64_t begin = chunk_begin(t, chunk), end = begin + kRowChunk, last = (begin / t.rows + 1) * t.rows;
  return end < last ? end : last;
}

// The chunk that a row is in, and the first row, from one on, at which a chunk begins or the tensor ends.
FASTUPDATE_HD int64_t chunk_of(const Tensor& t, int64_t row) {
  return row / t.rows * chunks_of_matrix(t) + row % t.rows / kRowChunk;
}
FASTUPDATE_HD int64_t next_chunk(const Tensor& t, int64_t row) {
  const int64_t within = row % t.rows, next = (within + kRowChunk - 1) / kRowChunk * kRowChunk;
  return row - within + (next < t.rows ? next : t.rows);
}

// How many ranges a tensor has, and the range that an element is in.
FASTUPDATE_HD int64_t range_count(const Tensor& t, Extent extent) {
  const int64_t matrices = matrix_count(t);
  return extent == kElement  ? t.n
         : extent == kRow    ? matrices * t.rows
         : extent == kColumn ? matrices * t.columns
         : extent == kMatrix ? matrices
         : extent == kUnit   ? t.n / t.unit_length
                             : 1;
}

FASTUPDATE_HD constexpr bool is_of_all(Extent extent) { return extent == kTensor || extent == kList; }

FASTUPDATE_HD int64_t range_of(const Tensor& t, Extent extent, int64_t i) {
  return extent == kElement  ? i
         : extent == kRow    ? i / t.columns
         : extent == kColumn ? i / matrix_size(t) * t.columns + i % t.columns
         : extent == kMatrix ? i / matrix_size(t)
         : extent == kUnit   ? i / t.unit_length
                             : 0;
}

// How many elements a range has that lie one after the other: of any extent but a column.
FASTUPDATE_HD int64_t range_length(const Tensor& t, Extent extent) {
  return extent == kElement  ? 1
         : extent == kRow    ? t.columns
         : extent == kMatrix ? matrix_size(t)
         : extent == kUnit   ? t.unit_length
                             : t.n;
}

// How many rows a range has that consists of whole ones: a matrix, or a unit.
FASTUPDATE_HD int64_t rows_of(const Tensor& t, Extent extent) {
  return extent == kUnit ? t.unit_length / t.columns : t.rows;
}

// What a tensor's sums add up in: [terms] totals of the tensor, then for a phase that goes by rows [row][terms] and, if
// columns are summed, [chunk][terms][columns]; for one that goes by blocks [block][terms].
FASTUPDATE_HD double* totals_of(const Tensor& t) { return reinterpret_cast<double*>(t.work); }
FASTUPDATE_HD double* parts_of(const Tensor& t, int terms) { return totals_of(t) + terms; }
FASTUPDATE_HD double* columns_of(const Tensor& t, int terms) {
  return parts_of(t, terms) + range_count(t, kRow) * terms;
}

}  // namespace fastupdate
