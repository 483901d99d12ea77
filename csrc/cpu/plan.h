// A list of tensors, planned once, and what every step does with it. Knows no Python: the memory is the caller's.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "core/derive.h"
#include "core/views.h"
#include "cpu/registry.h"
#include "cpu/team.h"

namespace fastupdate {

constexpr int64_t kTensorCost = 64;     // a tensor costs about as much as this many elements
constexpr int64_t kScatteredCost = 4;   // an element of rows that lie anywhere costs as much as so many others
constexpr int64_t kRowsOfPiece = 512;   // of a tensor that does not lie in C order: they lie side by side
constexpr int64_t kHoldCost = 1 << 21;  // above it, they would wait for as long as Python lets one thread run
constexpr int64_t kReleaseCost = 8192;  // below it, letting other Python threads run costs more than it gives

// What all gradients of a step, which are finite, came to: their norm, and what clipping multiplies them by.
struct Judged {
  double norm = 0, factor = 1;
};

// A part of a tensor, which one thread works on: elements begin … end − 1 of a row of some records.
struct Part {
  int64_t row, begin, end;
};

class Plan {
 public:
  Plan(const Target& target, const RuleCode (&code)[2], Tensor* tensors, int64_t count, Group* groups,
       int64_t group_count, const Recipe& recipe, int64_t* clock, Sums* sums)
      : target_(target),
        tensors_(tensors),
        groups_(groups),
        count_(count),
        group_count_(group_count),
        clock_(clock),
        recipe_(recipe),
        scalars_(size_t(group_count) * 2 * kScalarBytes) {
    sweep_ = {tensors, count, groups, {&code[0], &code[1]}, scalars_.data(), 1.0, 0, false, 0, sums};
    bool occurs[2] = {};
    for (int64_t i = 0; i < count; ++i) occurs[tensors[i].dtype] = true;
    recount();
    for (int dtype : {kFloat32, kFloat64})
      if (occurs[dtype] || (dtype == kFloat64 && code[dtype].phases)) dtypes_.push_back(dtype);
  }

  // Takes in how many elements there are to work on: of some tensors those of the rows alone that gradients touch.
  void recount() {
    cost_ = blocks_ = piece_ = 0;
    for (int64_t i = 0; i < count_; ++i) {
      const Tensor& t = tensors_[i];
      const bool scattered = t.touched && reinterpret_cast<const Rows*>(t.touched)->lazy;
      cost_ += (scattered ? kScatteredCost : 1) * t.n + kTensorCost;
      tensors_[i].first_block = blocks_;
      blocks_ += block_count(tensors_[i]);
      if (t.order)
        piece_ = std::max(piece_, kRowsOfPiece * host::row_length(*reinterpret_cast<const Layout*>(t.order)));
    }
  }

  int64_t count() const { return count_; }
  int64_t cost() const { return cost_; }
  int64_t steps() const { return clock_[kSteps]; }
  Tensor& row(int64_t i) { return tensors_[i]; }
  const Team& mover() const { return update_team_; }

  // Works out the groups and the stages of the next step; false if Python has to look first.
  bool derive(const Given& given) {
    const int64_t taken = clock_[kSteps];
    if (taken >= recipe_.next_thaw || !look_up(given, taken) || !holds_numbers(recipe_, given)) return false;
    stages_ = fastupdate::derive(recipe_, given, taken, groups_, group_count_);
    lr_ = scaled_lr(recipe_, given.row(0));
    return true;
  }

  // As of the last `derive`: the stages of the step, and the learning rate of the first group.
  uint32_t stages() const { return stages_; }
  double lr() const { return lr_; }

  // One step over all tensors, without the stages in `off`. The clocks advance in the same call, so that no interrupt
  // can come between.
  void update(double scale, uint32_t off) {
    measure(scale, off);
    finish();
  }

  // What comes before any tensor moves: the scalars of the step, and the phases of the rule, but for those that come
  // after products of matrices.
  void measure(double scale, uint32_t off) {
    prepare(scale, off);
    measure_stages(kGradientStages);
    run_phases(0, recipe_.before);
  }

  // A step of tensors of which only parts are here, while the plan's records are of whole ones: `prepare`, then parts
  // are measured for each phase or stage, which is then settled; parts are updated; and `advance`.
  void prepare(double scale, uint32_t off) {
    for (int64_t k = 0; k < group_count_; ++k)
      for (int dtype : dtypes_)
        sweep_.code[dtype]->scalars(groups_[k].hyper, groups_[k].t + 1,
                                    &scalars_[size_t(k * 2 + dtype) * kScalarBytes]);
    sweep_.scale = scale;
    sweep_.stages = stages_ & ~off;
  }

  // Moves parts, or measures them. phase, measuring: those of Sweep. tensors: what the rows of the parts are in.
  void take(bool move, int phase, uint32_t measuring, const Tensor* tensors, const Part* parts, int64_t count) {
    const auto entry = move ? target_.engine.update_part : target_.engine.measure_part;
    sweep_.phase = phase, sweep_.measuring = measuring;
    int64_t cost = 0;
    for (int64_t k = 0; k < count; ++k) cost += parts[k].end - parts[k].begin + kTensorCost;
    parts_team_.share(crew_for(cost, count), count, [&](int64_t first, int64_t last) {
      for (int64_t k = first; k < last; ++k) entry(sweep_, tensors[parts[k].row], parts[k].begin, parts[k].end);
    });
  }

  void settle(int phase, uint32_t measuring) {
    sweep_.phase = phase, sweep_.measuring = measuring;
    run(target_.engine.settle, settle_team_);
    const PhaseCode* const phases = sweep_.code[kFloat64]->phases;
    if (!measuring && phases[phase].shape.settles(kList)) settle_list(phases[phase]);
  }

