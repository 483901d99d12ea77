// From what the user set to what a step needs: once per group and step, on the host, in float64.
#pragma once

#include "core/plan.h"

namespace fastupdate {

// The entries of the clock: steps taken, micro-batches since, and which version of what the user set is in force.
enum ClockEntry : int { kSteps, kMicroBatches, kRevision };

// What becomes of gradients of few rows: each is looked at closely, counts as a dense one, or moves these rows alone.
enum WayOfRows : uint32_t { kNoRows, kDenseRows, kLazyRows };

// How the rows of a plan become groups; the same in every step.
struct Recipe {
  int64_t next_thaw;        // the step count from which other tensors move than now
  int64_t lookahead_every;  // 0: no lookahead
  double lookahead_weight;
  double largest, vanishing;         // of the narrowest type that the step computes in; what does not exceed it is 0
  int32_t hypers, lr, weight_decay;  // how many the rule has, and which two of them these are; −1: none
  uint32_t always;                   // what every step is asked for: stages that have their arrays, and what is none
  uint32_t eps;                      // bit k: hyperparameter k is an ε, which must not vanish
  uint32_t flags;                    // of the stages
  uint32_t outside;                  // weight decay is a stage, and not the rule's own
  uint32_t before;                   // how many phases come before the array library's products of matrices
  uint32_t rows;                     // a WayOfRows
};

// A schedule's values, from some step on; `count` of them are there.
struct Schedule {
  int64_t first, count;
  uint64_t values;  // double*
};

// The place of a scheduled value: row and column of what is given.
struct Link {
  int64_t row, column, schedule;
};

// What the user set: a row for each group of his, of the rule's hyperparameters and then Shared.
struct Given {
  double* values;
  int64_t rows, columns;
  const Schedule* schedules;
  const Link* links;
  int64_t link_count;

  const double* row(int64_t k) const { return values + k * columns; }
};

// Writes scheduled values of a step, `taken` steps having been taken, into the rows; false if a schedule has none yet.
inline bool look_up(const Given& given, int64_t taken) {
  for (int64_t k = 0; k < given.link_count; ++k) {
    const Link& link = given.links[k];
    const Schedule& schedule = given.schedules[link.schedule];
    const int64_t at = taken - schedule.first;
    if (at < 0 || at >= schedule.count) return false;
    given.values[link.row * given.columns + link.column] = reinterpret_cast<const double*>(schedule.values)[at];
  }
  return true;
}

inline const Shared& shared(const Recipe& recipe, const double* row) {
  return *reinterpret_cast<const Shared*>(row + recipe.hypers);
}

inline double scaled_lr(const Recipe& recipe, const double* row) {
  return row[recipe.lr] * shared(recipe, row).lr_scale;
}

// Whether the type that the step computes in holds all numbers: none becomes infinite, and no ε becomes 0. Python names
// what it does not hold (fastupdate/step/held.py). A limit of clipping beyond the type is none, which is right, unless
// all gradients lie beyond it. Where a hyperparameter may be infinite, it is so in every type.
inline bool holds_numbers(const Recipe& recipe, const Given& given) {
  for (int64_t k = 0; k < given.rows; ++k) {
    const double *row = given.row(k), lr = scaled_lr(recipe, row);
    const Shared& s = shared(recipe, row);
    const double low = s.clip_low > -s.clip_value ? s.clip_low : -s.clip_value;
    const double high = s.clip_high < s.clip_value ? s.clip_high : s.clip_value;
    if (low > high || low > recipe.largest || high < -recipe.largest) return false;
    const double corrected = lr * (lr / s.peak_lr), longest = corrected > lr ? corrected : lr;
    if (lr > recipe.largest || s.l1 > recipe.largest || longest * s.l1 > recipe.largest) return false;
    if (recipe.weight_decay >= 0 && longest * row[recipe.weight_decay] > recipe.largest) return false;
    for (int c = 0; c < recipe.hypers; ++c) {
      if (c != recipe.lr && row[c] > recipe.largest && row[c] < __builtin_inf()) return false;
      if ((recipe.eps >> c & 1) && row[c] > 0 && row[c] <= recipe.vanishing) return false;
    }
  }
  return true;
}

// What the stages of a group work with.
inline StageNumbers stage_numbers(const Recipe& recipe, const double* row) {
  StageInputs h;
  h.set(shared(recipe, row), recipe.flags);
  h.lr = scaled_lr(recipe, row);
  h.weight_decay = recipe.outside ? row[recipe.weight_decay] : 0;
  h.lookahead = recipe.lookahead_weight;
  return prepared_stages(h);
}

inline StageNumbers idle_stages() {
  StageInputs h = {};
  h.set(kDefaults, 0);
  return prepared_stages(h);
}

// What the tensors of a group share in a step.
inline void derive(const Recipe& recipe, const double* row, Group& group) {
  for (int k = 0; k < recipe.hypers; ++k) group.hyper[k] = row[k];
  group.hyper[recipe.lr] = scaled_lr(recipe, row);
  if (recipe.outside) group.hyper[recipe.weight_decay] = 0;
  group.numbers = stage_numbers(recipe, row);
}

// The same for every group; returns the stages that the step needs, `taken` steps having been taken: those that any
// group asks for, and those that keep an array.
inline uint32_t derive(const Recipe& recipe, const Given& given, int64_t taken, Group* groups, int64_t count) {
  const StageNumbers idle = idle_stages();
  uint32_t stages = recipe.always;
  for (Group* group = groups; group < groups + count; ++group) {
    derive(recipe, given.row(group->given), *group);
    stages |= working_stages(group->numbers, idle);
  }
  const bool synchronises = recipe.lookahead_every && (taken + 1) % recipe.lookahead_every == 0;
  return stages & ~(synchronises ? 0 : kAtTimes);
}

}  // namespace fastupdate
