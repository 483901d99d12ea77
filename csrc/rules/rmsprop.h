// RMSprop. Tieleman & Hinton, Lecture 6.5 (Coursera, 2012); centered: Graves, arXiv:1308.0850 (2013), equations 38–45.
// ε stands outside the root and the learning rate outside the momentum buffer, as in torch.optim.RMSprop.
#pragma once

#include "core/rule.h"

namespace fastupdate::FASTUPDATE_TARGET {

template <class T, unsigned flags>
struct rmsprop {
  FASTUPDATE_HYPERS(lr, alpha, eps, weight_decay, momentum);
  FASTUPDATE_FLAGS(centered, with_momentum);
  FASTUPDATE_STATES(v, g_mean, b);
  static constexpr bool centered = flags & 1, with_momentum = flags & 2;
  using keeps = Keeps<true, centered, with_momentum>;

  T lr, alpha, one_minus_alpha, eps, weight_decay, momentum;

  rmsprop(const Hyper& h, int64_t)
      : lr(h.lr),
        alpha(h.alpha),
        one_minus_alpha(1 - h.alpha),
        eps(h.eps),
        weight_decay(h.weight_decay),
        momentum(h.momentum) {}

  FASTUPDATE_HD T operator()(T g, T p, T& v, T& g_mean, T& b) const {
    g = g + weight_decay * p;
    v = alpha * v + one_minus_alpha * (g * g);
    T variance = v;
    if constexpr (centered) {
      g_mean = g_mean + one_minus_alpha * (g - g_mean);
      variance = positive_part(v - g_mean * g_mean);  // rounding can take it below zero
    }
    T step = g / (square_root(variance) + eps);
    if constexpr (with_momentum) {
      b = momentum * b + step;
      step = b;
    }
    return -lr * step;
  }
};

}  // namespace fastupdate::FASTUPDATE_TARGET
