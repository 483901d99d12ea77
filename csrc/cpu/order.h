// How tensors lie that do not lie in C order.
#pragma once

#include "core/views.h"
#include "cpu/window.h"

namespace fastupdate::FASTUPDATE_TARGET {

inline const Layout& order_of(const Tensor& t) { return *reinterpret_cast<const Layout*>(t.order); }

// How many rows lie side by side.
inline int64_t run_length(const Layout& order, int64_t size) {
  int64_t axis = closest_axis(order), length = order.shape[axis];
  if (order.stride[axis] != size) return 0;
  while (axis > 0 && order.stride[axis - 1] == length * size) length *= order.shape[--axis];
  return length;
}

// Whether a tensor lies in another order than C order, and so that several rows are beside each other. Where elements
// lie closest along the last axis, there are none.
template <class T>
bool lies_in_rows(const Tensor& t) {
  if (!t.order || !is_direct(t) || closest_axis(order_of(t)) == order_of(t).ndim - 1) return false;
  return run_length(order_of(t), sizeof(T)) >= kSide && Room::of_thread();
}

}  // namespace fastupdate::FASTUPDATE_TARGET
