// What sums and states of a rule may be of: an element, a row, a column, a matrix, a unit, a tensor, or the whole list.
//
// The last two axes of a tensor are those of its matrices; a vector of n is a matrix of n rows. Its units are its
// slices along the first axis; a vector is one. States that are not of an element are float64, one number for each
// range.
#pragma once

#include "core/extent.h"
#include "core/plan.h"

namespace fastupdate {

constexpr int kMaxTerms = 4;       // sums of one phase
constexpr int64_t kRowChunk = 32;  // rows whose columns are added up together

// What a phase sums: so many terms of an element, each over the extents whose bits are set.
struct PhaseShape {
  int terms;
  uint8_t per[kMaxTerms];

  FASTUPDATE_HD constexpr bool sums(Extent extent) const {
    for (int k = 0; k < terms; ++k)
      if (per[k] >> extent & 1) return true;
    return false;
  }
  // Whether it goes through a tensor row by row; else block by block.
  FASTUPDATE_HD constexpr bool by_rows() const { return sums(kRow) || sums(kColumn) || sums(kMatrix) || sums(kUnit); }
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
FASTUPDATE_HD int64_t range_of(const Tensor& t, Extent extent, int64_t i) {
  return extent == kElement  ? i
         : extent == kRow    ? i / t.columns
         : extent == kColumn ? i / matrix_size(t) * t.columns + i % t.columns
         : extent == kMatrix ? i / matrix_size(t)
         : extent == kUnit   ? i / t.unit_length
                             : 0;
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
