// Classes of whose objects the one for which there is no memory is a MemoryError, and those whose objects the garbage
// collector sees through: users may let an array, or what it is in, lead back to the optimizer that they are held for.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <utility>

namespace fastupdate {

namespace py = pybind11;

// What makes an object of a class, before its constructor: pybind11's goes on without memory.
inline void make_with_care(PyHeapTypeObject* heap_type) {
  heap_type->ht_type.tp_new = [](PyTypeObject* of, PyObject*, PyObject*) -> PyObject* {
    PyObject* const self = of->tp_alloc(of, 0);
    if (self) reinterpret_cast<py::detail::instance*>(self)->allocate_layout();
    return self;
  };
}

// Of a class with `visit(see)`, which shows each reference to what is the user's, and `forget()`, which drops them.
template <class T>
py::custom_type_setup collectable() {
  return py::custom_type_setup([](PyHeapTypeObject* heap_type) {
    PyTypeObject* const type = &heap_type->ht_type;
    type->tp_flags |= Py_TPFLAGS_HAVE_GC;
    make_with_care(heap_type);
    type->tp_traverse = [](PyObject* self, visitproc visit, void* arg) {
      Py_VISIT(Py_TYPE(self));
      if (!py::detail::is_holder_constructed(self)) return 0;
      int stop = 0;
      py::cast<const T&>(py::handle(self)).visit([&](py::handle held) {
        if (!stop && held) stop = visit(held.ptr(), arg);
      });
      return stop;
    };
    type->tp_clear = [](PyObject* self) {
      if (py::detail::is_holder_constructed(self)) py::cast<T&>(py::handle(self)).forget();
      return 0;
    };
  });
}

// As py::init, of a function that makes what an object holds: where pybind11 has no memory to note the new object, that
// is a MemoryError here, not std::terminate.
template <class Holder, class... Arguments>
auto constructor(Holder (*make)(Arguments...)) {
  return [make](py::detail::value_and_holder& self, Arguments... arguments) {
    Holder made = make(std::forward<Arguments>(arguments)...);
    self.value_ptr() = made.get();
    try {
      self.type->init_instance(self.inst, &made);
    } catch (...) {
      self.value_ptr() = nullptr;
      throw;
    }
  };
}

template <class T, class... Arguments>
auto constructor() {
  return constructor(
      +[](Arguments... arguments) { return std::make_unique<T>(std::forward<Arguments>(arguments)...); });
}

}  // namespace fastupdate
