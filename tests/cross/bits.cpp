// Prints a digest of what every rule and reduction computes, without Python: for processors that are only emulated
// here.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <limits>
#include <vector>

#include "cpu/plan.h"

using namespace fastupdate;

namespace {

uint64_t digest = 14695981039346656037u;  // FNV-1a

// The sign of a NaN is the processor's: all NaNs are one.
template <class T>
void hash(const T* numbers, size_t count) {
  for (size_t k = 0; k < count; ++k) {
    const T x = numbers[k] == numbers[k] ? numbers[k] : T(__builtin_nan(""));
    unsigned char bytes[sizeof(T)];
    memcpy(bytes, &x, sizeof(T));
    for (const unsigned char byte : bytes) digest = (digest ^ byte) * 1099511628211u;
  }
}

// A multiplicative generator (Lehmer): the same numbers everywhere.
struct Random {
  uint64_t state = 1;
  double next() {
    state = state * 48271 % 2147483647;
    return double(state) / 1073741824.0 - 1.0;
  }
};

int names_in(const char* list) {
  int count = *list != 0;
  for (const char* c = list; *c; ++c) count += *c == ',';
  return count;
}

// The largest number of rows up to the root of n that cuts n elements into whole rows.
int64_t rows_of(int64_t n) {
  int64_t rows = 1;
  for (int64_t k = 2; k * k <= n; ++k)
    if (n % k == 0) rows = k;
  return rows;
}

// Three steps of one matrix, with memory enough for whatever its states are of.
template <class T>
void step_rule(const Target& target, const RuleEntry& rule, unsigned flags, int64_t n, uint32_t stages) {
  Random random;
  std::vector<T> p(static_cast<size_t>(n)), g(static_cast<size_t>(n));
  for (std::vector<T>* array : {&p, &g})
    for (T& x : *array) x = T(random.next());
  std::vector<std::vector<double>> slots(kSlots, std::vector<double>(size_t(n + 1), 0.0));
  std::vector<double> work(size_t(64 * (n + kBlock)), 0.0);
  std::vector<Sums> sums(size_t((n + kBlock - 1) / kBlock));
  Tensor t = {};
  t.p = uint64_t(p.data()), t.g = uint64_t(g.data()), t.n = n, t.samples = 1, t.scale = 1, t.momentum = -1;
  for (int k = 0; k < kSlots; ++k)
    if (is_moved(k)) t.slot[k] = uint64_t(slots[size_t(k)].data());
  t.rows = rows_of(n), t.columns = n / t.rows, t.unit_length = t.columns, t.work = uint64_t(work.data());
  t.dtype = t.g_dtype = sizeof(T) == 4 ? kFloat32 : kFloat64;
  Group group = {};
  Recipe recipe = {};
  recipe.next_thaw = std::numeric_limits<int64_t>::max(), recipe.largest = std::numeric_limits<float>::max();
  recipe.hypers = names_in(rule.hypers), recipe.weight_decay = -1, recipe.always = stages;
  recipe.before = uint32_t(rule.code[flags][t.dtype].phase_count);
  std::vector<double> row(size_t(recipe.hypers), 0.5);
  row[0] = 0.01;
  row.insert(row.end(), reinterpret_cast<const double*>(&kDefaults), reinterpret_cast<const double*>(&kDefaults + 1));
  int64_t clock[3] = {};
  Plan plan(target, rule.code[flags], &t, 1, &group, 1, recipe, clock, sums.data());
  for (int step = 1; step <= 3; ++step) {
    if (!plan.derive({row.data(), 1, int64_t(row.size()), nullptr, nullptr, 0})) abort();
    plan.update(0.7, 0);
  }
  hash(p.data(), p.size());
  for (const auto& slot : slots)
    hash(reinterpret_cast<const T*>(slot.data()), slot.size() * sizeof(double) / sizeof(T));
  if (!(stages & kMonitor)) return;
  for (const Sums& s : sums) {
    for (const double x : {s.gg, s.pp, s.uu, s.gm, s.mm, s.gu, s.largest}) hash(&x, 1);
    for (const int64_t n : {s.nonfinite, s.zeros, s.stalled}) hash(&n, 1);
  }
}

}  // namespace

int main() {
  for (int k = 0; k < target_count; ++k) {
    const Target& target = *targets[k];
    if (!runs_here(target)) continue;
    digest = 14695981039346656037u;
    for (int64_t r = 0; r < target.rule_count; ++r)
      for (unsigned flags = 0; flags < 1u << names_in(target.rules[r]->flags); ++flags)
        for (int64_t n : {1, 7, 33, 1023, 1025, 4999})
          for (uint32_t stages : {0u, (kFirstOther - 1 - kAtTimes) | kMonitor}) {
            step_rule<float>(target, *target.rules[r], flags, n, stages);
            step_rule<double>(target, *target.rules[r], flags, n, stages);
          }
    printf("%s %016llx\n", target.name, static_cast<unsigned long long>(digest));
  }
}
