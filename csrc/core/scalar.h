// Scalar operations that rules and stages are written with. Each is correctly rounded or exact, so that every compiler,
// instruction set and device returns the same bits.
#pragma once

#include <stdint.h>

#if defined(__CUDACC__)
#define FASTUPDATE_HD __host__ __device__ __forceinline__
#define FASTUPDATE_HD_CALL static __host__ __device__ __noinline__
#else
#define FASTUPDATE_HD inline __attribute__((always_inline))
#define FASTUPDATE_HD_CALL inline
#endif

// Everything compiled more than once lives in a namespace of its own (v2, v3, v4, cuda …), or the linker could keep
// an AVX-512 copy of an inline function for every processor.
#ifndef FASTUPDATE_TARGET
#define FASTUPDATE_TARGET host
#endif

namespace fastupdate::FASTUPDATE_TARGET {

FASTUPDATE_HD float square_root(float x) {
#if defined(__CUDA_ARCH__)
  return __fsqrt_rn(x);
#else
  return __builtin_sqrtf(x);
#endif
}
FASTUPDATE_HD double square_root(double x) {
#if defined(__CUDA_ARCH__)
  return __dsqrt_rn(x);
#else
  return __builtin_sqrt(x);
#endif
}

FASTUPDATE_HD float absolute(float x) { return __builtin_fabsf(x); }
FASTUPDATE_HD double absolute(double x) { return __builtin_fabs(x); }

// The larger of two numbers; NaN if either is NaN.
template <class T>
FASTUPDATE_HD T maximum(T a, T b) {
  return a >= b || a != a ? a : b;
}

// max(x, 0) of a finite x; NaN otherwise. The zero is x − x, as in Python.
template <class T>
FASTUPDATE_HD T positive_part(T x) {
  return maximum(x, x - x);
}

// What gradients are multiplied by. A factor so small that float32 does not have all its digits is two: then g·first is
// exact, unless what comes of it is 0.
template <class T>
struct Factor {
  T first, second;

  FASTUPDATE_HD explicit Factor(double factor)
      : first(is_small(factor) ? T(kSmallest) : T(factor)), second(is_small(factor) ? T(factor / kSmallest) : T(1)) {}

  FASTUPDATE_HD bool is_single() const { return second == 1; }
  FASTUPDATE_HD T operator()(T g) const { return g * first * second; }

