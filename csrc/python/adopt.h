// The border, fast half: accepts NumPy arrays that are exactly what the plan expects, by reading their headers.
// Whatever it does not accept at a glance goes to fastupdate/arrays/accept.py, which converts it or says what is wrong.
#pragma once

#include <pybind11/numpy.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "core/plan.h"
#include "python/readers.h"

namespace fastupdate {

// The arrays of the user's that a plan writes, as they were when it was made. They can be resized, retyped or made
// read-only at any time, so that every step looks at them again.
class Watched {
 public:
  // params: one for each tensor. others: states that the user brought; all of them contiguous.
  void note(const py::list& params, const py::list& others, PyTypeObject* type) {
    type_ = type;
    shapes_.clear();
    first_dim_.assign(1, 0);
    direct_.clear();
    others_.clear();
    torch_ = py::list();
    for (const py::handle param : params) {
      const View view = noted(param);
      shapes_.insert(shapes_.end(), view.shape, view.shape + view.ndim);
      first_dim_.push_back(int64_t(shapes_.size()));
      direct_.push_back(view.direct);
    }
    for (const py::handle array : others) {
      const View view = noted(array);
      const auto object = py::reinterpret_borrow<py::object>(array);
      others_.push_back({object, view.data, view.dtype, {view.shape, view.shape + view.ndim}});
    }
  }

  PyTypeObject* type() const { return type_; }

  // Those that are torch's, all of which a step writes.
  const py::list& of_torch() const { return torch_; }

  bool same_shape(int64_t i, const View& view) const {
    const int64_t first = first_dim_[size_t(i)];
    return fastupdate::same_shape(view, int(first_dim_[size_t(i) + 1] - first), shapes_.data() + first);
  }

  // Whether a header of NumPy's is of the parameter's shape, which was direct.
  bool was_direct(int64_t i, const Header& a) const {
    const int64_t first = first_dim_[size_t(i)], ndim = first_dim_[size_t(i) + 1] - first;
    return direct_[size_t(i)] && a.nd == ndim &&
           same_numbers(shapes_.data() + first, reinterpret_cast<const int64_t*>(a.dimensions), a.nd);
  }

  // Are the others what they were?
  bool intact() const {
    return std::all_of(others_.begin(), others_.end(), [this](const Other& noted) {
      View view;
      return look_again(noted.array.ptr(), type_, view) && view.data == noted.data && view.dtype == noted.dtype &&
             fastupdate::same_shape(view, int(noted.shape.size()), noted.shape.data()) && view.direct && view.writable;
    });
  }

  // Shows each reference.
  template <class See>
  void visit(See see) const {
    see(torch_);
    for (const Other& noted : others_) see(noted.array);
  }

  // Lets go of them; nothing is looked at any more.
  void forget() {
    torch_ = py::list();
    others_.clear();
  }

 private:
  struct Other {
    py::object array;
    uint64_t data;
    uint8_t dtype;
    std::vector<int64_t> shape;
  };

  View noted(py::handle array) {
    View view;
    if (!look_again(array.ptr(), type_, view)) throw std::invalid_argument("watch: not an array of the plan's memory");
    if (is_torch(array.ptr())) torch_.append(array);
    return view;
  }

