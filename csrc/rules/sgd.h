// SGD with momentum. Sutskever, Martens, Dahl & Hinton, "On the importance of initialization and momentum in deep
// learning" (ICML 2013), with the learning rate outside the buffer, as torch.optim.SGD.
#pragma once

#include "core/rule.h"

namespace fastupdate::FASTUPDATE_TARGET {

template <class T, unsigned flags>
struct sgd {
  FASTUPDATE_HYPERS(lr, momentum, dampening, weight_decay);
  FASTUPDATE_FLAGS(with_momentum, nesterov);
  FASTUPDATE_STATES(b);
  static constexpr bool with_momentum = flags & 1, nesterov = flags & 2;
  using keeps = Keeps<with_momentum>;

  T lr, momentum, intake, weight_decay;

  sgd(const Hyper& h, int64_t t)
      : lr(h.lr),
        momentum(h.momentum),
        intake(t == 1 ? 1 : 1 - h.dampening),  // the first gradient enters the buffer undamped
        weight_decay(h.weight_decay) {}

  FASTUPDATE_HD T operator()(T g, T p, T& b) const {
    g = g + weight_decay * p;
    if constexpr (with_momentum) {
      b = momentum * b + intake * g;
      g = nesterov ? g + momentum * b : b;
    }
    return -lr * g;
  }
};

}  // namespace fastupdate::FASTUPDATE_TARGET
