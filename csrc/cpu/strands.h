// Squares of an array whose rows are longer than a block and lie side by side in memory. Many rows are summed at once,
// each in lanes of its own, so that nothing is brought into C order: neighbours in memory are neighbours among lanes.
//
// A panel is some rows that lie side by side; each of its columns is a run of elements. A strand is what C order has
// from the first block that begins in a row to the first one that begins in the next: the row without its beginning,
// and the beginning of the next. So a panel is gone through column by column, and then the beginnings of its rows are
// added to the strands of the rows before.
#pragma once

#include "cpu/order.h"
#include "cpu/tile.h"

namespace fastupdate::FASTUPDATE_TARGET {

// Sums the squares of one array of a tensor. units: each row is one, and sums in blocks of its own.
template <class T, bool units>
class Strands {
 public:
  // Whether a tensor, from element `begin` on, is to be gone through so.
  static bool serves(const Tensor& t, int64_t begin) {
    if (!lies_in_rows<T>(t)) return false;
    const int64_t columns = row_length(order_of(t));
    return columns >= kBlock && (units ? columns == t.unit_length : begin % kBlock == 0);
  }

  Strands(const Tensor& t, uint64_t array)
      : array_(array),
        order_(order_of(t)),
        row_(axes_of(order_, closest_axis(order_) + 1)),
        columns_(row_length(order_)),
        run_(run_length(order_, sizeof(T))),
        work_(*reinterpret_cast<Work*>(Room::of_thread() + Room::kBytes)) {}

  // Writes the sums of the blocks of elements begin … end − 1.
  void sum(int64_t begin, int64_t end, Sums* blocks) {
    double nothing = 0;
    const auto write = [&](int64_t i, double sum) {
      blocks[(i - 1) / kBlock] = {}, blocks[(i - 1) / kBlock].gg = sum;
      nothing += sum - sum;
    };
    int64_t last = 0;
    for_each_panel(begin, end, [&] {
      go_through_columns(columns_, false, write);
      go_through_columns(beginnings_, true, write);
      last = (top_ + rows_ - 1) * columns_;
    });
    close(rows_ - 1, end - last, (end - 1) / kBlock * kBlock < last, write);
    if (nothing != 0) blocks[begin / kBlock].nonfinite = count_nonfinite_between(begin, end);
  }

  // Writes the norms of the rows that elements begin … end − 1 are, to every second number from `norms` on.
  void norms(int64_t begin, int64_t end, double* norms) {
    Pairwise<double>* const blocks = work_.blocks;
    for (int r = 0; r < kRows; ++r) blocks[r].count = 0;
    for_each_panel(begin, end, [&] {
      const auto write = [&](int64_t r, double sum) { blocks[r].add(sum); };
      go_through_columns(columns_, false, write);
      for (int r = 0; r < rows_; ++r) {
        close(r, columns_, false, write);
        norms[2 * (top_ + r)] = square_root(blocks[r].total());
        blocks[r].count = 0;
      }
    });
  }

 private:
  // Rows of a panel, whose lanes stay in L2: the longer its columns, the faster they are read. Elements that are
  // fetched ahead.
  static constexpr int kRows = 2560, kAhead = 2048;
  static constexpr int64_t kWidth = 32;  // columns whose addresses are known
  static constexpr int kFront = 8;       // the place of a panel's first strand: the one before it is of the row before

  struct Work {
    // Element j of a row is in lane j mod 32, though its strand may have begun elsewhere: any rotation of the lanes
    // has the same sum.
    double lanes[kLanes][kFront + kRows];
    // The first row of which a block ends before a column, mod kBlock, and for each row the next such one.
    int16_t ending[kBlock], next[kRows];
    Pairwise<double> blocks[units ? kRows : 1];
  };
  static_assert(sizeof(Work) <= Room::kMore);

  // Calls visit() in each panel, after it has been looked at.
  template <class Visit>
  void for_each_panel(int64_t begin, int64_t end, Visit visit) {
    begin_ = begin, end_ = end;
    const int64_t last = (end + columns_ - 1) / columns_;
    for (int64_t row = begin / columns_; row < last; row += rows_) {
      const int64_t beside = run_ - row % run_, rest = last - row, count = beside < rest ? beside : rest;
      start_panel(row, int(count < kRows ? count : kRows));
      visit();
    }
  }

