// The CUDA engine's part of the update: everything around the rule. It knows no rule.
//
// Options are branches that a whole thread block takes alike; one that is off costs a test.
#pragma once

#include "cuda/sums.cuh"

namespace fastupdate::FASTUPDATE_TARGET {

// What an element's unit multiplies the gradient by.
FASTUPDATE_DEVICE_CALL double unit_factor(const Tensor& t, int64_t i) {
  return array_at<const double>(t.unit_scale)[i / t.unit_length];
}

// Lets one stage work on what it changes, x, which may be g, p or the change of p; `keep`: and on its array.
template <class Stage, bool keep, class T, class Access>
FASTUPDATE_DEVICE void run_stage(const Tensor& t, const Group& group, Access access, const Pack<T, Access::width>& g,
                                 const Pack<T, Access::width>& p, Pack<T, Access::width>& x) {
  constexpr bool has_array = Stage::array >= 0;
  const Stage stage(group.numbers);
  Pack<T, Access::width> own = {};
  if constexpr (has_array) own = access.template load<T>(t.slot[kFirstArray + Stage::array]);
  for (int j = 0; j < Access::width; ++j) {
    const T result = stage(g.at[j], p.at[j], x.at[j], own.at[j]);
    (Stage::place == kCopy ? own : x).at[j] = result;
  }
  if constexpr (has_array && keep) access.store(t.slot[kFirstArray + Stage::array], own);
}

// The stages of a place that work in this step. Those that need sums are for host memory alone.
template <Place place, bool keep = true, class T, class Access>
FASTUPDATE_DEVICE void run_stages(const Tensor& t, const Group& group, uint32_t stages, Access access,
                                  const Pack<T, Access::width>& g, const Pack<T, Access::width>& p,
                                  Pack<T, Access::width>& x) {
#define ROW(Stage)                                               \
  if constexpr (Stage<T>::place == place && Stage<T>::sums == 0) \
    if (stages & Stage<T>::bit) run_stage<Stage<T>, keep>(t, group, access, g, p, x);
  FASTUPDATE_STAGES(ROW)
#undef ROW
}

// scale·g, and what stages make of it and of p: what the rule is given. `keep`: they keep what they note of it.
template <bool keep, class T, class Access>
FASTUPDATE_DEVICE void condition(const Tensor& t, const Group& group, uint32_t stages, double scale, Access access,
                                 Pack<T, Access::width>& p, Pack<T, Access::width>& g) {
  for (int j = 0; j < Access::width; ++j)
    g.at[j] = Factor<T>(t.unit_scale ? scale * unit_factor(t, access.i + j) : scale)(g.at[j]);
  run_stages<kGradient, keep>(t, group, stages, access, g, p, g);
  run_stages<kBefore, keep>(t, group, stages, access, g, p, p);
}

// What follows the change of p, which p has gone through.
template <class T, class Access>
FASTUPDATE_DEVICE void after_rule(const Tensor& t, const Group& group, uint32_t stages, Access access,
                                  const Pack<T, Access::width>& g, Pack<T, Access::width>& p) {
  constexpr int width = Access::width;
  run_stages<kAfter>(t, group, stages, access, g, p, p);
  run_stages<kCopy>(t, group, stages, access, g, p, p);
  if (t.slot[kShadow])
    with_codec(t.shadow_dtype, [&](auto codec) {
      Pack<typename decltype(codec)::Bits, width> shadow;
      for (int j = 0; j < width; ++j) shadow.at[j] = codec.encode(float(p.at[j]));
      access.store(t.slot[kShadow], shadow);
    });
}

// Whether all arrays of a tensor can be accessed 16 bytes at a time, `head` elements into a block.
template <class T>
FASTUPDATE_DEVICE bool takes_vectors(const Tensor& t, int head) {
  bool all = !t.p_layout && gradient_reaches<T>(t, head) && reaches<T>(t.p, head);
  with_codec(t.shadow_dtype,
             [&](auto codec) { all &= reaches<typename decltype(codec)::Bits>(t.slot[kShadow], head); });
  for (int k = 0; k < kSlots; ++k) all &= !is_moved(k) || reaches<T>(t.slot[k], head);
  return all;
}

// A step that is skipped leaves nothing in gradients that it was asked to zero: NaN there would stay for good.
FASTUPDATE_DEVICE_CALL void clear_gradients(const DeviceSweep& sweep, uint32_t stages) {
  if (!(stages & kZeroGrads)) return;
  walk(sweep, [&](int64_t, const Tensor& t, int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block)
      visit_block<Anywhere>(t.n, block, false, 0, [&](auto access) {
        t.dtype == kFloat32 ? access.template clear_gradient<float>(t) : access.template clear_gradient<double>(t);
      });
  });
}

