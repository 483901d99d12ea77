// Functional calls: `fu.functional.<rule>(p, g, *states, step=…, lr=…)`, one C function for each rule. It accepts what
// it can check by looking at headers: arrays, or lists of them, that are contiguous, of one shape and apart, and plain
// numbers. Whatever else it is given, wrong or not, goes to the function in Python that does the same.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cpu/plan.h"
#include "python/adopt.h"
#include "python/gil.h"
#include "python/records.h"
#include "python/reports.h"

namespace fastupdate {

constexpr int kMostArrays = 2 + kMaxStates;         // of one parameter: itself, gradient, states
constexpr int64_t kSharedCost = 2 * kParallelCost;  // below it, records that this thread has just made are not shared

// A keyword: `count` hyperparameters from `first` on (several come as a tuple), or flag `first`.
struct Keyword {
  py::str name;
  int first, count;
  bool is_flag;
};

// The values that a hyperparameter may take (fastupdate/arrays/numbers.py). Those that float32 or a product of two in
// float32 might not hold are left to Python.
struct Interval {
  double low, high;
  bool open, above;

  bool holds(double x) const {
    const double size = std::abs(x);
    return (above ? low < x : low <= x) && (open ? x < high : x <= high) && (x == 0 || (size > 1e-37 && size < 1e18));
  }
};

// What is asked for in one call.
struct Command {
  double hyper[kMaxHypers];
  int64_t step;
  unsigned flags;
  double scale;
};

// The records of lists, kept from call to call, for most lists come again: what was found to lie apart need not be
// looked at again. Each Python thread has its own.
struct Table {
  std::vector<Tensor> tensors;
  std::vector<uint64_t> begins;  // of all arrays, in the order of the arguments
  std::optional<Extents> extents;
  bool checked = false;            // the tensors were found to lie apart
  const void* function = nullptr;  // that they were found for
  unsigned flags = 0;              // and its flags
  std::vector<PyObject*> held;     // arrays, while other Python threads run
  Team teams[64];                  // by the logarithm of the work's cost

  // Out of line, or the compiler asks for it again and again.
  [[gnu::noinline]] static Table& own() {
    thread_local Table table;
    return table;
  }
};

class Function {
 public:
  Function(py::dict spec, const Target* const& selected)
      : selected_(selected),
        rule_(spec["rule"].cast<std::string>()),
        doc_(spec["doc"].cast<std::string>()),
        check_(spec["check"]),
        fallback_(spec["fallback"]),
        reports_(spec["report"].cast<py::type>()),
        lr_(spec["lr"].cast<int>()),
        step_(interned("step")),
        maximize_(interned("maximize")) {
    for (const py::handle item : spec["keywords"]) {
      const auto keyword = item.cast<py::tuple>();
      keywords_.push_back({interned(keyword[0].cast<std::string>()), keyword[1].cast<int>(), keyword[2].cast<int>(),
                           keyword[3].cast<bool>()});
    }
    for (const py::handle item : spec["hypers"]) {
      const auto hyper = item.cast<py::tuple>();
      defaults_[intervals_.size()] = hyper[0].cast<double>();
      intervals_.push_back(
          {hyper[1].cast<double>(), hyper[2].cast<double>(), hyper[3].cast<bool>(), hyper[4].cast<bool>()});
    }
    flag_hypers_ = spec["flag_hypers"].cast<std::vector<std::pair<int, int>>>();
    state_flags_ = spec["state_flags"].cast<std::vector<int>>();
    method_ = {rule_.c_str(), reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(&Function::call)),
               METH_FASTCALL | METH_KEYWORDS, doc_.c_str()};
  }

  // As Python sees it.
  static py::object make(py::dict spec, const Target* const& selected) {
    auto function = std::make_unique<Function>(spec, selected);
    PyMethodDef* const method = &function->method_;
    const py::capsule self(function.release(), [](void* made) { delete static_cast<Function*>(made); });
    return py::reinterpret_steal<py::object>(
        PyCFunction_NewEx(method, self.ptr(), spec["module"].cast<py::str>().ptr()));
  }

