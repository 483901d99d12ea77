#include "cpu/registry.h"

#include <string.h>

namespace fastupdate {

#define FASTUPDATE_ENTRY(name) \
  namespace name {             \
  extern const Target target;  \
  }
#include "targets.inc"
#undef FASTUPDATE_ENTRY

#define FASTUPDATE_ENTRY(name) &name::target,
const Target* const targets[] = {
#include "targets.inc"
};
#undef FASTUPDATE_ENTRY

const int target_count = sizeof targets / sizeof targets[0];

bool runs_here(const Target& target) {
#if defined(__x86_64__)
  // Single features: clang 14 does not know the level names.
  if (!strcmp(target.name, "v2")) return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
  if (!strcmp(target.name, "v3"))
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  if (!strcmp(target.name, "v4"))
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
#endif
  return true;
}

}  // namespace fastupdate
