// The border, fast half: accepts NumPy arrays that are exactly what the plan expects, by reading their headers.
// Whatever it does not accept at a glance goes to fastupdate/arrays/accept.py, which converts it or says what is wrong.
#pragma once

#include <pybind11/numpy.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "core/plan.h"

namespace fastupdate {

namespace py = pybind11;

using Header = py::detail::PyArray_Proxy;

// Of exactly this type: subclasses may be headers over memory that is elsewhere (fastupdate/arrays/device.py).
inline const Header* header_of(PyObject* object, const PyTypeObject* type) {
  return Py_TYPE(object) == type ? py::detail::array_proxy(object) : nullptr;
}

inline const PyTypeObject* host_array_type() { return py::detail::npy_api::get().PyArray_Type_; }

inline bool all_flags(const Header& a, int flags) { return (a.flags & flags) == flags; }

inline int64_t element_count(const Header& a) {
  int64_t n = 1;
  for (int d = 0; d < a.nd; ++d) n *= a.dimensions[d];
  return n;
}

// Is the parameter still the array that the plan was made for? Arrays can be resized or made read-only at any time.
inline bool unchanged(const Header& p, const Tensor& t) {
  using namespace py::detail;
  const int flags = npy_api::NPY_ARRAY_WRITEABLE_ | (t.p_layout ? 0 : py::array::c_style | npy_api::NPY_ARRAY_ALIGNED_);
  return uint64_t(p.data) == t.p && element_count(p) == t.n && all_flags(p, flags);
}

// Can the gradient be read in place: same dtype object, same shape, contiguous?
inline bool matches(const Header& g, const Header& p, bool writable) {
  using namespace py::detail;
  const int flags = py::array::c_style | npy_api::NPY_ARRAY_ALIGNED_ | (writable ? npy_api::NPY_ARRAY_WRITEABLE_ : 0);
  return g.descr == p.descr && g.nd == p.nd && std::equal(g.dimensions, g.dimensions + g.nd, p.dimensions) &&
         all_flags(g, flags);
}

using Range = std::pair<uint64_t, uint64_t>;  // of addresses: first, and one past the last

inline bool holds(const Range& range, uint64_t begin, uint64_t end) {
  return range.first <= begin && end <= range.second;
}

// The bytes that a step writes beside gradients, to find gradients that overlap them.
class Extents {
 public:
  Extents(const Tensor* tensors, int64_t count) {
    for (int64_t i = 0; i < count; ++i)
      if (tensors[i].n) add(tensors[i]);
    std::sort(ranges_.begin(), ranges_.end());
    for (size_t i = 1; i < ranges_.size(); ++i)  // interleaved views: let each range reach as far as any before it
      ranges_[i].second = std::max(ranges_[i].second, ranges_[i - 1].second);
  }

  // The bytes around an address that are not written; if it is in none of them, the range does not hold the address.
  Range gap_around(uint64_t address) const {
    const auto after = std::upper_bound(ranges_.begin(), ranges_.end(), Range(address, UINT64_MAX));
    return {after == ranges_.begin() ? 0 : std::prev(after)->second,
            after == ranges_.end() ? UINT64_MAX : after->first};
  }

 private:
  void add(const Tensor& t) {
    ranges_.push_back(range_of(t));
    const uint64_t bytes = uint64_t(t.n * item_size(t));
    for (uint64_t array : t.state)
      if (array) ranges_.emplace_back(array, array + bytes);
    for (uint64_t array : {t.slow, t.ema})
      if (array) ranges_.emplace_back(array, array + bytes);
  }

  static Range range_of(const Tensor& t) {
    const uint64_t size = uint64_t(item_size(t));
    if (!t.p_layout) return {t.p, t.p + uint64_t(t.n) * size};
    const Layout& layout = *reinterpret_cast<const Layout*>(t.p_layout);
    Range range(t.p, t.p + size);
    for (int64_t d = 0; d < layout.ndim; ++d) {
      int64_t reach = (layout.shape[d] - 1) * layout.stride[d];
      (reach < 0 ? range.first : range.second) += uint64_t(reach);
    }
    return range;
  }

  std::vector<Range> ranges_;
};

// Starts fetching what an adoption will read of a later element: headers are scattered all over memory.
inline void prefetch_header(const py::list& arrays, int64_t i, int64_t count, const PyTypeObject* type) {
  constexpr int64_t kNear = 24, kFar = 2 * kNear;
  if (i + kFar < count)
    for (size_t line : {0, 64})
      __builtin_prefetch(reinterpret_cast<const char*>(PyList_GET_ITEM(arrays.ptr(), i + kFar)) + line);
  if (i + kNear < count)
    if (const Header* a = header_of(PyList_GET_ITEM(arrays.ptr(), i + kNear), type)) __builtin_prefetch(a->dimensions);
}

// A list of parameters and one of gradients, arrays of exactly `type`, about to be adopted by tensors of a plan.
struct Adoption {
  Tensor* tensors;
  const Extents& extents;
  const PyTypeObject* type;
  const py::list &params, &grads;
  bool writable;

  // Points the tensors begin … end − 1 at their gradients and notes in `changed` if any moved; returns the first index
  // that needs a closer look, −1 if none does.
  int64_t adopt(int64_t begin, int64_t end, bool& changed) const {
    Range gap(0, 0);  // most gradients lie where the one before does
    for (int64_t i = begin; i < end; ++i) {
      prefetch_header(params, i, end, type);
      prefetch_header(grads, i, end, type);
      Tensor& t = tensors[i];
      const Header* p = header_of(PyList_GET_ITEM(params.ptr(), i), type);
      const Header* g = header_of(PyList_GET_ITEM(grads.ptr(), i), type);
      if (!p || !g || !unchanged(*p, t) || !matches(*g, *p, writable)) return i;
      const uint64_t data = uint64_t(g->data), last = data + uint64_t(t.n * item_size(t));
      if (data != t.g && !holds(gap, data, last) && !holds(gap = extents.gap_around(data), data, last)) return i;
      if (data == t.g && is_direct(t) && t.scale == 1) continue;
      changed = true;
      t.g = data;
      t.g_layout = 0;
      t.samples = 1;
      t.scale = 1;
    }
    return -1;
  }
};

inline void check_lengths(int64_t count, const py::list& params, const py::list& grads) {
  if (int64_t(params.size()) != count || int64_t(grads.size()) != count)
    throw std::invalid_argument("adopt: one parameter and one gradient for each tensor of the plan");
}

}  // namespace fastupdate
