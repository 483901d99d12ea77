// Steps that are one call of a function: on gradients that stay where they are, as they were named when it was made, or
// on those of a list that is handed in.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <memory>

#include "python/reports.h"

namespace fastupdate {

namespace py = pybind11;

// What a step of a plan is taken with. Plan and lists are kept alive by the tuple that has this (`stepping`).
template <class P>
struct Step {
  P& plan;
  PyObject *params, *grads;
  double scale;
  Reports reports;

  // Of such a tuple; by the gradients of this list, if there is one.
  static PyObject* take(PyObject* kept, PyObject* const* lists, Py_ssize_t count) {
    auto& step = *static_cast<Step*>(PyCapsule_GetPointer(PyTuple_GET_ITEM(kept, 3), nullptr));
    try {
      const auto params = py::reinterpret_borrow<py::list>(step.params);
      PyObject* const given = count ? lists[0] : step.grads;
      if (count && !PyList_Check(given)) throw std::invalid_argument("step: gradients in a list");
      const auto grads = py::reinterpret_borrow<py::list>(given);
      if (!step.plan.step(params, given == Py_None ? nullptr : &grads, step.scale)) Py_RETURN_NONE;
      return step.reports.make(step.plan.steps(), step.plan.lr());
    } catch (py::error_already_set& error) {
      error.restore();
    } catch (const std::bad_alloc&) {
      PyErr_NoMemory();
    } catch (const std::exception& error) {
      PyErr_SetString(PyExc_RuntimeError, error.what());
    }
    return nullptr;
  }
};

// A function that takes a step and returns a report of it, or None, if it needs a closer look, and nothing has changed.
// It is bound to a tuple, so that the garbage collector sees what it holds.
template <class P>
py::object stepping(py::object plan, py::list params, py::object grads, double scale, py::type report) {
  static PyMethodDef method = {"step", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&Step<P>::take)),
                               METH_FASTCALL, nullptr};
  if (!grads.is_none() && !PyList_Check(grads.ptr())) throw py::type_error("stepping: gradients in a list, or None");
  std::unique_ptr<Step<P>> step(new Step<P>{plan.cast<P&>(), params.ptr(), grads.ptr(), scale, Reports(report)});
  const py::capsule owned(step.get(), [](void* made) { delete static_cast<Step<P>*>(made); });
  step.release();
  const py::tuple kept = py::make_tuple(plan, params, grads, owned);
  return py::reinterpret_steal<py::object>(PyCFunction_New(&method, kept.ptr()));
}

}  // namespace fastupdate
