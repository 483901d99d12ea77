// Adam. Kingma & Ba, "Adam: A Method for Stochastic Optimization" (ICLR 2015), algorithm 1; AMSGrad: Reddi, Kale &
// Kumar (ICLR 2018), with the maximum over the uncorrected v. Weight decay is L2 regularisation, as in
// torch.optim.Adam.
#pragma once

#include "core/rule.h"

namespace fastupdate::FASTUPDATE_TARGET {

template <class T, unsigned flags>
struct adam {
  FASTUPDATE_HYPERS(lr, beta1, beta2, eps, weight_decay);
  FASTUPDATE_FLAGS(amsgrad);
  FASTUPDATE_STATES(m, v, v_max);
  static constexpr bool amsgrad = flags & 1;
  using keeps = Keeps<true, true, amsgrad>;

  T lr, one_minus_beta1, beta2, one_minus_beta2, correction1, correction2, eps, weight_decay;

  adam(const Hyper& h, int64_t t)
      : lr(h.lr),
        one_minus_beta1(1 - h.beta1),
        beta2(h.beta2),
        one_minus_beta2(1 - h.beta2),
        correction1(1 / (1 - pow(h.beta1, t))),
        correction2(1 / (1 - pow(h.beta2, t))),
        eps(h.eps),
        weight_decay(h.weight_decay) {}

  FASTUPDATE_HD T operator()(T g, T p, T& m, T& v, T& v_max) const {
    g = g + weight_decay * p;
    return -lr * direction(g, m, v, v_max);
  }

  FASTUPDATE_HD T direction(T g, T& m, T& v, T& v_max) const {
    m = m + one_minus_beta1 * (g - m);
    v = beta2 * v + one_minus_beta2 * (g * g);
    if constexpr (amsgrad) v_max = maximum(v_max, v);
    T m_hat = m * correction1;
    T v_hat = (amsgrad ? v_max : v) * correction2;
    return m_hat / (square_root(v_hat) + eps);
  }
};

}  // namespace fastupdate::FASTUPDATE_TARGET
