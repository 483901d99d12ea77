// Sums over a tensor that does not lie in C order, by which they are defined: what is summed is copied into C order, a
// panel at a time, and what a step moves moves where it lies. A row is all that comes after the closest axis in C
// order; a panel is rows that lie side by side in memory, so that each of its columns is a run of elements.
#pragma once

#include <utility>

#include "cpu/order.h"
#include "cpu/tile.h"

namespace fastupdate::FASTUPDATE_TARGET {

// Matrices that are alike: element j of row k of each is at k·pitch + j.
template <class T, int count>
struct Matrices {
  T* array[count];
  int64_t pitch = 0;

  void share(T*& room, int64_t size) {
    for (T*& begin : array) begin = room, room += size;
  }
};

// Goes through a tensor for a Watch, which says what is summed (panel_sums.h). Runs of elements are shown to it in any
// order (`fetch`, then `see`, which copies what it needs), or in C order (`see_in_order`); the copies come back in C
// order, to be added up in lanes (`add`), of which some may be left out, and each block is finished (`finish`). Blocks
// begin anew every `unit` elements.
template <class T, class Watch>
class Panels {
 public:
  static constexpr int kArrays = Watch::kArrays;
  using Arrays = Matrices<T, kArrays>;

  Panels(const Tensor& t, int64_t unit, Watch& watch)
      : watch_(watch),
        order_(order_of(t)),
        row_(axes_of(order_, closest_axis(order_) + 1)),
        columns_(row_length(order_)),
        run_(run_length(order_, sizeof(T))),
        unit_(unit) {
    unsigned char* room = Room::of_thread() + Room::kBytes;
    for (Open*& open : open_) open = reinterpret_cast<Open*>(room), room += sizeof(Open);
    T* rest = reinterpret_cast<T*>(room);
    kept_.share(rest, kRows * kKept);
    passing_.share(rest, kRows * kPitch);
    strip_.share(rest, kStripSize);
    kept_.pitch = columns_ < kBlock ? columns_ : kKept;
    passing_.pitch = kPitch;
  }

  // Goes through the elements begin … end − 1: from the beginning of a block to the end of one.
  void go(int64_t begin, int64_t end) {
    const int64_t first = (begin + columns_ - 1) / columns_, last = end / columns_;
    start(*open_[0], 0, begin);
    if (first < last) {
      go_in_order(begin, first * columns_);
      for (int64_t row = first, count; row < last; row += count) {
        const int64_t beside = run_ - row % run_, rest = last - row, most = most_rows();
        count = beside < rest ? beside : rest;
        if (count > most) count = most;
        columns_ < kBlock ? go_through_short_rows(row, count) : go_through_long_rows(row, count);
      }
      begin = last * columns_;
    }
    go_in_order(begin, end);
  }

 private:
  static constexpr int64_t kRows = 2048 / (kArrays * int(sizeof(T)));  // of a panel, if they are longer than a block
  static constexpr int64_t kWidth = kTile;                             // columns that are summed at once
  static constexpr int kStrip = 16;                                    // columns that are copied at once
  static constexpr int kAhead = 4;                                     // columns that are fetched ahead
  // From row to row of copies: powers of 2 would lie on each other in a cache.
  static constexpr int64_t kPitch = kWidth + kLanes, kKept = kBlock + kLanes, kStripSize = 2 * kStrip * kPitch;

  // The block of which some elements have been added up, element i in lane (i − origin) mod 32: any rotation of the
  // lanes has the same sum.
  struct alignas(kLine) Open {
    typename Watch::Lanes lanes;
    int64_t origin, end;
  };
  static_assert((kRows + 1) * sizeof(Open) + (kRows * (kKept + kPitch) + kStripSize) * kArrays * sizeof(T) <=
                Room::kMore);

  int64_t most_rows() const {
    if (columns_ >= kBlock) return kRows;
    const int64_t most = kRows * kKept / columns_, close = most / 4;  // which stay in L2
    return close >= kTile ? close / kTile * kTile : most < kTile ? most : kTile;
  }

  void start(Open& open, int64_t origin, int64_t i) const {
    watch_.start(open.lanes);
    open.origin = origin, open.end = end_of_block(i);
  }

