// Steps each of which is one call: on gradients that stay where they are and were looked at when the function was made,
// or on those that are handed to it.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <memory>

#include "python/reports.h"
#include "python/skeleton.h"

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

// Of what a call returned.
inline bool is_false(PyObject* returned) {
  const auto value = py::reinterpret_steal<py::object>(returned);
  if (!value) throw py::error_already_set();
  return value.ptr() == Py_False;
}

// Whether nobody is in the midst of a call: of a lock of Python's.
inline bool is_free(py::handle lock) {
  static const py::str locked = interned("locked");
  return is_false(PyObject_CallMethodNoArgs(lock.ptr(), locked.ptr()));
}

// A function of Python's that works on what is made of `kept`, which stays alive as long as the function. It is bound
// to a tuple, so that the garbage collector sees what it holds.
template <class Made>
py::object bound_to(PyMethodDef* method, std::unique_ptr<Made> made, py::tuple kept) {
  const py::capsule owned(made.get(), [](void* object) { delete static_cast<Made*>(object); });
  made.release();
  const py::tuple all = py::make_tuple(kept, owned);
  return py::reinterpret_steal<py::object>(PyCFunction_New(method, all.ptr()));
}

template <class Made>
Made& made_for(PyObject* all) {
  return *static_cast<Made*>(PyCapsule_GetPointer(PyTuple_GET_ITEM(all, 1), nullptr));
}

// What a step of a plan is taken with.
template <class P>
struct Step {
  P& plan;
  py::handle params, grads;
  double scale;
  Reports reports;

  // On the gradients in a list, or null: those that it was made with. alone: no other Python thread runs meanwhile.
  PyObject* take(PyObject* given, bool alone) {
    const auto gradients = py::reinterpret_borrow<py::list>(given ? given : grads.ptr());
    const py::list* const found = gradients.is_none() ? nullptr : &gradients;
    Judged judged;
    if (!plan.step(py::reinterpret_borrow<py::list>(params), found, scale, judged, alone)) Py_RETURN_NONE;
    return reports.make(plan.steps(), plan.lr(), plan.judges() ? &judged : nullptr);
  }

  static PyObject* call(PyObject* all, PyObject* const* args, Py_ssize_t count) {
    if (count > 1 || (count == 1 && !PyList_Check(args[0]))) {
      PyErr_SetString(PyExc_TypeError, "step: gradients in a list, or none");
      return nullptr;
    }
    return reported([&] { return made_for<Step>(all).take(count ? args[0] : nullptr, false); });
  }
};

template <class P>
Step<P> step_of(const py::object& plan, const py::list& params, const py::object& grads, double scale,
                const py::type& report) {
  if (!grads.is_none() && !PyList_Check(grads.ptr())) throw py::type_error("step: gradients in a list, or None");
  return {plan.cast<P&>(), params, grads, scale, Reports(report)};
}

// A function that takes a step, on the gradients in a list if one is handed to it, and returns a report of it, or None,
// if it needs a closer look, and nothing has changed.
template <class P>
py::object stepping(py::object plan, py::list params, py::object grads, double scale, py::type report) {
  static PyMethodDef method = {"step", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(&Step<P>::call)),
                               METH_FASTCALL, nullptr};
  auto step = std::make_unique<Step<P>>(step_of<P>(plan, params, grads, scale, report));
  return bound_to(&method, std::move(step), py::make_tuple(plan, params, grads));
}

// A step that is like the one before, of arguments as those of Optimizer.step.
template <class P>
struct Repeat {
  Step<P> step;
  py::handle lock;     // of calls
  Py_ssize_t listed;   // how many gradients a list has that is taken as it is; −1: none is
  Skeleton* skeleton;  // by which others are taken; null: none is

  static PyObject* call(PyObject* all, PyObject* const* args, Py_ssize_t count) {
    if (count != 4) {
      PyErr_SetString(PyExc_TypeError, "repeat: grads, loss_scale, reduce, loss");
      return nullptr;
    }
    if (!is_one(args[1]) || args[2] != Py_None || args[3] != Py_None) Py_RETURN_NONE;
    return reported([&] { return made_for<Repeat>(all).take(args[0]); });
  }

  static bool is_one(PyObject* number) { return PyFloat_CheckExact(number) && PyFloat_AS_DOUBLE(number) == 1; }

  PyObject* take(PyObject* given) {
    if (given == Py_None) return is_free(lock) ? step.take(nullptr, true) : Py_NewRef(Py_None);
    const auto grads = py::reinterpret_steal<py::object>(in_list(given));
    if (!grads) throw py::error_already_set();
    return grads.is_none() || !is_free(lock) ? Py_NewRef(Py_None) : step.take(grads.ptr(), true);
  }

  // The gradients in a list that is nobody else's, or None.
  PyObject* in_list(PyObject* given) const {
    if (PyList_CheckExact(given) && PyList_GET_SIZE(given) == listed) return PyList_GetSlice(given, 0, listed);
    return skeleton ? skeleton->leaves(py::reinterpret_borrow<py::object>(given)).release().ptr() : Py_NewRef(Py_None);
  }
};

// A function that does the same on gradients as the user hands them over, or None, while no other Python thread runs.
// It takes all arguments of a step, but needs a closer look where others than the gradients say something.
template <class P>
py::object repeating(py::object plan, py::list params, py::object grads, double scale, py::type report, py::object lock,
                     Py_ssize_t listed, py::object skeleton) {
  static PyMethodDef method = {"repeat", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(&Repeat<P>::call)),
                               METH_FASTCALL, nullptr};
  Skeleton* const form = skeleton.is_none() ? nullptr : &skeleton.cast<Skeleton&>();
  std::unique_ptr<Repeat<P>> repeat(new Repeat<P>{step_of<P>(plan, params, grads, scale, report), lock, listed, form});
  return bound_to(&method, std::move(repeat), py::make_tuple(plan, params, grads, lock, skeleton));
}

}  // namespace fastupdate
