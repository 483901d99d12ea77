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

template <class T>
FASTUPDATE_HD bool is_finite(T x) {
  return x - x == 0;
}

}  // namespace fastupdate::FASTUPDATE_TARGET
