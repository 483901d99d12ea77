// One tile of a step: the gradient that the rule gets, the rule, and every stage around it, each a loop of its own
// while the tile is in L1. Knows no rule, no thread and no range.
#pragma once

#include <stddef.h>

#include "core/extents.h"
#include "core/sums.h"
#include "cpu/rows.h"
#include "cpu/window.h"

namespace fastupdate {

// One phase of a compiled rule, or what a stage measures.
struct PhaseCode {
  // Moves the states of elements; terms[k][i] is what element i adds to the k-th sum. Null if the phase only settles.
  void (*measure)(const void* scalars, double scale, int64_t n, const void* g, const void* p, const uint64_t* state,
                  int64_t begin, double (*terms)[kTile]);
  PhaseShape shape;
  // How ranges are settled, by extent, which is done in float64: so many ranges of n elements, whose sums are
  // sums[range][term].
  using Settle = void (*)(const void* scalars, int64_t ranges, double n, const double* sums, const uint64_t* state);
  Settle settle[kExtents] = {};
  unsigned uses = kAllStates;  // those that `measure` looks at: state k is bit k

  // Of a stage: its bit, its array, and what n elements add to its sums; its settle has the numbers of the group for
  // scalars. Of a rule: none.
  uint32_t stage = 0;
  int slot = 0;
  void (*measure_stage)(const StageNumbers& numbers, int64_t n, const void* g, const void* p, const void* change,
                        double (*terms)[kTile]) = nullptr;
};

// A compiled rule for one compute type (rule_loop.h makes it).
struct RuleCode {
  void (*scalars)(const double* hyper, int64_t t, void* out) = nullptr;
  // out[i] = base[i] + rule(scale·g[i], p[i], states[i]…)
  void (*loop)(const void* scalars, double scale, int64_t n, const void* g, const void* p, const void* base, void* out,
               const uint64_t* state, int64_t begin) = nullptr;

  unsigned uses = kAllStates;  // those that the loop looks at

