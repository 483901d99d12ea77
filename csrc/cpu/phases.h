// What comes before the update of a rule whose step depends on sums: elements are measured, and ranges settled.
//
// A phase that sums over rows, columns or matrices goes through a tensor by chunks of rows; any other by blocks. Sums
// are float64 and in the order of core/sums.h: within a row, as within a block, in 32 lanes; columns row by row within
// a chunk; rows, blocks and chunks fold pairwise. Maxima go the same way, though in any order they would be the same.
#pragma once

#include "core/sums.h"
#include "cpu/tile.h"

namespace fastupdate::FASTUPDATE_TARGET {

// Joins stretches of numbers that follow upon each other in pieces of any length; a stretch sums in blocks of its own.
class StretchSum {
 public:
  void start(Joined joined) { blocks_.op = joined; }

  void add(const double* x, int64_t n) { blocks_.op.largest ? join<true>(x, n) : join<false>(x, n); }

  // The sum of the stretch, which ends here.
  double finish() {
    if (at_ % kBlock) fold();
    const double sum = blocks_.total();
    blocks_.count = at_ = 0;
    return sum;
  }

 private:
  template <bool largest>
  void join(const double* x, int64_t n) {
    const Joined joined = {largest};
    const auto take = [&](int64_t lane, double value) { lanes_[lane] = joined(lanes_[lane], value); };
    while (n) {
      const int64_t place = at_ % kBlock, room = kBlock - place, count = n < room ? n : room;
      int64_t i = 0;
      for (; i < count && (place + i) % kLanes; ++i) take((place + i) % kLanes, x[i]);
      for (; i + kLanes <= count; i += kLanes)
#pragma omp simd
        for (int j = 0; j < kLanes; ++j) take(j, x[i + j]);
      for (; i < count; ++i) take((place + i) % kLanes, x[i]);
      at_ += count, x += count, n -= count;
      if (at_ % kBlock == 0) fold();
    }
  }

  void fold() {
    blocks_.add(fold_lanes(lanes_, blocks_.op));
    for (double& lane : lanes_) lane = 0;
  }