 private:
  static PyObject* call(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* names) {
    Function& function = *static_cast<Function*>(PyCapsule_GetPointer(self, nullptr));
    try {
      Command command;
      if (function.parse(args, nargs, names, command) && function.take(args, int(nargs), command))
        return function.reports_.make(command.step, command.hyper[function.lr_]);
    } catch (py::error_already_set& error) {
      error.restore();
      return nullptr;
    } catch (const std::bad_alloc&) {
      return PyErr_NoMemory();
    }
    if (PyErr_Occurred()) return nullptr;
    return PyObject_Vectorcall(function.fallback_.ptr(), args, size_t(nargs), names);
  }

  // -- numbers --------------------------------------------------------------------------------------------------------

  bool parse(PyObject* const* args, Py_ssize_t nargs, PyObject* names, Command& command) {
    command.step = 0;
    command.flags = 0;
    command.scale = 1;
    std::memcpy(command.hyper, defaults_, sizeof defaults_);
    const Py_ssize_t count = names ? PyTuple_GET_SIZE(names) : 0;
    for (Py_ssize_t k = 0; k < count; ++k)
      if (!take_keyword(PyTuple_GET_ITEM(names, k), args[nargs + k], command)) return false;
    for (const auto& [flag, hyper] : flag_hypers_)
      if (command.hyper[hyper] != 0) command.flags |= 1u << flag;
    return command.step >= 1 && nargs == 2 + kept_states(command.flags) && approved(command);
  }

  bool take_keyword(PyObject* name, PyObject* value, Command& command) {
    if (is(name, step_)) return PyLong_CheckExact(value) && take_step(value, command.step);
    for (const Keyword& keyword : keywords_) {
      if (!is(name, keyword.name)) continue;
      if (keyword.is_flag)
        return PyBool_Check(value) && (command.flags |= unsigned(value == Py_True) << keyword.first, true);
      if (keyword.count == 1) return take_hyper(value, keyword.first, command);
      if (!PyTuple_CheckExact(value) || PyTuple_GET_SIZE(value) != keyword.count) return false;
      for (int k = 0; k < keyword.count; ++k)
        if (!take_hyper(PyTuple_GET_ITEM(value, k), keyword.first + k, command)) return false;
      return true;
    }
    if (is(name, maximize_)) return PyBool_Check(value) && (command.scale = value == Py_True ? -1 : 1, true);
    return false;
  }

  static bool is(PyObject* name, const py::str& known) {
    return name == known.ptr() || PyUnicode_Compare(name, known.ptr()) == 0;
  }

  static bool take_step(PyObject* value, int64_t& step) {
    int overflow;
    step = PyLong_AsLongLongAndOverflow(value, &overflow);
    return !overflow && step >= 1 && step < int64_t(1) << 62;
  }

  bool take_hyper(PyObject* value, int k, Command& command) const {
    double& x = command.hyper[k];
    if (PyFloat_Check(value)) {
      x = PyFloat_AS_DOUBLE(value);
    } else if (PyLong_CheckExact(value)) {
      x = PyLong_AsDouble(value);
      if (x == -1 && PyErr_Occurred()) return PyErr_Clear(), false;
    } else {
      return false;
    }
    return intervals_[size_t(k)].holds(x);
  }

  int kept_states(unsigned flags) const {
    int count = 0;
    for (const int flag : state_flags_) count += keeps(flag, flags);
    return count;
  }

  static bool keeps(int flag, unsigned flags) { return flag < 0 || (flags >> flag & 1); }

  // Whether the rule's own check, if it has one, finds these arguments right: what a flag needs beside it. Python says
  // what is wrong.
  bool approved(const Command& command) {
    if (check_.is_none() || !command.flags) return true;
    if (approved_ && approved_->flags == command.flags &&
        !std::memcmp(approved_->hyper, command.hyper, sizeof defaults_))
      return true;
    py::dict given;
    for (const Keyword& keyword : keywords_) {
      if (keyword.is_flag)
        given[keyword.name] = py::bool_(command.flags >> keyword.first & 1);
      else if (keyword.count == 1)
        given[keyword.name] = command.hyper[keyword.first];
      else
        given[keyword.name] = py::tuple(py::cast(
            std::vector<double>(command.hyper + keyword.first, command.hyper + keyword.first + keyword.count)));
    }
    const auto problem = py::reinterpret_steal<py::object>(PyObject_CallOneArg(check_.ptr(), given.ptr()));
    if (!problem || !problem.is_none()) return false;
    approved_ = command;
    return true;
  }

  // -- arrays ---------------------------------------------------------------------------------------------------------

