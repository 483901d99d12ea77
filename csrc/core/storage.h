// Storage: exact conversions between stored and computed values.
#pragma once

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

}  // namespace fastupdate::FASTUPDATE_TARGET
