// torch's tensors, read by the C functions that torch offers (2.10 and later), without linking it. All of
// this needs the GIL.
#pragma once

#include <pybind11/pybind11.h>

#include <stdexcept>

#include "python/dlpack.h"
#include "python/torch_shim.h"
#include "python/view.h"

namespace fastupdate {

namespace py = pybind11;

// What of torch is called. Set once, when the first tensor is met; nothing is freed, for torch stays loaded.
struct Torch {
  PyTypeObject *tensor = nullptr, *parameter = nullptr;
  int (*look)(void*, dlpack::Tensor*) = nullptr;
  getter grad = nullptr;  // of the attribute `grad`
  void* grad_closure = nullptr;
  PyObject* raise_versions = nullptr;  // torch.autograd.graph.increment_version
  PyObject* is_negated = nullptr;      // the name "is_neg"
  int32_t memory = dlpack::kCpu;       // where the tensors are that can be looked at
};

inline Torch torch;

// Of exactly these types: subclasses may be wrappers around memory that is elsewhere, or none.
inline bool is_torch(PyObject* object) {
  return torch.look && object && (Py_TYPE(object) == torch.parameter || Py_TYPE(object) == torch.tensor);
}

// Makes torch known; false if this version of it has no such functions.
inline bool meet_torch(py::type tensor, py::type parameter, py::object raise_versions, int32_t memory) {
  if (!py::hasattr(tensor, dlpack::kExchangeAttribute)) return false;
  const py::object capsule = tensor.attr(dlpack::kExchangeAttribute);
  const void* table = PyCapsule_GetPointer(capsule.ptr(), dlpack::kExchangeCapsule);
  if (!table) throw py::error_already_set();
  const auto* header = static_cast<const dlpack::ExchangeHeader*>(table);
  while (header && header->version.major != dlpack::kMajorVersion) header = header->previous;
  const auto* exchange = reinterpret_cast<const dlpack::Exchange*>(header);
  const py::object grad = tensor.attr("grad");
  if (!exchange || !exchange->look || Py_TYPE(grad.ptr()) != &PyGetSetDescr_Type) return false;
  const PyGetSetDef* const property = reinterpret_cast<PyGetSetDescrObject*>(grad.ptr())->d_getset;
  torch = {reinterpret_cast<PyTypeObject*>(tensor.release().ptr()),
           reinterpret_cast<PyTypeObject*>(parameter.release().ptr()),
           exchange->look,
           property->get,
           property->closure,
           raise_versions.release().ptr(),
           PyUnicode_InternFromString("is_neg"),
           memory};
  return true;
}

// Whether the values are those in memory times −1. A contiguous tensor of several elements never is: the bit comes from
// imaginary parts of conjugates, which lie two elements apart.
inline bool may_be_negated(PyObject* tensor) {
  const auto negated = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(tensor, torch.is_negated));
  if (!negated) PyErr_Clear();
  return negated.ptr() != Py_False;
}

inline uint8_t dtype_of(dlpack::DataType given) {
#define ROW(type, name, bytes, number, code_of_kind) \
  if (given.code == code_of_kind && given.bits == 8 * bytes) return k##type;
  FASTUPDATE_STORAGE_TYPES(ROW)
#undef ROW
  return kNone;
}

inline bool look_at_torch(PyObject* object, View& view) {
  dlpack::Tensor t;
  if (torch.look(object, &t)) return PyErr_Clear(), false;
  if (t.ndim && !t.strides) return false;
  view.dtype = dtype_of(t.dtype);
  if (t.device.type != torch.memory || view.dtype == kNone || t.dtype.lanes != 1) return false;
  const int64_t size = t.dtype.bits / 8;
  view.data = reinterpret_cast<uint64_t>(t.data) + t.byte_offset;
  view.shape = t.shape;
  view.strides = t.strides;
  view.stride_unit = size;
  view.ndim = t.ndim;
  view.writable = true;
  view.device = t.device.id;
  const int64_t n = measure(view);
  if (n && !t.data) return false;  // wrappers of all kinds, and freed storage
  return (view.direct && n != 1) || !may_be_negated(object);
}

// The gradient that a parameter holds, or None: a new reference.
inline PyObject* gradient_of(PyObject* param) {
  PyObject* const grad = torch.grad(param, torch.grad_closure);
  if (!grad) throw py::error_already_set();
  return grad;
}

// Where torch keeps what is looked at of a parameter and of its gradient. It is fetched ahead in the next step, in
// which most of it is where it was: tensors are scattered all over memory.
struct Footprint {
  const char *param = nullptr, *grad = nullptr;  // the shapes, which are in the midst of the tensors' own headers
  const char* object = nullptr;                  // the gradient as Python has it

  FASTUPDATE_HD void prefetch(PyObject* next) const {
    __builtin_prefetch(next);
    __builtin_prefetch(object);
    for (int64_t line = -128; line <= 64; line += 64) {
      __builtin_prefetch(param + line);
      __builtin_prefetch(grad + line);
    }
  }
};

// Tells autograd that these tensors, all of exactly torch's types, are about to be written.
inline void raise_versions(const py::list& tensors) {
  if (shim.found) {
    for (const py::handle tensor : tensors) shim.raise_version(at_tensor(tensor.ptr()));
    return;
  }
  const auto done = py::reinterpret_steal<py::object>(PyObject_CallOneArg(torch.raise_versions, tensors.ptr()));
  if (!done) throw py::error_already_set();
}

// The same of what a step is about to write: these tensors, and those of torch's among gradients to be zeroed.
inline void tell_torch(const py::list& written, const py::list* zeroed) {
  if (py::len(written)) raise_versions(written);
  if (!zeroed) return;
  py::list tensors;
  for (const py::handle grad : *zeroed)
    if (is_torch(grad.ptr())) tensors.append(grad);
  if (py::len(tensors)) raise_versions(tensors);
}

}  // namespace fastupdate