  bool take(PyObject* const* args, int count, const Command& command) {
    if (PyList_CheckExact(args[0]) || PyTuple_CheckExact(args[0])) return take_lists(args, count, command);
    Tensor tensor = {};
    bool same = true;
    uint64_t begins[kMostArrays];
    if (!fill(tensor, args, count, command.flags, same, begins)) return false;
    if (!apart(begins, count, tensor)) return false;
    PyObject* const* rows[kMostArrays];
    for (int k = 0; k < count; ++k) rows[k] = args + k;
    tell_torch(rows, count, 1);
    run(&tensor, 1, tensor.n, block_count(tensor), 1u << tensor.dtype, command);
    return true;
  }

  // Makes a record that of a parameter and what belongs to it; false if they need a closer look. `same` becomes false
  // if what is written is elsewhere than the record had it; `begins` tells where all arrays are.
  bool fill(Tensor& t, PyObject* const* arrays, int count, unsigned flags, bool& same, uint64_t* begins) const {
    const PyTypeObject* const type = host_array_type();
    View p, view;
    if (!look(arrays[0], type, p) || is_narrow(p.dtype) || !p.direct || !p.writable) return false;
    const auto set = [&same](auto& field, auto value) {
      same = same && field == value;
      field = value;
    };
    set(t.p, p.data);
    set(t.n, element_count(p));
    set(t.dtype, p.dtype);
    t.samples = 1;
    t.scale = 1;
    t.momentum = -1;
    for (int k = 1; k < count; ++k) {
      if (!look(arrays[k], type, view) || !matches(view, p, false, k > 1)) return false;
      if (k == 1 ? !readable(view, p) : view.dtype != p.dtype) return false;
      if (k == 1) t.g_dtype = view.dtype;
      begins[k] = view.data;
    }
    begins[0] = t.p;
    t.g = begins[1];
    for (int state = 0, k = 2; state < int(state_flags_.size()); ++state)
      set(t.slot[state], keeps(state_flags_[size_t(state)], flags) ? begins[k++] : 0);
    for (int state = int(state_flags_.size()); state < kMaxStates; ++state) set(t.slot[state], uint64_t(0));
    return true;
  }

  static bool apart(const uint64_t* begins, int count, const Tensor& t) {
    const auto end = [&](int k) { return begins[k] + uint64_t(t.n * item_size(k == 1 ? t.g_dtype : t.dtype)); };
    for (int j = 1; j < count; ++j)
      for (int k = 0; k < j; ++k)
        if (begins[j] < end(k) && begins[k] < end(j)) return false;
    return true;
  }

  // Whether the arrays of one parameter are NumPy's and where they began in the call before, and all else is as well as
  // the record says, as mostly: what `fill` and `lie_apart` would find, sooner.
  static bool settled(const Tensor& t, PyObject* const* arrays, int count, const uint64_t* begins,
                      const PyTypeObject* type) {
    const Header& p = *py::detail::array_proxy(arrays[0]);
    for (int k = 0; k < count; ++k) {
      const int flags = k == 1 ? kDirectFlags : kDirectFlags | kWritableFlag;
      if (Py_TYPE(arrays[k]) != type || !is_there(*py::detail::array_proxy(arrays[k]), begins[k], flags, p))
        return false;
    }
    return dtype_of(*py::detail::array_descriptor_proxy(p.descr)) == t.dtype && t.g_dtype == t.dtype &&
           product(reinterpret_cast<const int64_t*>(p.dimensions), p.nd) == t.n;
  }

