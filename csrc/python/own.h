// Rules that are not in the build: somebody's own, which Numba has compiled (fastupdate/engines/python/own.py).
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/registry.h"
#include "python/records.h"

namespace fastupdate {

// The code of a rule for both compute types, wherever it comes from.
class CodeOfRule {
 public:
  // addresses: what own.py calls Addresses, for a rule that the build lacks.
  CodeOfRule(const Target& target, const std::string& rule, unsigned flags, const std::optional<py::tuple>& addresses) {
    if (addresses) {
      adopt(*addresses);
      return;
    }
    const RuleCode(&code)[2] = find_rule(target.rules, target.rule_count, rule).code[flags];
    of[0] = code[0], of[1] = code[1];
  }
  CodeOfRule(const CodeOfRule&) = delete;

  RuleCode of[2];  // by dtype

 private:
  template <class Function>
  static Function function(uint64_t address) {
    return reinterpret_cast<Function>(address);
  }

  void adopt(const py::tuple& addresses) {
    const auto code = addresses[0].cast<std::vector<std::vector<uint64_t>>>();
    const auto shapes = addresses[1].cast<std::vector<std::tuple<bool, int, unsigned, unsigned>>>();
    for (const int extent : addresses[2].cast<std::vector<int>>()) extents_.push_back(Extent(extent));
    const auto settles = addresses[3].cast<std::vector<std::vector<uint64_t>>>();
    for (const int dtype : {kFloat32, kFloat64}) {
      const std::vector<uint64_t>& own = code.at(size_t(dtype));
      if (own.empty()) continue;
      for (size_t k = 0; k < shapes.size(); ++k) {
        PhaseCode phase = {function<decltype(PhaseCode::measure)>(own.at(2 + k)), shape_of(shapes[k])};
        for (size_t extent = 0; extent < settles.at(k).size(); ++extent)
          phase.settle[extent] = function<PhaseCode::Settle>(settles[k][extent]);
        phases_[dtype].push_back(phase);
      }
      of[dtype].scalars = function<decltype(RuleCode::scalars)>(own.at(0));
      of[dtype].loop = function<decltype(RuleCode::loop)>(own.at(1));
      if (shapes.empty()) continue;
      of[dtype].phases = phases_[dtype].data();
      of[dtype].phase_count = int64_t(shapes.size());
      of[dtype].state_count = int64_t(extents_.size());
      of[dtype].extents = extents_.data();
      of[dtype].reads_once = true;
      of[dtype].numbers_alone = std::all_of(extents_.begin(), extents_.end(),
                                            [](Extent extent) { return extent == kElement || is_of_all(extent); });
    }
  }

  static PhaseShape shape_of(const std::tuple<bool, int, unsigned, unsigned>& shape) {
    const auto& [measures, terms, settled, maxima] = shape;
    if (terms > kMaxTerms) throw py::value_error("too many sums");
    return {measures, terms, uint8_t(settled), uint8_t(maxima)};
  }

  std::vector<Extent> extents_;
  std::vector<PhaseCode> phases_[2];
};

}  // namespace fastupdate