// What one step of one tensor has in common.
template <class Rule>
struct Job {
  const Tensor& t;
  const Group& group;
  Rule rule;
  double scale;
  uint32_t stages;
};

template <class Rule, class T>
FASTUPDATE_DEVICE Job<Rule> job_of(const DeviceSweep& sweep, int64_t index, const Tensor& t) {
  const Decision& decision = sweep.step->decision;
  const unsigned char* row = sweep.rows + decision.row * sweep.row_bytes;
  const unsigned char* scalars = row + sweep.scalars_offset + (t.group * 2 + dtype_of<T>()) * kScalarBytes;
  return {t, reinterpret_cast<const Group*>(row)[t.group], *reinterpret_cast<const Rule*>(scalars),
          decision.scale * (t.scale * sweep.factors[index]), decision.stages};
}

// The values of a block that its sums are made of, in shared memory while a step is monitored.
template <class T>
struct Watched {
  T raw[kBlock], before[kBlock], after[kBlock], momentum[kBlock];
  int stalled[kWarps];
};

template <class T>
FASTUPDATE_DEVICE Watched<T>& watched() {
  return *reinterpret_cast<Watched<T>*>(shared_memory());
}

template <class T, int width>
FASTUPDATE_DEVICE void note(T (&values)[kBlock], int64_t i, const Pack<T, width>& x) {
  for (int j = 0; j < width; ++j) values[i % kBlock + j] = x.at[j];
}

// One of the sums of a monitored block; each warp has one of its own, and the result is lane 0's.
template <class T>
FASTUPDATE_DEVICE double watched_sum(const Watched<T>& x, int n) {
  const int warp = thread_index() / kLanes;
  if (warp == 2 || warp == 5)
    return warp_sum(n, [&](int i) {
      const T u = x.after[i] - x.before[i];
      return double(warp == 2 ? u : x.raw[i]) * double(u);
    });
  const T* a = warp == 1 ? x.after : warp == 4 ? x.momentum : x.raw;
  const T* b = warp == 1 ? x.after : warp == 0 ? x.raw : x.momentum;
  return warp_sum(n, [&](int i) { return double(a[i]) * double(b[i]); });
}

// What a monitored block counts; the results are lane 0's.
template <class T>
FASTUPDATE_DEVICE void count_watched(const Watched<T>& x, int n, Sums& sums) {
  T largest = 0;
  int64_t nonfinite = 0, zeros = 0, stalled = 0;
  for (int i = thread_index() % kLanes; i < n; i += kLanes) {
    largest = maximum(absolute(x.after[i] - x.before[i]), largest);
    nonfinite += !is_finite(x.raw[i]);
    zeros += x.raw[i] == 0;
  }
  for (int k = 0; k < kWarps; ++k) stalled += x.stalled[k];
  largest = fold_lanes(largest, Larger());
  nonfinite = fold_lanes(nonfinite, Add());
  zeros = fold_lanes(zeros, Add());
  if (thread_index() % kLanes == 0)
    sums.largest = double(largest), sums.nonfinite = nonfinite, sums.zeros = zeros, sums.stalled = stalled;
}

template <class T>
FASTUPDATE_DEVICE_CALL void sum_watched(int n, bool has_momentum, int stalled, Sums& sums) {
  Watched<T>& x = watched<T>();
  const int warp = thread_index() / kLanes, lane = thread_index() % kLanes;
  stalled = fold_lanes(stalled, Add());
  if (lane == 0) x.stalled[warp] = stalled;
  barrier();
  if (warp < 6) {
    const bool of_momentum = warp == 3 || warp == 4;
    const double sum = !of_momentum || has_momentum ? watched_sum(x, n) : 0;
    if (lane == 0) (&sums.gg)[warp] = sum;  // gg, pp, uu, gm, mm, gu
  } else if (warp == 6) {
    count_watched(x, n, sums);
  }
  barrier();
}

}  // namespace fastupdate::FASTUPDATE_TARGET