  // The phases that come after them.
  void measure_again() { run_phases(recipe_.before, sweep_.code[kFloat64]->phase_count); }

  // The same, and then moves all tensors and counts the step.
  void finish() {
    measure_again();
    measure_stages(~kGradientStages);
    run(target_.engine.update, update_team_);
    advance();
  }

  // Moves the tensors first … last − 1.
  void move(int64_t first, int64_t last) {
    const auto block = [&](int64_t i) { return i < count_ ? tensors_[i].first_block : blocks_; };
    const auto run = [&](Engine::Entry entry, Team&) { entry(sweep_, block(first), block(last)); };
    measure_stages(~kGradientStages, run);
    target_.engine.update(sweep_, block(first), block(last));
  }

  // Counts a step whose tensors have all been moved.
  void advance() {
    for (int64_t k = 0; k < group_count_; ++k) ++groups_[k].t;
    ++clock_[kSteps];
    clock_[kMicroBatches] = 0;
  }

  // Of gradients, and of weights too, times a scale.
  void gradient_sums(double scale) { sweep_.scale = scale, run(target_.engine.gradient_sums, sums_team_); }
  void unit_norms(double scale) { sweep_.scale = scale, run(target_.engine.unit_norms, units_team_); }
  void clear_gradients() { run(target_.engine.clear_gradients, clear_team_); }

  // Adds the gradients to the accumulators; the first micro-batch after a step overwrites them.
  void accumulate() {
    sweep_.first = clock_[kMicroBatches] == 0;
    sweep_.stages = stages_ & kZeroGrads;
    run(target_.engine.accumulate, accumulate_team_);
    ++clock_[kMicroBatches];
  }

  // Folds the sums of blocks into those of tensors.
  void fold(Sums* total) {
    fold_team_.share(crew_for(cost_, count_), count_, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i)
        total[i] = host::fold_blocks(sweep_.sums + tensors_[i].first_block, block_count(tensors_[i]));
    });
  }

  // Of all tensors: Σ scale²·Σg², folded pairwise, and how many gradients are not finite.
  std::pair<double, int64_t> overall(const Sums* total) const { return host::overall(tensors_, total, count_); }

  // By how much gradients are clipped; false if that needs a closer look, for they are not finite, or too large.
  // As fastupdate/step/decide.py.
  bool judge(double limit, Judged& judged) {
    totals_.resize(size_t(count_));
    gradient_sums(1);
    fold(totals_.data());
    const auto [squares, nonfinite] = overall(totals_.data());
    judged.norm = std::sqrt(squares);
    judged.factor = host::clip_factor(limit, judged.norm, 1);
    return !nonfinite && std::isfinite(judged.norm) && judged.factor > kSmallest;
  }

 private:
  static constexpr double kSmallest = 1e-200;  // factor that is taken without a closer look

  void run_phases(int64_t first, int64_t last) {
    for (sweep_.phase = int(first); sweep_.phase < last; ++sweep_.phase) {
      const PhaseCode& phase = sweep_.code[kFloat64]->phases[sweep_.phase];
      if (phase.shape.measures) run(target_.engine.measure, measure_team_);
      run(target_.engine.settle, settle_team_);
      if (phase.shape.settles(kList)) settle_list(phase);
    }
  }

  // The sums that stages of these places need: each measures what those before it have made.
  template <class Run>
  void measure_stages(uint32_t places, Run run) {
    for (uint32_t rest = sweep_.stages & kMeasuring & places; rest; rest &= rest - 1) {
      sweep_.measuring = rest & -rest;
      run(target_.engine.measure, measure_team_);
      run(target_.engine.settle, settle_team_);
    }
    sweep_.measuring = 0;
  }
  void measure_stages(uint32_t places) {
    measure_stages(places, [&](Engine::Entry entry, Team& team) { run(entry, team); });
  }

  // The list has the scalars of its first tensor's group; without elements it stays as it is.
  void settle_list(const PhaseCode& phase) {
    if (!blocks_) return;
    const int terms = phase.shape.terms;
    double sums[kMaxTerms], elements = 0;
    for (int k = 0; k < terms; ++k) {
      host::Pairwise<double, Joined> sum;
      sum.op = phase.shape.joined(k);
      for (int64_t i = 0; i < count_; ++i) sum.add(totals_of(tensors_[i])[k]);
      sums[k] = sum.total();
    }
    for (int64_t i = 0; i < count_; ++i) elements += double(tensors_[i].n);
    const unsigned char* scalars = sweep_.scalars + (tensors_[0].group * 2 + kFloat64) * kScalarBytes;
    phase.settle[kList](scalars, 1, elements, sums, tensors_[0].slot);
  }

  void run(Engine::Entry entry, Team& team) {
    const auto work = [&](int64_t first, int64_t last) { entry(sweep_, first, last); };
    team.share(crew_for(cost_, blocks_, piece_), blocks_, work);
  }

  const Target& target_;
  Tensor* tensors_;
  Group* groups_;
  int64_t count_, group_count_, cost_ = 0, blocks_ = 0;
  int64_t piece_ = 0;  // cost of what a thread takes at a time, at least
  int64_t* clock_;
  Recipe recipe_;
  std::vector<int> dtypes_;  // that occur
  std::vector<unsigned char> scalars_;
  std::vector<Sums> totals_;  // of each tensor, while its gradient is judged
  Sweep sweep_;
  Team update_team_, measure_team_, settle_team_, sums_team_, clear_team_, units_team_, accumulate_team_, fold_team_,
      parts_team_;
  uint32_t stages_ = 0;
  double lr_ = 0;
};

}  // namespace fastupdate