  alignas(64) double lanes_[kLanes] = {};
  Pairwise<double, Joined> blocks_;
  int64_t at_ = 0;
};

// One tile of a phase: the gradient and the weight that the rule will get, and what it measures of them. A stage
// measures what those before it leave it; for one that works on the change, the rule moves copies of its states.
template <class T>
void measure_tile(const Span& step, Window<T>& window, const PhaseCode& phase, int64_t begin, int n,
                  Scratch<T>& scratch, double (*terms)[kTile]) {
  const Tensor& t = step.t;
  window.cover(begin, n);
  const uint32_t stages = phase.stage ? step.stages & (phase.stage - 1) : step.stages;
  const Span span = {t, step.group, step.code, step.scalars, step.scale, stages, step.sums};
  if (is_whole(t) && !window.copies()) prefetch_ahead(t.g, item_size(t.g_dtype), begin, t.n);
  const T* raw = gradient_tile(t, begin, n, scratch);
  const T* p = address<T>(t.p, begin);
  if (span.stages & kBeforeStages) {
    __builtin_memcpy(scratch.p, p, size_t(n) * sizeof(T));
    p = scratch.p;
  }
  double scale;
  const T* g = conditioned_tile<false>(span, begin, n, raw, p, scratch.conditioned, scale);
  run_stages<kBefore, false>(t, span.group, span.stages, begin, n, g, p, scratch.p);
  if (phase.stage) {
    const T* change = g;
    if (g == raw) {
      scale_tile(n, scale, raw, scratch.conditioned);
      g = change = scratch.conditioned, scale = 1;
    }
    if (phase.stage & kChangeStages) {
      span.code.loop(span.scalars, scale, n, g, p, scratch.nothing, scratch.delta,
                     copied_states(span, begin, n, scratch), begin);
      run_stages<kChange, false>(t, span.group, span.stages, begin, n, g, p, scratch.delta);
      change = scratch.delta;
    }
    return phase.measure_stage(span.group.numbers, n, g, p, change, terms);
  }
  phase.measure(span.scalars, scale, n, g, p, states_of(span, begin, n, phase.uses, scratch), begin, terms);
}

// Joins each of n numbers with one of the others.
inline void join(Joined joined, int64_t n, const double* x, double* out) {
  if (joined.largest)
    for (int64_t i = 0; i < n; ++i) out[i] = joined(out[i], x[i]);
  else
    for (int64_t i = 0; i < n; ++i) out[i] += x[i];
}

template <class T>
void measure_blocks(const Span& span, Window<T>& window, const PhaseCode& phase, int64_t begin, int64_t end) {
  const int count = phase.shape.terms;
  Scratch<T> scratch;
  for (T& x : scratch.nothing) x = -T(0);
  double terms[kMaxTerms][kTile];
  double* out = parts_of(span.t, count) + begin / kBlock * count;
  for (int64_t block = begin; block < end; block += kBlock, out += count) {
    StretchSum sums[kMaxTerms];
    for (int k = 0; k < count; ++k) sums[k].start(phase.shape.joined(k));
    const int64_t stop = block + kBlock < end ? block + kBlock : end;
    for (int64_t i = block; i < stop; i += kTile) {
      const int n = int(i + kTile < stop ? kTile : stop - i);
      measure_tile(span, window, phase, i, n, scratch, terms);
      for (int k = 0; k < count; ++k) sums[k].add(terms[k], n);
    }
    for (int k = 0; k < count; ++k) out[k] = sums[k].finish();
  }
}

// What a stretch of n ≤ kLanes numbers comes to: a lane has one of them, or none.
template <bool largest, int width = 1>
double fold_short(const double* x, int n) {
  if constexpr (width < kLanes)
    if (n > width) return fold_short<largest, 2 * width>(x, n);
  constexpr Joined joined = {largest};
  double lane[width];
  for (int j = 0; j < width; ++j) lane[j] = joined(0, j < n ? x[j] : 0);
  if constexpr (width > 1) fold_lanes<width / 2>(lane, joined);
  return lane[0];
}

// What rows come to, one after the other from one on, and columns within each chunk of rows.
class RowSums {
 public:
  RowSums(const Tensor& t, const PhaseShape& shape, int64_t row)
      : t_(t),
        shape_(shape),
        row_(row),
        chunk_(chunk_of(t, row)),
        chunk_end_(row),
        matrix_end_((row / t.rows + 1) * t.rows),
        out_(parts_of(t, shape.terms) + row * shape.terms) {
    for (int k = 0; k < shape.terms; ++k) sums_[k].start(shape.joined(k));
  }

  // The next n elements.
  void add(const double (*terms)[kTile], int n) {
    if (t_.columns == 1) return add_single(terms, n);
    for (int at = 0; at < n;) {  // from one end of a row to the next
      if (row_ == chunk_end_) start_chunk();
      const int64_t rest = t_.columns - column_;
      const int length = rest < n - at ? int(rest) : n - at;
      const bool is_short = t_.columns <= kLanes && length == t_.columns, ends = length == rest;
      for (int k = 0; k < shape_.terms; ++k) {
        const double* const x = terms[k] + at;
        const Joined joined = shape_.joined(k);
        if (below_) join(joined, length, x, below_ + k * t_.columns + column_);
        if (!is_short) sums_[k].add(x, length);
        if (ends)
          *out_++ = !is_short        ? sums_[k].finish()
                    : joined.largest ? fold_short<true>(x, length)
                                     : fold_short<false>(x, length);
      }
      at += length;
      column_ = ends ? 0 : column_ + length;
      row_ += ends;
    }
  }

 private:
  // Rows of one element.
  void add_single(const double (*terms)[kTile], int n) {
    for (int at = 0; at < n;) {  // from one chunk to the next
      if (row_ == chunk_end_) start_chunk();
      const int length = chunk_end_ - row_ < n - at ? int(chunk_end_ - row_) : n - at, count = shape_.terms;
      for (int k = 0; k < count; ++k) {
        double* const below = below_ ? below_ + k : nullptr;
        shape_.joined(k).largest ? add_singles<true>(terms[k] + at, length, count, out_ + k, below)
                                 : add_singles<false>(terms[k] + at, length, count, out_ + k, below);
      }
      at += length, row_ += length, out_ += length * count;
    }
  }