  PyTypeObject* type_ = nullptr;
  std::vector<int64_t> shapes_, first_dim_;  // of the parameters, one after the other
  std::vector<uint8_t> direct_;              // whether each was
  std::vector<Other> others_;
  py::list torch_;
};

// Is parameter i still the array that the plan was made for?
inline bool unchanged(const View& p, const Tensor& t, const Watched& watched, int64_t i) {
  const uint64_t layout = t.order ? t.order : t.p_layout;
  return (p.data == t.p || !t.n) && p.dtype == t.dtype && p.writable && watched.same_shape(i, p) &&
         (layout ? lies_as(p, *reinterpret_cast<const Layout*>(layout)) : p.direct);
}

// Is the array like the parameter, and can it be read as it lies? ordered: it has to lie in the parameter's own order.
inline bool matches(const View& g, const View& p, bool ordered, bool writable) {
  return same_shape(g, p.ndim, p.shape) && (ordered ? same_strides(g, p) : g.direct) && (g.writable || !writable);
}

// Is the gradient, an array of NumPy's, strided as the one before was? Tensors of torch's that are strided may be
// negated.
inline bool strided_as_before(const View& g, const View& p, const Tensor& t, bool writable) {
  return t.g_layout && g.stride_unit == 1 && !g.direct && !t.order && t.samples == 1 && g.dtype == t.g_dtype &&
         same_shape(g, p.ndim, p.shape) && (g.writable || !writable) &&
         lies_as(g, *reinterpret_cast<const Layout*>(t.g_layout));
}

// Does the gradient have the parameter's type, or a narrow one that a step in float32 reads?
inline bool readable(const View& g, const View& p) {
  return g.dtype == p.dtype || (is_narrow(g.dtype) && g.dtype != kNone && p.dtype == kFloat32);
}

// Is there a layout by which the gradient is found in C order? Narrow ones have none in common with their parameter,
// but the same one each time.
inline bool found_in_order(const View& g, const Tensor& t) {
  return !t.order || g.dtype == t.dtype || (g.dtype == t.g_dtype && !t.g_layout);
}

using Range = std::pair<uint64_t, uint64_t>;  // of addresses: first, and one past the last

inline bool holds(const Range& range, uint64_t begin, uint64_t end) {
  return range.first <= begin && end <= range.second;
}

// From the first byte of an array to its last.
inline Range reach_of(uint64_t array, uint64_t layout, int64_t n, int64_t size) {
  if (!layout) return {array, array + uint64_t(n * size)};
  const Layout& axes = *reinterpret_cast<const Layout*>(layout);
  Range range(array, array + uint64_t(size));
  for (int64_t d = 0; d < axes.ndim; ++d) {
    const int64_t reach = (axes.shape[d] - 1) * axes.stride[d];
    (reach < 0 ? range.first : range.second) += uint64_t(reach);
  }
  return range;
}

// The bytes that a step writes beside gradients, to find gradients that overlap them.
class Extents {
 public:
  Extents(const Tensor* tensors, int64_t count) {
    for (int64_t i = 0; i < count; ++i)
      if (tensors[i].n) add(tensors[i]);
    std::sort(ranges_.begin(), ranges_.end());
    for (size_t i = 1; i < ranges_.size(); ++i) {  // interleaved views: let each range reach as far as any before it
      disjoint_ = disjoint_ && ranges_[i - 1].second <= ranges_[i].first;
      ranges_[i].second = std::max(ranges_[i].second, ranges_[i - 1].second);
    }
  }

  // Whether no two of them share a byte.
  bool disjoint() const { return disjoint_; }

  // The bytes around an address that are not written; if it is in none of them, the range does not hold the address.
  Range gap_around(uint64_t address) const {
    const auto after = std::upper_bound(ranges_.begin(), ranges_.end(), Range(address, UINT64_MAX));
    return {after == ranges_.begin() ? 0 : std::prev(after)->second,
            after == ranges_.end() ? UINT64_MAX : after->first};
  }

 private:
  void add(const Tensor& t) {
    ranges_.push_back(reach_of(t.p, t.p_layout, t.n, item_size(t)));
    for (int k = 0; k < kSlots; ++k)
      if (t.slot[k] && k != kAccumulator)
        ranges_.emplace_back(t.slot[k], t.slot[k] + uint64_t(t.n * item_size(slot_dtype(t, k))));
  }

  std::vector<Range> ranges_;
  bool disjoint_ = true;
};

// Points a tensor at a gradient that can be read in place; false if it may overlap what is written. `gap` is where the
// one before was found to lie apart, `changed` becomes true if this one is elsewhere than it was.
inline bool aim(Tensor& t, const View& g, const Extents& extents, Range& gap, bool& changed) {
  const uint64_t layout = t.order || g.direct ? 0 : t.g_layout;
  const auto [first, last] = reach_of(g.data, layout, t.n, item_size(g.dtype));
  // What was found to lie apart is where it was.
  const bool stayed = (g.data == t.g || !t.n) && g.dtype == t.g_dtype && t.g_layout == layout && t.samples == 1;
  if (!stayed && !holds(gap, first, last) && !holds(gap = extents.gap_around(g.data), first, last)) return false;
  if (stayed && t.scale == 1) return true;
  changed = true;
  t.g = g.data;
  t.g_layout = layout;
  if (g.dtype == t.dtype) t.g_order = t.order;
  t.g_dtype = g.dtype;
  t.samples = 1;
  t.scale = 1;
  return true;
}

// Starts fetching what an adoption will read of a later element: headers are scattered all over memory. This and what
// else only fetches is inlined, for compilers drop calls of functions that do nothing else.
FASTUPDATE_HD void prefetch_header(const py::list& arrays, int64_t i, int64_t count, const PyTypeObject* type) {
  constexpr int64_t kNear = 24, kFar = 2 * kNear;
  if (i + kFar < count)
    for (size_t line : {0, 64})
      __builtin_prefetch(reinterpret_cast<const char*>(PyList_GET_ITEM(arrays.ptr(), i + kFar)) + line);
  if (i + kNear < count)
    if (PyObject* next = PyList_GET_ITEM(arrays.ptr(), i + kNear); next && Py_TYPE(next) == type)
      __builtin_prefetch(py::detail::array_proxy(next)->dimensions);
}

// A list of parameters and one of gradients, arrays of the type that is watched, about to be adopted by tensors of a
// plan.
struct Adoption {
  Tensor* tensors;
  const Extents& extents;
  const Watched& watched;
  const py::list &params, &grads;  // a gradient that is not there yet is taken from torch's parameter
  bool writable;
  bool alone;               // in the caller's thread, with the GIL
  Footprint* of_last_step;  // where there are torch's parameters
  int device = 0;           // on which all of them are

