// A rule's own loop: the one place where a rule meets arrays on the CPU.
#pragma once

#include <utility>

#include "core/rule.h"
#include "cpu/engine.h"
#include "cpu/registry.h"

namespace fastupdate::FASTUPDATE_TARGET {

// Inlined, and the rule by value: its scalars are broadcast from where they lie and stay in registers.
template <class Rule, class T, size_t... k, class... States>
FASTUPDATE_HD void rule_loop(const Rule rule, T scale, int64_t n, const T* g, const T* p, const T* base, T* out,
                             std::index_sequence<k...>, States... state) {
  using Keeps = typename Rule::keeps;
  // Arrays never overlap except base = p = out, each read and written at the same index.
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    T s[] = {(Keeps::at[k] ? state[i] : T(0))..., T(0)};
    out[i] = base[i] + rule(g[i] * scale, p[i], s[k]...);
    ((Keeps::at[k] ? void(state[i] = s[k]) : void()), ...);
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

  static constexpr RuleCode code = {rule_scalars<Rule>, loop};
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
