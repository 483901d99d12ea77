// Steps of torch's optimizers that are like the one before, as most are: one call finds that out, and takes them.
// Python would take longer over its looks than a step over small tensors takes, for training has driven its code out of
// caches.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <string>

#include "python/lookout.h"
#include "python/stepping.h"

namespace fastupdate {

namespace py = pybind11;

// What is looked at, all of it kept alive by the dict that it comes from (fastupdate/torch/run.py).
template <class P>
class Again {
 public:
  explicit Again(const py::dict& of)
      : plan_(of["plan"].cast<P&>()),
        params_(of["params"]),
        scale_(of["scale"].cast<double>()),
        reports_(of["report"].cast<py::type>()),
        groups_(of["groups"].cast<const SeenGroups&>()),
        states_(of["states"]),
        revision_(of["revision"]),
        number_(of["number"].cast<int64_t>()),
        lookout_(of["lookout"].cast<const Lookout&>()),
        tally_(of["tally"].is_none() ? nullptr : &of["tally"].cast<Tally&>()),
        told_(of["told"].cast<py::array_t<int64_t>>().mutable_data()),
        lock_(of["lock"]),
        profiled_(of["profiled"]),
        global_hooks_(of["global_hooks"]) {}

  // A function of an optimizer, which returns a report of the step, or None, and nothing has changed, if something may
  // be other than before.
  static py::object make(py::dict of) {
    static PyMethodDef method = {"again", &Again::call, METH_O, nullptr};
    return bound_to(&method, std::make_unique<Again>(of), py::make_tuple(of));
  }

 private:
  static PyObject* call(PyObject* all, PyObject* optimizer) {
    return reported([&] { return made_for<Again>(all).step(optimizer); });
  }

  PyObject* step(PyObject* optimizer) {
    const auto held = py::reinterpret_steal<py::dict>(PyObject_GenericGetDict(optimizer, nullptr));
    if (!held) throw py::error_already_set();
    Judged judged;
    const auto params = py::reinterpret_borrow<py::list>(params_);
    if (!unheard(held) || !as_before(held) || !plan_.step_on_held(params, scale_, judged)) Py_RETURN_NONE;
    if (tally_) tally_->advance();
    ++*told_;
    return reports_.make(plan_.steps(), plan_.lr(), plan_.judges() ? &judged : nullptr);
  }

  // Whether nobody is to be told of the step, or has a say in it: no hook, profiler, GradScaler, backward pass.
  bool unheard(const py::dict& held) const {
    static const py::str names[] = {interned("_optimizer_step_pre_hooks"), interned("_optimizer_step_post_hooks"),
                                    interned("grad_scale"), interned("found_inf"), interned("arrivals")};
    for (const py::str& name : names)
      if (!is_nothing(PyDict_GetItem(held.ptr(), name.ptr()))) return false;
    for (const py::handle hooks : py::reinterpret_borrow<py::tuple>(global_hooks_))
      if (!is_nothing(hooks.ptr())) return false;
    return is_false(PyObject_CallNoArgs(profiled_.ptr()));
  }

  bool as_before(const py::dict& held) const {
    static const py::str state = interned("state"), groups = interned("param_groups");
    PyObject* const now = PyDict_GetItem(held.ptr(), groups.ptr());
    return PyDict_GetItem(held.ptr(), state.ptr()) == states_.ptr() && has_states() && is_counted() && now &&
           PyList_CheckExact(now) && groups_.still(py::reinterpret_borrow<py::list>(now)) && is_free(lock_);
  }

  // Whether states tell of all steps that were taken, and of no other.
  bool is_counted() const { return *told_ == plan_.steps() && (!tally_ || tally_->intact()); }

  // Whether the states are those that the step was planned for, and where they were.
  bool has_states() const {
    static const py::str number = interned("number"), shown = interned("shown");
    const auto now = py::reinterpret_steal<py::object>(PyObject_GetAttr(revision_.ptr(), number.ptr()));
    if (!now || now.cast<int64_t>() != number_) return false;
    return is_false(PyObject_GetAttr(revision_.ptr(), shown.ptr())) || lookout_.intact().is(py::bool_(true));
  }

  static bool is_nothing(PyObject* held) {
    return !held || held == Py_None || (PyDict_Check(held) && !PyDict_GET_SIZE(held));
  }

  P& plan_;
  py::handle params_;
  double scale_;
  Reports reports_;
  const SeenGroups& groups_;
  py::handle states_, revision_;
  int64_t number_;  // of the states' revision
  const Lookout& lookout_;
  Tally* tally_;
  int64_t* told_;  // the step count that states tell of
  py::handle lock_, profiled_, global_hooks_;
};

}  // namespace fastupdate
