// The quickest way to torch's gradients: those that its parameters hold, without a Python object for any of them.
#pragma once

#include <algorithm>
#include <vector>

#include "python/adopt.h"

namespace fastupdate {

// Gradients that are kept alive.
class Kept {
 public:
  Kept() = default;
  Kept(const Kept&) = delete;
  Kept& operator=(const Kept&) = delete;
  ~Kept() {
    for (const AtTensor tensor : tensors_) shim.free(tensor);
  }

  bool keep(AtTensor tensor) {
    AtTensor kept;
    if (shim.copy(tensor, &kept)) return false;
    tensors_.push_back(kept);
    return true;
  }

 private:
  std::vector<AtTensor> tensors_;
};

// Points tensors of a plan at the gradients of parameters, in one of the threads that share them. Their caller has the
// GIL, and keeps it until the gradients were read, or has them kept alive.
class Held {
 public:
  Held(Tensor* tensors, const Extents& extents, const Watched& watched, const py::list& params)
      : tensors_(tensors), extents_(extents), watched_(watched), params_(params) {}

  bool moved = false;   // a gradient is elsewhere than before
  bool unsure = false;  // Python is to be asked whether some are negated (some_negated)

  // Whether the gradients of parameters first … last − 1 were all found, and every array is what it was. Those that
  // were found are kept alive, where that is asked for, which only the caller's own thread may do.
  bool adopt(int64_t first, int64_t last, Kept* kept) {
    Range gap(0, 0);
    for (int64_t begin = first; begin < last; begin += kTogether) {
      const int64_t end = std::min(begin + kTogether, last);
      if (!find(begin, end)) return false;
      for (int64_t i = begin; i < end; ++i) {
        prefetch_behind(at_tensor(PyList_GET_ITEM(params_.ptr(), i)), shim.storage);
        prefetch_behind(grads_[i - begin], shim.storage);
      }
      for (int64_t i = begin; i < end; ++i)
        if (!adopt(i, grads_[i - begin], gap) || (kept && !kept->keep(grads_[i - begin]))) return false;
    }
    return true;
  }

  // Whether the values of some parameter or gradient are those in memory times −1. In the caller's own thread.
  bool some_negated() const {
    for (int64_t i = 0; i < int64_t(params_.size()); ++i) {
      PyObject* const param = PyList_GET_ITEM(params_.ptr(), i);
      if (!could_be_negated(tensors_[i])) continue;
      const auto grad = py::reinterpret_steal<py::object>(gradient_of(param));
      if (may_be_negated(param) || may_be_negated(grad.ptr())) return true;
    }
    return false;
  }

 private:
  static constexpr int64_t kTogether = 64, kAhead = 8;

  // Finds gradients, and has fetched what will be looked at: tensors are scattered all over memory.
  bool find(int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      prefetch_param(i);
      PyObject* const param = PyList_GET_ITEM(params_.ptr(), i);
      if (!is_torch(param)) return false;
      const AtTensor grad = grads_[i - begin] = held_gradient(at_tensor(param));
      if (!grad) return false;
      prefetch(grad);
    }
    return true;
  }

  FASTUPDATE_HD void prefetch_param(int64_t i) const {
    const int64_t count = int64_t(params_.size());
    if (i + 3 * kAhead < count) __builtin_prefetch(PyList_GET_ITEM(params_.ptr(), i + 3 * kAhead));
    if (i + 2 * kAhead < count)
      if (PyObject* const param = PyList_GET_ITEM(params_.ptr(), i + 2 * kAhead); is_torch(param))
        prefetch(at_tensor(param));
    if (i + kAhead < count)
      if (PyObject* const param = PyList_GET_ITEM(params_.ptr(), i + kAhead); is_torch(param))
        prefetch_behind(at_tensor(param), shim.autograd);
  }

  bool adopt(int64_t i, AtTensor grad, Range& gap) {
    View p, g;
    Tensor& t = tensors_[i];
    if (!look_at(at_tensor(PyList_GET_ITEM(params_.ptr(), i)), p) || !unchanged(p, t, watched_, i)) return false;
    if (!look_at(grad, g) || !readable(g, p) || !matches(g, p, t.order, false) || !found_in_order(g, t)) return false;
    unsure = unsure || could_be_negated(t);
    return aim(t, g, extents_, gap, moved);
  }

  // Dense tensors of several elements never are.
  static bool could_be_negated(const Tensor& t) { return t.n == 1 || (t.p_layout && !t.order); }

  Tensor* tensors_;
  const Extents& extents_;
  const Watched& watched_;
  const py::list& params_;
  AtTensor grads_[kTogether];
};

}  // namespace fastupdate
