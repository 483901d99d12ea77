// Classical momentum. Polyak (1964); Sutskever et al. (ICML 2013), equations 1–4: the learning rate is inside the
// velocity, as in Keras' SGD and Chainer's MomentumSGD.
#pragma once

#include "core/rule.h"

namespace fastupdate::FASTUPDATE_TARGET {

template <class T, unsigned flags>
struct momentum {
  FASTUPDATE_HYPERS(lr, beta, weight_decay);
  FASTUPDATE_FLAGS(nesterov);
  FASTUPDATE_STATES(v);
  static constexpr bool nesterov = flags & 1;
  using keeps = Keeps<true>;

  T lr, beta, weight_decay;

  momentum(const Hyper& h, int64_t) : lr(h.lr), beta(h.beta), weight_decay(h.weight_decay) {}

  FASTUPDATE_HD T operator()(T g, T p, T& v) const {
    g = g + weight_decay * p;
    v = beta * v - lr * g;
    return nesterov ? beta * v - lr * g : v;
  }
};

}  // namespace fastupdate::FASTUPDATE_TARGET