  // Of a rule whose step depends on sums: its phases, and what its states are of.
  const PhaseCode* phases = nullptr;
  int64_t phase_count = 0, state_count = 0;
  const Extent* extents = nullptr;
  bool reads_once = false;     // a loop reads one number of what is the same for a whole tensor, and not one an element
  bool numbers_alone = false;  // and whatever is not of an element is of that kind
};

namespace FASTUPDATE_TARGET {

constexpr int64_t kPrefetch = 2 * kBlock;  // elements ahead: one or two arrays alone are fetched too late
static_assert(kBlock % kTile == 0 && kTile % kLanes == 0);

template <class T>
struct Scratch {
  alignas(64) T p[kTile], g[kTile], sample[kTile], conditioned[kTile], before[kTile], delta[kTile], nothing[kTile];
  alignas(64) T spread[kMaxStates][kTile];
  uint64_t state[kMaxStates];
};

template <class T>
T* address(uint64_t array, int64_t i = 0) {
  return reinterpret_cast<T*>(array + uint64_t(i) * sizeof(T));
}

// Calls visit(i, n) for stretches of `length` elements, a constant, and for the rest.
template <int64_t length, class Visit>
FASTUPDATE_HD void in_stretches(int64_t begin, int64_t end, Visit visit) {
  int64_t i = begin;
  for (; i + length <= end; i += length) visit(i, std::integral_constant<int, length>());
  if (i < end) visit(i, int(end - i));
}

// Starts fetching a tile of a contiguous array that will be read up to `end`; the loop is at `begin`.
FASTUPDATE_HD void prefetch_ahead(uint64_t array, int64_t bytes, int64_t begin, int64_t end) {
  if (begin + kPrefetch < end) fetch<0>(array + uint64_t((begin + kPrefetch) * bytes), kTile * bytes);
}

// A gradient of a narrow type, or of few rows, or the sum of its samples in order.
template <class T>
const T* gathered_tile(const Tensor& t, int64_t begin, int n, Scratch<T>& scratch) {
  if (t.touched) {
    load_rows(t, begin, n, scratch.g);
    return scratch.g;
  }
  load_array(t.g_dtype, t.g, begin, n, scratch.g);
  for (int64_t k = 1; k < t.samples; ++k) {
    load_array(t.g_dtype, t.g + uint64_t(k * t.sample_stride), begin, n, scratch.sample);
    for (int i = 0; i < n; ++i) scratch.g[i] += scratch.sample[i];
  }
  return scratch.g;
}

// The raw gradient of one tile.
template <class T>
FASTUPDATE_HD const T* gradient_tile(const Tensor& t, int64_t begin, int n, Scratch<T>& scratch) {
  return is_direct(t) ? address<T>(t.g, begin) : gathered_tile(t, begin, n, scratch);
}

// Below, N is an int or, for a whole tile, a constant: its loops need no code for a rest.

// From unit to unit in the order in which elements are worked on; after the last one comes the first again. In memory
// the first axis, of the units, may not be the slowest.
inline int64_t unit_pitch(const Tensor& t) {
  if (!t.order) return t.unit_length;
  const Layout& order = *reinterpret_cast<const Layout*>(t.order);
  return order.shape[0] / (t.n / t.unit_length) * (order.stride[0] / item_size(t));
}

// The factor of the unit that a tile lies in; null where it lies in several, or where units are not clipped.
inline const double* unit_factor(const Tensor& t, int64_t begin, int n) {
  if (!t.unit_scale) return nullptr;
  const int64_t pitch = unit_pitch(t), stretch = begin / pitch;
  if (begin + n > (stretch + 1) * pitch) return nullptr;
  return address<double>(t.unit_scale, stretch % (t.n / t.unit_length));
}

template <class T, class N>
void scale_tile(N n, double scale, const T* g, T* out) {
  const Factor<T> factor(scale);
#pragma omp simd
  for (int i = 0; i < n; ++i) out[i] = g[i] * factor.first;
  if (factor.is_single()) return;
#pragma omp simd
  for (int i = 0; i < n; ++i) out[i] = out[i] * factor.second;
}

// scale·g, times the factor of each element's unit.
template <class T>
void scale_units(const Tensor& t, double scale, int64_t begin, int n, const T* g, T* out) {
  const int64_t units = t.n / t.unit_length, pitch = unit_pitch(t);
  const double* const factors = address<double>(t.unit_scale);
  for (int i = 0; i < n;) {
    const int64_t stretch = (begin + i) / pitch, unit = stretch % units;
    const int64_t end = (pitch == 1 ? stretch - unit + units : (stretch + 1) * pitch) - begin;
    const int first = i, stop = end < n ? int(end) : n;
    if (pitch > 1)
      scale_tile(stop - i, scale * factors[unit], g + i, out + i);
    else  // neighbours are of different units
#pragma omp simd
      for (int k = 0; k < stop - first; ++k) out[first + k] = Factor<T>(scale * factors[unit + k])(g[first + k]);
    i = stop;
  }
}

// Numbers of columns, over the elements of a tile: those of a matrix again and again, row by row.
template <class T>
void spread_columns(const Tensor& t, const double* values, int64_t begin, int n, T* out) {
  int64_t row = begin / t.columns, column = begin % t.columns;
  values += row / t.rows * t.columns;
  row %= t.rows;
  for (int i = 0; i < n; column = 0) {
    const int64_t rest = t.columns - column;
    const int count = rest < n - i ? int(rest) : n - i;
#pragma omp simd
    for (int k = 0; k < count; ++k) out[i + k] = T(values[column + k]);
    i += count;
    if (++row < t.rows) continue;
    row = 0, values += t.columns;
  }
}

// A state of another extent than an element, spread over the elements of a tile.
template <class T>
void spread_state(const Tensor& t, Extent extent, uint64_t state, int64_t begin, int n, T* out) {
  const double* values = address<double>(state);
  if (extent == kColumn && t.columns == 1) extent = kMatrix;  // which has the one column
  if (extent == kColumn) return spread_columns(t, values, begin, n, out);
  const int64_t length = range_length(t, extent), range = begin / length;
  int64_t rest = length - begin % length;
  values += range;
  if (length == 1)
#pragma omp simd
    for (int i = 0; i < n; ++i) out[i] = T(values[i]);
  else
    for (int i = 0; i < n; ++values, rest = length) {
      const T value = T(*values);
      for (const int stop = rest < n - i ? i + int(rest) : n; i < stop; ++i) out[i] = value;
    }
}

// Lets one stage work on what it changes, x, which may be g, p or the change of p; `keep`: and on its array. One whose
// array is not of elements leaves tensors alone that have none.
template <class Stage, bool keep, class T, class N>
FASTUPDATE_HD void run_stage(const Tensor& t, const Group& group, int64_t begin, N n, const T* g, const T* p, T* x) {
  constexpr bool has_array = Stage::array >= 0 && Stage::extent == kElement;
  const Stage stage(group.numbers);
  T spread[Stage::extent == kElement ? 1 : kTile];
  if constexpr (Stage::extent != kElement) {
    const uint64_t numbers = t.slot[kFirstArray + Stage::array];
    if (!numbers) return;
    spread_state(t, Stage::extent, numbers, begin, n, spread);
  }
  T* const array = has_array                   ? address<T>(t.slot[kFirstArray + Stage::array], begin)
                   : Stage::extent == kElement ? x
                                               : spread;
#pragma omp simd
  for (int i = 0; i < n; ++i) {
    T own = array[i];
    const T result = stage(g[i], p[i], x[i], own);
    if constexpr (has_array && keep) array[i] = Stage::place == kCopy ? result : own;
    if constexpr (Stage::place != kCopy) x[i] = result;
  }
}

// The stages of a place that work in this step.
template <Place place, bool keep = true, class T, class N>
void run_stages(const Tensor& t, const Group& group, uint32_t stages, int64_t begin, N n, const T* g, const T* p,
                T* x) {
#define ROW(Stage)                        \
  if constexpr (Stage<T>::place == place) \
    if (stages & Stage<T>::bit) run_stage<Stage<T>, keep>(t, group, begin, n, g, p, x);
  FASTUPDATE_STAGES(ROW)
#undef ROW
}

// What follows the change of p, which p has gone through.
template <class T, class N>
void after_rule(const Tensor& t, const Group& group, uint32_t stages, int64_t begin, N n, const T* g, T* p) {
  run_stages<kAfter>(t, group, stages, begin, n, g, p, p);
  run_stages<kCopy>(t, group, stages, begin, n, g, p, p);
  if (t.slot[kShadow])
    with_codec(t.shadow_dtype, [=](auto codec) {
      auto* shadow = address<typename decltype(codec)::Bits>(t.slot[kShadow], begin);
#pragma omp simd
      for (int i = 0; i < n; ++i) shadow[i] = codec.encode(float(p[i]));
    });
}

// p ← p + delta, counting the elements that a non-zero delta leaves where they were; `last`: nothing else moves p.
// raw: the gradient
template <bool last, class T, class N>
void apply_update(N n, T* p, const T* delta, const T* raw, Lanes<T>& lanes) {
  by_lanes(n, [&](int j, int i) {
    const T before = p[i], after = before + delta[i];
    lanes.stalled[j] += (after == before) & (delta[i] != 0);
    if constexpr (last) note_update(before, after, raw[i], j, lanes);
    p[i] = after;
  });
}

template <class N>
void clear_gradient(const Tensor& t, int64_t begin, N n) {
  const int64_t size = item_size(t.g_dtype);
  for (int64_t k = 0; k < t.samples; ++k)  // which may be misaligned
    __builtin_memset(address<char>(t.g, k * t.sample_stride + begin * size), 0, size_t(n * size));
}

// What the tiles of a span share.
struct Span {
  const Tensor& t;
  const Group& group;
  const RuleCode& code;
  const void* scalars;
  double scale;  // of the gradient
  uint32_t stages;
  Sums* sums;                 // one per block of the tensor
  bool counts_alone = false;  // of what is monitored, a tile takes in only what is the same in any order