  // Points the tensors begin … end − 1 at their gradients and notes in `changed` if any moved; returns the first index
  // that needs a closer look, −1 if none does.
  int64_t adopt(int64_t begin, int64_t end, bool& changed) const {
    PyTypeObject* const type = watched.type();
    Range gap(0, 0);  // most gradients lie where the one before does
    for (int64_t i = begin; i < end; ++i) {
      prefetch(i, end, type);
      Tensor& t = tensors[i];
      View p, g;
      PyObject *const param = PyList_GET_ITEM(params.ptr(), i), *const grad = gradient(i, param);
      if (grad && alike(t, param, grad, i, g)) {
        if (!stays(t, g.data) && !aim(t, g, extents, gap, changed)) return i;
        continue;
      }
      if (!grad || (!alone && (is_torch(param) || is_torch(grad)))) return i;
      if (!look_again(param, type, p) || !unchanged(p, t, watched, i)) return i;
      if (!look(grad, type, g) || g.device != (is_torch(grad) ? device : 0) || !readable(g, p) || !found_in_order(g, t))
        return i;
      if (!matches(g, p, t.order, writable) && !strided_as_before(g, p, t, writable)) return i;
      if (of_last_step) of_last_step[i] = {as_bytes(p.shape), as_bytes(g.shape), as_bytes(grad)};
      if (!aim(t, g, extents, gap, changed)) return i;
    }
    return -1;
  }

 private:
  // Whether two arrays of NumPy's are alike, contiguous and what the record says of the parameter, as most are: what
  // the look after this one would find, sooner. Tells what there is to know of the gradient.
  bool alike(const Tensor& t, PyObject* param, PyObject* grad, int64_t i, View& view) const {
    if (of_last_step || Py_TYPE(param) != watched.type() || Py_TYPE(grad) != watched.type()) return false;
    const Header &p = *py::detail::array_proxy(param), &g = *py::detail::array_proxy(grad);
    view.data = uint64_t(g.data);
    view.dtype = t.dtype;
    view.direct = true;
    return is_there(p, t.p, kDirectFlags | kWritableFlag, p) &&
           is_there(g, view.data, writable ? kDirectFlags | kWritableFlag : kDirectFlags, p) && !t.touched &&
           watched.was_direct(i, p) && dtype_of(*py::detail::array_descriptor_proxy(p.descr)) == t.dtype;
  }

  // Whether a contiguous gradient of the parameter's type is where the one before was, and like it.
  static bool stays(const Tensor& t, uint64_t data) { return data == t.g && is_direct(t) && t.scale == 1; }

  PyObject* gradient(int64_t i, PyObject* param) const {
    PyObject* grad = PyList_GET_ITEM(grads.ptr(), i);
    if (!grad && alone && is_torch(param)) PyList_SET_ITEM(grads.ptr(), i, grad = gradient_of(param));
    return grad;
  }

  FASTUPDATE_HD void prefetch(int64_t i, int64_t end, const PyTypeObject* type) const {
    constexpr int64_t kAhead = 8;
    if (!of_last_step) {
      prefetch_header(params, i, end, type);
      prefetch_header(grads, i, end, type);
    } else if (i + kAhead < end) {
      of_last_step[i + kAhead].prefetch(PyList_GET_ITEM(params.ptr(), i + kAhead));
    }
  }

  static const char* as_bytes(const void* at) { return static_cast<const char*>(at); }
};

inline void check_lengths(int64_t count, const py::list& params, const py::list& grads) {
  if (int64_t(params.size()) != count || int64_t(grads.size()) != count)
    throw std::invalid_argument("adopt: one parameter and one gradient for each tensor of the plan");
}

}  // namespace fastupdate
