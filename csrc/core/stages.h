// What surrounds the rule, one element at a time, in the order of the step: scale, clip, penalty, decay, RULE, shrink,
// lookahead, moving average, copy-out. Engines decide where the values come from; the arithmetic is here, once.
#pragma once

#include "core/storage.h"

namespace fastupdate::FASTUPDATE_TARGET {

// |g| ≤ limit; NaN stays NaN.
template <class T>
FASTUPDATE_HD T clip_value(T g, T limit) {
  g = g > limit ? limit : g;
  return g < -limit ? -limit : g;
}

// The gradient of ½·l2·p² + l1·|p|.
template <class T>
FASTUPDATE_HD T penalty(T g, T p, T l2, T l1) {
  return g + (l2 * p + l1 * sign(p));
}

// The proximal step of l1·|p| (soft thresholding): values within the threshold become exactly zero.
template <class T>
FASTUPDATE_HD T shrink(T p, T threshold) {
  return p - clip_value(p, threshold);
}

// A weighted mean that moves by `weight` towards the new value: moving average, lookahead.
template <class T>
FASTUPDATE_HD T approach(T mean, T value, T weight) {
  return mean + weight * (value - mean);
}

}  // namespace fastupdate::FASTUPDATE_TARGET
