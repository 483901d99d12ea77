// Tiles in logical order, of tensors whose arrays lie in another order in memory. Sums and units are defined by the
// logical order, so what they are made of is gathered, and scattered again; all else walks memory as it lies.
#pragma once

#include "core/plan.h"
#include "core/views.h"

namespace fastupdate::FASTUPDATE_TARGET {

// A copy of one tile of every array that a step writes, and of its gradient.
template <class T, int64_t kTile>
class LogicalTile {
 public:
  LogicalTile(const Tensor& t, int64_t begin, int n, const T* gradient) : t_(t), begin_(begin), n_(n), here(t) {
    read(t.p, p_, here.p);
    for (int k = 0; k < kSlots; ++k)
      if (is_moved(k)) read(t.slot[k], slots_[k], here.slot[k]);
    with_codec(t.shadow_dtype, [&](auto codec) {
      read(t.slot[kShadow], reinterpret_cast<typename decltype(codec)::Bits*>(shadow_), here.slot[kShadow]);
    });
    here.g = biased(gradient);
    here.p_layout = here.g_layout = here.order = 0;
    here.samples = 1;
    here.g_dtype = t.dtype;
  }

  // Puts back what the step has written.
  void write_back() const {
    write(t_.p, p_);
    for (int k = 0; k < kSlots; ++k)
      if (is_moved(k)) write(t_.slot[k], slots_[k]);
    with_codec(t_.shadow_dtype, [&](auto codec) {
      write(t_.slot[kShadow], reinterpret_cast<const typename decltype(codec)::Bits*>(shadow_));
    });
  }

 private:
  // An address from which element `begin` of the tensor is the first of the tile.
  template <class X>
  uint64_t biased(const X* tile) const {
    return uint64_t(tile) - uint64_t(begin_) * sizeof(X);
  }

  // All arrays of a tensor lie in one order; its layout counts bytes of T.
  template <class X, class Visit>
  void each(uint64_t array, Visit visit) const {
    for_each_strided(0, *reinterpret_cast<const Layout*>(t_.order), begin_, n_,
                     [=](int k, uint64_t at) { visit(k, reinterpret_cast<X*>(array + at / sizeof(T) * sizeof(X))); });
  }

  template <class X>
  void read(uint64_t array, X* out, uint64_t& address) {
    if (!array) return;
    each<X>(array, [=](int k, const X* x) { out[k] = *x; });
    address = biased(out);
  }

  template <class X>
  void write(uint64_t array, const X* in) const {
    if (array) each<X>(array, [=](int k, X* x) { *x = in[k]; });
  }

  const Tensor& t_;
  int64_t begin_;
  int n_;
  alignas(64) T p_[kTile], slots_[kSlots][kTile];
  alignas(64) unsigned char shadow_[kTile * sizeof(T)];

 public:
  Tensor here;  // the tensor, as if its arrays were these
};

}  // namespace fastupdate::FASTUPDATE_TARGET