 private:
  static constexpr double kSmallest = 0x1p-126;
  FASTUPDATE_HD static bool is_small(double factor) {
    return sizeof(T) == sizeof(float) && absolute(factor) < kSmallest;
  }
};

// −1, 0 or 1; NaN gives 0.
template <class T>
FASTUPDATE_HD T sign(T x) {
  return T(x > 0) - T(x < 0);
}

// r² of RAdam in step t, power being β₂ᵗ; 0 while ρ is at most the threshold, or 4.
inline double rectification(double beta2, double power, double t, double threshold) {
  const double longest = 2 / (1 - beta2) - 1;
  const double length = longest - 2 * t * power / (1 - power);
  if (length <= maximum(threshold, 4.0)) return 0;
  return (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length);
}

// Π β·(1 − ½·rateⁱ) for i = 1 … t, as far as it makes a difference to 1.
inline double warming_product(double beta, double rate, double t) {
  double product = 1, power = 1;
  for (double i = 0; i < t && product > 1e-20; ++i) {
    power = power * rate;
    product = product * (beta * (1.0 - 0.5 * power));
  }
  return product;
}

FASTUPDATE_HD uint64_t bits_of(double x) {
  uint64_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}
FASTUPDATE_HD double of_bits(uint64_t bits) {
  double x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

// The cube root: within 0.67 ulp in double, and to nearest in float. As cube_root of fastupdate/rules/scalar.py has it:
// a third of the logarithm, two of Halley's steps, and one more from a root of 24 bits.
FASTUPDATE_HD double cube_root(double x) {
  double a = absolute(x);
  const bool small = a < 0x1p-960, large = a > 0x1p960;
  a = small ? a * 0x1p120 : large ? a * 0x1p-120 : a;
  const double high = of_bits(bits_of(a) >> 32 | 0x4330000000000000) - 0x1p52;
  double t = of_bits(bits_of(high * 0.3333333333333333 + 715094163.0 + 0x1p52) << 32);
  double cube = t * t * t;
  t = t * ((cube + (a + a)) / (cube + cube + a));
  cube = t * t * t;
  t = t * ((cube + (a + a)) / (cube + cube + a));
  const double upper = t * 536870913.0;
  t = upper - (upper - t);
  const double rest = a / (t * t);
  t = t + t * ((rest - t) / (t + t + rest));
  t = small ? t * 0x1p-40 : large ? t * 0x1p40 : t;
  t = x < 0 ? -t : t;
  return a > 0 && a - a == 0 ? t : x + x;
}

// The same to nearest, of every float: four of Newton's steps for 1/∛x, which divide by nothing.
FASTUPDATE_HD float cube_root(float single) {
  const double x = single, a = absolute(x), third = a * 0.3333333333333333;
  const double high = of_bits(bits_of(a) >> 32 | 0x4330000000000000) - 0x1p52;
  double y = of_bits(bits_of(1430188164.0 - high * 0.3333333333333333 + 0x1p52) << 32);  // within 1/29
  for (int k = 0; k < 4; ++k) y = y * (1.3333333333333333 - third * (y * y * y));
  const double t = x < 0 ? -(a * (y * y)) : a * (y * y);
  return float(a > 0 && a - a == 0 ? t : x + x);
}

// The first 26 bits.
FASTUPDATE_HD double upper(double x) { return of_bits(bits_of(x) & ~uint64_t(0x7ffffff)); }

// 2ᵏ of a whole number −1023 < k < 1024.
FASTUPDATE_HD double power_of_two(double k) { return of_bits((bits_of(k + 6755399441055744.0) + 1023) << 52); }

// 3/5 + 3/7·x + 3/9·x² + …
FASTUPDATE_HD double log_series(double x) {
  double a = 0.14285714285714285 + x * (0.13043478260869565 + x * 0.12);
  a = 0.2 + x * (0.17647058823529413 + x * (0.15789473684210525 + x * a));
  a = 0.3333333333333333 + x * (0.2727272727272727 + x * (0.23076923076923078 + x * a));
  return 0.6 + x * (0.42857142857142855 + x * a);
}

// 1/2! + 1/3!·x + 1/4!·x² + …
FASTUPDATE_HD double exp_series(double x) {
  double a = 1.6059043836821613e-10 + x * (1.1470745597729725e-11 + x * 7.647163731819816e-13);
  a = 2.755731922398589e-07 + x * (2.505210838544172e-08 + x * (2.08767569878681e-09 + x * a));
  a = 0.0001984126984126984 + x * (2.48015873015873e-05 + x * (2.7557319223985893e-06 + x * a));
  a = 0.041666666666666664 + x * (0.008333333333333333 + x * (0.001388888888888889 + x * a));
  return 0.5 + x * (0.16666666666666666 + x * a);
}

// xʸ of x ≥ 0 and y ≥ 0: within 0.7 ulp in double, and nearly to nearest in float. As wide_power of
// fastupdate/rules/scalar.py has it: 2 to the y·log₂x, which is held in two numbers, as products of 26 bits are exact.
FASTUPDATE_HD double real_power(double x, double y) {
  const bool small = x < 0x1p-960;
  const uint64_t bits = bits_of(small ? x * 0x1p120 : x), biased = (bits + 0x95f619980c433) >> 52;
  const double m = of_bits(bits - (biased << 52) + 0x3ff0000000000000);
  const double k = of_bits(biased | 0x4330000000000000) - 4503599627371519.0 - (small ? 120.0 : 0.0);
  const double s = (m - 1.0) / (m + 1.0), s_high = upper(s), below = upper(m + 1.0);
  const double s_low = (m - 1.0 - s_high * below - s_high * (m - (below - 1.0))) / (m + 1.0);
  const double square = s * s, exact = s_high * s_high;
  const double tail = square * square * log_series(square) + s_low * (s_high + s);
  double high = upper(3.0 + exact + tail);
  double low = s_low * high + (tail - (high - 3.0 - exact)) * s;
  high = s_high * high;
  double log_high = upper(high + low);
  const double log_low = 7.872699542894897e-09 * log_high + (low - (log_high - high)) * 0.9617966939259756;
  log_high = 0.9617966860532761 * log_high;
  high = upper(log_high + log_low + k);
  low = log_low - (high - k - log_high);
  const double y_high = upper(y);
  low = (y - y_high) * high + y * low;
  high = y_high * high;
  const double z = high + low, whole = z + 6755399441055744.0 - 6755399441055744.0;
  high = high - whole;
  const double rest = upper(high + low);
  low = (low - (rest - high)) * 0.6931471805599453 + rest * 1.2996506893889889e-08;
  high = rest * 0.6931471675634384;
  const double r = high + low, half = whole * 0.5 + 6755399441055744.0 - 6755399441055744.0;
  double found = 1.0 + r;
  found = found + (1.0 - found + r + (low - (r - high) + r * r * exp_series(r)));
  found = found * power_of_two(half) * power_of_two(whole - half);
  found = z > 1030.0 ? __builtin_inf() : z < -1100.0 ? 0.0 : found;
  return x > 0 && x < __builtin_inf() ? found : y > 0 ? x : 1.0;
}

FASTUPDATE_HD float real_power(float x, float y) { return float(real_power(double(x), double(y))); }

template <class T>
FASTUPDATE_HD bool is_finite(T x) {
  return x - x == 0;
}

}  // namespace fastupdate::FASTUPDATE_TARGET
