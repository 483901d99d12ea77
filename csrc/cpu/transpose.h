// Copies stretches of an array, which are defined by C order, from and to memory that has another order. Elements that
// lie side by side in memory, and so on the same cache line, may be far apart in C order: they are copied by small
// squares, and each line is met once, not once for each of its elements.
#pragma once

#include "core/views.h"

namespace fastupdate::FASTUPDATE_TARGET {

constexpr int kSide = 8;   // of a square
constexpr int kLine = 64;  // bytes of a cache line

template <class X>
struct SideOf {
  typedef X Vector __attribute__((vector_size(kSide * sizeof(X))));
};

// a₀ b₀ a₁ b₁ …
template <class V>
FASTUPDATE_HD void zip(const V& a, const V& b, V& low, V& high) {
#if defined(__clang__)
  low = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
  high = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
  low = __builtin_shuffle(a, b, V{0, 8, 1, 9, 2, 10, 3, 11});
  high = __builtin_shuffle(a, b, V{4, 12, 5, 13, 6, 14, 7, 15});
#endif
}

// to(k)[i] ← from(i)[k] for i, k < 8; addresses, which may be misaligned. X is an unsigned integer.
template <class X, class From, class To>
FASTUPDATE_HD void transpose_square(From from, To to) {
  typename SideOf<X>::Vector a[kSide], b[kSide];
  for (int k = 0; k < kSide; ++k) __builtin_memcpy(&a[k], reinterpret_cast<const void*>(from(k)), sizeof a[k]);
  for (int k = 0; k < kSide / 2; ++k) zip(a[k], a[k + 4], b[2 * k], b[2 * k + 1]);
  for (int k = 0; k < kSide / 2; ++k) zip(b[k], b[k + 4], a[2 * k], a[2 * k + 1]);
  for (int k = 0; k < kSide / 2; ++k) zip(a[k], a[k + 4], b[2 * k], b[2 * k + 1]);
  for (int k = 0; k < kSide; ++k) __builtin_memcpy(reinterpret_cast<void*>(to(k)), &b[k], sizeof b[k]);
}

// Starts fetching the cache lines that hold some bytes.
FASTUPDATE_HD void prefetch_bytes(uint64_t begin, int64_t count) {
  constexpr int kIntoL2 = 2;
  for (uint64_t line = begin / kLine; line <= (begin + uint64_t(count) - 1) / kLine; ++line)
    __builtin_prefetch(reinterpret_cast<const void*>(line * kLine), 0, kIntoL2);
}

// Visits `height` rows of an array of X by squares, which overlap at the ends: square(i, j, sides, offset) where
// element j + b of row i + a is at the address sides[b] + offset + a·sizeof(X), for a, b < 8.
template <class X, class Square>
FASTUPDATE_HD void rows_by_squares(uint64_t first, const Axes& row, int64_t columns, int64_t height, Square square) {
  constexpr int64_t kWide = sizeof(X) * kSide < kLine ? kLine / sizeof(X) : kSide;  // a line of the copy
  const int64_t width = columns < kWide ? int64_t(kSide) : kWide, steps = (columns + width - 1) / width;
  constexpr int64_t kAhead = 4;
  uint64_t sides[kAhead + 1][kWide];  // of this step and those ahead of it, which are being fetched
  const auto column = [=](int64_t step) { return step + 1 < steps ? step * width : columns - width; };
  const auto find = [&](int64_t step) {
    uint64_t* const found = sides[step % (kAhead + 1)];
    for_each_strided(first, row, column(step), width, [=](int64_t i, uint64_t side) {
      prefetch_bytes(side, height * int64_t(sizeof(X)));
      found[i] = side;
    });
  };
  for (int64_t step = 0; step < kAhead && step < steps; ++step) find(step);
  for (int64_t step = 0; step < steps; ++step) {
    if (step + kAhead < steps) find(step + kAhead);
    for (int64_t i = 0; i < height; i += kSide) {
      if (i + kSide > height) i = height - kSide;
      for (int64_t j = 0; j < width; j += kSide)
        square(i, column(step) + j, sides[step % (kAhead + 1)] + j, uint64_t(i) * sizeof(X));
    }
  }
}

// Visits elements begin … begin + n − 1 of an array of X, some by themselves, single(k, address), and the others by
// squares, as above.
template <class X, class Single, class Square>
FASTUPDATE_HD void by_squares(uint64_t base, const Layout& layout, int64_t begin, int64_t n, Single single,
                              Square square) {
  const int64_t axis = closest_axis(layout), rows = layout.shape[axis], stride = layout.stride[axis];
  const int64_t columns = row_length(layout);
  if (!n) return;
  if (axis == layout.ndim - 1) return for_each_strided(base, axes_of(layout), begin, n, single);
  const Axes row = axes_of(layout, axis + 1);
  for (int64_t k = 0, count; k < n; k += count) {
    const int64_t above = (begin + k) / columns, column = (begin + k) % columns;
    const int64_t rest = rows - above % rows, whole = (n - k) / columns, height = whole < rest ? whole : rest;
    if (column || !height) {  // a part of a row
      count = columns - column < n - k ? columns - column : n - k;
      for_each_strided(base, axes_of(layout), begin + k, count, [=](int64_t i, uint64_t at) { single(k + i, at); });
      continue;
    }
    count = height * columns;
    const uint64_t first = strided_address(base, layout, begin + k);
    if (height < kSide || columns < kSide || stride != sizeof(X))
      for_each_strided(first, row, 0, columns, [=](int64_t j, uint64_t at) {
        for (int64_t i = 0; i < height; ++i) single(k + i * columns + j, at + uint64_t(i * stride));
      });
    else
      rows_by_squares<X>(first, row, columns, height,
                         [=](int64_t i, int64_t j, const uint64_t* sides, uint64_t offset) {
                           square(k + i * columns + j, columns, sides, offset);
                         });
  }
}

// Calls visit(x) with a number of an integer type of this size.
template <class Visit>
void with_bits(int64_t size, Visit visit) {
  if (size == 2) return visit(uint16_t());
  if (size == 4) return visit(uint32_t());
  visit(uint64_t());
}

// out ← elements begin … begin + n − 1 of an array, of `size` bytes each.
inline void read_stretch(int64_t size, uint64_t array, const Layout& layout, int64_t begin, int64_t n, void* out) {
  with_bits(size, [&](auto bits) {
    using X = decltype(bits);
    X* const to = static_cast<X*>(out);
    by_squares<X>(
        array, layout, begin, n,
        [=](int64_t k, uint64_t at) { __builtin_memcpy(to + k, reinterpret_cast<const void*>(at), sizeof(X)); },
        [=](int64_t k, int64_t pitch, const uint64_t* sides, uint64_t offset) {
          transpose_square<X>([=](int i) { return sides[i] + offset; },
                              [=](int i) { return uint64_t(to + k + i * pitch); });
        });
  });
}

inline void write_stretch(int64_t size, uint64_t array, const Layout& layout, int64_t begin, int64_t n,
                          const void* in) {
  with_bits(size, [&](auto bits) {
    using X = decltype(bits);
    const X* const from = static_cast<const X*>(in);
    by_squares<X>(
        array, layout, begin, n,
        [=](int64_t k, uint64_t at) { __builtin_memcpy(reinterpret_cast<void*>(at), from + k, sizeof(X)); },
        [=](int64_t k, int64_t pitch, const uint64_t* sides, uint64_t offset) {
          transpose_square<X>([=](int i) { return uint64_t(from + k + i * pitch); },
                              [=](int i) { return sides[i] + offset; });
        });
  });
}

// out[i·pitch + j] ← element j of row i of `height` rows that lie side by side; with `back` the other way round.
inline void copy_rows(int64_t size, uint64_t first, const Axes& row, int64_t columns, int64_t height, void* copy,
                      int64_t pitch, bool back) {
  with_bits(size, [&](auto bits) {
    using X = decltype(bits);
    X* const there = static_cast<X*>(copy);
    const auto one = [=](int64_t i, int64_t j, uint64_t at) {
      back ? __builtin_memcpy(reinterpret_cast<void*>(at), there + i * pitch + j, sizeof(X))
           : __builtin_memcpy(there + i * pitch + j, reinterpret_cast<const void*>(at), sizeof(X));
    };
    if (height < kSide || columns < kSide)
      return for_each_strided(first, row, 0, columns, [=](int64_t j, uint64_t at) {
        for (int64_t i = 0; i < height; ++i) one(i, j, at + uint64_t(i) * sizeof(X));
      });
    rows_by_squares<X>(first, row, columns, height, [=](int64_t i, int64_t j, const uint64_t* sides, uint64_t offset) {
      const auto here = [=](int a) { return uint64_t(there + (i + a) * pitch + j); };
      const auto at = [=](int b) { return sides[b] + offset; };
      back ? transpose_square<X>(here, at) : transpose_square<X>(at, here);
    });
  });
}

inline void clear_stretch(int64_t size, uint64_t array, const Layout& layout, int64_t begin, int64_t n) {
  with_bits(size, [&](auto bits) {
    using X = decltype(bits);
    by_squares<X>(
        array, layout, begin, n,
        [](int64_t, uint64_t at) { __builtin_memset(reinterpret_cast<void*>(at), 0, sizeof(X)); },
        [](int64_t, int64_t, const uint64_t* sides, uint64_t offset) {
          for (int i = 0; i < kSide; ++i)
            __builtin_memset(reinterpret_cast<void*>(sides[i] + offset), 0, kSide * sizeof(X));
        });
  });
}

}  // namespace fastupdate::FASTUPDATE_TARGET
