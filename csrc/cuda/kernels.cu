// The kernels that know no rule, and the list of rules.
#include "cuda/engine.cuh"

namespace fastupdate::FASTUPDATE_TARGET {

// Folds one number of the sums of blocks, `step` blocks apart, into that of a tensor.
template <class V, class Op>
FASTUPDATE_DEVICE void fold_number(const DeviceSweep& sweep, int64_t index, int64_t number, int64_t step, Op op) {
  const Tensor& t = sweep.tensors[index];
  V* const a = reinterpret_cast<V*>(sweep.sums + t.first_block) + number;
  fold(a, (block_count(t) + step - 1) / step, step * kPitch, op);
  if (thread_index() == 0) reinterpret_cast<V*>(sweep.totals + index)[number] = load_coherent(a);
  barrier();
}

// A record of sums is of numbers of eight bytes: these are where others than sums begin.
constexpr int64_t kLargest = offsetof(Sums, largest) / sizeof(double);
constexpr int64_t kCounts = offsetof(Sums, nonfinite) / sizeof(double);

// ---- reading the gradients: norms, and what follows from them -------------------------------------------------------

// A number in units of kLarge, or as it is.
template <bool large, class T>
FASTUPDATE_DEVICE double in_units(T x) {
  return large ? double(x) / kLarge : double(x);
}

template <bool large, class T>
FASTUPDATE_DEVICE void sum_gradient_block(const Tensor& t, int64_t block, double* gg, int64_t* nonfinite) {
  const int64_t begin = block * kBlock;
  const int n = elements_from(begin, t.n);
  int64_t count = 0;
  const auto square = [&](T x) {
    count += !is_finite(x);
    const double g = in_units<large>(x);
    return g * g;
  };
  const T* direct = array_at<const T>(t.g) + begin;
  const bool plain = is_direct(t);
  const double sum = plain ? warp_sum(n, [&](int i) { return square(direct[i]); })
                           : warp_sum(n, [&](int i) { return square(gradient_element<T>(t, begin + i)); });
  count = fold_lanes(count, Add());
  if (thread_index() % kLanes == 0) *gg = sum, *nonfinite = count;
}

// Sums a segment, one block to a warp at a time, into the record of its first block.
template <bool large>
FASTUPDATE_DEVICE void sum_segment(const DeviceSweep& sweep, const Tensor& t, int64_t first) {
  double* gg = reinterpret_cast<double*>(shared_memory());
  int64_t* nonfinite = reinterpret_cast<int64_t*>(gg + kMaxSegment);
  const int64_t rest = block_count(t) - first, n = rest < sweep.segment ? rest : sweep.segment;
  for (int64_t k = thread_index() / kLanes; k < n; k += kWarps)
    if (t.dtype == kFloat32)
      sum_gradient_block<large, float>(t, first + k, &gg[k], &nonfinite[k]);
    else
      sum_gradient_block<large, double>(t, first + k, &gg[k], &nonfinite[k]);
  barrier();
  for (int64_t stride = 1; stride < n; stride *= 2) {
    const int64_t k = thread_index() * 2 * stride;
    if (k + stride < n) gg[k] += gg[k + stride], nonfinite[k] += nonfinite[k + stride];
    barrier();
  }
  if (thread_index() == 0) {
    Sums& sums = sweep.sums[t.first_block + first];
    sums.gg = gg[0];
    sums.nonfinite = nonfinite[0];
  }
  barrier();
}

// Whether the calling thread block, having done `part` of `whole`, is the last to do so: then it sees what all have
// written. The counter is left at zero for the next launch.
FASTUPDATE_DEVICE bool completes(uint32_t* counter, uint32_t part, int64_t whole) {
  uint32_t* answer = reinterpret_cast<uint32_t*>(shared_memory());
  if (thread_index() == 0) {
    fence();
    *answer = atomic_add(counter, part) + part == uint32_t(whole);
    if (*answer) *counter = 0;
    fence();
  }
  barrier();
  const bool last = *answer;
  barrier();
  return last;
}

// What clipping its own norm multiplies a tensor by; scale: of the norm.
FASTUPDATE_DEVICE double tensor_factor(const Command& command, double gg, double scale, double unit) {
  if (command.clip_tensor_norm == 0) return 1;
  return clip_factor(command.clip_tensor_norm, square_root(gg) * scale * command.scale, unit);
}

// Sums again, in units of kLarge, gradients that are finite and whose squares are not: one thread block does it all,
// for it is rare.
FASTUPDATE_DEVICE void sum_large(const DeviceSweep& sweep) {
  for (int64_t i = 0; i < sweep.count; ++i) {
    const Tensor& t = sweep.tensors[i];
    Sums* sums = sweep.sums + t.first_block;
    for (int64_t first = 0; first < block_count(t); first += sweep.segment) sum_segment<true>(sweep, t, first);
    fold(&sums->gg, (block_count(t) + sweep.segment - 1) / sweep.segment, sweep.segment * kPitch, Add());
    if (thread_index() == 0) {
      const double gg = t.n ? load_coherent(&sums->gg) : 0;
      sweep.weights[i] = gg * (t.scale * t.scale);
      if (!is_finite(load_coherent(&sweep.totals[i].gg)))
        sweep.factors[i] = tensor_factor(sweep.step->command, gg, t.scale, kLarge);
    }
    barrier();
  }
  fold(sweep.weights, sweep.count, 1, Add());
}

// fastupdate/step/decide.py, on the device.
FASTUPDATE_DEVICE void decide(const DeviceSweep& sweep) {
  const Command& command = sweep.step->command;
  int64_t* counts = reinterpret_cast<int64_t*>(shared_memory());
  int64_t count = 0;
  for (int64_t i = thread_index(); i < sweep.count; i += thread_count()) {
    const double gg = load_coherent(&sweep.totals[i].gg), scale = sweep.tensors[i].scale;
    count += load_coherent(&sweep.totals[i].nonfinite);
    sweep.weights[i] = gg * (scale * scale);
    sweep.factors[i] = tensor_factor(command, gg, scale, 1);
  }
  count = fold_lanes(count, Add());
  if (thread_index() % kLanes == 0) counts[thread_index() / kLanes] = count;
  barrier();
  fold(sweep.weights, sweep.count, 1, Add());
  count = 0;
  for (int k = 0; k < kWarps; ++k) count += counts[k];
  const double unit = count || is_finite(load_coherent(&sweep.weights[0])) || command.large ? 1 : kLarge;
  barrier();
  if (unit != 1) sum_large(sweep);
  if (thread_index() != 0) return;
  Decision& decision = sweep.step->decision;
  const double norm = command.scale * square_root(load_coherent(&sweep.weights[0]));
  decision.norm = norm * unit;
  decision.nonfinite = count;
  decision.skip = command.skip_nonfinite && count;
  decision.factor = decision.skip || command.clip_norm == 0 ? 1 : clip_factor(command.clip_norm, norm, unit);
  decision.scale = command.scale * decision.factor * command.sign;
  if (!command.skip_nonfinite) return;
  sweep.skipped[command.serial % kMaxRows] = decision.skip;
  int64_t row = 0;
  for (int64_t k = 1; k <= command.undecided; ++k) row += sweep.skipped[(command.serial - k) % kMaxRows];
  decision.row = row;
  decision.stages = command.stages[row];
}

// Sums of the gradients, tensor by tensor; whoever sums a tensor's last segment folds the tensor, and whoever folds the
// last tensor decides.
FASTUPDATE_KERNEL FASTUPDATE_LAUNCH_BOUNDS(kThreads, 2) gradient_sums(DeviceSweep sweep) {
  walk(sweep, [&](int64_t index, const Tensor& t, int64_t begin, int64_t end) {
    uint32_t summed = 0;
    int64_t first = (begin + sweep.segment - 1) / sweep.segment * sweep.segment;
    for (; first < end; first += sweep.segment, ++summed)
      sweep.step->command.large ? sum_segment<true>(sweep, t, first) : sum_segment<false>(sweep, t, first);
    if (!summed || !completes(&sweep.done[index], summed, (block_count(t) + sweep.segment - 1) / sweep.segment)) return;
    fold_number<double>(sweep, index, 0, sweep.segment, Add());
    fold_number<int64_t>(sweep, index, kCounts, sweep.segment, Add());
    if (completes(&sweep.done[sweep.count], 1, sweep.filled)) decide(sweep);
  });
  if (sweep.filled == 0) decide(sweep);
}

struct UnitNorms {
  double gradient, weight;
};

// ‖g‖ and ‖w‖ of one unit, which sums in blocks of its own; the results are thread 0's.
template <bool large, class T>
FASTUPDATE_DEVICE UnitNorms norms_of_unit(const Tensor& t, int64_t unit) {
  double* partial = reinterpret_cast<double*>(shared_memory());
  const int64_t stop = (unit + 1) * t.unit_length;
  const int warp = thread_index() / kLanes;
  Pairwise<double> gg, pp;
  for (int64_t round = unit * t.unit_length; round < stop; round += kWarps * kBlock) {
    const int64_t begin = round + warp * kBlock;
    const int n = elements_from(begin, stop);
    const double g2 = warp_sum(n, [&](int i) {
      const double g = in_units<large>(gradient_element<T>(t, begin + i));
      return g * g;
    });
    const double p2 = warp_sum(n, [&](int i) {
      const double p = in_units<large>(weight_element<T>(t, begin + i));
      return p * p;
    });
    if (thread_index() % kLanes == 0) partial[warp] = g2, partial[kWarps + warp] = p2;
    barrier();
    if (thread_index() == 0)
      for (int k = 0; k < kWarps && round + k * kBlock < stop; ++k) gg.add(partial[k]), pp.add(partial[kWarps + k]);
    barrier();
  }
  return {square_root(gg.total()), square_root(pp.total())};
}

// What a unit's gradient is multiplied by; thread 0's.
template <class T>
FASTUPDATE_DEVICE double clipped_unit(const Command& command, const Tensor& t, int64_t k) {
  int* far = reinterpret_cast<int*>(shared_memory());
  UnitNorms norms = norms_of_unit<false, T>(t, k);
  barrier();
  if (thread_index() == 0) *far = !is_finite(norms.gradient) || !is_finite(norms.weight);
  barrier();
  const double unit = *far ? kLarge : 1;
  barrier();
  if (unit != 1) {  // float64 may not hold the squares
    const UnitNorms large = norms_of_unit<true, T>(t, k);
    norms.gradient = is_finite(norms.gradient) ? norms.gradient / kLarge : large.gradient;
    norms.weight = is_finite(norms.weight) ? norms.weight / kLarge : large.weight;
  }
  const double limit = command.clip_unit_norm * maximum(norms.weight, 1e-3 / unit);
  const double factor = limit / (norms.gradient * (command.scale * t.scale));
  return factor > 1 ? 1 : factor;
}

// Adaptive gradient clipping: ‖g‖ ≤ ratio · max(‖w‖, 1e-3), unit by unit. Units that start in a range are its own.
FASTUPDATE_KERNEL FASTUPDATE_LAUNCH_BOUNDS(kThreads, 2) unit_norms(DeviceSweep sweep) {
  const Command& command = sweep.step->command;
  walk(sweep, [&](int64_t, const Tensor& t, int64_t begin, int64_t end) {
    const int64_t stop = end * kBlock < t.n ? end * kBlock : t.n;
    for (int64_t unit = (begin * kBlock + t.unit_length - 1) / t.unit_length; unit * t.unit_length < stop; ++unit) {
      const double factor =
          t.dtype == kFloat32 ? clipped_unit<float>(command, t, unit) : clipped_unit<double>(command, t, unit);
      if (thread_index() == 0) array_at<double>(t.unit_scale)[unit] = factor;
    }
  });
}

// ---- accumulating ---------------------------------------------------------------------------------------------------

template <class T, class Access>
FASTUPDATE_DEVICE void accumulate_elements(const Command& command, const Tensor& t, Access access) {
  constexpr int width = Access::width;
  const Pack<T, width> g = access.template load_gradient<T>(t);
  Pack<T, width> acc = access.template load<T>(t.slot[kAccumulator]);
  for (int j = 0; j < width; ++j) {
    const T term = g.at[j] * T(t.scale);
    acc.at[j] = command.first ? term : acc.at[j] + term;
  }
  access.store(t.slot[kAccumulator], acc);
  if (command.stages[0] & kZeroGrads) access.template clear_gradient<T>(t);
}

template <class T>
FASTUPDATE_DEVICE void accumulate_tensor(const Command& command, const Tensor& t, int64_t begin, int64_t end) {
  const int head = head_of<T>(t.slot[kAccumulator]);
  const bool vectors = gradient_reaches<T>(t, head);
  for (int64_t block = begin; block < end; ++block)
    visit_block<Anywhere>(t.n, block, vectors, head, [&](auto access) { accumulate_elements<T>(command, t, access); });
}

FASTUPDATE_KERNEL FASTUPDATE_LAUNCH_BOUNDS(kThreads, 2) accumulate(DeviceSweep sweep) {
  walk(sweep, [&](int64_t, const Tensor& t, int64_t begin, int64_t end) {
    t.dtype == kFloat32 ? accumulate_tensor<float>(sweep.step->command, t, begin, end)
                        : accumulate_tensor<double>(sweep.step->command, t, begin, end);
  });
}

FASTUPDATE_KERNEL FASTUPDATE_LAUNCH_BOUNDS(kThreads, 2) clear_all_gradients(DeviceSweep sweep) {
  clear_gradients(sweep, kZeroGrads);
}

// The sums of a monitored step: each number of each tensor by a thread block.
FASTUPDATE_KERNEL fold_sums(DeviceSweep sweep) {
  if (sweep.step->decision.skip) return;
  for (int64_t k = block_index(); k < sweep.count * kPitch; k += grid_size()) {
    const int64_t index = k / kPitch, number = k % kPitch;
    if (!sweep.tensors[index].n) continue;
    if (number < kLargest)
      fold_number<double>(sweep, index, number, 1, Add());
    else if (number < kCounts)
      fold_number<double>(sweep, index, number, 1, Larger());
    else
      fold_number<int64_t>(sweep, index, number, 1, Add());
  }
}

// ---- how they are started -------------------------------------------------------------------------------------------

#define FASTUPDATE_ENTRY(name) extern const DeviceRule name##_entry;
#include "rules.inc"
#undef FASTUPDATE_ENTRY

#define FASTUPDATE_ENTRY(name) &name##_entry,
static const DeviceRule* const rules[] = {
#include "rules.inc"
};
#undef FASTUPDATE_ENTRY

static void start_gradient_sums(const DeviceSweep& sweep, const Start& how) {
  launch(gradient_sums, sweep, how, kThreads, kMaxSegment * (sizeof(double) + sizeof(int64_t)));
}
static void start_unit_norms(const DeviceSweep& sweep, const Start& how) {
  launch(unit_norms, sweep, how, kThreads, 2 * kWarps * sizeof(double));
}
static void start_accumulate(const DeviceSweep& sweep, const Start& how) {
  launch(accumulate, sweep, how, kThreads, 0);
}
static void start_clear_gradients(const DeviceSweep& sweep, const Start& how) {
  launch(clear_all_gradients, sweep, how, kThreads, 0);
}
static void start_fold_sums(const DeviceSweep& sweep, const Start& how) {
  launch(fold_sums, sweep, {sweep.count * kPitch, how.stream, false, false}, kThreads, 0);
}

const DeviceEngine engine = {start_gradient_sums,           start_unit_norms, start_accumulate,
                             start_clear_gradients,         start_fold_sums,  rules,
                             sizeof rules / sizeof rules[0]};

}  // namespace fastupdate::FASTUPDATE_TARGET
