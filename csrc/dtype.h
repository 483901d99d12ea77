// Storage: exact conversions between stored and computed values.
#pragma once

#include "scalar.h"

namespace fastupdate::FASTUPDATE_TARGET {

FASTUPDATE_HD uint32_t bits_of(float x) {
  union {
    float f;
    uint32_t u;
  } cast = {x};
  return cast.u;
}

FASTUPDATE_HD float float_of(uint32_t u) {
  union {
    uint32_t u;
    float f;
  } cast = {u};
  return cast.f;
}

// Round to nearest even; NaN keeps its sign and becomes quiet.
FASTUPDATE_HD uint16_t to_bfloat16(float x) {
  uint32_t u = bits_of(x);
  uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
  return uint16_t(x != x ? (u >> 16) | 0x40u : rounded);
}

// Round to nearest even, by integers alone, so that no processor's flush-to-zero mode matters.
FASTUPDATE_HD uint16_t to_float16(float x) {
  uint32_t u = bits_of(x), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
  // Normal: rebias the exponent (127 → 15) and round away 13 bits; a carry moves into the exponent as it should.
  uint32_t normal = (a - (112u << 23) + 0x0fffu + ((a >> 13) & 1)) >> 13;
  // Subnormal: shift the significand so that its last place is 2⁻²⁴, and round.
  uint32_t shift = 126u - (a >> 23);
  shift = shift > 31 ? 31 : shift;
  uint32_t significand = (a & 0x7fffffu) | 0x800000u;
  uint32_t half = (1u << shift) >> 1, kept = significand >> shift, rest = significand & ((1u << shift) - 1);
  uint32_t subnormal = kept + (rest > half || (rest == half && (kept & 1)) ? 1u : 0u);
  uint32_t magnitude = a > 0x7f800000u ? 0x7e00u : a >= 0x477ff000u ? 0x7c00u : a < 0x38800000u ? subnormal : normal;
  return uint16_t(sign | magnitude);
}

}  // namespace fastupdate::FASTUPDATE_TARGET
