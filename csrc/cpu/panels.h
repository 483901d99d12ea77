// A monitored step of a tensor that does not lie in C order, by which its sums are defined: what is moved moves where
// it lies, and what sums read is copied into C order, a panel at a time. A row is all that comes after the closest axis
// in C order; a panel is rows that lie side by side in memory, so that each of its columns is a run of elements.
#pragma once

#include <utility>

#include "cpu/strands.h"

namespace fastupdate::FASTUPDATE_TARGET {

template <class T>
class Panels {
 public:
  // Whether a tensor, from element `begin` on, is to be gone through so.
  static bool serve(const Tensor& t, int64_t begin) { return lies_in_rows<T>(t) && begin % kBlock == 0; }

  explicit Panels(const Span& span)
      : span_(span),
        order_(order_of(span.t)),
        row_(axes_of(order_, closest_axis(order_) + 1)),
        columns_(row_length(order_)),
        run_(run_length(order_, sizeof(T))),
        kept_(columns_ < kBlock ? columns_ : kBlock) {
    unsigned char* room = Room::of_thread() + Room::kBytes;
    for (Lanes<T>*& sum : open_) sum = reinterpret_cast<Lanes<T>*>(room), room += sizeof(Lanes<T>);
    T* rest = reinterpret_cast<T*>(room);
    beginnings_.share(rest, kept_, columns_);
    passing_.share(rest, kWidth, columns_);
    open_[0]->clear();
    counts_.clear();
    for (T& x : scratch_.nothing) x = -T(0);
    fetch(span.t.g);
    fetch(span.t.p);
    for (int k = 0; k < kSlots; ++k)
      if (is_moved(k)) fetch(span.t.slot[k]);
  }

  // Goes through the elements begin … end − 1 and writes the sums of their blocks.
  void go(int64_t begin, int64_t end) {
    const int64_t block = begin / kBlock, first = (begin + columns_ - 1) / columns_, last = end / columns_;
    if (first < last) {
      go_in_order(begin, first * columns_);
      for (int64_t row = first, count; row < last; row += count) {
        const int64_t beside = run_ - row % run_, rest = last - row;
        count = beside < rest ? beside : rest;
        if (count > kRows) count = kRows;
        go_through_panel(row, int(count));
      }
      begin = last * columns_;
    }
    go_in_order(begin, end);
    if (end % kBlock) span_.sums[end / kBlock] = fold(*open_[0]);
    span_.sums[block].stalled += fold_lanes(counts_.stalled);
  }

 private:
  static constexpr int64_t kRows = 64, kWidth = kTile;  // of a panel; columns that are summed at once
  static constexpr int64_t kStrip = 8;                  // columns that stay in L1 while they move

  // What sums read: gradient, momentum if there is one, and weight before and after the step; row k from k·pitch on.
  // Each element is at a place in its own lane. Between rows there is room to fill up rows of lanes, unless the rows
  // are whole: then they follow upon each other.
  struct Seen {
    T *g, *m, *before, *after;
    int64_t pitch;

    static constexpr int64_t size(int64_t pitch) { return (kRows * pitch / kLanes + 3) * kLanes; }
    void share(T*& room, int64_t width, int64_t columns) {
      pitch = width == columns ? width : width + 2 * kLanes + ((columns - width) & (kLanes - 1));
      for (T** array : {&g, &m, &before, &after}) *array = room, room += size(pitch);
    }
  };
  static_assert((kRows + 1) * sizeof(Lanes<T>) +
                    4 * sizeof(T) * (Seen::size(kBlock + 3 * kLanes) + Seen::size(kWidth + 3 * kLanes)) <=
                Room::kMore);

  void fetch(uint64_t array) {
    if (array) arrays_[array_count_++] = array;
  }

  // Elements at the beginning of a row that belong to a block of the rows before.
  int64_t beginning(int64_t row) const {
    const int64_t rest = (kBlock - row * columns_ % kBlock) % kBlock;
    return rest < columns_ ? rest : columns_;
  }

  // Adds up n elements from a place on, of which the first is element i of the tensor. Zeros that fill up rows of lanes
  // leave all sums as they are.
  void add(Lanes<T>& open, int64_t i, int64_t n, const Seen& seen, int64_t place) {
    const int64_t front = i % kLanes, end = i + n, back = (kLanes - end % kLanes) % kLanes;
    if (!n) return;
    for (T* array : {seen.g, seen.m, seen.before, seen.after}) {
      for (int64_t k = -front; k < 0; ++k) array[place + k] = 0;
      for (int64_t k = n; k < n + back; ++k) array[place + k] = 0;
    }
    open.zeros[0] -= int(front + back);
    for (i -= front, place -= front; i < end;) {
      const int64_t room = kBlock - i % kBlock, rest = end + back - i, count = room < rest ? room : rest;
      in_stretches<kTile>(place, place + count, [&](int64_t k, auto size) { add_tile(open, size, seen, k); });
      i += count, place += count;
      if (i % kBlock || i > end) continue;
      span_.sums[i / kBlock - 1] = fold(open);
      open.clear();
    }
  }

  template <class N>
  void add_tile(Lanes<T>& open, N n, const Seen& seen, int64_t place) const {
    const T* const g = seen.g + place;
    watch_gradient(n, g, span_.t.momentum < 0 ? nullptr : seen.m + place, open);
    sum_update(n, seen.before + place, seen.after + place, g, open);
  }

