// The lists and dicts of the user's that parameters came in: he may put other arrays into them between two steps.
#pragma once

#include <pybind11/critical_section.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <atomic>
#include <vector>

namespace fastupdate {

namespace py = pybind11;

// A number that is another one after any change to the dict, so that a dict need not be walked in every step: since
// CPython 3.12, how many changes there have been to dicts that are watched.
class Stamp {
 public:
#if PY_VERSION_HEX < 0x030C0000
  static void watch(py::handle) {}
  static uint64_t of(py::handle dict) { return reinterpret_cast<PyDictObject*>(dict.ptr())->ma_version_tag; }
#else
  static void watch(py::handle dict) {
    static const int watcher = PyDict_AddWatcher(&changed);
    if (watcher < 0 || PyDict_Watch(watcher, dict.ptr())) throw py::error_already_set();
  }
  static uint64_t of(py::handle) { return changes_; }

 private:
  static int changed(PyDict_WatchEvent, PyObject*, PyObject*, PyObject*) { return ++changes_, 0; }
  static inline std::atomic<uint64_t> changes_{1};
#endif
};

class Containers {
 public:
  // noted: of each container itself, its keys, None for a list, and its values (fastupdate/arrays/containers.py).
  void note(const py::list& noted) {
    contents_.clear();
    for (const py::handle each : noted) {
      const auto fields = py::reinterpret_borrow<py::tuple>(each);
      contents_.push_back({fields[0], fields[1], fields[2], 0});
      if (contents_.back().is_dict()) Stamp::watch(fields[0]);
    }
  }

  // Whether the very same objects are in them, in the same order.
  bool intact() {
    return std::all_of(contents_.begin(), contents_.end(),
                       [](Contents& noted) { return noted.is_dict() ? same_dict(noted) : same_list(noted); });
  }

  // Shows each reference.
  template <class See>
  void visit(See see) const {
    for (const Contents& noted : contents_) see(noted.container), see(noted.keys), see(noted.values);
  }

  void forget() { contents_.clear(); }

 private:
  struct Contents {
    py::object container, keys;
    py::tuple values;
    uint64_t stamp;  // of the dict when it was walked last and found to be the same

    bool is_dict() const { return !keys.is_none(); }
  };

  static bool same_list(const Contents& noted) {
    const py::scoped_critical_section locked(noted.container);
    PyObject *const now = noted.container.ptr(), *const values = noted.values.ptr();
    const Py_ssize_t count = PyTuple_GET_SIZE(values);
    return PyList_GET_SIZE(now) == count &&
           std::equal(&PyTuple_GET_ITEM(values, 0), &PyTuple_GET_ITEM(values, 0) + count, &PyList_GET_ITEM(now, 0));
  }

  static bool same_dict(Contents& noted) {
    const py::scoped_critical_section locked(noted.container);
    const uint64_t stamp = Stamp::of(noted.container);
    if (stamp == noted.stamp) return true;
    PyObject *const now = noted.container.ptr(), *key, *value;
    if (PyDict_Size(now) != PyTuple_GET_SIZE(noted.values.ptr())) return false;
    for (Py_ssize_t at = 0, k = 0; PyDict_Next(now, &at, &key, &value); ++k)
      if (key != PyTuple_GET_ITEM(noted.keys.ptr(), k) || value != PyTuple_GET_ITEM(noted.values.ptr(), k))
        return false;
    noted.stamp = stamp;
    return true;
  }

  std::vector<Contents> contents_;
};

}  // namespace fastupdate
