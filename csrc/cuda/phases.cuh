// What comes before the update of a rule whose step depends on sums (cpu/phases.h), on a GPU.
//
// A warp measures a block, or rows: its lanes are those of core/sums.h. Rows, columns and what they are in are settled
// by all thread blocks, and then each tensor by one.
#pragma once

#include <array>
#include <type_traits>

#include "core/rule.h"
#include "cuda/engine.cuh"

namespace fastupdate::FASTUPDATE_TARGET {

// A constant of its own, for arrays that are constants are not known to devices.
template <class Rule, size_t state>
constexpr Extent extent_of = Rule::extents[state];

// The states of element i; those of other extents than an element as numbers.
template <class Rule, class T, size_t count, size_t... k>
FASTUPDATE_DEVICE void load_states(const Tensor& t, int64_t i, T (&state)[count], std::index_sequence<k...>) {
  const auto load = [&](auto index) -> T {
    constexpr int number = decltype(index)::value;
    if constexpr (!Rule::keeps::at[number])
      return T(0);
    else if constexpr (Shape<Rule>::template of_element<number>)
      return array_at<const T>(t.slot[number])[i];
    else
      return T(array_at<const double>(t.slot[number])[range_of(t, extent_of<Rule, number>, i)]);
  };
  ((state[k] = load(std::integral_constant<int, int(k)>())), ...);
}

template <int phase, class Rule, class T, size_t count, size_t... k>
FASTUPDATE_DEVICE void store_states(const Tensor& t, int64_t i, const T (&state)[count], std::index_sequence<k...>) {
  ((moves<Rule, phase, k> ? void(array_at<T>(t.slot[k])[i] = state[k]) : void()), ...);
}

template <int phase, class Rule, class T, size_t count, size_t... k, size_t... j>
FASTUPDATE_DEVICE void measure(const Rule& rule, T g, T p, T (&state)[count], double (&term)[kMaxTerms],
                               std::index_sequence<k...>, std::index_sequence<j...>) {
  rule.measure(Phase<phase>(), g, p, state[k]..., term[j]...);
}

template <int phase, class T, class Rule>
FASTUPDATE_DEVICE void measure_element(const Job<Rule>& job, int64_t i, double (&term)[kMaxTerms]) {
  constexpr auto states = std::make_index_sequence<Rule::keeps::count>();
  const Tensor& t = job.t;
  Pack<T, 1> g = {{gradient_element<T>(t, i)}}, p = {{weight_element<T>(t, i)}};
  condition<false>(t, job.group, job.stages, job.scale, Single{i}, p, g);
  T state[Rule::keeps::count];
  load_states<Rule>(t, i, state, states);
  measure<phase>(job.rule, g.at[0], p.at[0], state, term, states,
                 std::make_index_sequence<Rule::phases[phase].terms>());
  store_states<phase, Rule>(t, i, state, states);
}

// n ≤ kBlock elements, by one warp: their sums, which are lane 0's. Each is also joined with what its column has come
// to, in `below`, if that is there; `anew`: with nothing.
template <int phase, class T, class Rule>
FASTUPDATE_DEVICE void measure_piece(const Job<Rule>& job, int64_t begin, int n, double (&sums)[kMaxTerms],
                                     double* below, bool anew) {
  constexpr PhaseShape shape = Rule::phases[phase];
  constexpr int count = shape.terms;
  double term[kMaxTerms] = {};
  for (int k = 0; k < count; ++k) sums[k] = 0;
  for (int i = thread_index() % kLanes; i < n; i += kLanes) {
    measure_element<phase, T>(job, begin + i, term);
    for (int k = 0; k < count; ++k) {
      const Joined joined = shape.joined(k);
      sums[k] = joined(sums[k], term[k]);
      if (below) below[k * job.t.columns + i] = joined(anew ? 0 : below[k * job.t.columns + i], term[k]);
    }
  }
  for (int k = 0; k < count; ++k) sums[k] = fold_lanes(sums[k], shape.joined(k));
}

template <int phase, class T, class Rule>
FASTUPDATE_DEVICE void measure_blocks(const Job<Rule>& job, int64_t begin, int64_t end) {
  constexpr int count = Rule::phases[phase].terms;
  double sums[kMaxTerms];
  for (int64_t block = begin + thread_index() / kLanes; block < end; block += kWarps) {
    measure_piece<phase, T>(job, block * kBlock, elements_from(block * kBlock, job.t.n), sums, nullptr, false);
    if (thread_index() % kLanes == 0)
      for (int k = 0; k < count; ++k) parts_of(job.t, count)[block * count + k] = sums[k];
  }
}

// What the rows of a phase come to, from block to block.
template <int phase, class Rule>
struct RowTotals {
  static constexpr int terms = Rule::phases[phase].terms;
  Pairwise<double, Joined> total[terms];