  // Parts of rows, through copies of all arrays.
  void go_in_order(int64_t begin, int64_t end) {
    if (begin == end) return;
    Window<T> window(span_.t, Use::kMove, true, span_.stages & kZeroGrads, begin, end);
    const Span span = span_.of(window.tensor());
    for (int64_t i = begin; i < end; i += kTile) {
      const int n = int(end - i < kTile ? end - i : kTile);
      const int64_t place = i % kLanes;
      window.cover(i, n);
      see(
          span.t, passing_,
          [=](uint64_t array, T* out) { __builtin_memcpy(out + place, address<T>(array, i), size_t(n) * sizeof(T)); },
          [&] { update_tile(span, i, n, scratch_, counts_); });
      add(*open_[0], i, n, passing_, place);
    }
  }

  // Copies what sums read, before and after elements move.
  template <class Copy, class Move>
  void see(const Tensor& t, const Seen& seen, Copy copy, Move move) {
    copy(t.g, seen.g);
    if (t.momentum >= 0) copy(t.slot[t.momentum], seen.m);
    copy(t.p, seen.before);
    move();
    copy(t.p, seen.after);
  }

  // Whole rows. Where a row begins may belong to a block of which the end of the row before comes first.
  void go_through_panel(int64_t row, int rows) {
    const int64_t begin = row * columns_, lane = begin % kLanes;
    for (int64_t c = 0; c < kept_; c += kWidth) go_through_columns(row, rows, c, kept_, beginnings_, lane + c);
    if (kept_ == columns_) return add(*open_[0], begin, rows * columns_, beginnings_, lane);
    for (int k = 0; k < rows; ++k) {
      const int64_t c = beginning(row + k);
      open_[k + 1]->clear();
      add_row(k, begin, c, kept_, beginnings_, lane + c);
    }
    for (int64_t c = kept_; c < columns_; c += kWidth) {
      const int64_t end = c + kWidth < columns_ ? c + kWidth : columns_, place = (begin + c) % kLanes;
      go_through_columns(row, rows, c, end, passing_, place);
      for (int k = 0; k < rows; ++k) add_row(k, begin, c, end, passing_, place);
    }
    for (int k = 0; k < rows; ++k) {
      add(*open_[0], begin + k * columns_, beginning(row + k), beginnings_, lane + k * beginnings_.pitch);
      std::swap(open_[0], open_[k + 1]);
    }
  }

  // Adds up some columns of row k of a panel.
  void add_row(int k, int64_t begin, int64_t column, int64_t end, const Seen& seen, int64_t place) {
    add(*open_[k + 1], begin + k * columns_ + column, end - column, seen, place + k * seen.pitch);
  }

  // Columns of a panel, at most kWidth, up to `end`, by strips; the next one is fetched meanwhile.
  void go_through_columns(int64_t row, int rows, int64_t column, int64_t end, const Seen& seen, int64_t place) {
    const uint64_t first = strided_address(0, order_, row * columns_);
    const int64_t width = end - column < kWidth ? end - column : kWidth;
    uint64_t at[2][kStrip];
    const auto find = [&](int64_t c) {
      uint64_t* const found = at[c / kStrip % 2];
      const int64_t rest = columns_ - column - c, count = rest < kStrip ? rest : kStrip;
      if (count <= 0) return;
      for_each_strided(first, row_, column + c, count, [=](int64_t j, uint64_t where) { found[j] = where; });
      for (int k = 0; k < array_count_; ++k)
        for (int64_t j = 0; j < count; ++j) prefetch_bytes(arrays_[k] + found[j], rows * int64_t(sizeof(T)));
    };
    find(0);
    for (int64_t c = 0; c < width; c += kStrip) {
      find(c + kStrip);
      const int64_t rest = width - c;
      go_through_strip(at[c / kStrip % 2], rest < kStrip ? int(rest) : kStrip, rows, seen, place + c);
    }
  }

  // at: where columns begin, in bytes from the beginning of an array on.
  void go_through_strip(const uint64_t* at, int width, int rows, const Seen& seen, int64_t place) {
    see(
        span_.t, seen, [=](uint64_t array, T* out) { copy_columns(array, at, width, rows, out + place, seen.pitch); },
        [=] {
          for (int j = 0; j < width; ++j) {
            const int64_t begin = int64_t(at[j] / sizeof(T));
            in_stretches<kRows>(begin, begin + rows,
                                [=](int64_t i, auto n) { update_tile(span_, i, n, scratch_, counts_); });
          }
        });
  }

  static void copy_columns(uint64_t array, const uint64_t* at, int width, int rows, T* out, int64_t pitch) {
    using X = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
    if (width < kSide || rows < kSide) {
      for (int j = 0; j < width; ++j)
        for (int i = 0; i < rows; ++i) out[i * pitch + j] = *address<T>(array + at[j], i);
      return;
    }
    for (int i = 0; i < rows; i += kSide) {  // squares overlap at the ends
      if (i + kSide > rows) i = rows - kSide;
      for (int j = 0; j < width; j += kSide) {
        if (j + kSide > width) j = width - kSide;
        transpose_square<X>([=](int b) { return uint64_t(address<T>(array + at[j + b], i)); },
                            [=](int a) { return uint64_t(out + (i + a) * pitch + j); });
      }
    }
  }

  const Span& span_;
  const Layout& order_;
  const Axes row_;
  const int64_t columns_, run_;  // of a row; rows that lie side by side
  const int64_t kept_;           // columns that may belong to a block of the rows before
  Lanes<T>* open_[kRows + 1];    // the block that is open where a panel begins, and those at the end of its rows
  Seen beginnings_, passing_;
  uint64_t arrays_[kSlots];  // to be fetched
  int array_count_ = 0;
  Scratch<T> scratch_;
  Lanes<T> counts_;  // of what is the same in any order
};

}  // namespace fastupdate::FASTUPDATE_TARGET
