// What both extension modules tell Python of their build, and how they take in the records of a plan.
#pragma once

#include <pybind11/numpy.h>

#include <stdexcept>
#include <string>

#include "core/derive.h"

namespace fastupdate {

namespace py = pybind11;

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

// What the user set, as Python's arrays hold it. A plan keeps them, and knows by the revision when they are others.
class GivenArrays {
 public:
  explicit GivenArrays(const py::tuple& given)  // fastupdate/engines/records.py names its items
      : values_(given[0]),
        schedules_(given[1]),
        links_(given[2]),
        tables_(given[3]),
        revision_(given[4].cast<int64_t>()) {
    if (values_.ndim() != 2 || values_.itemsize() != sizeof(double))
      throw std::invalid_argument("given: rows of float64");
    given_ = {records<double>(values_, "given"),
              values_.shape(0),
              values_.shape(1),
              records<Schedule>(schedules_, "schedules"),
              records<Link>(links_, "links"),
              links_.size()};
  }

  Given& operator*() { return given_; }
  int64_t revision() const { return revision_; }

 private:
  py::array values_, schedules_, links_, tables_;
  int64_t revision_;
  Given given_;
};

inline py::dict record_sizes() {
  py::dict sizes;
  sizes["tensor"] = sizeof(Tensor);
  sizes["group"] = sizeof(Group);
  sizes["sums"] = sizeof(Sums);
  sizes["layout"] = sizeof(Layout);
  sizes["rows"] = sizeof(Rows);
  sizes["recipe"] = sizeof(Recipe);
  sizes["schedule"] = sizeof(Schedule);
  sizes["link"] = sizeof(Link);
  return sizes;
}

}  // namespace fastupdate