  bool take_lists(PyObject* const* args, int count, const Command& command) {
    PyObject* const* items[kMostArrays];
    const Py_ssize_t length = PySequence_Fast_GET_SIZE(args[0]);
    for (int k = 0; k < count; ++k) {
      if (Py_TYPE(args[k]) != Py_TYPE(args[0]) || PySequence_Fast_GET_SIZE(args[k]) != length) return false;
      items[k] = PySequence_Fast_ITEMS(args[k]);
    }
    Table& table = Table::own();
    int64_t cost = 0, blocks = 0;
    unsigned dtypes = 0;
    const PyTypeObject* const type = host_array_type();
    bool same = table.checked && table.tensors.size() == size_t(length);
    bool all_settled = same && table.function == this && table.flags == command.flags;
    table.checked = false;
    table.tensors.resize(size_t(length));
    table.begins.resize(size_t(length * count));
    for (Py_ssize_t i = 0; i < length; ++i) {
      Tensor& t = table.tensors[size_t(i)];
      PyObject* arrays[kMostArrays];
      uint64_t* const begins = &table.begins[size_t(i * count)];
      arrays[0] = items[0][i];
      for (int k = 1; k < count; ++k) arrays[k] = items[k][i];
      all_settled = all_settled && settled(t, arrays, count, begins, type);
      if (!all_settled && !fill(t, arrays, count, command.flags, same, begins)) return false;
      t.first_block = blocks;
      cost += t.n + kTensorCost;
      blocks += block_count(t);
      dtypes |= 1u << t.dtype;
    }
    if (!all_settled) {
      if (!lie_apart(table, same)) return false;
      table.function = this, table.flags = command.flags;
      tell_torch(items, count, length);
    }
    table.checked = true;
    if (cost >= kReleaseCost) hold(table, items, count, length);
    run(table.tensors.data(), length, cost, blocks, dtypes, command);
    for (PyObject* array : table.held) Py_DECREF(array);
    table.held.clear();
    return length > 0;
  }

  // Whether nothing overlaps what is written, where `same` is known to lie apart.
  static bool lie_apart(Table& table, bool same) {
    if (!same) table.extents.emplace(table.tensors.data(), int64_t(table.tensors.size()));
    if (!table.extents->disjoint()) return false;
    Range gap(0, 0);
    for (const Tensor& t : table.tensors) {
      const uint64_t end = t.g + uint64_t(t.n * item_size(t.g_dtype));
      if (t.n && !holds(gap, t.g, end) && !holds(gap = table.extents->gap_around(t.g), t.g, end)) return false;
    }
    return true;
  }

  // Tells autograd of the tensors that are about to be written: those of all rows but that of the gradients.
  static void tell_torch(PyObject* const* const* rows, int count, Py_ssize_t length) {
    if (!torch.look) return;
    std::optional<py::list> written;
    for (int k = 0; k < count; ++k)
      for (Py_ssize_t i = 0; k != 1 && i < length; ++i)
        if (is_torch(rows[k][i])) {
          if (!written) written.emplace();
          written->append(py::handle(rows[k][i]));
        }
    if (written) raise_versions(*written);
  }

  // Keeps the arrays alive, for another Python thread might drop them from the lists.
  static void hold(Table& table, PyObject* const* const* items, int count, Py_ssize_t length) {
    for (int k = 0; k < count; ++k) table.held.insert(table.held.end(), items[k], items[k] + length);
    for (PyObject* array : table.held) Py_INCREF(array);
  }

  void run(const Tensor* tensors, int64_t count, int64_t cost, int64_t blocks, unsigned dtypes,
           const Command& command) {
    if (target_ != selected_) {
      target_ = selected_;
      code_ = find_rule(target_->rules, target_->rule_count, rule_).code;
    }
    const RuleCode(&code)[2] = code_[command.flags];
    alignas(64) unsigned char scalars[2 * kScalarBytes];
    for (const int dtype : {kFloat32, kFloat64})
      if (dtypes >> dtype & 1) code[dtype].scalars(command.hyper, command.step, scalars + dtype * kScalarBytes);
    Group group = {};
    Sums nothing;
    const Sweep sweep = {tensors, count, &group, {&code[0], &code[1]}, scalars, command.scale, 0, false, 0, &nothing};
    if (cost < kReleaseCost) return target_->engine.update(sweep, 0, blocks);
    without_gil([&] {
      Table::own().teams[63 - __builtin_clzll(uint64_t(cost))].share(
          cost < kSharedCost ? kAlone : crew_for(cost, blocks), blocks,
          [&](int64_t first, int64_t last) { target_->engine.update(sweep, first, last); });
    });
  }

  const Target* const& selected_;
  const Target* target_ = nullptr;
  const RuleCode (*code_)[2] = nullptr;
  std::string rule_, doc_;
  py::object check_, fallback_;
  Reports reports_;
  int lr_;
  py::str step_, maximize_;
  std::vector<Keyword> keywords_;
  double defaults_[kMaxHypers] = {};
  std::vector<Interval> intervals_;
  std::vector<std::pair<int, int>> flag_hypers_;  // (flag, the hyperparameter that switches it on)
  std::vector<int> state_flags_;                  // the flag under which each state exists; −1: always
  std::optional<Command> approved_;               // by the rule's own check
  PyMethodDef method_;
};

}  // namespace fastupdate
