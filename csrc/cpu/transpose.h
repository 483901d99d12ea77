// Copies stretches of an array, which are defined by C order, from and to memory that has another order. Elements that
// lie side by side in memory, and so on the same cache line, may be far apart in C order: they are copied by small
// squares, and each line is met once, not once for each of its elements.
#pragma once

#include <type_traits>

#include "core/views.h"

namespace fastupdate::FASTUPDATE_TARGET {

constexpr int kSide = 8;   // of a square
constexpr int kLine = 64;  // bytes of a cache line

// The side of the largest square whose rows are registers.
template <class X>
constexpr int kLargeSide =
#if defined(__AVX512F__)
    sizeof(X) == 4 ? 16 :
#endif
                   kSide;

// a₀ b₀ a₁ b₁ …
template <class V>
FASTUPDATE_HD void zip(const V& a, const V& b, V& low, V& high) {
  if constexpr (sizeof(V) / sizeof(a[0]) == kSide) {
#if defined(__clang__)
    low = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
    high = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
    low = __builtin_shuffle(a, b, V{0, 8, 1, 9, 2, 10, 3, 11});
    high = __builtin_shuffle(a, b, V{4, 12, 5, 13, 6, 14, 7, 15});
#endif
  } else {
#if defined(__clang__)
    low = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    high = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#else
    low = __builtin_shuffle(a, b, V{0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23});
    high = __builtin_shuffle(a, b, V{8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31});
#endif
  }
}

// Zips rows that are half of them apart, so many times: after log₂ of their number, they are the columns.
template <int times, int side, class V>
FASTUPDATE_HD void zip_rows(const V (&a)[side], V (&b)[side]) {
  V c[side];
  for (int k = 0; k < side / 2; ++k) zip(a[k], a[k + side / 2], c[2 * k], c[2 * k + 1]);
  if constexpr (times > 1)
    zip_rows<times - 1>(c, b);
  else
    for (int k = 0; k < side; ++k) b[k] = c[k];
}

// to(k)[i] ← from(i)[k] for i, k < side; addresses, which may be misaligned. X is an unsigned integer.
template <class X, int side = kSide, class From, class To>
FASTUPDATE_HD void transpose_square(From from, To to) {
  typedef X Vector __attribute__((vector_size(side * sizeof(X))));
  Vector a[side], b[side];
  for (int k = 0; k < side; ++k) __builtin_memcpy(&a[k], reinterpret_cast<const void*>(from(k)), sizeof a[k]);
  zip_rows<side == kSide ? 3 : 4>(a, b);
  for (int k = 0; k < side; ++k) __builtin_memcpy(reinterpret_cast<void*>(to(k)), &b[k], sizeof b[k]);
}

// Starts fetching the cache lines that hold some bytes.
constexpr int kIntoL1 = 3, kIntoL2 = 2;
template <int into>
FASTUPDATE_HD void prefetch_bytes(uint64_t begin, int64_t count) {
  for (uint64_t line = begin / kLine; line <= (begin + uint64_t(count) - 1) / kLine; ++line)
    __builtin_prefetch(reinterpret_cast<const void*>(line * kLine), 0, into);
}

// Visits `height` rows of an array of X by squares, which overlap at the ends: square(side, i, j, addresses, offset)
// where element j + b of row i + a is at addresses[b] + offset + a·sizeof(X), for a, b < side, which is a constant.
template <class X, int side, class Square>
FASTUPDATE_HD void rows_by_squares_of(uint64_t first, const Axes& row, int64_t columns, int64_t height, Square square) {
  constexpr int64_t kWide = sizeof(X) * side < kLine ? kLine / sizeof(X) : side;  // a line of the copy
  const int64_t width = columns < kWide ? int64_t(side) : kWide, steps = (columns + width - 1) / width;
  constexpr int64_t kAhead = 4;
  uint64_t addresses[kAhead + 1][kWide];  // of this step and those ahead of it, which are being fetched
  const auto column = [=](int64_t step) { return step + 1 < steps ? step * width : columns - width; };
  const auto find = [&](int64_t step) {
    uint64_t* const found = addresses[step % (kAhead + 1)];
    for_each_strided(first, row, column(step), width, [=](int64_t i, uint64_t address) {
      prefetch_bytes<kIntoL2>(address, height * int64_t(sizeof(X)));
      found[i] = address;
    });
  };
  for (int64_t step = 0; step < kAhead && step < steps; ++step) find(step);
  for (int64_t step = 0; step < steps; ++step) {
    if (step + kAhead < steps) find(step + kAhead);
    for (int64_t i = 0; i < height; i += side) {
      if (i + side > height) i = height - side;
      for (int64_t j = 0; j < width; j += side)
        square(std::integral_constant<int, side>(), i, column(step) + j, addresses[step % (kAhead + 1)] + j,
               uint64_t(i) * sizeof(X));
    }
  }
}

template <class X, class Square>
FASTUPDATE_HD void rows_by_squares(uint64_t first, const Axes& row, int64_t columns, int64_t height, Square square) {
  if (height >= kLargeSide<X> && columns >= kLargeSide<X>)
    rows_by_squares_of<X, kLargeSide<X>>(first, row, columns, height, square);
  else
    rows_by_squares_of<X, kSide>(first, row, columns, height, square);
}

// Visits elements begin … begin + n − 1 of an array of X, some by lines, line(k, address, count, stride), and the
// others by squares, as above.
template <class X, class Line, class Square>
FASTUPDATE_HD void by_squares(uint64_t base, const Layout& layout, int64_t begin, int64_t n, Line line, Square square) {
  const int64_t axis = closest_axis(layout), rows = layout.shape[axis], stride = layout.stride[axis];
  const int64_t columns = row_length(layout);
  if (!n) return;
  if (axis == layout.ndim - 1) return for_each_line(base, axes_of(layout), begin, n, line);
  const Axes row = axes_of(layout, axis + 1);
  for (int64_t k = 0, count; k < n; k += count) {
    const int64_t above = (begin + k) / columns, column = (begin + k) % columns;
    const int64_t rest = rows - above % rows, whole = (n - k) / columns, height = whole < rest ? whole : rest;
    if (column || !height) {  // a part of a row
      count = columns - column < n - k ? columns - column : n - k;
      for_each_line(base, axes_of(layout), begin + k, count,
                    [=](int64_t i, uint64_t at, int64_t length, int64_t step) { line(k + i, at, length, step); });
      continue;
    }
    count = height * columns;
    const uint64_t first = strided_address(base, layout, begin + k);
    if (height < kSide || columns < kSide || stride != sizeof(X))
      for_each_strided(first, row, 0, columns, [=](int64_t j, uint64_t at) {
        for (int64_t i = 0; i < height; ++i) line(k + i * columns + j, at + uint64_t(i * stride), 1, stride);
      });
    else
      rows_by_squares<X>(first, row, columns, height,
                         [=](auto side, int64_t i, int64_t j, const uint64_t* addresses, uint64_t offset) {
                           square(side, k + i * columns + j, columns, addresses, offset);
                         });
  }
}

// out ← elements of a line; and the other way round.
template <class X>
FASTUPDATE_HD void read_line(uint64_t at, int64_t count, int64_t stride, X* out) {
  if (stride == sizeof(X))
    return void(__builtin_memcpy(out, reinterpret_cast<const void*>(at), size_t(count) * sizeof(X)));
  for (int64_t i = 0; i < count; ++i)
    __builtin_memcpy(out + i, reinterpret_cast<const void*>(at + uint64_t(i * stride)), sizeof(X));
}
template <class X>
FASTUPDATE_HD void write_line(uint64_t at, int64_t count, int64_t stride, const X* in) {
  if (stride == sizeof(X)) return void(__builtin_memcpy(reinterpret_cast<void*>(at), in, size_t(count) * sizeof(X)));
  for (int64_t i = 0; i < count; ++i)
    __builtin_memcpy(reinterpret_cast<void*>(at + uint64_t(i * stride)), in + i, sizeof(X));
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
        [=](int64_t k, uint64_t at, int64_t count, int64_t stride) { read_line(at, count, stride, to + k); },
        [=](auto side, int64_t k, int64_t pitch, const uint64_t* addresses, uint64_t offset) {
          transpose_square<X, side>([=](int i) { return addresses[i] + offset; },
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
        [=](int64_t k, uint64_t at, int64_t count, int64_t stride) { write_line(at, count, stride, from + k); },
        [=](auto side, int64_t k, int64_t pitch, const uint64_t* addresses, uint64_t offset) {
          transpose_square<X, side>([=](int i) { return uint64_t(from + k + i * pitch); },
                                    [=](int i) { return addresses[i] + offset; });
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
    rows_by_squares<X>(first, row, columns, height,
                       [=](auto side, int64_t i, int64_t j, const uint64_t* addresses, uint64_t offset) {
                         const auto here = [=](int a) { return uint64_t(there + (i + a) * pitch + j); };
                         const auto at = [=](int b) { return addresses[b] + offset; };
                         back ? transpose_square<X, side>(here, at) : transpose_square<X, side>(at, here);
                       });
  });
}

inline void clear_stretch(int64_t size, uint64_t array, const Layout& layout, int64_t begin, int64_t n) {
  with_bits(size, [&](auto bits) {
    using X = decltype(bits);
    by_squares<X>(
        array, layout, begin, n,
        [](int64_t, uint64_t at, int64_t count, int64_t stride) {
          for (int64_t i = 0; i < count; ++i)
            __builtin_memset(reinterpret_cast<void*>(at + uint64_t(i * stride)), 0, sizeof(X));
        },
        [](auto side, int64_t, int64_t, const uint64_t* addresses, uint64_t offset) {
          for (int i = 0; i < side; ++i)
            __builtin_memset(reinterpret_cast<void*>(addresses[i] + offset), 0, side * sizeof(X));
        });
  });
}

}  // namespace fastupdate::FASTUPDATE_TARGET