  Span of(const Tensor& other) const { return {other, group, code, scalars, scale, stages, sums, counts_alone}; }
};

// Of the raw gradient and, if the rule keeps one, the momentum of the steps before: with this gradient in it, it would
// agree with any gradient.
template <class T, class N>
void watch_gradient(N n, const T* raw, const T* momentum, Lanes<T>& lanes) {
  if (momentum)
    sum_gradient_and_momentum(n, raw, momentum, lanes);
  else
    sum_gradient_and_zeros(n, raw, lanes);
}

// The gradient that the rule gets, and what it is still to be multiplied by; `keep`: stages keep what they note of it.
template <bool keep = true, class T, class N>
const T* conditioned_tile(const Span& span, int64_t begin, N n, const T* raw, const T* p, T* out, double& scale) {
  const Tensor& t = span.t;
  const double* factor = unit_factor(t, begin, n);
  const bool several_units = t.unit_scale && !factor;
  scale = factor ? span.scale * *factor : span.scale;
  if (!several_units && !(span.stages & (kGradientStages | kChangeStages)) && Factor<T>(scale).is_single()) return raw;
  if (several_units)
    scale_units(t, scale, begin, n, raw, out);
  else
    scale_tile(n, scale, raw, out);
  run_stages<kGradient, keep>(t, span.group, span.stages, begin, n, out, p, out);
  scale = 1;
  return out;
}

// The states of a tile, as the loops of a rule take them, which look at those in `uses`.
template <class T>
const uint64_t* states_of(const Span& span, int64_t begin, int n, unsigned uses, Scratch<T>& scratch) {
  const RuleCode& code = span.code;
  if (!code.extents) return span.t.slot;
  for (int k = 0; k < code.state_count; ++k) {
    scratch.state[k] = span.t.slot[k];
    if (code.extents[k] == kElement || !span.t.slot[k] || !(uses >> k & 1)) continue;
    if (code.reads_once && is_of_all(code.extents[k]))
      scratch.spread[k][0] = T(*address<double>(span.t.slot[k]));
    else
      spread_state(span.t, code.extents[k], span.t.slot[k], begin, n, scratch.spread[k]);
    scratch.state[k] = uint64_t(scratch.spread[k]) - uint64_t(begin) * sizeof(T);
  }
  return scratch.state;
}

// The same, but copies of those that the loops would move.
template <class T>
const uint64_t* copied_states(const Span& span, int64_t begin, int n, Scratch<T>& scratch) {
  const RuleCode& code = span.code;
  const uint64_t* there = states_of(span, begin, n, span.code.uses, scratch);
  for (int k = 0; k < (code.extents ? code.state_count : kMaxStates); ++k) {
    scratch.state[k] = there[k];
    if (!there[k] || (code.extents && code.extents[k] != kElement)) continue;
    __builtin_memcpy(scratch.spread[k], address<T>(there[k], begin), size_t(n) * sizeof(T));
    scratch.state[k] = uint64_t(scratch.spread[k]) - uint64_t(begin) * sizeof(T);
  }
  return scratch.state;
}

template <class T, class N>
void update_tile(const Span& span, int64_t begin, N n, Scratch<T>& scratch, Lanes<T>& lanes) {
  const Tensor& t = span.t;
  const uint32_t stages = span.stages;
  const T* raw = gradient_tile(t, begin, n, scratch);
  T* p = address<T>(t.p, begin);
  const bool moved_by_rule_alone = !(stages & (kBeforeStages | kAfterStages));
  const bool sums = (stages & kMonitor) && !span.counts_alone;
  if (sums) {
    if (!moved_by_rule_alone) __builtin_memcpy(scratch.before, p, size_t(n) * sizeof(T));
    watch_gradient(n, raw, t.momentum < 0 ? nullptr : address<T>(t.slot[t.momentum], begin), lanes);
  }

  double scale;
  const T* g = conditioned_tile(span, begin, n, raw, p, scratch.conditioned, scale);
  run_stages<kBefore>(t, span.group, stages, begin, n, g, p, p);
  const uint64_t* const state = states_of(span, begin, n, span.code.uses, scratch);
  if (stages & (kMonitor | kChangeStages)) {
    // Base −0 keeps the update apart, for −0 + x is x even at x = ±0.
    span.code.loop(span.scalars, scale, n, g, p, scratch.nothing, scratch.delta, state, begin);
    run_stages<kChange>(t, span.group, stages, begin, n, g, p, scratch.delta);
    if (!(stages & kMonitor))
      for (int i = 0; i < n; ++i) p[i] = p[i] + scratch.delta[i];
    else if (sums && moved_by_rule_alone)
      apply_update<true>(n, p, scratch.delta, raw, lanes);
    else
      apply_update<false>(n, p, scratch.delta, raw, lanes);
  } else {
    span.code.loop(span.scalars, scale, n, g, p, p, p, state, begin);
  }
  after_rule(t, span.group, stages, begin, n, g, p);

  if (sums && !moved_by_rule_alone) sum_update(n, scratch.before, p, raw, lanes);
  if (stages & kZeroGrads) clear_gradient(t, begin, n);
}

}  // namespace FASTUPDATE_TARGET
}  // namespace fastupdate
