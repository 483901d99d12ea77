// What is summed of tensors that do not lie in C order, by panels. Each of these sees runs of elements, of which it
// copies what its sums need, and later adds that up in lanes, block by block.
#pragma once

#include "cpu/panels.h"

namespace fastupdate::FASTUPDATE_TARGET {

// Squares of one array, which lies as the tensor does.
template <class T>
class Squares {
 public:
  static constexpr int kArrays = 1;

  // Whether many short rows lie side by side: few are copied as fast by windows, and for long ones there is strands.h.
  static bool serves(const Tensor& t) {
    if (!lies_in_rows<T>(t)) return false;
    return row_length(order_of(t)) < kBlock && run_length(order_of(t), sizeof(T)) >= kTile;
  }

  Squares(const Tensor& t, uint64_t array) : t_(t), array_(array) {}

  // Always inline: a function that only prefetches is taken for one without effect, and calls of it are left out.
  FASTUPDATE_HD void fetch(int64_t i, int n) const {
    prefetch_bytes<kIntoL1>(uint64_t(address<T>(array_, i)), n * int64_t(sizeof(T)));
  }

  template <class N>
  void see(int64_t i, N n, T* const (&out)[kArrays]) const {
    __builtin_memcpy(out[0], address<T>(array_, i), size_t(n) * sizeof(T));
  }

  template <class Visit>
  void see_in_order(int64_t begin, int64_t end, T* const (&out)[kArrays], Visit visit) const {
    in_stretches<kTile>(begin, end, [&](int64_t i, int n) {
      read_stretch(sizeof(T), array_, order_of(t_), i, n, out[0]);
      visit(i, n);
    });
  }

  template <class Lanes>
  static void leave_out(Lanes&, int) {}

 protected:
  const Tensor& t_;
  const uint64_t array_;
};

// Σg² and the non-finite elements of each block.
template <class T>
class GradientSums : public Squares<T> {
 public:
  using Lanes = GradientLanes;

  // Writes the sums of the blocks of elements begin … end − 1.
  static void sum(const Tensor& t, int64_t begin, int64_t end, Sums* blocks) {
    GradientSums sums(t, blocks);
    Panels<T, GradientSums>(t, t.n, sums).go(begin, end);
  }

  static void start(Lanes& lanes) { lanes.clear(); }
  template <class N>
  static void add(Lanes& lanes, N n, const T* const (&x)[1]) {
    sum_gradient(n, x[0], lanes);
  }
  void finish(Lanes& lanes, int64_t end) const {
    blocks_[(end - 1) / kBlock] = fold(lanes);
    lanes.clear();
  }

 private:
  GradientSums(const Tensor& t, Sums* blocks) : Squares<T>(t, t.g), blocks_(blocks) {}

  Sums* const blocks_;
};

// The norm of each unit, which sums in blocks of its own.
template <class T>
class UnitNorms : public Squares<T> {
 public:
  struct Lanes {
    alignas(kLine) double squares[kLanes];
    Pairwise<double> blocks;
  };

  // Writes the norms of an array's units that elements begin … end − 1 are, to every second number.
  static void norms(const Tensor& t, uint64_t array, int64_t begin, int64_t end, double* out) {
    UnitNorms units(t, array, out);
    Panels<T, UnitNorms>(t, t.unit_length, units).go(begin, end);
  }

  static void start(Lanes& lanes) {
    for (double& sum : lanes.squares) sum = 0;
    lanes.blocks.count = 0;
  }
  template <class N>
  static void add(Lanes& lanes, N n, const T* const (&x)[1]) {
    sum_squares(n, x[0], lanes.squares);
  }
  void finish(Lanes& lanes, int64_t end) const {
    lanes.blocks.add(fold_lanes(lanes.squares));
    for (double& sum : lanes.squares) sum = 0;
    if (end % this->t_.unit_length) return;
    norms_[2 * (end / this->t_.unit_length - 1)] = square_root(lanes.blocks.total());
    lanes.blocks.count = 0;
  }

 private:
  UnitNorms(const Tensor& t, uint64_t array, double* norms) : Squares<T>(t, array), norms_(norms) {}

  double* const norms_;
};

// A monitored step, which moves what it sees: gradient, momentum if there is one, and weight before and after it.
template <class T>
class MonitoredStep {
 public:
  static constexpr int kArrays = 4;
  using Lanes = FASTUPDATE_TARGET::Lanes<T>;

  // Whether a tensor, from element `begin` on, is to be gone through so.
  static bool serves(const Tensor& t, int64_t begin) { return lies_in_rows<T>(t) && begin % kBlock == 0; }

  // Moves the elements begin … end − 1 and writes the sums of their blocks.
  static void take(const Span& span, int64_t begin, int64_t end) {
    MonitoredStep step(span);
    Panels<T, MonitoredStep>(span.t, span.t.n, step).go(begin, end);
    span.sums[begin / kBlock].stalled += fold_lanes(step.counts_.stalled);
  }

  FASTUPDATE_HD void fetch(int64_t i, int n) const {
    for (int k = 0; k < array_count_; ++k)
      prefetch_bytes<kIntoL1>(uint64_t(address<T>(arrays_[k], i)), n * int64_t(sizeof(T)));
  }

  template <class N>
  void see(int64_t i, N n, T* const (&out)[kArrays]) {
    see_of(span_, i, n, out);
  }

  // Through copies of all arrays.
  template <class Visit>
  void see_in_order(int64_t begin, int64_t end, T* const (&out)[kArrays], Visit visit) {
    Window<T> window(span_.t, Use::kMove, true, span_.stages & kZeroGrads, begin, end);
    const Span span = span_.of(window.tensor());
    in_stretches<kTile>(begin, end, [&](int64_t i, int n) {
      window.cover(i, n);
      see_of(span, i, n, out);
      visit(i, n);
    });
  }

  static void start(Lanes& lanes) { lanes.clear(); }
  template <class N>
  void add(Lanes& lanes, N n, const T* const (&x)[kArrays]) const {
    watch_gradient(n, x[0], span_.t.momentum < 0 ? nullptr : x[1], lanes);
    sum_update(n, x[2], x[3], x[0], lanes);
  }
  static void leave_out(Lanes& lanes, int n) { lanes.zeros[0] -= n; }
  void finish(Lanes& lanes, int64_t end) const {
    span_.sums[(end - 1) / kBlock] = fold(lanes);
    lanes.clear();
  }

 private:
  explicit MonitoredStep(const Span& span) : span_(span) {
    counts_.clear();
    for (T& x : scratch_.nothing) x = -T(0);
    note(span.t.g);
    note(span.t.p);
    for (int k = 0; k < kSlots; ++k)
      if (is_moved(k)) note(span.t.slot[k]);
  }

  void note(uint64_t array) {
    if (array) arrays_[array_count_++] = array;
  }

  template <class N>
  void see_of(const Span& span, int64_t i, N n, T* const (&out)[kArrays]) {
    const Tensor& t = span.t;
    const auto copy = [&](uint64_t array, T* to) { __builtin_memcpy(to, address<T>(array, i), size_t(n) * sizeof(T)); };
    copy(t.g, out[0]);
    if (t.momentum >= 0) copy(t.slot[t.momentum], out[1]);
    copy(t.p, out[2]);
    update_tile(span, i, n, scratch_, counts_);
    copy(t.p, out[3]);
  }

  const Span& span_;
  uint64_t arrays_[kSlots + 2];  // to be fetched
  int array_count_ = 0;
  Scratch<T> scratch_;
  Lanes counts_;  // of what is the same in any order
};

}  // namespace fastupdate::FASTUPDATE_TARGET
