// Gradients of few rows: the order in which their rows are gone through, and the fast half of taking them in. What is
// not accepted at a glance goes to fastupdate/step/rows.py, which converts it or says what is wrong.
#pragma once

#include <pybind11/numpy.h>

#include <array>
#include <atomic>
#include <map>
#include <new>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "core/derive.h"
#include "cpu/fetch.h"
#include "cpu/plan.h"
#include "python/adopt.h"
#include "python/slots.h"

namespace fastupdate {

namespace py = pybind11;

// Groups numbers: those that occur in rising order, where each one's positions start, and the positions, those of one
// number in their order.
class Grouping {
 public:
  // False if one of them is not among 0 … bound − 1. Those that do not come in order are sorted by counting, digit by
  // digit from the last; few of them by short digits, for long ones have more counters than there are numbers.
  template <class Integer>
  bool take(const Integer* numbers, int64_t n, int64_t bound) {
    constexpr int64_t kMost = INT32_MAX;
    return n < kMost && bound < kMost ? take_as<int32_t>(numbers, n, bound) : take_as<int64_t>(numbers, n, bound);
  }

  std::vector<int64_t> at, starts, positions;

 private:
  static constexpr int kLong = 11;

  template <class Number>
  struct Entry {
    Number number, position;
  };

  template <class Number, class Integer>
  bool take_as(const Integer* numbers, int64_t n, int64_t bound) {
    auto& from = std::get<std::vector<Entry<Number>>>(from_);
    from.resize(size_t(n));
    bool rising = true;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t number = int64_t(numbers[i]);
      if (uint64_t(number) >= uint64_t(bound)) return false;
      rising &= !i || from[size_t(i - 1)].number <= number;
      from[size_t(i)] = {Number(number), Number(i)};
    }
    if (!rising) n >> kLong ? sort<kLong>(from, bound) : sort<7>(from, bound);
    group(from);
    return true;
  }

  // Whether a number is another one than that before is as good as random, so no branch asks.
  template <class Number>
  void group(const std::vector<Entry<Number>>& sorted) {
    const size_t n = sorted.size();
    at.resize(n), starts.resize(n + 1), positions.resize(n);
    size_t found = 0;
    for (size_t i = 0; i < n; ++i) {
      const auto [number, position] = sorted[i];
      at[found] = number, starts[found] = int64_t(i), positions[i] = position;
      found += !i || number != sorted[i - 1].number;  // else the next one is written over what was written
    }
    starts[found] = int64_t(n);
    at.resize(found), starts.resize(found + 1);
  }

  // Counts by all digits at once, and moves by one after the other.
  template <int bits, class Number>
  void sort(std::vector<Entry<Number>>& from, int64_t bound) {
    constexpr int kMost = (63 + bits - 1) / bits;
    auto& to = std::get<std::vector<Entry<Number>>>(to_);
    to.resize(from.size());
    int digits = 0;
    while (digits < kMost && (bound - 1) >> (digits * bits) > 0) ++digits;
    std::vector<std::array<Number, 1 << bits>> next(static_cast<size_t>(digits));
    const auto digit = [](Number number, int k) { return size_t(number >> (k * bits) & ((1 << bits) - 1)); };
    for (const auto& entry : from)
      for (int k = 0; k < digits; ++k) ++next[size_t(k)][digit(entry.number, k)];
    for (int k = 0; k < digits; ++k) {
      auto& places = next[size_t(k)];
      Number before = 0;
      for (Number& count : places) before += std::exchange(count, before);
      for (const auto& entry : from) to[size_t(places[digit(entry.number, k)]++)] = entry;
      std::swap(from, to);
    }
  }

  // Short ones, of half the size, for what fits in them, as nearly always.
  std::tuple<std::vector<Entry<int32_t>>, std::vector<Entry<int64_t>>> from_, to_;
};

// The three arrays of a grouping, for Python.
inline py::tuple grouped(const py::array_t<int64_t, py::array::c_style>& numbers, int64_t bound) {
  Grouping grouping;
  if (!grouping.take(numbers.data(), numbers.size(), bound)) throw std::invalid_argument("grouped: 0 … bound − 1");
  const auto array = [](const std::vector<int64_t>& x) {
    return py::array_t<int64_t>(py::ssize_t(x.size()), x.data());
  };
  return py::make_tuple(array(grouping.at), array(grouping.starts), array(grouping.positions));
}