  template <bool largest>
  static void add_singles(const double* x, int n, int pitch, double* out, double* below) {
    constexpr Joined joined = {largest};
    for (int i = 0; i < n; ++i) out[i * pitch] = joined(0, x[i]);
    if (!below) return;
    double sum = *below;
    for (int i = 0; i < n; ++i) sum = joined(sum, x[i]);
    *below = sum;
  }

  void start_chunk() {
    if (row_ == matrix_end_) matrix_end_ += t_.rows;
    chunk_end_ = row_ + kRowChunk < matrix_end_ ? row_ + kRowChunk : matrix_end_;
    if (!shape_.settles(kColumn)) return;
    const int64_t size = shape_.terms * t_.columns;
    below_ = columns_of(t_, shape_.terms) + chunk_++ * size;
    for (int64_t c = 0; c < size; ++c) below_[c] = 0;
  }

  const Tensor& t_;
  const PhaseShape& shape_;
  int64_t row_, chunk_, chunk_end_, matrix_end_, column_ = 0;
  double *out_, *below_ = nullptr;
  StretchSum sums_[kMaxTerms];
};

// The elements begin … end − 1, whole rows.
template <class T>
void measure_part_of_rows(const Span& span, Window<T>& window, const PhaseCode& phase, int64_t begin, int64_t end) {
  Scratch<T> scratch;
  for (T& x : scratch.nothing) x = -T(0);
  double terms[kMaxTerms][kTile];
  RowSums sums(span.t, phase.shape, begin / span.t.columns);
  for (int64_t i = begin; i < end; i += kTile) {
    const int n = int(i + kTile < end ? kTile : end - i);
    measure_tile(span, window, phase, i, n, scratch, terms);
    sums.add(terms, n);
  }
}

// The chunks of rows that start within a span.
template <class T>
void measure_rows(const Span& span, Window<T>& window, const PhaseCode& phase, int64_t begin, int64_t end) {
  const int64_t columns = span.t.columns;
  const int64_t first = next_chunk(span.t, (begin + columns - 1) / columns) * columns;
  const int64_t last = next_chunk(span.t, (end + columns - 1) / columns) * columns;
  if (first < last) measure_part_of_rows(span, window, phase, first, last);
}

// What a stage of the table measures, as a phase.
template <template <class> class Stage, class T>
struct StagePhase {
  static void measure(const StageNumbers& numbers, int64_t n, const void* g, const void* p, const void* change,
                      double (*terms)[kTile]) {
    const Stage<T> stage(numbers);
    const T *gradient = static_cast<const T*>(g), *weight = static_cast<const T*>(p),
            *x = static_cast<const T*>(change);
    measure_all(stage, n, gradient, weight, x, terms, std::make_index_sequence<sums>());
  }

  template <size_t... k>
  FASTUPDATE_HD static void measure_all(const Stage<T> stage, int64_t n, const T* g, const T* p, const T* x,
                                        double (*terms)[kTile], std::index_sequence<k...>) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) stage.measure(g[i], p[i], x[i], terms[k][i]...);
  }

  static void settle(const void* numbers, int64_t ranges, double n, const double* sum, const uint64_t* state) {
    const Stage<double> stage(*static_cast<const StageNumbers*>(numbers));
    double* own = address<double>(state[slot]);
    for (int64_t i = 0; i < ranges; ++i) own[i] = stage.settled(n, sum + i * sums, own[i]);
  }

  static constexpr PhaseCode make() {
    PhaseCode code = {nullptr, {true, sums, uint8_t(1 << Stage<T>::extent), 0}};
    code.settle[Stage<T>::extent] = settle;
    code.stage = Stage<T>::bit;
    code.slot = slot;
    code.measure_stage = measure;
    return code;
  }

  static constexpr int slot = kFirstArray + Stage<T>::array, sums = Stage<T>::sums;
  static constexpr PhaseCode code = make();
};

