// The rules and instruction sets in this build. The lists themselves are generated from fastupdate/rules.
#pragma once

#include "cpu/engine.h"

namespace fastupdate {

struct RuleEntry {
  const char *name, *hypers, *flags, *states;  // names separated by ", "
  const RuleCode (*code)[2];                   // [flags][dtype]
};

// All code of one instruction set. Constant-initialised, so that nothing runs on a processor that lacks it.
struct Target {
  const char* name;
  Engine engine;
  const RuleEntry* const* rules;
  int64_t rule_count;
};

extern const Target* const targets[];  // in rising order
extern const int target_count;

bool runs_here(const Target& target);

}  // namespace fastupdate