// fu.Rows, once Python has told of it (fastupdate/arrays/rows.py): frozen, with two slots, which are null where an
// object was made without them.
class RowsOfPython {
 public:
  void meet(py::type type) {
    indices_ = slot_offset(type.attr("indices"));
    values_ = slot_offset(type.attr("values"));
    type_ = reinterpret_cast<PyTypeObject*>(type.release().ptr());
  }

  bool are(PyObject* grad) const { return type_ && grad && Py_TYPE(grad) == type_; }
  PyObject* indices(PyObject* rows) const { return in_slot(rows, indices_); }
  PyObject* values(PyObject* rows) const { return in_slot(rows, values_); }

 private:
  PyTypeObject* type_ = nullptr;
  Py_ssize_t indices_ = 0, values_ = 0;
};
inline RowsOfPython rows_of_python;
inline void meet_rows(py::type type) { rows_of_python.meet(std::move(type)); }

// Groups the names of rows in this thread. Others meanwhile fetch what a step reads of those rows, up to a size that
// caches hold, for grouping waits and computes, and leaves memory idle.
class FetchingGrouping {
 public:
  // extents: what the states are of; null: of elements. team: that is to work on these rows.
  FetchingGrouping(const Tensor& t, const View& g, int64_t length, const Extent* extents, const Team& team)
      : arrays_(t, length, extents), values_(g.data), value_size_(length * item_size(g.dtype)), count_(g.shape[0]) {
    const Crew crew = crew_for(kScatteredCost * count_ * length, count_);
    if (team.shares(crew)) threads_ = crew.most;
  }

  // As Grouping::take.
  template <class Integer>
  bool take(Grouping& grouping, const Integer* names, int64_t bound) const {
    std::atomic<bool> done{false};
    bool accepted = false, memory = true;
    in_team(threads_, [&](int64_t k, int64_t n) {
      if (k) return fetch(names, bound * k / n, bound * (k + 1) / n, done);
      try {
        accepted = grouping.take(names, count_, bound);
      } catch (const std::bad_alloc&) {
        memory = false;
      }
      done = true;
    });
    if (!memory) throw std::bad_alloc();
    return accepted;
  }

 private:
  static constexpr int64_t kKept = 8 << 20;  // bytes

  // Rows first … last − 1, which are about those that this thread will be given, until grouping is done.
  template <class Integer>
  void fetch(const Integer* names, int64_t first, int64_t last, const std::atomic<bool>& done) const {
    int64_t left = kKept / (arrays_.count() * arrays_.size() + value_size_);
    for (int64_t i = 0; i < count_ && left > 0 && !done.load(std::memory_order_relaxed); ++i) {
      const int64_t row = int64_t(names[i]);
      if (row < first || row >= last) continue;
      arrays_.fetch_row(uint64_t(row));
      host::fetch<0>(values_ + uint64_t(i * value_size_), host::fetched(value_size_));
      --left;
    }
  }

  const host::ArraysOfRows arrays_;
  uint64_t values_;
  int64_t value_size_, count_;  // bytes of a row of the gradient; rows
  int threads_ = 1;
};

// The rows that gradients touch, tensor by tensor, for one step.
class TouchedRows {
 public:
  // extents: what the states are of; null: of elements. team: that works on the tensors.
  TouchedRows(Tensor* tensors, const Recipe& recipe, const Extent* extents, const Team& team)
      : tensors_(tensors), way_(recipe.rows), extents_(extents), team_(team) {}

  bool some_lazy() const { return way_ == kLazyRows && !now_.empty(); }

  // How many elements gradients name, of tensors that are whole.
  int64_t named(const py::list& grads) const {
    int64_t count = 0;
    for (size_t i = 0; i < grads.size(); ++i) {
      PyObject* const grad = PyList_GET_ITEM(grads.ptr(), Py_ssize_t(i));
      PyObject* const values = way_ == kLazyRows && rows_of_python.are(grad) ? rows_of_python.values(grad) : nullptr;
      const bool few = values && Py_TYPE(values) == host_array_type();
      count += few ? py::reinterpret_borrow<py::array>(values).size() : tensors_[i].n;
    }
    return count;
  }

