// What is looked at in every step of torch's optimizers: objects that should be the same, tensors that should not move.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <stdexcept>
#include <utility>
#include <vector>

#include "python/readers.h"

namespace fastupdate {

// Whether two lists hold the very same objects.
inline bool same_objects(const py::list& a, const py::list& b) {
  const Py_ssize_t count = PyList_GET_SIZE(a.ptr());
  PyObject *const *const first = PySequence_Fast_ITEMS(a.ptr()), *const *const second = PySequence_Fast_ITEMS(b.ptr());
  return count == PyList_GET_SIZE(b.ptr()) && std::equal(first, first + count, second);
}

// Tensors of torch's, kept, that should stay where they are and as they are.
class Lookout {
 public:
  explicit Lookout(const py::list& tensors) : tensors_(py::list(tensors)) {
    for (const py::handle tensor : tensors_) {
      View view;
      if (!see(tensor.ptr(), view)) return;
      seen_.push_back({view.data, int(shape_.size()), view.ndim});
      shape_.insert(shape_.end(), view.shape, view.shape + view.ndim);
      shape_.insert(shape_.end(), view.strides, view.strides + view.ndim);
    }
  }

  // Whether they have; None if that cannot be told at a glance.
  py::object intact() const {
    const size_t count = tensors_.size();
    if (seen_.size() != count) return py::none();
    for (size_t i = 0; i < count; ++i) {
      if (i + kAhead < count) prefetch_object(PyList_GET_ITEM(tensors_.ptr(), i + kAhead));
      if (i + 2 * kAhead < count) __builtin_prefetch(PyList_GET_ITEM(tensors_.ptr(), i + 2 * kAhead));
      View view;
      if (!see(PyList_GET_ITEM(tensors_.ptr(), i), view) || !same(seen_[i], view)) return py::bool_(false);
    }
    return py::bool_(true);
  }

 private:
  static constexpr size_t kAhead = 8;

  struct Seen {
    uint64_t data;
    int first, ndim;
  };

  static bool see(PyObject* tensor, View& view) {
    return shim.found && is_torch(tensor) && look_at(at_tensor(tensor), view);
  }

  FASTUPDATE_HD static void prefetch_object(PyObject* tensor) {
    if (is_torch(tensor)) prefetch(at_tensor(tensor));
  }

  bool same(const Seen& seen, const View& view) const {
    const int64_t* const shape = shape_.data() + seen.first;
    return view.data == seen.data && same_shape(view, seen.ndim, shape) &&
           same_numbers(view.strides, shape + seen.ndim, view.ndim);
  }

  py::list tensors_;
  std::vector<Seen> seen_;
  std::vector<int64_t> shape_;  // of each, then its strides
};

// Step counts that others see, and may set: some places of an array of floats.
class Tally {
 public:
  Tally(py::array counts, const std::vector<int64_t>& places) : counts_(std::move(counts)), places_(places) {
    if (counts_.itemsize() != 4 && counts_.itemsize() != 8) throw std::invalid_argument("tally: floats");
    for (const int64_t place : places_)
      if (place < 0 || place >= counts_.size()) throw std::invalid_argument("tally: a place outside of the array");
    look();
  }

  // Takes the counts as they are.
  void look() {
    seen_.clear();
    for (const int64_t place : places_) seen_.push_back(counts_.itemsize() == 4 ? at<float>(place) : at<double>(place));
  }

  // Whether nobody else has changed them since the last look.
  bool intact() {
    for (size_t i = 0; i < places_.size(); ++i)
      if ((counts_.itemsize() == 4 ? at<float>(places_[i]) : at<double>(places_[i])) != seen_[i]) return false;
    return true;
  }

  // Counts one more step of each.
  void advance() {
    for (size_t i = 0; i < places_.size(); ++i)
      seen_[i] = counts_.itemsize() == 4 ? double(at<float>(places_[i]) += 1) : at<double>(places_[i]) += 1;
  }

 private:
  template <class T>
  T& at(int64_t place) {
    return static_cast<T*>(counts_.mutable_data())[place];
  }

  py::array counts_;
  std::vector<int64_t> places_;
  std::vector<double> seen_;
};

}  // namespace fastupdate
