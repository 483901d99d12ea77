// What both extension modules tell Python of their build, and how they take in the records of a plan.
#pragma once

#include <pybind11/numpy.h>

#include <stdexcept>
#include <string>

#include "core/plan.h"

namespace fastupdate {

namespace py = pybind11;

constexpr int kSteps = 0, kMicroBatches = 1;  // the entries of the clock

template <class Rule>
const Rule& find_rule(const Rule* const* rules, int64_t count, const std::string& name) {
  for (int64_t k = 0; k < count; ++k)
    if (name == rules[k]->name) return *rules[k];
  throw std::invalid_argument("no such rule in this build: " + name);
}

// Name → (hyperparameters, flags, states).
template <class Rule>
py::dict describe_rules(const Rule* const* rules, int64_t count) {
  py::dict all;
  for (int64_t k = 0; k < count; ++k)
    all[rules[k]->name] = py::make_tuple(rules[k]->hypers, rules[k]->flags, rules[k]->states);
  return all;
}

template <class Record>
Record* records(py::array& array, const char* name) {
  if (array.itemsize() != py::ssize_t(sizeof(Record)) || !(array.flags() & py::array::c_style))
    throw std::invalid_argument(std::string(name) + ": not the records this build was made for");
  return static_cast<Record*>(array.mutable_data());
}

inline py::dict record_sizes() {
  py::dict sizes;
  sizes["tensor"] = sizeof(Tensor);
  sizes["group"] = sizeof(Group);
  sizes["sums"] = sizeof(Sums);
  sizes["layout"] = sizeof(Layout);
  return sizes;
}

}  // namespace fastupdate
