// The engine and the list of rules for one instruction set.
#include "cpu/registry.h"

namespace fastupdate::FASTUPDATE_TARGET {

#define FASTUPDATE_ENTRY(name) extern const RuleEntry name##_entry;
#include "rules.inc"
#undef FASTUPDATE_ENTRY

#define FASTUPDATE_ENTRY(name) &name##_entry,
static const RuleEntry* const rules[] = {
#include "rules.inc"
};
#undef FASTUPDATE_ENTRY

// A sweep, what it does with tensors, and the arrays that it walks through.
#define FASTUPDATE_SWEEP(name, access, ...)                                                                       \
  static void name(const Sweep& sweep, int64_t first, int64_t last) {                                             \
    const auto heads = [](const Tensor& t) { return std::array{__VA_ARGS__}; };                                   \
    const auto prefetch = [&](const Tensor& t, const Tensor& u) { prefetch_heads(t, heads(t), heads(u)); };       \
    walk(sweep, Access access, first, last, prefetch, [&](const Tensor& t, int64_t begin, int64_t end) {          \
      t.dtype == kFloat32 ? name##_span<float>(sweep, t, begin, end) : name##_span<double>(sweep, t, begin, end); \
    });                                                                                                           \
  }
FASTUPDATE_SWEEP(update, ({Use::kMove, true}), t.p, t.g, t.slot[0], t.slot[1])
FASTUPDATE_SWEEP(gradient_sums, ({Use::kReadGradient}), t.g)
FASTUPDATE_SWEEP(accumulate, ({Use::kReadGradient, true}), t.g, t.slot[kAccumulator])
FASTUPDATE_SWEEP(clear_gradients, ({Use::kNothing}), t.g)
FASTUPDATE_SWEEP(unit_norms, ({Use::kRead, false, true}), t.g, t.p)
FASTUPDATE_SWEEP(measure, ({Use::kRead, false, true}), t.p, t.g, t.slot[0], t.slot[1])
FASTUPDATE_SWEEP(settle, ({Use::kNothing}), t.work)

// The same for a part of one tensor.
#define FASTUPDATE_PART(name, span)                                                               \
  static void name(const Sweep& sweep, const Tensor& t, int64_t begin, int64_t end) {             \
    t.dtype == kFloat32 ? span<float>(sweep, t, begin, end) : span<double>(sweep, t, begin, end); \
  }
FASTUPDATE_PART(update_part, update_span)
FASTUPDATE_PART(measure_part, measure_part_span)

#define FASTUPDATE_STRING2(x) #x
#define FASTUPDATE_STRING(x) FASTUPDATE_STRING2(x)
extern const Target target;
const Target target = {
    FASTUPDATE_STRING(FASTUPDATE_TARGET),
    {update, gradient_sums, accumulate, clear_gradients, unit_norms, measure, settle, update_part, measure_part},
    rules,
    sizeof rules / sizeof rules[0]};

}  // namespace fastupdate::FASTUPDATE_TARGET
