// A rule's own kernels: the one place where a rule meets arrays on a GPU.
#pragma once

#include <utility>

#include "core/rule.h"
#include "cuda/phases.cuh"

namespace fastupdate::FASTUPDATE_TARGET {

// Some elements of a plain step: scaling and the rule.
template <class T, class Rule, class Access, size_t... k>
FASTUPDATE_DEVICE void update_plainly(const Job<Rule>& job, Factor<T> factor, Access access,
                                      std::index_sequence<k...>) {
  using Keeps = typename Rule::keeps;
  const Tensor& t = job.t;
  const auto g = access.template load<T>(t.g);
  auto p = access.template load_weight<T>(t);
  Pack<T, Access::width> s[sizeof...(k) + 1] = {};
  ((std::bool_constant<Keeps::at[k]>::value ? void(s[k] = access.template load<T>(t.slot[k])) : void()), ...);
  for (int j = 0; j < Access::width; ++j) p.at[j] = p.at[j] + job.rule(factor(g.at[j]), p.at[j], s[k].at[j]...);
  access.store_weight(t, p);
  ((moves<Rule, Shape<Rule>::phase_count, k> ? access.store(t.slot[k], s[k]) : void()), ...);
}

// A state of some elements, whatever it is of.
template <class Rule, class T, size_t k, class Access>
FASTUPDATE_DEVICE Pack<T, Access::width> load_state(const Tensor& t, Access access) {
  if constexpr (Shape<Rule>::template of_element<k>) {
    return access.template load<T>(t.slot[k]);
  } else {
    Pack<T, Access::width> x;
    for (int j = 0; j < Access::width; ++j)
      x.at[j] = T(array_at<const double>(t.slot[k])[range_of(t, extent_of<Rule, k>, access.i + j)]);
    return x;
  }
}

// Some elements of a step with everything that it may be asked for; returns how many of them the update was too small
// to move.
template <class T, class Rule, class Access, size_t... k>
FASTUPDATE_DEVICE int update_fully(const Job<Rule>& job, Access access, std::index_sequence<k...>) {
  using Keeps = typename Rule::keeps;
  constexpr int width = Access::width;
  const Tensor& t = job.t;
  auto g = access.template load_gradient<T>(t), p = access.template load_weight<T>(t);
  Pack<T, width> s[sizeof...(k) + 1] = {};
  ((std::bool_constant<Keeps::at[k]>::value ? void(s[k] = load_state<Rule, T, k>(t, access)) : void()), ...);

  if (job.stages & kMonitor) {
    note(watched<T>().raw, access.i, g);
    note(watched<T>().before, access.i, p);
    ((int(k) == t.momentum ? note(watched<T>().momentum, access.i, s[k]) : void()), ...);
  }
  condition<true>(t, job.group, job.stages, job.scale, access, p, g);
  Pack<T, width> delta;
  for (int j = 0; j < width; ++j) delta.at[j] = job.rule(g.at[j], p.at[j], s[k].at[j]...);
  run_stages<kChange>(t, job.group, job.stages, access, g, p, delta);
  int stalled = 0;
  for (int j = 0; j < width; ++j) {
    const T moved = p.at[j] + delta.at[j];
    stalled += (moved == p.at[j]) & (delta.at[j] != 0);
    p.at[j] = moved;
  }
  after_rule<T>(t, job.group, job.stages, access, g, p);

  access.store_weight(t, p);
  ((moves<Rule, Shape<Rule>::phase_count, k> ? access.store(t.slot[k], s[k]) : void()), ...);
  if (job.stages & kZeroGrads) access.template clear_gradient<T>(t);
  if (job.stages & kMonitor) note(watched<T>().after, access.i, p);
  return stalled;
}

// A step that was asked for nothing beside the rule, on contiguous arrays. Few registers, for many loads in flight.
template <class Rule, class T>
FASTUPDATE_KERNEL FASTUPDATE_LAUNCH_BOUNDS(kThreads, sizeof(T) == 4 ? Rule::blocks : 2)
    plain_update(DeviceSweep sweep) {
  if (sweep.step->decision.skip) return;
  walk(sweep, [&](int64_t index, const Tensor& t, int64_t begin, int64_t end) {
    const Job<Rule> job = job_of<Rule, T>(sweep, index, t);
    const Factor<T> factor(job.scale);
    const int head = head_of<T>(t.p);
    const bool vectors = takes_vectors<T>(t, head);
    for (int64_t block = begin; block < end; ++block)
      visit_block<Single>(t.n, block, vectors, head, [&](auto access) {
        update_plainly<T>(job, factor, access, std::make_index_sequence<Rule::keeps::count>());
      });
  });
}

// Blocks `begin` … `end` − 1 of a tensor, with everything that a step may be asked for.
template <class Rule, class T>
FASTUPDATE_DEVICE void update_blocks(const DeviceSweep& sweep, int64_t index, const Tensor& t, int64_t begin,
                                     int64_t end) {
  const Job<Rule> job = job_of<Rule, T>(sweep, index, t);
  const int head = t.p_layout ? 0 : head_of<T>(t.p);
  const bool vectors = takes_vectors<T>(t, head);
  for (int64_t block = begin; block < end; ++block) {
    int stalled = 0;
    visit_block<Anywhere>(t.n, block, vectors, head, [&](auto access) {
      stalled += update_fully<T>(job, access, std::make_index_sequence<Rule::keeps::count>());
    });
    if (job.stages & kMonitor)
      sum_watched<T>(elements_from(block * kBlock, t.n), t.momentum >= 0, stalled, sweep.sums[t.first_block + block]);
  }
}

template <class Rule, class T>
FASTUPDATE_KERNEL FASTUPDATE_LAUNCH_BOUNDS(kThreads, 2) full_update(DeviceSweep sweep) {
  if (sweep.step->decision.skip) return clear_gradients(sweep, sweep.step->decision.stages);
  walk(sweep, [&](int64_t index, const Tensor& t, int64_t begin, int64_t end) {
    update_blocks<Rule, T>(sweep, index, t, begin, end);
  });
}

// Both compute types in one launch; lists of one type do not pay for it. Four states and more take many registers.
template <template <class, unsigned> class R, unsigned flags>
FASTUPDATE_KERNEL FASTUPDATE_LAUNCH_BOUNDS(kThreads, (R<double, flags>::keeps::count > 3 ? 1 : 2))
    mixed_update(DeviceSweep sweep) {
  if (sweep.step->decision.skip) return clear_gradients(sweep, sweep.step->decision.stages);
  walk(sweep, [&](int64_t index, const Tensor& t, int64_t begin, int64_t end) {
    t.dtype == kFloat32 ? update_blocks<R<float, flags>, float>(sweep, index, t, begin, end)
                        : update_blocks<R<double, flags>, double>(sweep, index, t, begin, end);
  });
}

template <class Rule, class T>
void start_update(const DeviceSweep& sweep, const Start& how) {
  if constexpr (Shape<Rule>::phase_count == 0)
    if (how.plain) return launch(plain_update<Rule, T>, sweep, how, kThreads, 0);
  launch(full_update<Rule, T>, sweep, how, kThreads, how.monitor ? sizeof(Watched<T>) : 0);
}

template <template <class, unsigned> class R, unsigned flags>
void start_mixed_update(const DeviceSweep& sweep, const Start& how) {
  launch(mixed_update<R, flags>, sweep, how, kThreads, how.monitor ? sizeof(Watched<double>) : 0);
}

template <class Rule, class T>
constexpr DeviceCode code_of() {
  static_assert(Rule::keeps::count <= kMaxStates);
  return {rule_scalars<Rule>, start_update<Rule, T>};
}

template <template <class, unsigned> class R, unsigned flags>
constexpr DeviceVariant variant_of() {
  return {{code_of<R<float, flags>, float>(), code_of<R<double, flags>, double>()},
          start_mixed_update<R, flags>,
          DevicePhases<R, flags>::at.data(),
          DevicePhases<R, flags>::count};
}

// A rule under all its flags; `device_entry` is what the registry lists.
template <template <class, unsigned> class R, class Masks>
struct Variants;

template <template <class, unsigned> class R, size_t... flags>
struct Variants<R, std::index_sequence<flags...>> {
  static constexpr DeviceVariant at[] = {variant_of<R, flags>()...};
};

template <template <class, unsigned> class R>
constexpr DeviceRule device_entry(const char* name) {
  using Any = R<float, 0>;
  constexpr size_t variants = size_t(1) << count_names(Any::flag_names);
  return {name, Any::hyper_names, Any::flag_names, Any::state_names,
          Variants<R, std::make_index_sequence<variants>>::at};
}

}  // namespace fastupdate::FASTUPDATE_TARGET
