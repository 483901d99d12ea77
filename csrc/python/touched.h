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
    if (!rising) n >> kLong ? sort<kLong>(from, bound) : sort<8>(from, bound);
    at.clear(), starts.clear();
    positions.resize(size_t(n));
    for (int64_t i = 0; i < n; ++i) {
      const auto [number, position] = from[size_t(i)];
      positions[size_t(i)] = position;
      if (at.empty() || at.back() != number) at.push_back(number), starts.push_back(i);
    }
    starts.push_back(n);
    return true;
  }

  template <int bits, class Number>
  void sort(std::vector<Entry<Number>>& from, int64_t bound) {
    auto& to = std::get<std::vector<Entry<Number>>>(to_);
    to.resize(from.size());
    for (int shift = 0; shift < 63 && (bound - 1) >> shift > 0; shift += bits) {
      std::array<Number, 1 << bits> next{};
      const auto digit = [shift](Number number) { return size_t(number >> shift & ((1 << bits) - 1)); };
      for (const auto& entry : from) ++next[digit(entry.number)];
      Number before = 0;
      for (Number& count : next) before += std::exchange(count, before);
      for (const auto& entry : from) to[size_t(next[digit(entry.number)]++)] = entry;
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

// fu.Rows, once Python has told of it (fastupdate/arrays/rows.py): frozen, with two slots.
inline PyTypeObject* rows_type = nullptr;
inline void meet_rows(py::type type) { rows_type = reinterpret_cast<PyTypeObject*>(type.release().ptr()); }

// Groups the names of rows in this thread. Others meanwhile fetch what a step reads of those rows, up to a size that
// caches hold, for grouping waits and computes, and leaves memory idle.
class FetchingGrouping {
 public:
  // extents: what the states are of; null: of elements. team: that is to work on these rows.
  FetchingGrouping(const Tensor& t, const View& g, int64_t length, const Extent* extents, const Team& team)
      : arrays_(t, length, extents),
        values_(g.data),
        value_size_(length * item_size(g.dtype)),
        count_(g.shape[0]),
        crew_(crew_for(kScatteredCost * count_ * length, count_)),
        threads_(team.shares(crew_) ? crew_.most : 1) {}

  // As Grouping::take.
  template <class Integer>
  bool take(Grouping& grouping, const Integer* names, int64_t bound) const {
    std::atomic<bool> done{false};
    bool accepted = false, memory = true;
    in_team(threads_, [&](int64_t k, int64_t n) {
      if (k) return fetch(names, k - 1, n - 1, done);
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

  // The k-th of n parts, until grouping is done. Names may be wrong: what is not there is not fetched.
  template <class Integer>
  void fetch(const Integer* names, int64_t k, int64_t n, const std::atomic<bool>& done) const {
    const int64_t most = kKept / (arrays_.count() * arrays_.size() + value_size_), some = count_ < most ? count_ : most;
    for (int64_t i = some * k / n; i < some * (k + 1) / n && !done.load(std::memory_order_relaxed); ++i) {
      arrays_.fetch_row(uint64_t(names[i]));
      host::fetch<0>(values_ + uint64_t(i * value_size_), value_size_);
    }
  }

  const host::ArraysOfRows arrays_;
  uint64_t values_;
  int64_t value_size_, count_;  // bytes of a row of the gradient; rows
  Crew crew_;
  int threads_;
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
      const bool few = way_ == kLazyRows && rows_type && grad && Py_TYPE(grad) == rows_type;
      const auto values =
          few ? py::reinterpret_steal<py::object>(PyObject_GetAttrString(grad, "values")) : py::object();
      if (few && !values) throw py::error_already_set();
      count += few && Py_TYPE(values.ptr()) == host_array_type() ? py::reinterpret_borrow<py::array>(values).size()
                                                                 : tensors_[i].n;
    }
    return count;
  }

  // Points tensor i at a gradient of few rows, if there is one that can be read as it lies. For a caller with the GIL.
  bool take(int64_t i, PyObject* param, PyObject* grad, const Watched& watched, const Extents& extents) {
    Tensor& t = tensors_[i];
    View p;
    if (way_ == kNoRows || !rows_type || !grad || Py_TYPE(grad) != rows_type) return false;
    if (!look_again(param, watched.type(), p) || !unchanged(p, t, watched, i) || !p.direct || !p.ndim) return false;
    const auto indices = py::reinterpret_steal<py::object>(PyObject_GetAttrString(grad, "indices"));
    const auto values = py::reinterpret_steal<py::object>(PyObject_GetAttrString(grad, "values"));
    if (!indices || !values) throw py::error_already_set();
    if (Py_TYPE(indices.ptr()) != host_array_type() || Py_TYPE(values.ptr()) != host_array_type()) return false;
    const View g = view_of(*py::detail::array_proxy(values.ptr()));
    if (!g.direct || !readable(g, p) || g.ndim != p.ndim || !std::equal(g.shape + 1, g.shape + g.ndim, p.shape + 1))
      return false;
    const int64_t length = p.shape[0] ? t.n / p.shape[0] : 0, bytes = g.shape[0] * length * item_size(g.dtype);
    if (!holds(extents.gap_around(g.data), g.data, g.data + uint64_t(bytes))) return false;
    Grouping& grouping = rows_[i].grouping;
    const FetchingGrouping fetching(t, g, length, extents_, team_);
    const auto group = [&](const auto* names) { return fetching.take(grouping, names, p.shape[0]); };
    if (!with_names(*py::detail::array_proxy(indices.ptr()), g.shape[0], group)) return false;
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
