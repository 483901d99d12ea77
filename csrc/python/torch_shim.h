// torch's tensors by functions of libtorch itself, found by name in the libraries that torch has loaded: its C shim
// (torch/csrc/inductor/aoti_torch/c/shim.h), and two functions of C++ that the shim lacks. No Python object is made of
// a gradient that way. All of it may be missing: `find` tries it on a tensor made for that, and Python's way is left.
#pragma once

#include <dlfcn.h>
#include <pybind11/pybind11.h>

#include <algorithm>

#include "python/view.h"

namespace fastupdate {

namespace py = pybind11;

using AtTensor = const void*;  // an at::Tensor: the address of a pointer to what torch keeps of a tensor

struct Shim {
  bool found = false;
  py::ssize_t offset = 0;  // of the at::Tensor in torch's Python objects
  int32_t (*layout)(AtTensor, int32_t*);
  int32_t (*device)(AtTensor, int32_t*);
  int32_t (*dtype)(AtTensor, int32_t*);
  int32_t (*dim)(AtTensor, int64_t*);
  int32_t (*sizes)(AtTensor, int64_t**);
  int32_t (*strides)(AtTensor, int64_t**);
  int32_t (*data)(AtTensor, void**);
  int32_t (*defined)(AtTensor, bool*);
  int32_t (*copy)(AtTensor, AtTensor*);  // another reference to the same tensor
  int32_t (*free)(AtTensor);
  int32_t strided, cpu;
  int32_t dtypes[kNone];
  AtTensor (*grad)(const void*);    // c10::TensorImpl::grad() const
  void (*raise_version)(AtTensor);  // torch::autograd::impl::bump_version(at::Tensor const&)
  // Where what torch keeps of a tensor points to its storage, and to what autograd keeps of it: only to fetch ahead
  // what torch's functions will read. −1: not found.
  py::ssize_t storage = -1, autograd = -1;
};

inline Shim shim;

// Of an object of exactly torch's types.
inline AtTensor at_tensor(PyObject* object) { return reinterpret_cast<const char*>(object) + shim.offset; }

inline const void* impl_of(AtTensor tensor) { return *static_cast<const void* const*>(tensor); }

// Starts fetching what torch keeps of a tensor.
FASTUPDATE_HD void prefetch(AtTensor tensor) {
  const auto* const impl = static_cast<const char*>(impl_of(tensor));
  for (int64_t line = 0; line < 256; line += 64) __builtin_prefetch(impl + line);
}

// Starts fetching what that points to, at one of these places.
FASTUPDATE_HD void prefetch_behind(AtTensor tensor, py::ssize_t place) {
  if (place < 0) return;
  const auto* const impl = static_cast<const char*>(impl_of(tensor));
  __builtin_prefetch(*reinterpret_cast<const void* const*>(impl + place));
}

// The gradient that a parameter holds; null if it holds none.
inline AtTensor held_gradient(AtTensor param) {
  AtTensor grad = shim.grad(impl_of(param));
  bool defined = false;
  return shim.defined(grad, &defined) || !defined ? nullptr : grad;
}

// False for whatever does not lie in the CPU's memory as an array of floats. Does not see that values are negated.
inline bool look_at(AtTensor tensor, View& view) {
  int32_t layout, device, dtype;
  int64_t ndim, *sizes, *strides;
  void* data;
  if (shim.layout(tensor, &layout) || layout != shim.strided) return false;
  if (shim.device(tensor, &device) || device != shim.cpu || shim.dtype(tensor, &dtype)) return false;
  if (shim.dim(tensor, &ndim) || shim.sizes(tensor, &sizes) || shim.strides(tensor, &strides)) return false;
  view.dtype = uint8_t(std::find(shim.dtypes, shim.dtypes + kNone, dtype) - shim.dtypes);
  if (view.dtype == kNone || shim.data(tensor, &data)) return false;
  view.data = reinterpret_cast<uint64_t>(data);
  view.shape = sizes;
  view.strides = strides;
  view.stride_unit = item_size(view.dtype);
  view.ndim = int(ndim);
  view.writable = true;
  return !measure(view) || data;  // storage may have been freed
}

template <class Function>
bool find_function(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

inline bool find_constant(void* library, const char* name, int32_t& value) {
  int32_t (*function)();
  return find_function(library, name, function) && (value = function(), true);
}

inline bool find_types(void* library, Shim& s) {
#define ROW(type, name, ...) \
  if (!find_constant(library, "aoti_torch_dtype_" name, s.dtypes[k##type])) return false;
  FASTUPDATE_STORAGE_TYPES(ROW)
#undef ROW
  return true;
}

inline bool find_functions(Shim& s) {
  void* const torch = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
  void* const c10 = dlopen("libc10.so", RTLD_LAZY | RTLD_NOLOAD);
  return torch && c10 && find_function(torch, "aoti_torch_get_layout", s.layout) &&
         find_function(torch, "aoti_torch_get_device_type", s.device) &&
         find_function(torch, "aoti_torch_get_dtype", s.dtype) && find_function(torch, "aoti_torch_get_dim", s.dim) &&
         find_function(torch, "aoti_torch_get_sizes", s.sizes) &&
         find_function(torch, "aoti_torch_get_strides", s.strides) &&
         find_function(torch, "aoti_torch_get_data_ptr", s.data) &&
         find_function(torch, "aoti_torch_is_defined", s.defined) &&
         find_function(torch, "aoti_torch_new_tensor_handle", s.copy) &&
         find_function(torch, "aoti_torch_delete_tensor_object", s.free) &&
         find_constant(torch, "aoti_torch_layout_strided", s.strided) &&
         find_constant(torch, "aoti_torch_device_type_cpu", s.cpu) && find_types(torch, s) &&
         find_function(c10, "_ZNK3c1010TensorImpl4gradEv", s.grad) &&
         find_function(torch, "_ZN5torch8autograd4impl12bump_versionERKN2at6TensorE", s.raise_version);
}

// Where a Python object holds the pointer that it tells as `_cdata`; −1 if nowhere.
inline py::ssize_t offset_of(py::handle tensor) {
  const auto impl = tensor.attr("_cdata").cast<uint64_t>();
  const auto* const words = reinterpret_cast<const uint64_t*>(tensor.ptr());
  const size_t count = size_t(Py_TYPE(tensor.ptr())->tp_basicsize) / sizeof(uint64_t);
  for (size_t k = sizeof(PyObject) / sizeof(uint64_t); k < count; ++k)
    if (words[k] == impl) return py::ssize_t(k * sizeof(uint64_t));
  return -1;
}

// Where what torch keeps of a tensor points to the bytes before an address, of which there are `reach`; −1 if nowhere
// in its beginning.
inline py::ssize_t place_of_pointer(AtTensor tensor, uint64_t address, uint64_t reach) {
  constexpr py::ssize_t kBeginning = 16;  // words
  const auto* const words = static_cast<const uint64_t*>(impl_of(tensor));
  for (py::ssize_t k = 1; k < kBeginning; ++k)
    if (address - words[k] < reach) return k * py::ssize_t(sizeof(uint64_t));
  return -1;
}

// Finds the places to fetch ahead, from a parameter that holds a gradient.
inline void find_places(py::handle param) {
  constexpr uint64_t kLine = 64;
  const AtTensor tensor = at_tensor(param.ptr());
  const auto storage = param.attr("untyped_storage")().attr("_cdata").cast<uint64_t>();
  shim.storage = place_of_pointer(tensor, storage, 1);
  shim.autograd = place_of_pointer(tensor, reinterpret_cast<uint64_t>(shim.grad(impl_of(tensor))), kLine);
}

// Whether the functions say of a parameter of two elements or more, and of its gradient, what Python says.
inline bool says_what_python_says(py::handle param) {
  const py::object grad = param.attr("grad");
  const auto says = [](AtTensor tensor, py::handle object) {
    View view;
    return look_at(tensor, view) && view.data == object.attr("data_ptr")().cast<uint64_t>() &&
           view.ndim == object.attr("dim")().cast<int>() &&
           view.shape[0] == object.attr("shape")[py::int_(0)].cast<int64_t>();
  };
  const AtTensor tensor = at_tensor(param.ptr()), held = held_gradient(tensor);
  if (!held || !says(tensor, param) || !says(held, grad) || held_gradient(held)) return false;
  const auto before = param.attr("_version").cast<int64_t>();
  shim.raise_version(tensor);
  return param.attr("_version").cast<int64_t>() == before + 1;
}

// Looks for all of it; params: a parameter and a tensor that requires a gradient, both with one.
inline bool find_shim(const py::list& params) {
  shim = {};
  if (!find_functions(shim)) return false;
  shim.offset = offset_of(params[0]);
  if (shim.offset < 0) return false;
  for (const py::handle param : params)
    if (offset_of(param) != shim.offset || !says_what_python_says(param)) return false;
  find_places(params[0]);
  return shim.found = true;
}

}  // namespace fastupdate
