// Prints a digest of what every rule and reduction computes, without Python: for processors that are only emulated
// here.
#include <stdio.h>
#include <string.h>

#include <vector>

#include "cpu/registry.h"

using namespace fastupdate;

namespace {

uint64_t digest = 14695981039346656037u;  // FNV-1a

void hash(const void* data, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) digest = (digest ^ static_cast<const unsigned char*>(data)[i]) * 1099511628211u;
}

// A multiplicative generator (Lehmer): the same numbers everywhere.
struct Random {
  uint64_t state = 1;
  double next() {
    state = state * 48271 % 2147483647;
    return double(state) / 1073741824.0 - 1.0;
  }
};

template <class T>
void step_rule(const Target& target, const RuleEntry& rule, unsigned flags, int64_t n, uint32_t stages) {
  Random random;
  std::vector<std::vector<T>> arrays(2 + kSlots, std::vector<T>(size_t(n)));
  for (size_t a = 0; a < 2; ++a)
    for (T& x : arrays[a]) x = T(random.next());
  std::vector<Sums> sums(size_t((n + kBlock - 1) / kBlock));
  Tensor t = {};
  t.p = uint64_t(arrays[0].data());
  t.g = uint64_t(arrays[1].data());
  for (int k = 0; k < kSlots; ++k)
    if (is_moved(k)) t.slot[k] = uint64_t(arrays[size_t(2 + k)].data());
  t.n = n;
  t.samples = 1;
  t.scale = 1;
  t.dtype = sizeof(T) == 4 ? kFloat32 : kFloat64;
  StageInputs h = {};
  h.set({1, 0.5, 0.25, 0.001, 0.9}, ~0u);
  h.lr = h.weight_decay = 0.01;
  Group group = {{0.01, 0.9, 0.99, 1e-8, 0.01}, prepared_stages(h), 0, 0};
  alignas(64) unsigned char scalars[2 * kScalarBytes];
  Sweep sweep = {&t, 1, &group, {&rule.code[flags][0], &rule.code[flags][1]}, scalars, 0.7, stages, false, 0, sums.data()};
  for (int64_t step = 1; step <= 3; ++step) {
    for (int dtype : {kFloat32, kFloat64})
      sweep.code[dtype]->scalars(group.hyper, step, scalars + dtype * kScalarBytes);
    target.engine.update(sweep, 0, int64_t(sums.size()));
  }
  for (const auto& array : arrays) hash(array.data(), array.size() * sizeof(T));
  if (stages & kMonitor) hash(sums.data(), sums.size() * sizeof(Sums));
}

unsigned variants(const RuleEntry& rule) {
  unsigned flags = *rule.flags != 0;
  for (const char* c = rule.flags; *c; ++c) flags += *c == ',';
  return 1u << flags;
}

}  // namespace

int main() {
  for (int k = 0; k < target_count; ++k) {
    const Target& target = *targets[k];
    if (!runs_here(target)) continue;
    digest = 14695981039346656037u;
    for (int64_t r = 0; r < target.rule_count; ++r)
      for (unsigned flags = 0; flags < variants(*target.rules[r]); ++flags)
        for (int64_t n : {1, 7, 33, 1023, 1025, 4999})
          for (uint32_t stages : {0u, (kFirstOther - 1 - kAtTimes) | kMonitor}) {
            step_rule<float>(target, *target.rules[r], flags, n, stages);
            step_rule<double>(target, *target.rules[r], flags, n, stages);
          }
    printf("%s %016llx\n", target.name, static_cast<unsigned long long>(digest));
  }
}
