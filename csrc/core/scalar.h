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

  FASTUPDATE_HD explicit Factor(double factor) : first(T(factor)), second(1) {
    constexpr double smallest = 0x1p-126;
    if (sizeof(T) == sizeof(float) && absolute(factor) < smallest) first = T(smallest), second = T(factor / smallest);
  }

  FASTUPDATE_HD bool is_single() const { return second == 1; }
  FASTUPDATE_HD T operator()(T g) const { return g * first * second; }
};

// −1, 0 or 1; NaN gives 0.
template <class T>
FASTUPDATE_HD T sign(T x) {
  return T(x > 0) - T(x < 0);
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

template <class T>
FASTUPDATE_HD bool is_finite(T x) {
  return x - x == 0;
}

}  // namespace fastupdate::FASTUPDATE_TARGET
