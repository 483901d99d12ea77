// AdamW. Loshchilov & Hutter, "Decoupled Weight Decay Regularization" (ICLR 2019), algorithm 2, with the decay times
// the learning rate, as torch.optim.AdamW. The moments are Adam's.
#pragma once

#include "rules/adam.h"

namespace fastupdate::FASTUPDATE_TARGET {

template <class T, unsigned flags>
struct adamw : adam<T, flags> {
  using adam<T, flags>::adam;

  FASTUPDATE_HD T operator()(T g, T p, T& m, T& v, T& v_max) const {
    return -this->lr * (this->direction(g, m, v, v_max) + this->weight_decay * p);
  }
};

}  // namespace fastupdate::FASTUPDATE_TARGET
