// Steps each of which is one call: on gradients that stay where they are and were looked at when the function was made,
// or on a list that is handed to it.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <memory>

#include "python/reports.h"

namespace fastupdate {

namespace py = pybind11;

// What work() returns, to Python: what it throws is raised.
template <class Work>
PyObject* reported(Work work) {
  try {
    return work();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

// What a step of a plan is taken with. Plan and lists are kept alive by the tuple that has this (`stepping`).
template <class P>
struct Step {
  P& plan;
  PyObject *params, *grads;
  double scale;
  Reports reports;

  // Of such a tuple.
  static PyObject* take(PyObject* kept, PyObject* const* args, Py_ssize_t count) {
    auto& step = *static_cast<Step*>(PyCapsule_GetPointer(PyTuple_GET_ITEM(kept, 3), nullptr));
    if (count > 1 || (count == 1 && !PyList_Check(args[0]))) {
      PyErr_SetString(PyExc_TypeError, "step: gradients in a list, or none");
      return nullptr;
    }
    return reported([&]() -> PyObject* {
      const auto params = py::reinterpret_borrow<py::list>(step.params);
      const auto grads = py::reinterpret_borrow<py::list>(count ? args[0] : step.grads);
      Judged judged;
      const py::list* const given = grads.is_none() ? nullptr : &grads;
      if (!step.plan.step(params, given, step.scale, judged)) Py_RETURN_NONE;
      return step.reports.make(step.plan.steps(), step.plan.lr(), step.plan.judges() ? &judged : nullptr);
    });
  }
};

// A function that takes a step, on the gradients in a list if one is handed to it, and returns a report of it, or None,
// if it needs a closer look, and nothing has changed. It is bound to a tuple, so that the garbage collector sees what
// it holds.
template <class P>
py::object stepping(py::object plan, py::list params, py::object grads, double scale, py::type report) {
  static PyMethodDef method = {"step", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(&Step<P>::take)),
                               METH_FASTCALL, nullptr};
  if (!grads.is_none() && !PyList_Check(grads.ptr())) throw py::type_error("stepping: gradients in a list, or None");
  std::unique_ptr<Step<P>> step(new Step<P>{plan.cast<P&>(), params.ptr(), grads.ptr(), scale, Reports(report)});
  const py::capsule owned(step.get(), [](void* made) { delete static_cast<Step<P>*>(made); });
  step.release();
  const py::tuple kept = py::make_tuple(plan, params, grads, owned);
  return py::reinterpret_steal<py::object>(PyCFunction_New(&method, kept.ptr()));
}

}  // namespace fastupdate