  int64_t end_of_block(int64_t i) const {
    const int64_t within = i % unit_, end = (within / kBlock + 1) * kBlock;
    return i - within + (end < unit_ ? end : unit_);
  }

  // Elements at the beginning of a row that belong to a block of the rows before.
  int64_t beginning(int64_t row) const {
    const int64_t i = row * columns_;
    return i % unit_ % kBlock ? end_of_block(i) - i : 0;
  }

  void go_through_short_rows(int64_t row, int64_t rows) {
    for (int64_t c = 0; c < columns_; c += kWidth) copy_columns(row, rows, c, columns_, kept_, c);
    add(*open_[0], row * columns_, rows * columns_, kept_, 0);
  }

  // The beginnings of rows are kept until the rows before them have been added up.
  void go_through_long_rows(int64_t row, int64_t rows) {
    int64_t kept = 0;
    for (int64_t k = 0; k < rows; ++k) kept = beginning(row + k) > kept ? beginning(row + k) : kept;
    kept = (kept + kWidth - 1) / kWidth * kWidth;
    for (int64_t c = 0; c < kept; c += kWidth) copy_columns(row, rows, c, kept, kept_, c);
    for (int64_t k = 0; k < rows; ++k) {
      const int64_t begin = (row + k) * columns_, own = beginning(row + k);
      start(*open_[k + 1], begin, begin + own);
      add(*open_[k + 1], begin + own, kept - own, kept_, k * kKept + own);
    }
    for (int64_t c = kept; c < columns_; c += kWidth) {
      copy_columns(row, rows, c, columns_, passing_, 0);
      const int64_t width = columns_ - c < kWidth ? columns_ - c : kWidth;
      for (int64_t k = 0; k < rows; ++k) add(*open_[k + 1], (row + k) * columns_ + c, width, passing_, k * kPitch);
    }
    for (int64_t k = 0; k < rows; ++k) {
      add(*open_[0], (row + k) * columns_, beginning(row + k), kept_, k * kKept);
      std::swap(open_[0], open_[k + 1]);
    }
  }

  // Copies columns of a panel, at most kWidth, up to `end`, by strips; from a place on.
  void copy_columns(int64_t row, int64_t rows, int64_t column, int64_t end, const Arrays& out, int64_t place) {
    const int64_t first = strided_address(0, order_, row * columns_), rest = columns_ - column;
    const int width = int(end - column < kWidth ? end - column : kWidth);
    const int known = int(rest < kWidth + kAhead ? rest : kWidth + kAhead);
    int64_t at[kWidth + kAhead];  // the first element of each column, by memory
    bool follow = rows < kTile;   // one upon the other
    for_each_strided(uint64_t(first), row_, column, known, [&](int64_t j, uint64_t where) {
      at[j] = int64_t(where / sizeof(T));
      follow = follow && at[j] == at[0] + j * rows;
    });
    if (follow) return copy_run_of_columns(at[0], width, int(rows), out, place);
    for (int c = 0, count; c < width; c += count) {
      count = width - c < 2 * kStrip ? width - c : kStrip;
      for (int64_t r = 0; r < rows; r += kTile) {
        const int height = int(rows - r < kTile ? rows - r : kTile);
        for (int j = 0; j < count; ++j) {
          if (c + j + kAhead < known) watch_.fetch(at[c + j + kAhead] + r, height);
          see_run(at[c + j] + r, height, j * kPitch);
        }
        copy_strip(count, height, kPitch, out, place + r * out.pitch + c);
      }
    }
  }

  // Short columns that follow upon each other in memory are one run.
  void copy_run_of_columns(int64_t i, int width, int rows, const Arrays& out, int64_t place) {
    for (int c = 0, count; c < width; c += count) {
      const int most = int(kStripSize) / rows;
      count = width - c < most ? width - c : most;
      in_stretches<kTile>(0, count * rows, [&](int64_t k, int n) {
        watch_.fetch(i + k + kAhead * kTile, n);
        see_run(i + k, n, k);
      });
      copy_strip(count, rows, rows, out, place + c);
      i += count * rows;
    }
  }

