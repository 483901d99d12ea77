// Fetching memory that no processor foresees: rows that lie anywhere in a tensor.
#pragma once

#include "core/extent.h"
#include "core/plan.h"

namespace fastupdate::FASTUPDATE_TARGET {

constexpr int64_t kFetched = 4096;  // bytes of a row that are fetched before they are needed

// Starts fetching. Inlined, for compilers drop calls of what does nothing else.
template <int written>
FASTUPDATE_HD void fetch(uint64_t address, int64_t size) {
  for (int64_t byte = 0; byte < size && byte < kFetched; byte += kLine)
    __builtin_prefetch(reinterpret_cast<const char*>(address + uint64_t(byte)), written);
}

// A parameter and its states, of which a step reads and writes some rows.
class ArraysOfRows {
 public:
  // length: elements of a row. extents: what the states are of; null: of elements.
  ArraysOfRows(const Tensor& t, int64_t length, const Extent* extents) : size_(length * item_size(t.dtype)) {
    arrays_[count_++] = t.p;
    for (int k = 0; k < kMaxStates; ++k)
      if (t.slot[k] && (!extents || extents[k] == kElement)) arrays_[count_++] = t.slot[k];
  }

  int count() const { return count_; }
  int64_t size() const { return size_; }  // of a row, in bytes

  FASTUPDATE_HD void fetch_row(uint64_t row) const {
    for (int a = 0; a < count_; ++a) fetch<1>(arrays_[a] + row * uint64_t(size_), size_);
  }

 private:
  int64_t size_;
  int count_ = 0;
  uint64_t arrays_[kMaxStates + 1];
};

}  // namespace fastupdate::FASTUPDATE_TARGET