// The phase of a step that is being taken: of a stage, or one of the rule's.
template <class T>
const PhaseCode& phase_of(const RuleCode& rule, int64_t phase, uint32_t measuring) {
#define ROW(Stage)                  \
  if constexpr (Stage<T>::sums > 0) \
    if (measuring == Stage<T>::bit) return StagePhase<Stage, T>::code;
  FASTUPDATE_STAGES(ROW)
#undef ROW
  return rule.phases[phase];
}

// Settles the columns of a tensor: those of one matrix after those of another, a few at a time.
inline void settle_columns(const Tensor& t, const PhaseCode& phase, const void* scalars) {
  const int terms = phase.shape.terms;
  double sums[kTile][kMaxTerms];
  const int64_t chunks = chunks_of_matrix(t), pitch = terms * t.columns;
  uint64_t state[kSlots];
  for (int64_t matrix = 0; matrix < matrix_count(t); ++matrix)
    for (int64_t first = 0; first < t.columns; first += kTile) {
      const int64_t n = first + kTile < t.columns ? kTile : t.columns - first;
      const double* x = columns_of(t, terms) + matrix * chunks * pitch + first;
      for (int64_t c = 0; c < n; ++c)
        for (int k = 0; k < terms; ++k)
          (&sums[0][0])[c * terms + k] = fold_parts(x + k * t.columns + c, chunks, pitch, phase.shape.joined(k));
      for (int k = 0; k < kSlots; ++k) state[k] = t.slot[k] + uint64_t(matrix * t.columns + first) * sizeof(double);
      phase.settle[kColumn](scalars, n, double(t.rows), &sums[0][0], state);
    }
}

// Settles ranges of whole rows.
inline void settle_rows(const Tensor& t, const PhaseCode& phase, Extent extent, const void* scalars) {
  const int terms = phase.shape.terms;
  const int64_t rows = rows_of(t, extent);
  double total[kMaxTerms];
  uint64_t state[kSlots];
  for (int64_t range = 0; range < range_count(t, extent); ++range) {
    const double* const parts = parts_of(t, terms) + range * rows * terms;
    for (int k = 0; k < terms; ++k) total[k] = fold_parts(parts + k, rows, terms, phase.shape.joined(k));
    for (int k = 0; k < kSlots; ++k) state[k] = t.slot[k] + uint64_t(range) * sizeof(double);
    phase.settle[extent](scalars, 1, double(rows * t.columns), total, state);
  }
}

// Settles the rows within the slices that a gradient touches.
inline void settle_touched(const Tensor& t, const PhaseCode& phase, const void* scalars) {
  const Rows& touched = rows_of(t);
  const int terms = phase.shape.terms;
  const int64_t ranges = touched.length / t.columns;
  uint64_t state[kSlots];
  for (int64_t k = 0; k < touched.count; ++k) {
    const int64_t first = integers(touched.at)[k] * ranges;
    for (int s = 0; s < kSlots; ++s) state[s] = t.slot[s] + uint64_t(first) * sizeof(double);
    phase.settle[kRow](scalars, ranges, double(t.columns), parts_of(t, terms) + k * ranges * terms, state);
  }
}

// Settles everything of one tensor that a phase has summed, but the list.
inline void settle_tensor(const Tensor& t, const PhaseCode& phase, const void* scalars) {
  const PhaseShape& shape = phase.shape;
  const int terms = shape.terms;
  const int64_t parts = shape.by_rows() ? range_count(t, kRow) : block_count(t);
  const double* const sums = parts_of(t, terms);
  if (shape.settles(kRow)) phase.settle[kRow](scalars, parts, double(t.columns), sums, t.slot);
  if (shape.settles(kColumn)) settle_columns(t, phase, scalars);
  for (const Extent extent : {kMatrix, kUnit})
    if (shape.settles(extent)) settle_rows(t, phase, extent, scalars);
  if (!shape.settles(kTensor) && !shape.settles(kList)) return;
  double* const totals = totals_of(t);
  for (int k = 0; k < terms; ++k) totals[k] = fold_parts(sums + k, parts, terms, shape.joined(k));
  if (shape.settles(kTensor)) phase.settle[kTensor](scalars, 1, double(t.n), totals, t.slot);
}

}  // namespace fastupdate::FASTUPDATE_TARGET
