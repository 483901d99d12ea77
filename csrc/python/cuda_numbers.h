// The groups and stages of a step on a device: of each step that it may be, while it is open which ones were skipped.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <vector>

#include "cuda/sweep.h"
#include "python/records.h"

namespace fastupdate {

class StepNumbers {
 public:
  // groups: Python's own, which stay shared with it
  StepNumbers(const Recipe& recipe, Group* groups, int64_t count) : recipe_(recipe), groups_(groups), count_(count) {}

  // Takes what the user set from these arrays from now on.
  void take(const py::tuple& given) { given_.emplace(given); }

  // Works out groups and stages of the next step; false if Python has to look first.
  bool derive(const int64_t* clock) {
    const int64_t taken = clock[kSteps];
    if (!given_ || given_->revision() != clock[kRevision] || taken >= recipe_.next_thaw) return false;
    if (!look_up(**given_, taken) || !holds_numbers(recipe_, **given_)) return false;
    stages_ = {derive_row(groups_, taken)};
    possible_.assign(groups_, groups_ + count_);
    return true;
  }

  // What the next step is if none of the last `undecided` steps was skipped, if one was, and so on; returns the
  // learning rates.
  std::vector<double> derive_possible(const int64_t* clock, int64_t undecided) {
    if (undecided < 0 || undecided >= kMaxRows) throw std::invalid_argument("undecided: too many steps");
    const int64_t taken = clock[kSteps];
    std::vector<double> lrs(size_t(undecided) + 1);
    stages_.resize(lrs.size());
    possible_.resize(lrs.size() * size_t(count_));
    for (int64_t skipped = undecided; skipped >= 0; --skipped) {  // the step itself last: its values are to stay
      if (!look_up(**given_, taken - skipped)) throw std::invalid_argument("a schedule lacks values of earlier steps");
      Group* row = possible_.data() + skipped * count_;
      std::copy(groups_, groups_ + count_, row);
      for (int64_t k = 0; k < count_; ++k) row[k].t -= skipped;
      stages_[size_t(skipped)] = derive_row(row, taken - skipped);
      lrs[size_t(skipped)] = lr_;
    }
    return lrs;
  }

  // Counts a step.
  void advance() {
    for (int64_t k = 0; k < count_; ++k) ++groups_[k].t;
  }

  // By how many steps before were skipped.
  const std::vector<uint32_t>& stages() const { return stages_; }
  const Group* row(int64_t skipped) const { return possible_.data() + skipped * count_; }
  double lr() const { return lr_; }  // of the first group

  // How many phases come before the array library's products of matrices.
  int64_t phases_before() const { return recipe_.before; }

 private:
  // Works out the groups of a step, `taken` steps having been taken; returns its stages.
  uint32_t derive_row(Group* row, int64_t taken) {
    lr_ = scaled_lr(recipe_, (**given_).row(0));
    return fastupdate::derive(recipe_, **given_, taken, row, count_);
  }

  const Recipe recipe_;
  Group* groups_;
  int64_t count_;
  std::optional<GivenArrays> given_;
  std::vector<Group> possible_;
  std::vector<uint32_t> stages_ = {0};
  double lr_ = 0;
};

}  // namespace fastupdate
