// Fetching memory that no processor foresees: rows that lie anywhere in a tensor.
#pragma once

#include "core/extent.h"
#include "core/plan.h"
#include "cpu/transpose.h"

namespace fastupdate::FASTUPDATE_TARGET {

constexpr int64_t kFetched = 4096;  // bytes of a row that are fetched before they are needed

// Starts fetching `size` bytes from each of some addresses on. Inlined, for compilers drop calls of what does nothing
// else. Eight lines at a time, one after the other: what else there is to do for a line delays the next one.
template <int written, int count>
FASTUPDATE_HD void fetch_all(const uint64_t (&addresses)[count], int64_t size) {
  constexpr int kLines = 8;
  int64_t byte = 0;
  for (; byte <= size - kLines * kLine; byte += kLines * kLine) {
#pragma GCC unroll 8
    for (int a = 0; a < count; ++a) {
      const char* const at = reinterpret_cast<const char*>(addresses[a] + uint64_t(byte));
#pragma GCC unroll 8
      for (int line = 0; line < kLines; ++line) __builtin_prefetch(at + line * kLine, written);
    }
  }
#pragma GCC unroll 1
  for (; byte < size; byte += kLine)
#pragma GCC unroll 8
    for (int a = 0; a < count; ++a)
      __builtin_prefetch(reinterpret_cast<const char*>(addresses[a] + uint64_t(byte)), written);
}

template <int written>
FASTUPDATE_HD void fetch(uint64_t address, int64_t size) {
  fetch_all<written>({address}, size);
}

// How much of a row is fetched.
inline int64_t fetched(int64_t size) { return size < kFetched ? size : kFetched; }

// A parameter and its states, of which a step reads and writes some rows.
class ArraysOfRows {
 public:
  // length: elements of a row. extents: what the states are of; null: of elements.
  ArraysOfRows(const Tensor& t, int64_t length, const Extent* extents)
      : size_(length * item_size(t.dtype)), fetched_(fetched(size_)) {
    arrays_[count_++] = t.p;
    for (int k = 0; k < kMaxStates; ++k)
      if (t.slot[k] && (!extents || extents[k] == kElement)) arrays_[count_++] = t.slot[k];
  }

  int count() const { return count_; }
  int64_t size() const { return size_; }  // of a row, in bytes

  // known: how many arrays there are, or 0, where that is not known while this is compiled.
  template <int known = 0>
  FASTUPDATE_HD void fetch_row(uint64_t row) const {
    const uint64_t offset = row * uint64_t(size_);
    if constexpr (known) {
      uint64_t at[known];
      for (int a = 0; a < known; ++a) at[a] = arrays_[a] + offset;
      fetch_all<1>(at, fetched_);
    } else {
      for (int a = 0; a < count_; ++a) fetch<1>(arrays_[a] + offset, fetched_);
    }
  }

 private:
  int64_t size_, fetched_;
  int count_ = 0;
  uint64_t arrays_[kMaxStates + 1];
};

}  // namespace fastupdate::FASTUPDATE_TARGET
