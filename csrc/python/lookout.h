// What is looked at in every step of torch's optimizers: objects that should be the same, tensors that should not move.
#pragma once

#include <pybind11/critical_section.h>
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

// Whether a value is the one that was seen, or a float like it. Others may be equal too, which takes a closer look.
inline bool same_value(PyObject* now, PyObject* seen) {
  return now && (now == seen || (PyFloat_CheckExact(now) && PyFloat_CheckExact(seen) &&
                                 PyFloat_AS_DOUBLE(now) == PyFloat_AS_DOUBLE(seen)));
}

// A parameter group of torch's as fastupdate/torch/seen.py saw it: the parameters, how many entries there were, names
// and values of those that a step reads beside the learning rate, and all of them as numbers.
class SeenGroup {
 public:
  explicit SeenGroup(PyObject* row)
      : params_(PyTuple_GET_ITEM(row, 0)),
        names_(PyTuple_GET_ITEM(row, 2)),
        values_(PyTuple_GET_ITEM(row, 3)),
        numbers_(PyTuple_GET_ITEM(row, 4)),
        entries_(PyLong_AsSsize_t(PyTuple_GET_ITEM(row, 1))) {}

  // Whether the group still is as it was, but for its learning rate; such a one within the interval is taken.
  bool is_still(PyObject* group, double low, double high, double* rate) const {
    static PyObject *const params = PyUnicode_InternFromString("params"), *const lr = PyUnicode_InternFromString("lr");
    if (!PyDict_CheckExact(group) || PyDict_GET_SIZE(group) != entries_) return false;
    if (!has(PyDict_GetItem(group, params)) || !has_values(group)) return false;
    PyObject* const now = PyDict_GetItem(group, lr);
    if (same_value(now, PyDict_GetItem(numbers_, lr))) return true;
    if (!now || !PyFloat_CheckExact(now)) return false;
    const double number = PyFloat_AS_DOUBLE(now);
    if (!(low < number && number < high)) return false;
    if (PyDict_SetItem(numbers_, lr, now)) throw py::error_already_set();
    if (rate) *rate = number;
    return true;
  }

 private:
  bool has(PyObject* params) const {
    return params && PyList_CheckExact(params) &&
           same_objects(py::reinterpret_borrow<py::list>(params), py::reinterpret_borrow<py::list>(params_));
  }

  bool has_values(PyObject* group) const {
    for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(names_); ++k)
      if (!same_value(PyDict_GetItem(group, PyTuple_GET_ITEM(names_, k)), PyTuple_GET_ITEM(values_, k))) return false;
    return true;
  }

  PyObject *params_, *names_, *values_, *numbers_;
  Py_ssize_t entries_;
};

// All of them. The learning rates of groups that are still as they were, but for that, are taken: into `rates`, at the
// places of those that move (−1: one does not).
class SeenGroups {
 public:
  SeenGroups(const py::list& rows, py::array_t<double> rates, const std::vector<int64_t>& places, double low,
             double high)
      : rows_(rows), rates_(rates), places_(places), low_(low), high_(high) {
    for (const int64_t place : places_)
      if (place >= rates_.size()) throw std::invalid_argument("groups: a place outside of the array");
  }

  // Those that take a closer look.
  std::vector<size_t> changed(const py::list& groups) const {
    std::vector<size_t> found;
    for (size_t k = 0; k < places_.size(); ++k)
      if (!still(k, groups)) found.push_back(k);
    return found;
  }

  // Whether there are none, and no more groups than there were.
  bool still(const py::list& groups) const {
    if (groups.size() != places_.size()) return false;
    for (size_t k = 0; k < places_.size(); ++k)
      if (!still(k, groups)) return false;
    return true;
  }

  // Shows each reference to what is the user's.
  template <class See>
  void visit(See see) const {
    see(rows_);
  }

  void forget() { rows_ = py::list(), places_.clear(); }

 private:
  bool still(size_t k, const py::list& groups) const {
    PyObject* const group = PyList_GetItem(groups.ptr(), Py_ssize_t(k));
    PyObject* const row = PyList_GetItem(rows_.ptr(), Py_ssize_t(k));
    if (!group || !row) throw py::error_already_set();
    const py::scoped_critical_section locked(group);
    double* const rate = places_[k] < 0 ? nullptr : static_cast<double*>(rates_.mutable_data(places_[k]));
    return SeenGroup(row).is_still(group, low_, high_, rate);
  }

  py::list rows_;
  mutable py::array_t<double> rates_;
  std::vector<int64_t> places_;
  double low_, high_;
};

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
