// The CPU engine walks ranges of blocks and knows no rule. Compiled once per instruction set.
//
// A plain step on contiguous arrays is the rule's own loop over the whole range. Anything more is done tile by tile
// while the tile is in L1, each stage a loop of its own, so that compiled loops number rules + stages.
#pragma once

#include <array>
#include <type_traits>

#include "core/plan.h"
#include "cpu/columns.h"
#include "cpu/panel_sums.h"
#include "cpu/phases.h"
#include "cpu/strands.h"

namespace fastupdate {

// One sweep over a plan: a step, or a reduction.
struct Sweep {
  const Tensor* tensors;
  int64_t count;
  const Group* groups;
  const RuleCode* code[2];       // by dtype
  const unsigned char* scalars;  // [group][dtype][kScalarBytes]
  double scale;                  // of gradients
  uint32_t stages;
  bool first;              // accumulate: overwrite
  int phase;               // measure, settle: which one of the rule's
  Sums* sums;              // one per block
  uint32_t measuring = 0;  // measure, settle: of which stage, instead
};

// The entry points of one instruction set. Each works on the blocks first … last − 1.
struct Engine {
  using Entry = void (*)(const Sweep&, int64_t first, int64_t last);
  Entry update, gradient_sums, accumulate, clear_gradients, unit_norms, measure, settle;
  // Of one tensor the elements begin … end − 1: from the beginning of a block or chunk of rows to one, or a part.
  using Part = void (*)(const Sweep&, const Tensor&, int64_t begin, int64_t end);
  Part update_part, measure_part;
};

namespace FASTUPDATE_TARGET {

template <class T>
void update_tiles(const Span& span, Window<T>& window, int64_t begin, int64_t end) {
  const bool monitored = span.stages & kMonitor;
  Scratch<T> scratch;
  Lanes<T> lanes;
  if (span.stages & (kMonitor | kChangeStages))
    for (T& x : scratch.nothing) x = -T(0);
  in_stretches<kBlock>(begin, end, [&](int64_t block, int length) {
    if (monitored) lanes.clear();
    in_stretches<kTile>(block, block + length, [&](int64_t i, auto n) {
      window.cover(i, n);
      update_tile(span, i, n, scratch, lanes);
    });
    if (monitored) span.sums[block / kBlock] = fold(lanes);
  });
}

inline const void* scalars_of(const Sweep& sweep, const Tensor& t, int dtype) {
  return sweep.scalars + (t.group * 2 + dtype) * kScalarBytes;
}

inline Span span_of(const Sweep& sweep, const Tensor& t, bool counts_alone = false) {
  return {
      t,
      sweep.groups[t.group],
      *sweep.code[t.dtype],
      scalars_of(sweep, t, t.dtype),
      sweep.scale * t.scale,
      sweep.stages,
      sweep.sums + t.first_block,
      counts_alone,
  };
}

// A plain step: nothing but the rule.
template <class T>
void update_plainly(const Span& span, int64_t begin, int64_t end) {
  const Tensor& t = span.t;
  T numbers[kMaxStates];
  uint64_t state[kMaxStates];
  for (int k = 0; k < span.code.state_count; ++k) {
    state[k] = t.slot[k];
    if (span.code.extents[k] != kElement) numbers[k] = T(*address<double>(t.slot[k]));
  }
  const auto update = [&](int64_t i, int64_t n, const T* g) {
    T* p = address<T>(t.p, i);
    for (int k = 0; k < span.code.state_count; ++k)
      if (span.code.extents[k] != kElement) state[k] = uint64_t(&numbers[k]) - uint64_t(i) * sizeof(T);
    span.code.loop(span.scalars, span.scale, n, g, p, p, p, span.code.extents ? state : t.slot, i);
  };
  if (t.g_dtype == t.dtype) return update(begin, end - begin, address<T>(t.g, begin));
  alignas(64) T g[kBlock];
  in_stretches<kBlock>(begin, end, [&](int64_t i, int n) {
    load_array(t.g_dtype, t.g, i, n, g);
    update(i, n, g);
  });
}

// A step of the rows that a gradient touches, by the rule alone. Memory is waited for, and a processor looks a few
// hundred instructions ahead for what else it can fetch: so a row takes as few of them as can be, beside the rule's
// own. known: arrays, as of RowsAhead.
template <int known, class T>
__attribute__((noinline)) void update_rows_plainly(const Sweep& sweep, const Tensor& t, const ArraysOfRows& arrays,
                                                   int64_t begin, int64_t end) {
  const RowsAhead<known> ahead(t, arrays);
  const void* const scalars = scalars_of(sweep, t, t.dtype);
  const double scale = sweep.scale * t.scale;
  const auto loop = sweep.code[t.dtype]->loop;
  const int64_t length = rows_of(t).length, *const names = integers(rows_of(t).at);
  const auto update = [=, params = t.p, states = t.slot](int64_t i, int64_t n, const T* g) {
    T* const p = address<T>(params, i);
    loop(scalars, scale, n, g, p, p, p, states, i);
  };
  for (int64_t k = begin / length, from = begin % length, left = end - begin; left > 0; ++k, from = 0) {
    ahead.prefetch(k);
    const int64_t row = names[k] * length, stop = length - from < left ? length : from + left;
    if (const T* const g = single_gradient<T>(t, k))
      update(row + from, stop - from, g + from);
    else
      for_each_sum<T>(t, k, from, stop, [&](int64_t column, int n, const T* sum) { update(row + column, n, sum); });
    left -= stop - from;
  }
}

// A step of the rows that a gradient touches: what belongs to others rests. Each row is a run of elements.
template <class T>
void update_rows(const Sweep& sweep, const Tensor& t, bool plain, int64_t begin, int64_t end) {
  const ArraysOfRows arrays(t, rows_of(t).length, sweep.code[t.dtype]->extents);
  if (plain) {
    if (arrays.count() == 2) return update_rows_plainly<2, T>(sweep, t, arrays, begin, end);
    if (arrays.count() == 3) return update_rows_plainly<3, T>(sweep, t, arrays, begin, end);
    return update_rows_plainly<0, T>(sweep, t, arrays, begin, end);
  }
  Tensor here = untouched(t);
  const Span span = span_of(sweep, here);
  const RowsAhead<0> ahead(t, arrays);
  Scratch<T> scratch;
  Lanes<T> lanes;
  for (T& x : scratch.nothing) x = -T(0);
  for_each_run(t, begin, end, rows_of(t).length, [&](int64_t k, int64_t column, int64_t i, int n) {
    if (column == 0) ahead.prefetch(k);
    here.g = uint64_t(row_gradient(t, k, column, n, scratch.g)) - uint64_t(i) * sizeof(T);
    update_tile(span, i, n, scratch, lanes);
  });
}

// A step of anything but contiguous arrays and the rule alone.
template <class T>
__attribute__((noinline)) void update_otherwise(const Sweep& sweep, const Tensor& t, bool plain, int64_t begin,
                                                int64_t end) {
  if (is_lazy(t)) return update_rows<T>(sweep, t, plain, begin, end);
  if ((sweep.stages & kMonitor) && MonitoredStep<T>::serves(t, begin))
    return MonitoredStep<T>::take(span_of(sweep, t, true), begin, end);
  Window<T> window(t, Use::kMove, sweep.stages & kMonitor, sweep.stages & kZeroGrads, begin, end);
  const Span span = span_of(sweep, window.tensor());
  if (!plain || span.t.samples > 1 || t.touched) return update_tiles(span, window, begin, end);
  for (int64_t i = begin; i < end; i = window.stop()) {
    window.cover(i, 1);
    update_plainly<T>(span, i, window.stop());
  }
}

// The way that most tensors go is short: of a small one, it costs as much as the rule does.
template <class T>
void update_span(const Sweep& sweep, const Tensor& t, int64_t begin, int64_t end) {
  const RuleCode& code = *sweep.code[t.dtype];
  const double scale = sweep.scale * t.scale;
  const bool plain = !(sweep.stages || t.slot[kShadow] || t.unit_scale || (code.extents && !code.numbers_alone)) &&
                     Factor<T>(scale).is_single();
  if (!plain || t.p_layout || !is_whole(t)) return update_otherwise<T>(sweep, t, plain, begin, end);
  if (code.extents || t.g_dtype != t.dtype) return update_plainly<T>(span_of(sweep, t), begin, end);
  T* const p = address<T>(t.p, begin);
  code.loop(scalars_of(sweep, t, t.dtype), scale, end - begin, address<T>(t.g, begin), p, p, p, t.slot, begin);
}

// scale·x, where that is another number.
template <class T, class N>
const T* scaled(N n, double scale, const T* x, T* out) {
  if (scale == 1) return x;
  scale_tile(n, scale, x, out);
  return out;
}

// The sums of gradients that are not those of a small tensor, which can be read as it lies.
template <class T>
__attribute__((noinline)) void sum_gradients_otherwise(const Sweep& sweep, const Tensor& t, int64_t begin,
                                                       int64_t end) {
  if (sweep.scale == 1 && Strands<T, false>::serves(t, begin))
    return Strands<T, false>(t, t.g).sum(begin, end, sweep.sums + t.first_block);
  if (sweep.scale == 1 && GradientSums<T>::serves(t))
    return GradientSums<T>::sum(t, begin, end, sweep.sums + t.first_block);
  Scratch<T> scratch;
  Window<T> window(t, Use::kReadGradient, true, false, begin, end);
  const Tensor& there = window.tensor();
  in_stretches<kBlock>(begin, end, [&](int64_t block, int length) {
    GradientLanes lanes;
    lanes.clear();
    in_stretches<kTile>(block, block + length, [&](int64_t i, auto n) {
      window.cover(i, n);
      if (is_whole(t) && !t.order) prefetch_ahead(t.g, item_size(t.g_dtype), i, end);
      sum_gradient(n, scaled(n, sweep.scale, gradient_tile(there, i, n, scratch), scratch.conditioned), lanes);
    });
    sweep.sums[t.first_block + block / kBlock] = fold(lanes);
  });
}

template <class T>
void gradient_sums_span(const Sweep& sweep, const Tensor& t, int64_t begin, int64_t end) {
  if (end > kTile || !is_direct(t) || t.order || sweep.scale != 1)
    return sum_gradients_otherwise<T>(sweep, t, begin, end);
  GradientLanes lanes;
  lanes.clear();
  sum_gradient(int(end), address<T>(t.g), lanes);
  sweep.sums[t.first_block] = fold(lanes);
}

template <class T>
void accumulate_span(const Sweep& sweep, const Tensor& t, int64_t begin, int64_t end) {
  Scratch<T> scratch;
  Window<T> window(t, Use::kReadGradient, false, sweep.stages & kZeroGrads, begin, end);
  const Tensor& there = window.tensor();
  const T scale = T(t.scale);
  in_stretches<kTile>(begin, end, [&](int64_t i, auto n) {
    window.cover(i, n);
    const T* g = gradient_tile(there, i, n, scratch);
    T* acc = address<T>(t.slot[kAccumulator], i);
    if (sweep.first) {
#pragma omp simd
      for (int k = 0; k < n; ++k) acc[k] = g[k] * scale;
    } else {
#pragma omp simd
      for (int k = 0; k < n; ++k) acc[k] = acc[k] + g[k] * scale;
    }
    if (sweep.stages & kZeroGrads) clear_gradient(there, i, n);
  });
}

template <class T>
void clear_gradients_span(const Sweep&, const Tensor& t, int64_t begin, int64_t end) {
  if (!t.g_layout) return clear_gradient(t, begin, end - begin);
  const Layout& layout = *reinterpret_cast<const Layout*>(t.g_layout);
  for (int64_t k = 0; k < t.samples; ++k)
    clear_stretch(item_size(t.g_dtype), t.g + uint64_t(k * t.sample_stride), layout, begin, end - begin);
}

// The touched rows that start within a span, of a phase that settles rows alone.
template <class T>
void measure_touched(const Sweep& sweep, const Tensor& t, int64_t begin, int64_t end) {
  const Rows& touched = rows_of(t);
  Tensor here = untouched(t);
  const Span span = span_of(sweep, here);
  const PhaseCode& phase = phase_of<T>(span.code, sweep.phase, sweep.measuring);
  Window<T> window(here, Use::kRead, false, false, 0, INT64_MAX);
  const int count = phase.shape.terms;
  const int64_t length = touched.length, first = (begin + length - 1) / length, last = (end + length - 1) / length;
  double* out = parts_of(t, count) + first * (length / t.columns) * count;
  double terms[kMaxTerms][kTile];
  Scratch<T> scratch;
  StretchSum sums[kMaxTerms];
  for (int k = 0; k < count; ++k) sums[k].start(phase.shape.joined(k));
  for_each_run(t, first * length, last * length, t.columns, [&](int64_t k, int64_t column, int64_t i, int n) {
    here.g = uint64_t(row_gradient(t, k, column, n, scratch.g)) - uint64_t(i) * sizeof(T);
    measure_tile(span, window, phase, i, n, scratch, terms);
    for (int term = 0; term < count; ++term) sums[term].add(terms[term], n);
    if ((i + n) % t.columns == 0)
      for (int term = 0; term < count; ++term) *out++ = sums[term].finish();
  });
}

// last: the end of what is read, for a chunk of rows may reach beyond a span. rows: how a phase goes by rows.
template <class T, class ByRows>
void measure_up_to(int64_t last, ByRows rows, const Sweep& sweep, const Tensor& t, int64_t begin, int64_t end) {
  Window<T> window(t, Use::kRead, false, false, begin, last);
  const Span span = span_of(sweep, window.tensor());
  const PhaseCode& phase = phase_of<T>(span.code, sweep.phase, sweep.measuring);
  if (!phase.stage || t.slot[phase.slot])
    (phase.shape.by_rows() ? rows : measure_blocks<T>)(span, window, phase, begin, end);
}

template <class T>
void measure_span(const Sweep& sweep, const Tensor& t, int64_t begin, int64_t end) {
  if (is_lazy(t)) return measure_touched<T>(sweep, t, begin, end);
  measure_up_to<T>(t.n, measure_rows<T>, sweep, t, begin, end);
}

// Of a phase that goes by rows, the part is one of whole rows.
template <class T>
void measure_part_span(const Sweep& sweep, const Tensor& t, int64_t begin, int64_t end) {
  measure_up_to<T>(end, measure_part_of_rows<T>, sweep, t, begin, end);
}

// A tensor is settled as a whole, by whoever has its beginning.
template <class T>
void settle_span(const Sweep& sweep, const Tensor& t, int64_t begin, int64_t end) {
  if (begin != 0 || !end) return;
  const PhaseCode& phase = phase_of<double>(*sweep.code[kFloat64], sweep.phase, sweep.measuring);
  if (is_lazy(t))
    settle_touched(t, phase, scalars_of(sweep, t, kFloat64));
  else if (!phase.stage)
    settle_tensor(t, phase, scalars_of(sweep, t, kFloat64));
  else if (t.slot[phase.slot])
    settle_tensor(t, phase, &sweep.groups[t.group].numbers);
}

// Norms of gradient and weight of every unit that starts in the span; a unit sums in blocks of its own.
template <class T>
void unit_norms_span(const Sweep& sweep, const Tensor& t, int64_t begin, int64_t end) {
  if (!t.unit_norms) return;
  Scratch<T> scratch;
  const int64_t length = t.unit_length, first = (begin + length - 1) / length, last = (end + length - 1) / length;
  double* norms = address<double>(t.unit_norms);
  if (sweep.scale == 1 && Strands<T, true>::serves(t, begin)) {
    Strands<T, true>(t, t.g).norms(first * length, last * length, norms);
    return Strands<T, true>(t, t.p).norms(first * length, last * length, norms + 1);
  }
  if (sweep.scale == 1 && UnitNorms<T>::serves(t)) {
    UnitNorms<T>::norms(t, t.g, first * length, last * length, norms);
    return UnitNorms<T>::norms(t, t.p, first * length, last * length, norms + 1);
  }
  Window<T> window(t, Use::kRead, true, false, first * length, last * length);
  const Tensor& there = window.tensor();
  for (int64_t unit = first; unit < last; ++unit) {
    Pairwise<double> gg, pp;
    in_stretches<kBlock>(unit * length, (unit + 1) * length, [&](int64_t block, int size) {
      double gradient[kLanes] = {}, weight[kLanes] = {};
      in_stretches<kTile>(block, block + size, [&](int64_t i, auto n) {
        window.cover(i, n);
        if (is_whole(t) && !t.order) prefetch_ahead(t.g, item_size(t.g_dtype), i, end);
        if (!t.order && !t.p_layout) prefetch_ahead(t.p, sizeof(T), i, end);
        const T* g = gradient_tile(there, i, n, scratch);
        sum_squares(n, scaled(n, sweep.scale, g, scratch.conditioned), gradient);
        sum_squares(n, scaled(n, sweep.scale, address<T>(there.p, i), scratch.conditioned), weight);
      });
      gg.add(fold_lanes(gradient));
      pp.add(fold_lanes(weight));
    });
    norms[2 * unit] = square_root(gg.total());
    norms[2 * unit + 1] = square_root(pp.total());
  }
}

// Starts fetching the beginnings of a tensor's arrays that do not lie just behind those of the tensor before it, where
// processors look by themselves. Inlined, for compilers drop calls of functions that do nothing else.
template <size_t count>
FASTUPDATE_HD void prefetch_heads(const Tensor& t, const std::array<uint64_t, count>& arrays,
                                  const std::array<uint64_t, count>& before) {
  constexpr int64_t kReach = 256;
  constexpr uint64_t kBehind = 4096;
  for (size_t i = 0; i < count; ++i) {
    if (arrays[i] - before[i] <= kBehind) continue;  // as where there are none
    const int64_t bytes = t.n * item_size(t), reach = bytes < kReach ? bytes : kReach;
    fetch<0>(arrays[i], reach);
    __builtin_prefetch(address<char>(arrays[i], reach - 1));  // on one line more, if the first is not whole
  }
}

// Calls span(tensor, begin, end) for each tensor that has elements in the blocks first … last − 1, and some tensors
// ahead of it prefetch(tensor, the one before), for a list of small tensors is scattered all over memory.
template <class Prefetch, class Visit>
void walk(const Sweep& sweep, const Access& access, int64_t first, int64_t last, Prefetch prefetch, Visit span) {
  constexpr int64_t kAhead = 8;  // tensors
  const auto end_of = [&](int64_t i) { return sweep.tensors[i].first_block + block_count(sweep.tensors[i]); };
  int64_t low = 0, high = sweep.count;
  while (low < high) {  // the first tensor that ends after block `first`
    int64_t middle = (low + high) / 2;
    if (end_of(middle) > first)
      high = middle;
    else
      low = middle + 1;
  }
  for (int64_t count = 1; low < sweep.count && sweep.tensors[low].first_block < last; low += count) {
    const Tensor& t = sweep.tensors[low];
    if (low + kAhead < sweep.count) prefetch(sweep.tensors[low + kAhead], sweep.tensors[low + kAhead - 1]);
    count = t.first_block >= first ? columns_beside(&t, sweep.count - low) : 1;
    while (count > 1 && end_of(low + count - 1) > last) --count;
    if (count > 1 && walk_columns(&t, count, access, sweep.stages & kZeroGrads, span)) continue;
    count = 1;
    int64_t begin = first > t.first_block ? (first - t.first_block) * kBlock : 0;
    int64_t end = (last - t.first_block) * kBlock;
    if (t.n > 0) span(t, begin, end < t.n ? end : t.n);
  }
}

}  // namespace FASTUPDATE_TARGET
}  // namespace fastupdate
