// The module fastupdate._cuda.
#include <pybind11/pybind11.h>

namespace fastupdate {
void bind_cuda(pybind11::module_& m);  // cuda_plan.cpp
}

PYBIND11_MODULE(_cuda, m, pybind11::mod_gil_not_used()) { fastupdate::bind_cuda(m); }
