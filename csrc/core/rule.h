// What a rule is. A rule is a struct template over the compute type T and a bit mask of flags, which
// fastupdate/rules/emit/ writes from the rule's Python (`fastupdate rule adamw --cpp` prints one):
//
//   FASTUPDATE_HYPERS(…)   hyperparameters, float64, in the order in which Python passes them
//   FASTUPDATE_FLAGS(…)    options that change which states exist or which equations run; flag k is bit k
//   FASTUPDATE_STATES(…)   the rule's states, in order
//   blocks                 of a GPU's threads that share registers in float32: fewer where an element takes many
//   using keeps            which of these states exist under the flags at hand
//   uses[]                 the states that each phase looks at, and at last the rule: state k is bit k
//   changes[]              the states of elements that each phase moves, and at last the rule
//   rule(hyper, t)         the scalars `s` of step t = 1, 2, …: computed once a step, on the host, in float64, and
//                          rounded once to T
//   rule(g, p, states…)    one element: updates the states, returns the change of the parameter
//
// A rule whose step depends on sums has, before that:
//
//   extents[], phases[]    what each state is of, and what each phase sums over what (core/extents.h)
//   measure(Phase<k>, …)   one element: updates the states that are of an element, writes what it adds to each sum
//   settle(Phase<k>, Range<e>, …)   one range, in float64: updates its states by what its n elements have added up to
//                          in that phase
//
// A rule knows no loop, no pointer and no storage type; the engines know no rule.
#pragma once

#include <math.h>
#include <stddef.h>

#include <type_traits>

#include "core/extents.h"
#include "core/scalar.h"

#define FASTUPDATE_HYPERS(...) \
  struct Hyper {               \
    double __VA_ARGS__;        \
  };                           \
  static constexpr const char* hyper_names = #__VA_ARGS__
#define FASTUPDATE_FLAGS(...) static constexpr const char* flag_names = "" #__VA_ARGS__
#define FASTUPDATE_STATES(...) static constexpr const char* state_names = "" #__VA_ARGS__

namespace fastupdate::FASTUPDATE_TARGET {

template <bool... kept>
struct Keeps {
  static constexpr int count = sizeof...(kept);
  static constexpr bool at[] = {kept..., false};
};

template <int number>
struct Phase {};
template <Extent extent>
struct Range {};

// The phases of a rule, of which most have none, and what its states are of.
template <class Rule, class = void>
struct Shape {
  static constexpr int phase_count = 0;
  template <size_t state>
  static constexpr bool of_element = true;
  template <size_t state>
  static constexpr bool of_all = false;
};
template <class Rule>
struct Shape<Rule, std::void_t<decltype(Rule::phases)>> {
  static constexpr int phase_count = sizeof Rule::phases / sizeof Rule::phases[0];
  template <size_t state>
  static constexpr bool of_element = Rule::extents[state] == kElement;
  template <size_t state>  // of the elements of a tensor
  static constexpr bool of_all = is_of_all(Rule::extents[state]);
};

// Whether a phase, or the rule, looks at a state.
template <class Rule, int phase, size_t state>
constexpr bool looks_at = Rule::keeps::at[state] && (Rule::uses[phase] >> state & 1);

// Whether a phase, or the rule, which comes after all of them, changes a state: one that is only read is not written.
template <class Rule, int phase, size_t state>
constexpr bool moves =
    Rule::keeps::at[state] && Shape<Rule>::template of_element<state> && (Rule::changes[phase] >> state & 1);

// Writes the rule as of step t to `out`.
template <class Rule>
void rule_scalars(const double* hyper, int64_t t, void* out) {
  typename Rule::Hyper h;
  static_assert(sizeof h <= kMaxHypers * sizeof(double) && sizeof(Rule) <= kScalarBytes);
  __builtin_memcpy(&h, hyper, sizeof h);
  const Rule rule(h, t);
  __builtin_memcpy(out, &rule, sizeof rule);
}

constexpr size_t count_names(const char* names) {
  size_t count = *names != 0;
  for (; *names; ++names) count += *names == ',';
  return count;
}

}  // namespace fastupdate::FASTUPDATE_TARGET
