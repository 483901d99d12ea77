// What comes before the update of a rule whose step depends on sums (cpu/phases.h), on a GPU.
//
// A warp measures a block, or a chunk of rows: its lanes are those of core/sums.h. A tensor is settled by one thread
// block.
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

template <class Rule, class T, size_t count, size_t... k>
FASTUPDATE_DEVICE void store_states(const Tensor& t, int64_t i, const T (&state)[count], std::index_sequence<k...>) {
  ((Rule::keeps::at[k] && Shape<Rule>::template of_element<k> ? void(array_at<T>(t.slot[k])[i] = state[k]) : void()),
   ...);
}

template <int phase, class T, class Rule>
FASTUPDATE_DEVICE void measure_element(const Job<Rule>& job, int64_t i, double (&term)[kMaxTerms]) {
  constexpr auto states = std::make_index_sequence<Rule::keeps::count>();
  const Tensor& t = job.t;
  Pack<T, 1> g = {{gradient_element<T>(t, i)}}, p = {{weight_element<T>(t, i)}};
  condition<false>(t, job.group, job.stages, job.scale, Single{i}, p, g);
  T state[Rule::keeps::count];
  load_states<Rule>(t, i, state, states);
  job.rule.measure(Phase<phase>(), g.at[0], p.at[0], state, term);
  store_states<Rule>(t, i, state, states);
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

template <int phase, class T, class Rule>
FASTUPDATE_DEVICE void measure_chunk(const Job<Rule>& job, int64_t chunk) {
  constexpr PhaseShape shape = Rule::phases[phase];
  const Tensor& t = job.t;
  const int64_t first = chunk_begin(t, chunk), end = chunk_end(t, chunk), columns = t.columns;
  double* const below = shape.settles(kColumn) ? columns_of(t, shape.terms) + chunk * shape.terms * columns : nullptr;
  double sums[kMaxTerms];
  for (int64_t row = first; row < end; ++row) {
    Pairwise<double, Joined> total[shape.terms];
    for (int k = 0; k < shape.terms; ++k) total[k].op = shape.joined(k);
    for (int64_t c = 0; c < columns; c += kBlock) {
      measure_piece<phase, T>(job, row * columns + c, elements_from(c, columns), sums, below ? below + c : nullptr,
                              row == first);
      for (int k = 0; k < shape.terms; ++k) total[k].add(sums[k]);
    }
    if (thread_index() % kLanes == 0)
      for (int k = 0; k < shape.terms; ++k) parts_of(t, shape.terms)[row * shape.terms + k] = total[k].total();
  }
}

// Blocks `begin` … `end` − 1 of a tensor, or the chunks that start in them.
template <int phase, class T, class Rule>
FASTUPDATE_DEVICE void measure_part(const Job<Rule>& job, int64_t begin, int64_t end) {
  constexpr PhaseShape shape = Rule::phases[phase];
  if constexpr (!shape.by_rows()) {
    measure_blocks<phase, T>(job, begin, end);
  } else {
    for (int64_t chunk = thread_index() / kLanes; chunk < chunk_count(job.t); chunk += kWarps) {
      const int64_t block = chunk_begin(job.t, chunk) * job.t.columns / kBlock;
      if (begin <= block && block < end) measure_chunk<phase, T>(job, chunk);
    }
  }
}

template <template <class, unsigned> class R, unsigned flags, int phase>
FASTUPDATE_KERNEL FASTUPDATE_LAUNCH_BOUNDS(kThreads, 2) measure(DeviceSweep sweep) {
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

// Ranges of whole rows.
template <int phase, Extent extent, class Rule>
FASTUPDATE_DEVICE void settle_rows(const Rule& rule, const Tensor& t) {
  constexpr PhaseShape shape = Rule::phases[phase];
  constexpr int terms = shape.terms;
  const int64_t rows = rows_of(t, extent);
  double sum[kMaxTerms];
  for (int64_t range = thread_index(); range < range_count(t, extent); range += thread_count()) {
    const double* const parts = parts_of(t, terms) + range * rows * terms;
    for (int k = 0; k < terms; ++k) sum[k] = fold_parts(parts + k, rows, terms, shape.joined(k));
    settle_range<phase, extent>(rule, t, range, double(rows * t.columns), sum);
  }
}

// Everything of one tensor that a phase has summed, but the list.
template <int phase, class Rule>
FASTUPDATE_DEVICE void settle_tensor(const Rule& rule, const Tensor& t) {
  constexpr PhaseShape shape = Rule::phases[phase];
  constexpr int terms = shape.terms;
  const int64_t parts = shape.by_rows() ? range_count(t, kRow) : block_count(t);
  double* const sums = parts_of(t, terms);
  double sum[kMaxTerms];
  if constexpr (shape.settles(kRow))
    for (int64_t row = thread_index(); row < parts; row += thread_count())
      settle_range<phase, kRow>(rule, t, row, double(t.columns), sums + row * terms);
  if constexpr (shape.settles(kColumn))
    for (int64_t c = thread_index(); c < range_count(t, kColumn); c += thread_count()) {
      const double* x = columns_of(t, terms) + c / t.columns * chunks_of_matrix(t) * terms * t.columns + c % t.columns;
      for (int k = 0; k < terms; ++k)
        sum[k] = fold_parts(x + k * t.columns, chunks_of_matrix(t), terms * t.columns, shape.joined(k));
      settle_range<phase, kColumn>(rule, t, c, double(t.rows), sum);
    }
  if constexpr (shape.settles(kMatrix)) settle_rows<phase, kMatrix>(rule, t);
  if constexpr (shape.settles(kUnit)) settle_rows<phase, kUnit>(rule, t);
  barrier();
  for (int k = 0; k < terms; ++k) fold(sums + k, parts, terms, shape.joined(k));
  if (thread_index() != 0) return;
  for (int k = 0; k < terms; ++k) sum[k] = totals_of(t)[k] = load_coherent(sums + k);
  if constexpr (shape.settles(kTensor)) settle_range<phase, kTensor>(rule, t, 0, double(t.n), sum);
}

template <class Rule>
FASTUPDATE_DEVICE const Rule& settling_rule(const DeviceSweep& sweep, const Tensor& t) {
  const unsigned char* row = sweep.rows + sweep.step->decision.row * sweep.row_bytes;
  return *reinterpret_cast<const Rule*>(row + sweep.scalars_offset + (t.group * 2 + kFloat64) * kScalarBytes);
}

template <class Rule, int phase>
FASTUPDATE_KERNEL FASTUPDATE_LAUNCH_BOUNDS(kThreads, 2) settle(DeviceSweep sweep) {
  if (sweep.step->decision.skip) return;
  walk(sweep, [&](int64_t, const Tensor& t, int64_t begin, int64_t) {
    if (begin == 0) settle_tensor<phase>(settling_rule<Rule>(sweep, t), t);
    barrier();
  });
}

// One thread block, with the scalars of the first tensor's group.
template <class Rule, int phase>
FASTUPDATE_KERNEL FASTUPDATE_LAUNCH_BOUNDS(kThreads, 2) settle_list(DeviceSweep sweep) {
  if (sweep.step->decision.skip || sweep.count == 0 || block_index() != 0) return;
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
  if constexpr (R<double, flags>::phases[phase].measures) launch(measure<R, flags, phase>, sweep, how, kThreads, 0);
}

template <class Rule, int phase>
void start_settle(const DeviceSweep& sweep, const Start& how) {
  launch(settle<Rule, phase>, sweep, how, kThreads, 0);
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
