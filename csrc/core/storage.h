// Storage: exact conversions between stored and computed values.
#pragma once

#include "core/plan.h"
#include "core/scalar.h"

namespace fastupdate::FASTUPDATE_TARGET {

// The bits of one type as another.
template <class To, class From>
FASTUPDATE_HD To reinterpret(From x) {
  static_assert(sizeof(To) == sizeof(From));
  union {
    From from;
    To to;
  } cast = {x};
  return cast.to;
}

// Exact, whatever the processor does with subnormal operands: the only arithmetic is on integers, and on normal
// numbers.
FASTUPDATE_HD float from_bfloat16(uint16_t x) { return reinterpret<float>(uint32_t(x) << 16); }

FASTUPDATE_HD float from_float16(uint16_t x) {
  const uint32_t sign = uint32_t(x & 0x8000u) << 16, a = x & 0x7fffu;
  const uint32_t subnormal = reinterpret<uint32_t>(float(int32_t(a)) * 0x1p-24f);
  const uint32_t normal = (a << 13) + (112u << 23);  // the exponent's bias: 15 → 127
  const uint32_t magnitude = a < 0x0400u ? subnormal : a < 0x7c00u ? normal : normal + (112u << 23);
  return reinterpret<float>(sign | magnitude);
}

// Round to nearest even; NaN keeps its sign and becomes quiet.
FASTUPDATE_HD uint16_t to_bfloat16(float x) {
  uint32_t u = reinterpret<uint32_t>(x);
  uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
  return uint16_t(x != x ? (u >> 16) | 0x40u : rounded);
}

// Round to nearest even. No operation here has a subnormal result, so that no processor's flush-to-zero mode matters.
FASTUPDATE_HD uint16_t to_float16(float x) {
  const uint32_t u = reinterpret<uint32_t>(x), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
  // Normal: rebias the exponent (127 → 15) and round away 13 bits; a carry moves into the exponent as it should.
  const uint32_t normal = (a - (112u << 23) + 0x0fffu + ((a >> 13) & 1)) >> 13;
  // Subnormal: the last place of ½ is 2⁻²⁴, as that of the result, so that adding ½ rounds.
  const uint32_t subnormal = reinterpret<uint32_t>(reinterpret<float>(a) + 0.5f) - 0x3f000000u;
  const uint32_t magnitude = a > 0x7f800000u    ? 0x7e00u
                             : a >= 0x477ff000u ? 0x7c00u
                             : a < 0x38800000u  ? subnormal
                                                : normal;
  return uint16_t(sign | magnitude);
}

// What is stored, and how it is read and written.
struct Float16 {
  using Bits = uint16_t;
  FASTUPDATE_HD static float decode(Bits x) { return from_float16(x); }
  FASTUPDATE_HD static Bits encode(float x) { return to_float16(x); }
};
struct Bfloat16 {
  using Bits = uint16_t;
  FASTUPDATE_HD static float decode(Bits x) { return from_bfloat16(x); }
  FASTUPDATE_HD static Bits encode(float x) { return to_bfloat16(x); }
};

// Calls visit(codec) with the codec of a narrow type.
template <class Visit>
FASTUPDATE_HD void with_codec(uint8_t dtype, Visit visit) {
  switch (dtype) {
#define ROW(type, ...) \
  case k##type:        \
    return visit(type());
    FASTUPDATE_NARROW_TYPES(ROW)
#undef ROW
  }
}

}  // namespace fastupdate::FASTUPDATE_TARGET