  // Points tensor i at a gradient of few rows, if there is one that can be read as it lies. For a caller with the GIL.
  bool take(int64_t i, PyObject* param, PyObject* grad, const Watched& watched, const Extents& extents) {
    Tensor& t = tensors_[i];
    View p;
    if (way_ == kNoRows || !rows_of_python.are(grad)) return false;
    if (!look_again(param, watched.type(), p) || !unchanged(p, t, watched, i) || !p.direct || !p.ndim) return false;
    PyObject *const indices = rows_of_python.indices(grad), *const values = rows_of_python.values(grad);
    if (!indices || !values || Py_TYPE(indices) != host_array_type() || Py_TYPE(values) != host_array_type())
      return false;
    const View g = view_of(*py::detail::array_proxy(values));
    if (!g.direct || !readable(g, p) || g.ndim != p.ndim || !std::equal(g.shape + 1, g.shape + g.ndim, p.shape + 1))
      return false;
    const int64_t length = p.shape[0] ? t.n / p.shape[0] : 0, bytes = g.shape[0] * length * item_size(g.dtype);
    if (!holds(extents.gap_around(g.data), g.data, g.data + uint64_t(bytes))) return false;
    Grouping& grouping = rows_[i].grouping;
    const FetchingGrouping fetching(t, g, length, extents_, team_);
    const auto group = [&](const auto* names) { return fetching.take(grouping, names, p.shape[0]); };
    if (!with_names(*py::detail::array_proxy(indices), g.shape[0], group)) return false;
    point(t, g, rows_[i], length);
    now_.push_back(i);
    return true;
  }

  // Makes the tensors whole again. Where their gradients were says nothing of the next ones.
  void forget() {
    for (const int64_t i : now_) tensors_[i].n = rows_[i].whole, tensors_[i].touched = tensors_[i].g = 0;
    now_.clear();
  }

 private:
  struct OfTensor {
    Grouping grouping;
    Rows record;
    int64_t whole;  // elements of the tensor
  };

  // What use(names) returns of indices that can be read as they lie; of others false.
  template <class Use>
  static bool with_names(const Header& indices, int64_t count, Use use) {
    constexpr int kDirect = py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
    const auto& type = *py::detail::array_descriptor_proxy(indices.descr);
    if (indices.nd != 1 || indices.dimensions[0] != count || (indices.flags & kDirect) != kDirect) return false;
    if (type.byteorder != '=') return false;
    switch (type.type_num) {
      case py::detail::npy_api::NPY_INT_:
        return use(reinterpret_cast<const int*>(indices.data));
      case py::detail::npy_api::NPY_LONG_:
        return use(reinterpret_cast<const long*>(indices.data));
      case py::detail::npy_api::NPY_LONGLONG_:
        return use(reinterpret_cast<const long long*>(indices.data));
      default:
        return false;
    }
  }

  void point(Tensor& t, const View& g, OfTensor& rows, int64_t length) const {
    const auto address = [](const std::vector<int64_t>& x) { return uint64_t(x.data()); };
    const auto& [at, starts, positions] = std::tie(rows.grouping.at, rows.grouping.starts, rows.grouping.positions);
    rows.record = {length, int64_t(at.size()), way_ == kLazyRows, address(at), address(starts), address(positions)};
    rows.whole = t.n;
    t.g = g.data;
    t.g_dtype = g.dtype;
    t.g_layout = 0;
    t.samples = 1;
    t.scale = 1;
    t.touched = uint64_t(&rows.record);
    if (way_ == kLazyRows) t.n = length * rows.record.count;
  }

  Tensor* tensors_;
  uint32_t way_;
  const Extent* extents_;
  const Team& team_;
  std::map<int64_t, OfTensor> rows_;  // of those that have had such gradients; their memory is used again
  std::vector<int64_t> now_;
};

}  // namespace fastupdate
