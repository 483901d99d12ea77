// A rule's own loop: the one place where a rule meets arrays on the CPU.
#pragma once

#include <array>
#include <utility>

#include "core/rule.h"
#include "cpu/engine.h"
#include "cpu/registry.h"

namespace fastupdate::FASTUPDATE_TARGET {

// Inlined, and the rule by value: its scalars are broadcast from where they lie and stay in registers.
template <class Rule, class T, size_t... k, class... States>
FASTUPDATE_HD void rule_loop(const Rule rule, T scale, int64_t n, const T* g, const T* p, const T* base, T* out,
                             std::index_sequence<k...>, States... state) {
  constexpr int last = Shape<Rule>::phase_count;
  const T number[] = {(Shape<Rule>::template of_all<k> && looks_at<Rule, last, k> ? *state : T(0))..., T(0)};
  // Arrays never overlap except base = p = out, each read and written at the same index.
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    T s[] = {(Shape<Rule>::template of_all<k> ? number[k] : looks_at<Rule, last, k> ? state[i] : T(0))..., T(0)};
    out[i] = base[i] + rule(g[i] * scale, p[i], s[k]...);
    ((moves<Rule, last, k> ? void(state[i] = s[k]) : void()), ...);
  }
}

// What one phase measures.
template <int phase, class Rule, class T, size_t... k, size_t... j, class... States>
FASTUPDATE_HD void measure_loop(const Rule rule, T scale, int64_t n, const T* g, const T* p, double (*terms)[kTile],
                                std::index_sequence<k...>, std::index_sequence<j...>, States... state) {
  const T number[] = {(Shape<Rule>::template of_all<k> && looks_at<Rule, phase, k> ? *state : T(0))...};
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    T s[] = {(Shape<Rule>::template of_all<k> ? number[k] : looks_at<Rule, phase, k> ? state[i] : T(0))...};
    rule.measure(Phase<phase>(), g[i] * scale, p[i], s[k]..., terms[j][i]...);
    ((moves<Rule, phase, k> ? void(state[i] = s[k]) : void()), ...);
  }
}

// Ranges of one extent, by float64 rules alone.
template <class Rule, int phase, Extent extent>
void settle_ranges(const void* scalars, int64_t ranges, double n, const double* sums, const uint64_t* state) {
  const Rule& rule = *static_cast<const Rule*>(scalars);
  constexpr int pitch = Rule::phases[phase].terms;
  double* at[kMaxStates];
  for (int k = 0; k < Rule::keeps::count; ++k) at[k] = address<double>(state[k]);
  for (int64_t i = 0; i < ranges; ++i) {
    rule.settle(Phase<phase>(), Range<extent>(), n, sums + i * pitch, at);
    for (int k = 0; k < Rule::keeps::count; ++k) ++at[k];
  }
}

template <template <class, unsigned> class R, class T, unsigned flags>
struct Compiled {
  using Rule = R<T, flags>;
  using Keeps = typename Rule::keeps;
  static_assert(Keeps::count <= kMaxStates);

  static void loop(const void* scalars, double scale, int64_t n, const void* g, const void* p, const void* base,
                   void* out, const uint64_t* state, int64_t begin) {
    with_states(std::make_index_sequence<Keeps::count>(), *static_cast<const Rule*>(scalars), T(scale), n,
                static_cast<const T*>(g), static_cast<const T*>(p), static_cast<const T*>(base), static_cast<T*>(out),
                state, begin);
  }

  template <size_t... k>
  FASTUPDATE_HD static void with_states(std::index_sequence<k...> states, const Rule& rule, T scale, int64_t n,
                                        const T* g, const T* p, const T* base, T* out, const uint64_t* state,
                                        int64_t begin) {
    rule_loop(rule, scale, n, g, p, base, out, states, Keeps::at[k] ? address<T>(state[k], begin) : nullptr...);
  }

  template <int phase>
  static void measure(const void* scalars, double scale, int64_t n, const void* g, const void* p, const uint64_t* state,
                      int64_t begin, double (*terms)[kTile]) {
    measure_states<phase>(std::make_index_sequence<Keeps::count>(), *static_cast<const Rule*>(scalars), T(scale), n,
                          static_cast<const T*>(g), static_cast<const T*>(p), state, begin, terms);
  }

  template <int phase, size_t... k>
  FASTUPDATE_HD static void measure_states(std::index_sequence<k...> states, const Rule& rule, T scale, int64_t n,
                                           const T* g, const T* p, const uint64_t* state, int64_t begin,
                                           double (*terms)[kTile]) {
    measure_loop<phase>(rule, scale, n, g, p, terms, states, std::make_index_sequence<Rule::phases[phase].terms>(),
                        Keeps::at[k] ? address<T>(state[k], begin) : nullptr...);
  }

  static constexpr int phase_count = Shape<Rule>::phase_count;

  template <size_t... phase>
  static constexpr std::array<PhaseCode, phase_count> all_phases(std::index_sequence<phase...>) {
    return {{{measured<phase>(),
              Rule::phases[phase],
              {nullptr, settle<phase, kRow>(), settle<phase, kColumn>(), settle<phase, kMatrix>(),
               settle<phase, kUnit>(), settle<phase, kTensor>(), settle<phase, kList>()},
              Rule::uses[phase]}...}};
  }

  template <int phase>
  static constexpr decltype(PhaseCode::measure) measured() {
    if constexpr (Rule::phases[phase].measures) return measure<phase>;
    return nullptr;
  }

  template <int phase, Extent extent>
  static constexpr PhaseCode::Settle settle() {
    if constexpr (sizeof(T) == sizeof(double))
      if constexpr (Rule::phases[phase].settles(extent)) return settle_ranges<Rule, phase, extent>;
    return nullptr;
  }

  static constexpr RuleCode make() {
    if constexpr (phase_count == 0)
      return {rule_scalars<Rule>, loop, Rule::uses[0]};
    else
      return {rule_scalars<Rule>, loop,        Rule::uses[phase_count],
              phases.data(),      phase_count, Keeps::count,
              Rule::extents,      true,        has_numbers_alone(std::make_index_sequence<Keeps::count>())};
  }

  // Whether each state is of an element, or the same for all of a tensor.
  template <size_t... k>
  static constexpr bool has_numbers_alone(std::index_sequence<k...>) {
    return ((Shape<Rule>::template of_element<k> || Shape<Rule>::template of_all<k>) && ...);
  }

  static constexpr std::array<PhaseCode, phase_count> phases = all_phases(std::make_index_sequence<phase_count>());
  static constexpr RuleCode code = make();
};

// A rule under all its flags; `entry` is what the registry lists.
template <template <class, unsigned> class R, class Masks>
struct Variants;

template <template <class, unsigned> class R, size_t... flags>
struct Variants<R, std::index_sequence<flags...>> {
  static constexpr RuleCode code[][2] = {{Compiled<R, float, flags>::code, Compiled<R, double, flags>::code}...};
};

template <template <class, unsigned> class R>
constexpr RuleEntry entry(const char* name) {
  using Any = R<float, 0>;
  constexpr size_t variants = size_t(1) << count_names(Any::flag_names);
  return {name, Any::hyper_names, Any::flag_names, Any::state_names,
          Variants<R, std::make_index_sequence<variants>>::code};
}

}  // namespace fastupdate::FASTUPDATE_TARGET