  FASTUPDATE_DEVICE RowTotals() {
    constexpr PhaseShape shape = Rule::phases[phase];
    for (int k = 0; k < terms; ++k) total[k].op = shape.joined(k);
  }
  FASTUPDATE_DEVICE void add(const double (&sums)[kMaxTerms]) {
    for (int k = 0; k < terms; ++k) total[k].add(sums[k]);
  }
  FASTUPDATE_DEVICE void store(const Tensor& t, int64_t row) const {
    for (int k = 0; k < terms; ++k) parts_of(t, terms)[row * terms + k] = total[k].total();
  }
};

// The rows of a chunk, one after the other, by one warp.
template <int phase, class T, class Rule>
FASTUPDATE_DEVICE void measure_chunk(const Job<Rule>& job, int64_t chunk) {
  constexpr PhaseShape shape = Rule::phases[phase];
  const Tensor& t = job.t;
  const int64_t first = chunk_begin(t, chunk), end = chunk_end(t, chunk), columns = t.columns;
  double* const below = shape.settles(kColumn) ? columns_of(t, shape.terms) + chunk * shape.terms * columns : nullptr;
  double sums[kMaxTerms];
  for (int64_t row = first; row < end; ++row) {
    RowTotals<phase, Rule> total;
    for (int64_t c = 0; c < columns; c += kBlock) {
      measure_piece<phase, T>(job, row * columns + c, elements_from(c, columns), sums, below ? below + c : nullptr,
                              row == first);
      total.add(sums);
    }
    if (thread_index() % kLanes == 0) total.store(t, row);
  }
}

constexpr int kStrip = 128;  // columns whose terms are in shared memory at once, for a row of each warp

// The same by a thread block, each warp of which has a row; what they find of a strip of columns is then added up by
// columns, in the order of the rows.
template <int phase, class T, class Rule>
FASTUPDATE_DEVICE void measure_chunk_together(const Job<Rule>& job, int64_t chunk) {
  constexpr PhaseShape shape = Rule::phases[phase];
  const Tensor& t = job.t;
  const int warp = thread_index() / kLanes;
  const int64_t first = chunk_begin(t, chunk), end = chunk_end(t, chunk), columns = t.columns;
  double* const below = columns_of(t, shape.terms) + chunk * shape.terms * columns;
  double* const terms = reinterpret_cast<double*>(shared_memory());  // [row][term][column]
  double sums[kMaxTerms], term[kMaxTerms] = {};
  for (int64_t base = first; base < end; base += kWarps) {
    const int rows = end - base < kWarps ? int(end - base) : kWarps;
    RowTotals<phase, Rule> total;
    for (int64_t block = 0; block < columns; block += kBlock) {
      for (int k = 0; k < shape.terms; ++k) sums[k] = 0;
      for (int64_t strip = block; strip < columns && strip < block + kBlock; strip += kStrip) {
        const int width = columns - strip < kStrip ? int(columns - strip) : kStrip;
        for (int i = thread_index() % kLanes; i < width && warp < rows; i += kLanes) {
          measure_element<phase, T>(job, (base + warp) * columns + strip + i, term);
          for (int k = 0; k < shape.terms; ++k) {
            sums[k] = shape.joined(k)(sums[k], term[k]);
            terms[(warp * shape.terms + k) * kStrip + i] = term[k];
          }
        }
        barrier();
        for (int x = thread_index(); x < shape.terms * width; x += kThreads) {
          const int k = x / width, i = x % width;
          double* const column = below + k * columns + strip + i;
          double sum = base == first ? 0 : *column;
          for (int row = 0; row < rows; ++row) sum = shape.joined(k)(sum, terms[(row * shape.terms + k) * kStrip + i]);
          *column = sum;
        }
        barrier();
      }
      for (int k = 0; k < shape.terms; ++k) sums[k] = fold_lanes(sums[k], shape.joined(k));
      total.add(sums);
    }
    if (thread_index() % kLanes == 0 && warp < rows) total.store(t, base + warp);
  }
}

// How many of a tensor's ranges belong to its blocks `begin` … `end` − 1, if they are shared out evenly.
struct Share {
  int64_t first, last;
};

FASTUPDATE_DEVICE Share share_of(const Tensor& t, int64_t count, int64_t begin, int64_t end) {
  return {count * begin / block_count(t), count * end / block_count(t)};
}

// A thread block's share of a tensor. Columns of large matrices are worth a thread block for each chunk.
template <int phase, class T, class Rule>
FASTUPDATE_DEVICE void measure_part(const Job<Rule>& job, int64_t begin, int64_t end) {
  constexpr PhaseShape shape = Rule::phases[phase];
  if constexpr (!shape.by_rows()) {
    measure_blocks<phase, T>(job, begin, end);
  } else {
    const Share chunks = share_of(job.t, chunk_count(job.t), begin, end);
    if (shape.settles(kColumn) && matrix_size(job.t) > kBlock) {
      for (int64_t chunk = chunks.first; chunk < chunks.last; ++chunk) measure_chunk_together<phase, T>(job, chunk);
    } else {
      for (int64_t chunk = chunks.first + thread_index() / kLanes; chunk < chunks.last; chunk += kWarps)
        measure_chunk<phase, T>(job, chunk);
    }
  }
}

// Where columns are summed, there are two ways through a tensor, which take many registers.
template <template <class, unsigned> class R, unsigned flags, int phase>
FASTUPDATE_KERNEL FASTUPDATE_LAUNCH_BOUNDS(kThreads, (R<double, flags>::phases[phase].settles(kColumn) ? 1 : 2))
    measure(DeviceSweep sweep) {
  if (sweep.step->decision.skip) return;
  walk(sweep, [&](int64_t index, const Tensor& t, int64_t begin, int64_t end) {
    if (t.dtype == kFloat32)
      measure_part<phase, float>(job_of<R<float, flags>, float>(sweep, index, t), begin, end);
    else
      measure_part<phase, double>(job_of<R<double, flags>, double>(sweep, index, t), begin, end);
  });
}

template <int phase, Extent extent, class Rule>
FASTUPDATE_DEVICE void settle_range(const Rule& rule, const Tensor& t, int64_t range, double n, const double* sums) {
  double* state[kMaxStates];
  for (int k = 0; k < Rule::keeps::count; ++k) state[k] = array_at<double>(t.slot[k]) + range;
  rule.settle(Phase<phase>(), Range<extent>(), n, sums, state);
}

// What a range's sums of one term are folded from; `between` is how far those of the next term are from them.
template <Extent extent>
FASTUPDATE_DEVICE Run run_of(const Tensor& t, int terms, int64_t range, int64_t& between) {
  between = 1;
  if constexpr (extent == kColumn) {
    const int64_t chunks = chunks_of_matrix(t);
    between = t.columns;
    return {columns_of(t, terms) + range / t.columns * chunks * terms * t.columns + range % t.columns, chunks,
            terms * t.columns};
  } else {
    const int64_t rows = extent == kRow ? 1 : rows_of(t, extent);
    return {parts_of(t, terms) + range * rows * terms, rows, terms};
  }
}

// A thread block's share of the ranges of an extent; a few long runs are folded by all threads together.
template <int phase, Extent extent, class Rule>
FASTUPDATE_DEVICE void settle_share(const Rule& rule, const Tensor& t, int64_t begin, int64_t end) {
  constexpr PhaseShape shape = Rule::phases[phase];
  if constexpr (shape.settles(extent)) {
    const Share ranges = share_of(t, range_count(t, extent), begin, end);
    const double n = double(extent == kColumn ? t.rows : extent == kRow ? t.columns : rows_of(t, extent) * t.columns);
    const bool together = extent != kRow && ranges.last - ranges.first < kWarps;
    const int step = together ? 1 : thread_count();
    double sum[kMaxTerms];
    for (int64_t range = ranges.first + (together ? 0 : thread_index()); range < ranges.last; range += step) {
      int64_t between;
      Run run = run_of<extent>(t, shape.terms, range, between);
      for (int k = 0; k < shape.terms; ++k, run.at += between)
        sum[k] = together ? fold_together(run, shape.joined(k)) : fold_run(run, shape.joined(k));
      if (!together || thread_index() == 0) settle_range<phase, extent>(rule, t, range, n, sum);
    }
  }
}

// What a phase has summed of one tensor as a whole.
template <int phase, class Rule>
FASTUPDATE_DEVICE void settle_tensor(const Rule& rule, const Tensor& t) {
  constexpr PhaseShape shape = Rule::phases[phase];
  const int64_t parts = shape.by_rows() ? range_count(t, kRow) : block_count(t);
  double sum[kMaxTerms];
  for (int k = 0; k < shape.terms; ++k)
    sum[k] = fold_together({parts_of(t, shape.terms) + k, parts, shape.terms}, shape.joined(k));
  if (thread_index() != 0) return;
  for (int k = 0; k < shape.terms; ++k) totals_of(t)[k] = sum[k];
  if constexpr (shape.settles(kTensor)) settle_range<phase, kTensor>(rule, t, 0, double(t.n), sum);
}

template <class Rule>
FASTUPDATE_DEVICE const Rule& settling_rule(const DeviceSweep& sweep, const Tensor& t) {
  const unsigned char* row = sweep.rows + sweep.step->decision.row * sweep.row_bytes;
  return *reinterpret_cast<const Rule*>(row + sweep.scalars_offset + (t.group * 2 + kFloat64) * kScalarBytes);
}

template <class Rule, int phase>
FASTUPDATE_KERNEL FASTUPDATE_LAUNCH_BOUNDS(kThreads, 2) settle_ranges(DeviceSweep sweep) {
  if (sweep.step->decision.skip) return;
  walk(sweep, [&](int64_t, const Tensor& t, int64_t begin, int64_t end) {
    const Rule& rule = settling_rule<Rule>(sweep, t);
    settle_share<phase, kRow>(rule, t, begin, end);
    settle_share<phase, kColumn>(rule, t, begin, end);
    settle_share<phase, kMatrix>(rule, t, begin, end);
    settle_share<phase, kUnit>(rule, t, begin, end);
  });
}

template <class Rule, int phase>
FASTUPDATE_KERNEL FASTUPDATE_LAUNCH_BOUNDS(kThreads, 2) settle_tensors(DeviceSweep sweep) {
  if (sweep.step->decision.skip) return;
  walk(sweep, [&](int64_t, const Tensor& t, int64_t begin, int64_t) {
    if (begin == 0) settle_tensor<phase>(settling_rule<Rule>(sweep, t), t);
  });
}

// One thread block, with the scalars of the first tensor's group; without elements the list stays as it is.
template <class Rule, int phase>
FASTUPDATE_KERNEL FASTUPDATE_LAUNCH_BOUNDS(kThreads, 2) settle_list(DeviceSweep sweep) {
  if (sweep.step->decision.skip || sweep.blocks == 0 || block_index() != 0) return;
  constexpr PhaseShape shape = Rule::phases[phase];
  double sum[kMaxTerms];
  for (int k = 0; k < shape.terms; ++k) {
    for (int64_t i = thread_index(); i < sweep.count; i += thread_count())
      sweep.weights[i] = totals_of(sweep.tensors[i])[k];
    barrier();
    fold(sweep.weights, sweep.count, 1, shape.joined(k));
    sum[k] = load_coherent(sweep.weights);
    barrier();
  }
  if (thread_index() != 0) return;
  double elements = 0;
  for (int64_t i = 0; i < sweep.count; ++i) elements += double(sweep.tensors[i].n);
  const Tensor& first = sweep.tensors[0];
  settle_range<phase, kList>(settling_rule<Rule>(sweep, first), first, 0, elements, sum);
}

template <template <class, unsigned> class R, unsigned flags, int phase>
void start_measure(const DeviceSweep& sweep, const Start& how) {
  constexpr PhaseShape shape = R<double, flags>::phases[phase];
  constexpr size_t strips = shape.settles(kColumn) ? kWarps * shape.terms * kStrip * sizeof(double) : 0;
  if constexpr (shape.measures) launch(measure<R, flags, phase>, sweep, how, kThreads, strips);
}

template <class Rule, int phase>
void start_settle(const DeviceSweep& sweep, const Start& how) {
  if constexpr (Rule::phases[phase].by_rows()) launch(settle_ranges<Rule, phase>, sweep, how, kThreads, kFoldBytes);
  launch(settle_tensors<Rule, phase>, sweep, how, kThreads, kFoldBytes);
  if constexpr (Rule::phases[phase].settles(kList))
    launch(settle_list<Rule, phase>, sweep, Start{1, how.stream, false, false}, kThreads, 0);
}

// The phases of a rule, if it has any.
template <template <class, unsigned> class R, unsigned flags>
struct DevicePhases {
  static constexpr int count = Shape<R<double, flags>>::phase_count;

  template <size_t... phase>
  static constexpr std::array<DevicePhase, count> all(std::index_sequence<phase...>) {
    return {{{start_measure<R, flags, int(phase)>, start_settle<R<double, flags>, int(phase)>}...}};
  }

  static constexpr std::array<DevicePhase, count> at = all(std::make_index_sequence<count>());
};

}  // namespace fastupdate::FASTUPDATE_TARGET