  // n elements by memory, from element i on, which are copied to a place in the strip.
  void see_run(int64_t i, int n, int64_t place) {
    T* run[kArrays];
    for (int a = 0; a < kArrays; ++a) run[a] = strip_.array[a] + place;
    n == kTile ? watch_.see(i, std::integral_constant<int, kTile>(), run) : watch_.see(i, n, run);
  }

  // Columns of the strip are `pitch` apart. As copy_rows, but they are in a cache: with nothing to find and to fetch, a
  // monitored step takes 3 % less.
  void copy_strip(int width, int height, int64_t pitch, const Arrays& out, int64_t place) const {
    const int least = width < height ? width : height;
    for (int a = 0; a < kArrays; ++a) {
      const T* const in = strip_.array[a];
      T* const to = out.array[a] + place;
      if (least >= kLargeSide<T>)
        copy_squares<kLargeSide<T>>(in, pitch, width, height, to, out.pitch);
      else if (least >= kSide)
        copy_squares<kSide>(in, pitch, width, height, to, out.pitch);
      else
        for (int i = 0; i < height; ++i)
          for (int j = 0; j < width; ++j) to[i * out.pitch + j] = in[j * pitch + i];
    }
  }

  // Squares overlap at the ends.
  template <int side>
  static void copy_squares(const T* in, int64_t from, int width, int height, T* out, int64_t pitch) {
    using X = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
    for (int i = 0; i < height; i += side) {
      if (i + side > height) i = height - side;
      for (int j = 0; j < width; j += side) {
        if (j + side > width) j = width - side;
        transpose_square<X, side>([=](int b) { return uint64_t(in + (j + b) * from + i); },
                                  [=](int b) { return uint64_t(out + (i + b) * pitch + j); });
      }
    }
  }

  // Parts of rows.
  void go_in_order(int64_t begin, int64_t end) {
    if (begin == end) return;
    watch_.see_in_order(begin, end, passing_.array, [&](int64_t i, int n) { add(*open_[0], i, n, passing_, 0); });
  }

  // Adds up n elements from element i of the tensor on, which are from a place on.
  void add(Open& open, int64_t i, int64_t n, const Arrays& seen, int64_t place) {
    for (int64_t count; n > 0; i += count, place += count, n -= count) {
      count = open.end - i < n ? open.end - i : n;
      add_to_block(open, int((i - open.origin) % kLanes), count, seen, place);
      if (i + count < open.end) continue;
      watch_.finish(open.lanes, open.end);
      open.end = end_of_block(open.end);
    }
  }

  void add_to_block(Open& open, int lane, int64_t n, const Arrays& seen, int64_t place) {
    if (lane) {
      const int count = n < kLanes - lane ? int(n) : kLanes - lane;
      add_some(open, lane, count, seen, place);
      place += count, n -= count;
    }
    const int64_t whole = place + n / kLanes * kLanes;
    in_stretches<kTile>(place, whole, [&](int64_t k, auto count) {
      const T* at[kArrays];
      for (int a = 0; a < kArrays; ++a) at[a] = seen.array[a] + k;
      watch_.add(open.lanes, count, at);
    });
    if (n % kLanes) add_some(open, 0, int(n % kLanes), seen, whole);
  }

  // Fewer than there are lanes: zeros leave the others as they are.
  void add_some(Open& open, int lane, int n, const Arrays& seen, int64_t place) {
    alignas(kLine) T some[kArrays][kLanes] = {};
    const T* at[kArrays];
    for (int a = 0; a < kArrays; ++a) {
      for (int j = 0; j < n; ++j) some[a][lane + j] = seen.array[a][place + j];
      at[a] = some[a];
    }
    watch_.add(open.lanes, std::integral_constant<int, kLanes>(), at);
    watch_.leave_out(open.lanes, kLanes - n);
  }

  Watch& watch_;
  const Layout& order_;
  const Axes row_;
  const int64_t columns_, run_, unit_;  // of a row; rows that lie side by side
  Open* open_[kRows + 1];               // the block that is open where a panel begins, and at the end of each row
  Arrays kept_, passing_;               // in C order: beginnings of rows, or short rows; what is added up at once
  Arrays strip_;                        // some columns, one after the other
};

}  // namespace fastupdate::FASTUPDATE_TARGET