  // Where a row of the panel begins in what its blocks are counted in: itself, if it is a unit, or the tensor.
  int64_t start_of(int r) const { return units ? 0 : (top_ + r) * columns_; }

  void start_panel(int64_t row, int rows) {
    for (auto& lane : work_.lanes) {
      lane[kFront - 1] = lane[kFront + rows_ - 1];
      for (int r = 0; r < rows; ++r) lane[kFront + r] = 0;
    }
    top_ = row, rows_ = rows, beginnings_ = 0;
    for (int16_t& first : work_.ending) first = -1;
    for (int r = 0; r < rows; ++r) {
      const int64_t end = (kBlock - start_of(r) % kBlock) % kBlock;
      work_.next[r] = work_.ending[end], work_.ending[end] = int16_t(r);
      if (end >= beginnings_) beginnings_ = end + 1;
    }
  }

  // Adds the first columns of the panel, as far as they are to be gone through, to the strands of its rows or, if so,
  // of the rows before.
  template <class Write>
  void go_through_columns(int64_t count, bool before, Write write) {
    const int64_t own = begin_ - top_ * columns_, stop = end_ - (top_ + rows_ - 1) * columns_;
    const int64_t ahead = kAhead / rows_ < kWidth ? kAhead / rows_ + 1 : kWidth;
    uint64_t at[2 * kWidth];
    for (int64_t c = 0; c < count; ++c) {
      if (c % kWidth == 0) find(c, at);
      const uint64_t here = at[c % kWidth], soon = c + ahead < columns_ ? at[c % kWidth + ahead] : here;
      const int64_t lane = (before ? columns_ + c : c) % kLanes;
      const int rows = c < stop ? rows_ : rows_ - 1;
      for (int r = work_.ending[c % kBlock]; r >= 0; r = work_.next[r])
        if (r < rows) close(r, c, before, write);
      in_stretches<kTile>(c < own, rows, [&](int64_t r, auto n) {
        for (int i = 0; i < n; i += kLine / int(sizeof(T))) __builtin_prefetch(address<T>(soon, r + i));
        add(n, address<T>(here, r), work_.lanes[lane] + kFront + r - before);
      });
    }
  }

  // Where columns begin in memory, from one on.
  void find(int64_t column, uint64_t* at) const {
    const int64_t rest = columns_ - column, count = rest < 2 * kWidth ? rest : 2 * kWidth;
    for_each_strided(strided_address(array_, order_, top_ * columns_), row_, column, count,
                     [=](int64_t j, uint64_t where) { at[j] = where; });
  }

  template <class N>
  static void add(N n, const T* x, double* sums) {
#pragma omp simd
    for (int i = 0; i < n; ++i) sums[i] = add_product(sums[i], x[i], x[i]);
  }

  // Looked at only where a sum is infinite or NaN.
  int64_t count_nonfinite_between(int64_t begin, int64_t end) const {
    int64_t count = 0;
    for_each_strided(array_, axes_of(order_), begin, end - begin,
                     [&](int64_t, uint64_t at) { count += !is_finite(*address<T>(at)); });
    return count;
  }

  // Ends the block that ends before a column, and writes it unless it has begun in another strand.
  template <class Write>
  void close(int r, int64_t column, bool before, Write write) {
    const int64_t start = start_of(r), i = start + column, block = (i - 1) / kBlock * kBlock;
    double lane[kLanes];
    for (int j = 0; j < kLanes; ++j) {
      double& there = work_.lanes[j][kFront + r - before];
      lane[j] = there, there = 0;
    }
    const bool own = units ? column > 0 : (block < start) == before && block >= begin_;
    if (own) write(units ? r : i, fold_lanes(lane));
  }

  const uint64_t array_;
  const Layout& order_;
  const Axes row_;
  const int64_t columns_, run_;  // of a row; rows that lie side by side
  Work& work_;
  int64_t begin_ = 0, end_ = 0, top_ = 0;  // what is gone through, and the first row of the panel
  int rows_ = 0;
  int64_t beginnings_ = 0;  // columns in which blocks of the rows before end, and the one after the last
};

}  // namespace fastupdate::FASTUPDATE_TARGET
