// The CPU engine walks ranges of blocks and knows no rule. Compiled once per instruction set.
//
// A plain step on contiguous arrays is the rule's own loop over the whole range. Anything more is done tile by tile
// (a tile is a block) while the tile is in L1, each stage a loop of its own, so that compiled loops number rules +
// stages.
#pragma once

#include <initializer_list>
#include <type_traits>

#include "core/plan.h"
#include "core/stages.h"
#include "core/sums.h"
#include "core/views.h"
#include "cpu/logical.h"

namespace fastupdate {

// A compiled rule for one compute type (rule_loop.h makes it).
struct RuleCode {
  void (*scalars)(const double* hyper, int64_t t, void* out);
  // out[i] = base[i] + rule(scale·g[i], p[i], states[i]…)
  void (*loop)(const void* scalars, double scale, int64_t n, const void* g, const void* p, const void* base, void* out,
               const uint64_t* state, int64_t begin);
};

// One sweep over a plan: a step, or a reduction.
struct Sweep {
  const Tensor* tensors;
  int64_t count;
  const Group* groups;
  const RuleCode* code[2];       // by dtype
  const unsigned char* scalars;  // [group][dtype][kScalarBytes]
  double scale;
  uint32_t stages;
  bool first;  // accumulate: overwrite
  Sums* sums;  // one per block
};

// The entry points of one instruction set. Each works on the blocks first … last − 1.
struct Engine {
  using Entry = void (*)(const Sweep&, int64_t first, int64_t last);
  Entry update, gradient_sums, accumulate, clear_gradients, unit_norms;
};

namespace FASTUPDATE_TARGET {

constexpr int64_t kTile = 128;
constexpr int64_t kLine = 64;              // bytes of a cache line
constexpr int64_t kPrefetch = 2 * kBlock;  // elements ahead: one or two arrays alone are fetched too late
static_assert(kBlock % kTile == 0 && kTile % kLanes == 0);

template <class T>
struct Scratch {
  alignas(64) T p[kTile], g[kTile], sample[kTile], conditioned[kTile], before[kTile], delta[kTile], nothing[kTile];
};

template <class T>
T* address(uint64_t array, int64_t i = 0) {
  return reinterpret_cast<T*>(array + uint64_t(i) * sizeof(T));
}

// Starts fetching a tile of a contiguous array that will be read up to `end`; the loop is at `begin`.
template <class T>
FASTUPDATE_HD void prefetch_ahead(uint64_t array, int64_t begin, int64_t end) {
  if (begin + kPrefetch >= end) return;
  for (int64_t k = 0; k < kTile * int64_t(sizeof(T)); k += kLine)
    __builtin_prefetch(reinterpret_cast<char*>(address<T>(array, begin + kPrefetch)) + k);
}

// A gradient that cannot be read where it is: gathered, and the sum of its samples in order.
template <class T>
const T* gathered_tile(const Tensor& t, int64_t begin, int n, Scratch<T>& scratch) {
  read_array(t.g, t.g_layout, begin, n, scratch.g);
  for (int64_t k = 1; k < t.samples; ++k) {
    read_array(t.g + k * t.sample_stride, t.g_layout, begin, n, scratch.sample);
    for (int i = 0; i < n; ++i) scratch.g[i] += scratch.sample[i];
  }
  return scratch.g;
}

// The raw gradient of one tile.
template <class T>
FASTUPDATE_HD const T* gradient_tile(const Tensor& t, int64_t begin, int n, Scratch<T>& scratch) {
  return is_direct(t) ? address<T>(t.g, begin) : gathered_tile(t, begin, n, scratch);
}

// The same in logical order, where the tensor lies in another one.
template <class T>
const T* logical_gradient_tile(const Tensor& t, int64_t begin, int n, Scratch<T>& scratch) {
  if (!t.order) return gradient_tile(t, begin, n, scratch);
  Tensor there = t;
  there.g_layout = t.g_order;
  return gradient_tile(there, begin, n, scratch);
}

// Below, N is an int or, for a whole tile, a constant: its loops need no code for a rest.

// The factor of the unit that a tile lies in; null where it lies in several, or where units are not clipped.
inline const double* unit_factor(const Tensor& t, int64_t begin, int n) {
  if (!t.unit_scale) return nullptr;
  const int64_t unit = begin / t.unit_length;
  return begin + n <= (unit + 1) * t.unit_length ? address<double>(t.unit_scale, unit) : nullptr;
}

// scale·g, times the factor of each element's unit.
template <class T>
void scale_units(const Tensor& t, double scale, int64_t begin, int n, const T* g, T* out) {
  for (int i = 0; i < n;) {
    int64_t unit = (begin + i) / t.unit_length, end = (unit + 1) * t.unit_length - begin;
    T factor = T(scale * address<double>(t.unit_scale)[unit]);
    for (int stop = end < n ? int(end) : n; i < stop; ++i) out[i] = g[i] * factor;
  }
}

template <class T, class N>
void scale_tile(N n, double scale, const T* g, T* out) {
#pragma omp simd
  for (int i = 0; i < n; ++i) out[i] = g[i] * T(scale);
}

template <class T, class N>
void condition_tile(const Group& group, uint32_t stages, N n, T* g, const T* p) {
  if (stages & kClipValue) {
    const T limit = T(group.clip_value);
#pragma omp simd
    for (int i = 0; i < n; ++i) g[i] = clip_value(g[i], limit);
  }
  if (stages & kPenalty) {
    const T l2 = T(group.l2), l1 = T(group.l1);
#pragma omp simd
    for (int i = 0; i < n; ++i) g[i] = penalty(g[i], p[i], l2, l1);
  }
}

template <class T, class N>
void after_rule(const Tensor& t, const Group& group, uint32_t stages, int64_t begin, N n, T* p) {
  if (stages & kShrink) {
    const T threshold = T(group.shrink);
#pragma omp simd
    for (int i = 0; i < n; ++i) p[i] = shrink(p[i], threshold);
  }
  if (stages & kLookahead) {
    T* slow = address<T>(t.slow, begin);
    const T weight = T(group.lookahead);
#pragma omp simd
    for (int i = 0; i < n; ++i) p[i] = slow[i] = approach(slow[i], p[i], weight);
  }
  if (stages & kEma) {
    T* ema = address<T>(t.ema, begin);
    const T weight = T(group.ema);
#pragma omp simd
    for (int i = 0; i < n; ++i) ema[i] = approach(ema[i], p[i], weight);
  }
  if (t.shadow) {
    uint16_t* shadow = address<uint16_t>(t.shadow, begin);
    if (t.shadow_dtype == kFloat16) {
#pragma omp simd
      for (int i = 0; i < n; ++i) shadow[i] = to_float16(float(p[i]));
    } else {
#pragma omp simd
      for (int i = 0; i < n; ++i) shadow[i] = to_bfloat16(float(p[i]));
    }
  }
}

// p ← p + delta, counting the elements that a non-zero delta leaves where they were; `last`: nothing else moves p.
template <bool last, class T, class N>
void apply_update(N n, T* p, const T* delta, Lanes<T>& lanes) {
  by_lanes(n, [&](int j, int i) {
    const T before = p[i], after = before + delta[i];
    lanes.stalled[j] += (after == before) & (delta[i] != 0);
    if constexpr (last) note_update(before, after, j, lanes);
    p[i] = after;
  });
}

template <class T, class N>
void clear_gradient(const Tensor& t, int64_t begin, N n, Scratch<T>& scratch) {
  T* out = is_direct(t) ? address<T>(t.g, begin) : scratch.sample;
#pragma omp simd
  for (int i = 0; i < n; ++i) out[i] = 0;
  if (is_direct(t)) return;
  for (int64_t k = 0; k < t.samples; ++k) write_array(t.g + k * t.sample_stride, t.g_layout, begin, n, scratch.sample);
}

// What the tiles of a span share.
struct Span {
  const Tensor& t;
  const Group& group;
  const RuleCode& code;
  const void* scalars;
  double scale;  // of the gradient
  uint32_t stages;
  Sums* sums;  // one per block of the tensor
};

// Of the raw gradient and, if the rule keeps one, the momentum of the steps before: with this gradient in it, it would
// agree with any gradient.
template <class T, class N>
void watch_gradient(const Tensor& t, int64_t begin, N n, const T* raw, Lanes<T>& lanes) {
  if (t.momentum < 0)
    sum_gradient(n, raw, lanes);
  else
    sum_gradient_and_momentum(n, raw, address<T>(t.state[t.momentum], begin), lanes);
}

// The gradient that the rule gets, and what it is still to be multiplied by.
template <class T, class N>
const T* conditioned_tile(const Span& span, int64_t begin, N n, const T* raw, const T* p, T* out, double& scale) {
  const Tensor& t = span.t;
  const double* factor = unit_factor(t, begin, n);
  const bool several_units = t.unit_scale && !factor;
  scale = factor ? span.scale * *factor : span.scale;
  if (!several_units && !(span.stages & (kClipValue | kPenalty))) return raw;
  if (several_units)
    scale_units(t, scale, begin, n, raw, out);
  else
    scale_tile(n, scale, raw, out);
  condition_tile(span.group, span.stages, n, out, p);
  scale = 1;
  return out;
}

template <class T, class N>
void update_tile(const Span& span, int64_t begin, N n, Scratch<T>& scratch, Lanes<T>& lanes) {
  const Tensor& t = span.t;
  const uint32_t stages = span.stages;
  const T* raw = gradient_tile(t, begin, n, scratch);
  T* p = t.p_layout ? scratch.p : address<T>(t.p, begin);
  if (t.p_layout) read_array(t.p, t.p_layout, begin, n, p);
  const bool moved_by_rule_alone = !(stages & (kDecay | kShrink | kLookahead));
  if (stages & kMonitor) {
    if (!moved_by_rule_alone) __builtin_memcpy(scratch.before, p, size_t(n) * sizeof(T));
    watch_gradient(t, begin, n, raw, lanes);
  }

  double scale;
  const T* g = conditioned_tile(span, begin, n, raw, p, scratch.conditioned, scale);
  if (stages & kDecay) {
    const T decay = T(span.group.decay);
#pragma omp simd
    for (int i = 0; i < n; ++i) p[i] = p[i] * decay;
  }
  if (stages & kMonitor) {
    // Base −0 keeps the update apart, for −0 + x is x even at x = ±0.
    span.code.loop(span.scalars, scale, n, g, p, scratch.nothing, scratch.delta, t.state, begin);
    if (moved_by_rule_alone)
      apply_update<true>(n, p, scratch.delta, lanes);
    else
      apply_update<false>(n, p, scratch.delta, lanes);
  } else {
    span.code.loop(span.scalars, scale, n, g, p, p, p, t.state, begin);
  }
  after_rule(t, span.group, stages, begin, n, p);

  if ((stages & kMonitor) && !moved_by_rule_alone) sum_update(n, scratch.before, p, lanes);
  if (t.p_layout) write_array(t.p, t.p_layout, begin, n, p);
  if (stages & kZeroGrads) clear_gradient(t, begin, n, scratch);
}

// A tile of a tensor that lies in another order, taken in logical order.
template <class T>
void update_logical_tile(const Span& span, int64_t begin, int n, Scratch<T>& scratch, Lanes<T>& lanes) {
  const Tensor& t = span.t;
  T raw[kTile];
  __builtin_memcpy(raw, logical_gradient_tile(t, begin, n, scratch), size_t(n) * sizeof(T));
  LogicalTile<T, kTile> tile(t, begin, n, raw);
  const uint32_t stages = span.stages & ~uint32_t(kZeroGrads);
  update_tile({tile.here, span.group, span.code, span.scalars, span.scale, stages, span.sums}, begin, n, scratch,
              lanes);
  tile.write_back();
  if (!(span.stages & kZeroGrads)) return;
  Tensor there = t;
  there.g_layout = t.g_order;
  clear_gradient(there, begin, n, scratch);
}

// Calls visit(i, n) for stretches of `length` elements, a constant, and for the rest.
template <int64_t length, class Visit>
FASTUPDATE_HD void in_stretches(int64_t begin, int64_t end, Visit visit) {
  int64_t i = begin;
  for (; i + length <= end; i += length) visit(i, std::integral_constant<int, length>());
  if (i < end) visit(i, int(end - i));
}

template <class T>
void update_tiles(const Span& span, int64_t begin, int64_t end) {
  const bool monitored = span.stages & kMonitor, logical = span.t.order && (monitored || span.t.unit_scale);
  Scratch<T> scratch;
  Lanes<T> lanes;
  if (monitored)
    for (T& x : scratch.nothing) x = -T(0);
  in_stretches<kBlock>(begin, end, [&](int64_t block, int length) {
    if (monitored) lanes.clear();
    in_stretches<kTile>(block, block + length, [&](int64_t i, auto n) {
      if (logical)
        update_logical_tile(span, i, n, scratch, lanes);
      else
        update_tile(span, i, n, scratch, lanes);
    });
    if (monitored) span.sums[block / kBlock] = fold(lanes);
  });
}

template <class T>
void update_span(const Sweep& sweep, const Tensor& t, int64_t begin, int64_t end) {
  const Span span = {
      t,
      sweep.groups[t.group],
      *sweep.code[t.dtype],
      sweep.scalars + (t.group * 2 + t.dtype) * kScalarBytes,
      sweep.scale * t.scale,
      sweep.stages,
      sweep.sums + t.first_block,
  };
  if (sweep.stages || t.p_layout || !is_direct(t) || t.shadow || t.unit_scale) return update_tiles<T>(span, begin, end);
  T* p = address<T>(t.p, begin);
  span.code.loop(span.scalars, span.scale, end - begin, address<T>(t.g, begin), p, p, p, t.state, begin);
}

template <class T>
void gradient_sums_span(const Sweep& sweep, const Tensor& t, int64_t begin, int64_t end) {
  Scratch<T> scratch;
  in_stretches<kBlock>(begin, end, [&](int64_t block, int length) {
    GradientLanes lanes;
    lanes.clear();
    in_stretches<kTile>(block, block + length, [&](int64_t i, auto n) {
      if (is_direct(t) && !t.order) prefetch_ahead<T>(t.g, i, end);
      sum_gradient(n, logical_gradient_tile(t, i, n, scratch), lanes);
    });
    sweep.sums[t.first_block + block / kBlock] = fold(lanes);
  });
}

template <class T>
void accumulate_span(const Sweep& sweep, const Tensor& t, int64_t begin, int64_t end) {
  Scratch<T> scratch;
  const T scale = T(t.scale);
  in_stretches<kTile>(begin, end, [&](int64_t i, auto n) {
    const T* g = gradient_tile(t, i, n, scratch);
    T* acc = address<T>(t.acc, i);
    if (sweep.first) {
#pragma omp simd
      for (int k = 0; k < n; ++k) acc[k] = g[k] * scale;
    } else {
#pragma omp simd
      for (int k = 0; k < n; ++k) acc[k] = acc[k] + g[k] * scale;
    }
    if (sweep.stages & kZeroGrads) clear_gradient(t, i, n, scratch);
  });
}

template <class T>
void clear_gradients_span(const Sweep&, const Tensor& t, int64_t begin, int64_t end) {
  Scratch<T> scratch;
  in_stretches<kTile>(begin, end, [&](int64_t i, auto n) { clear_gradient(t, i, n, scratch); });
}

// Norms of gradient and weight of every unit that starts in the span; a unit sums in blocks of its own.
template <class T>
void unit_norms_span(const Sweep&, const Tensor& t, int64_t begin, int64_t end) {
  if (!t.unit_norms) return;
  Scratch<T> scratch;
  const int64_t length = t.unit_length, last = (end + length - 1) / length;
  double* norms = address<double>(t.unit_norms);
  for (int64_t unit = (begin + length - 1) / length; unit < last; ++unit) {
    Pairwise<double> gg, pp;
    in_stretches<kBlock>(unit * length, (unit + 1) * length, [&](int64_t block, int size) {
      double gradient[kLanes] = {}, weight[kLanes] = {};
      in_stretches<kTile>(block, block + size, [&](int64_t i, auto n) {
        const uint64_t layout = t.order ? t.order : t.p_layout;
        if (is_direct(t) && !t.order) prefetch_ahead<T>(t.g, i, end);
        if (!layout) prefetch_ahead<T>(t.p, i, end);
        sum_squares(n, logical_gradient_tile(t, i, n, scratch), gradient);
        if (layout) read_array(t.p, layout, i, n, scratch.p);
        sum_squares(n, layout ? scratch.p : address<T>(t.p, i), weight);
      });
      gg.add(fold_lanes(gradient));
      pp.add(fold_lanes(weight));
    });
    norms[2 * unit] = square_root(gg.total());
    norms[2 * unit + 1] = square_root(pp.total());
  }
}

// Starts fetching the beginnings of a tensor's arrays.
inline void prefetch_heads(const Tensor& t, std::initializer_list<uint64_t> arrays) {
  constexpr int64_t kReach = 256;
  const int64_t bytes = t.n * item_size(t), reach = bytes < kReach ? bytes : kReach;
  for (const uint64_t array : arrays)
    if (array && reach) {
      for (int64_t k = 0; k < reach; k += kLine) __builtin_prefetch(address<char>(array, k));
      __builtin_prefetch(address<char>(array, reach - 1));  // on one line more, if the first is not whole
    }
}

// Calls span(tensor, begin, end) for each tensor that has elements in the blocks first … last − 1, and some tensors
// ahead of it prefetch(tensor), for a list of small tensors is scattered all over memory.
template <class Prefetch, class Visit>
void walk(const Sweep& sweep, int64_t first, int64_t last, Prefetch prefetch, Visit span) {
  constexpr int64_t kAhead = 8;  // tensors
  int64_t low = 0, high = sweep.count;
  while (low < high) {  // the first tensor that ends after block `first`
    int64_t middle = (low + high) / 2;
    const Tensor& t = sweep.tensors[middle];
    if (t.first_block + block_count(t) > first)
      high = middle;
    else
      low = middle + 1;
  }
  for (; low < sweep.count && sweep.tensors[low].first_block < last; ++low) {
    const Tensor& t = sweep.tensors[low];
    if (low + kAhead < sweep.count) prefetch(sweep.tensors[low + kAhead]);
    int64_t begin = first > t.first_block ? (first - t.first_block) * kBlock : 0;
    int64_t end = (last - t.first_block) * kBlock;
    span(t, begin, end < t.n ? end : t.n);
  }
}

}  // namespace FASTUPDATE_TARGET
}  // namespace fastupdate
