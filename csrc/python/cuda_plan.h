// The host side of the CUDA engine.
//
// Records that kernels read are kept in device memory and uploaded on the caller's stream when they have changed. What
// a step decides stays on the device; whoever asks for it waits for it.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/sums.h"
#include "python/adopt.h"
#include "python/containers.h"
#include "python/cuda_numbers.h"
#include "python/cuda_replay.h"
#include "python/cuda_rows.h"
#include "python/cuda_step.h"
#include "python/records.h"

namespace fastupdate {

constexpr int64_t kSegmentsWanted = 4096;  // enough to keep a large device busy, few enough to fold

// A list of tensors on one device, planned once; the record arrays are Python's own and stay shared with it.
class Plan {
 public:
  Plan(const std::string& rule, unsigned flags, py::array tensors, py::array groups, py::array recipe,
       py::array_t<int64_t> clock, bool sums, int device, py::type array_type)
      : device_(device),
        array_type_(array_type),
        tensors_(tensors),
        groups_(groups),
        clock_(clock),
        count_(tensors.size()),
        group_count_(groups.size()),
        numbers_(*records<Recipe>(recipe, "recipe"), records<Group>(groups_, "groups"), group_count_),
        variant_(find_rule(cuda::engine.rules, cuda::engine.rule_count, rule).variants[flags]),
        extents_(records<Tensor>(tensors_, "tensors"), count_),
        rows_(records<Tensor>(tensors_, "tensors"), count_),
        step_(variant_, group_count_),
        staging_(step_.bytes(kMaxRows) + size_t(count_) * sizeof(Tensor)),
        decisions_(sizeof(Decision)),
        all_totals_(size_t(count_) * sizeof(Sums)) {
    count_everything();
    device::Scope scope(device_);
    allocate(sums);
  }

  // What kernels that are queued read is freed when they have run: freeing waits for the device.
  ~Plan() {
    without_gil([&] {
      rows_.clear();
      memory_.clear();
      for (Pool* pool : {&staging_, &decisions_, &all_totals_}) pool->clear();
    });
  }

  // Takes what the user set from these arrays from now on.
  void take(const py::tuple& given) { numbers_.take(given); }

  // Works out groups and stages of the next step; false if Python has to look first.
  bool derive() { return numbers_.derive(clock_.data()); }

  // What the next step is if none of the last `undecided` steps was skipped, if one was, and so on; returns the
  // learning rates. Follows upon `derive`.
  std::vector<double> derive_possible(int64_t undecided) { return numbers_.derive_possible(clock_.data(), undecided); }

  // As of the last `derive`: the stages of the step, and the learning rate of the first group.
  uint32_t stages() const { return numbers_.stages()[0]; }
  double lr() const { return numbers_.lr(); }

  // Notes arrays and containers of the user's, to be looked at again in every step (Watched, Containers::note).
  void watch(const py::list& params, const py::list& others, const py::list& containers) {
    check_lengths(count_, params, params);
    watched_.note(params, others, reinterpret_cast<PyTypeObject*>(array_type_.ptr()));
    containers_.note(containers);
  }

  // Takes in the gradients from `start` on; returns the first index that needs a closer look, −1 if none does.
  int64_t adopt(const py::list& params, const py::list& grads, int64_t start, bool writable) {
    check_lengths(count_, params, grads);
    if (start == 0 && !(containers_.intact() && watched_.intact())) return 0;
    const Adoption adoption = {
        records<Tensor>(tensors_, "tensors"), extents_, watched_, params, grads, writable, true, nullptr, device_};
    bool changed = false;
    const int64_t found = adoption.adopt(start, count_, changed);
    if (changed) rows_.touch();
    moves_ += changed;
    return found;
  }

  // How many times gradients were found elsewhere than before.
  int64_t moves() const { return moves_; }

  void update(double scale, uint32_t off, Stream stream) {
    rows_.touch();
    run(scale, off, stream);
  }

  // The whole fast path: if every array and number is as expected, updates and returns how many steps have been taken
  // and the learning rate of this one, else None. Without gradients, those are taken that torch's parameters hold, and
  // kept until the next step, for the device reads them later.
  py::object step(const py::list& params, const std::optional<py::list>& given, double scale, Stream stream) {
    if (clock_.at(kMicroBatches) || !derive()) return py::none();
    const py::list grads = given ? *given : py::list(size_t(count_));  // empty places, to be filled in
    const bool zeroes = stages() & kZeroGrads;
    if (adopt(params, grads, 0, zeroes) >= 0) return py::none();
    tell_torch(watched_.of_torch(), zeroes ? &grads : nullptr);
    held_ = given ? py::list() : grads;
    run(scale, 0, stream);
    return py::make_tuple(std::max<int64_t>(clock_.at(kSteps), 1), lr());
  }

  // What a step will have found that is told to.
  std::shared_ptr<Outcome> outcome(const Wishes& wishes) {
    device::Scope scope(device_);
    return std::make_shared<Outcome>(wishes, device_, count_, decisions_.take(),
                                     wishes.monitor ? all_totals_.take() : nullptr);
  }

  // A step whose gradients the device judges first. Follows upon `derive_possible`.
  void judged_update(double scale, double sign, uint32_t off, const std::shared_ptr<Outcome>& outcome, Stream stream) {
    rows_.touch();
    device::Scope scope(device_);
    begin(command(scale, sign, off, outcome->wishes), outcome->wishes, stream, outcome);
    complete(stream);
  }

  // What comes before the array library's products of matrices; outcome: null where nothing is to be judged.
  void judge(double scale, double sign, uint32_t off, const std::shared_ptr<Outcome>& outcome, Stream stream) {
    rows_.touch();
    device::Scope scope(device_);
    refuse_capture(stream, "a step of a rule that multiplies matrices waits for the device: it cannot be captured");
    const Wishes wishes = outcome ? outcome->wishes : Wishes();
    begin(command(scale, sign, off, wishes), wishes, stream, outcome);
  }

  // Moves all tensors after that, and counts the step.
  void finish(Stream stream) {
    device::Scope scope(device_);
    complete(stream);
  }

  // Makes a captured step the next one: uploads what it reads. What the launch before it found is fetched first.
  // Follows upon `derive_possible`. The graph is to be launched on this stream, whose owner is kept with it.
  void prepare_replay(double scale, double sign, const std::shared_ptr<Outcome>& outcome, Stream stream,
                      py::object owner) {
    device::Scope scope(device_);
    if (!rows_.captured()) throw std::runtime_error("no step of this optimizer was captured");
    refuse_capture(stream, "a captured step is prepared outside the capture");
    replay_.leave(stream, header(), sweep_.totals);
    step_.upload(command(scale, sign, 0, outcome->wishes), numbers_, staging_, stream, false);
    advance(outcome->wishes);
    replay_.prepare(outcome, stream, std::move(owner));
  }

  // For whoever waits for what the graph launched last has found.
  void fetch_replayed() {
    device::Scope scope(device_);
    replay_.fetch(header(), sweep_.totals);
  }

  // For whoever waits for the sums, to raise. `large`: of gradients in units of kLarge.
  void gradient_sums(bool large, Stream stream) {
    rows_.touch();
    device::Scope scope(device_);
    refuse_capture(
        stream,
        "a step that raises for non-finite gradients or looks for outliers waits for the device: it cannot be "
        "captured");
    Command c = command(1, 1, kEveryStage, {});
    c.large = large;
    const DeviceSweep sweep = prepared(c, stream);
    cuda::engine.gradient_sums(sweep, {blocks_, stream, false, false});
  }

  // Adds the gradients to the accumulators; the first micro-batch after a step overwrites them.
  void accumulate(Stream stream) {
    rows_.touch();
    device::Scope scope(device_);
    refuse_capture(stream, "micro-batches cannot be captured: the first one differs from the others");
    Command c = command(1, 1, ~uint32_t(kZeroGrads), {});
    int64_t* clock = clock_.mutable_data();
    c.first = clock[kMicroBatches] == 0;
    const DeviceSweep sweep = prepared(c, stream);
    if (blocks_) cuda::engine.accumulate(sweep, {blocks_, stream, false, false});
    ++clock[kMicroBatches];
  }

  // Zeroes the gradients that the records point at.
  void clear_gradients(Stream stream) {
    rows_.touch();
    device::Scope scope(device_);
    const DeviceSweep sweep = prepared(command(1, 1, kEveryStage, {}), stream);
    if (blocks_) cuda::engine.clear_gradients(sweep, {blocks_, stream, false, false});
  }

  // The sums of each tensor, from the last reading of gradients or monitored step; waits for them.
  void fold(py::array totals, Stream stream) {
    device::Scope scope(device_);
    Sums* to = records<Sums>(totals, "totals");
    if (totals.size() != count_) throw std::invalid_argument("totals: one record for each tensor");
    std::shared_ptr<Pinned> buffer = all_totals_.take();
    device::copy(buffer->as(), sweep_.totals, size_t(count_) * sizeof(Sums), stream);
    buffer->mark(stream);
    without_gil([&] { buffer->wait(); });
    std::memcpy(to, buffer->as(), size_t(count_) * sizeof(Sums));
  }

  // Of all tensors, by their sums: Σ scale²·Σg², and how many gradients are not finite.
  std::pair<double, int64_t> overall(py::array totals) {
    Sums* sums = records<Sums>(totals, "totals");
    if (totals.size() != count_) throw std::invalid_argument("totals: one record for each tensor");
    return FASTUPDATE_TARGET::overall(&row(0), sums, count_);
  }

  // Clips units by their norms in the step that follows; their factors stay on the device.
  void clip_units(double limit, double scale, Stream stream) {
    rows_.touch();
    device::Scope scope(device_);
    Wishes wishes;
    wishes.clip_unit_norm = limit;
    const DeviceSweep sweep = prepared(command(scale, 1, kEveryStage, wishes), stream);
    if (blocks_) cuda::engine.unit_norms(sweep, {blocks_, stream, false, false});
  }

  // Shows each reference to what is the user's (collectable).
  template <class See>
  void visit(See see) const {
    watched_.visit(see);
    containers_.visit(see);
    see(held_);
    see(replay_.owner());
  }

  void forget() {
    watched_.forget();
    containers_.forget();
    held_ = py::list();
    replay_.forget();
  }

 private:
  static constexpr uint32_t kEveryStage = ~uint32_t(0);

  void run(double scale, uint32_t off, Stream stream) {
    device::Scope scope(device_);
    begin(command(scale, 1, off, {}), {}, stream, nullptr);
    complete(stream);
  }

  Tensor& row(int64_t i) { return static_cast<Tensor*>(tensors_.mutable_data())[i]; }
  StepHeader* header() const { return sweep_.step; }

  // How much there is of everything.
  void count_everything() {
    for (int64_t i = 0; i < count_; ++i) {
      const Tensor& t = row(i);
      blocks_ += block_count(t);
      filled_ += t.n > 0;
      has_[t.dtype] |= t.n > 0;
      direct_ &= !t.p_layout && !t.slot[kShadow] && !t.unit_scale;
    }
    while (segment_ < kMaxSegment && blocks_ / segment_ > kSegmentsWanted) segment_ *= 2;
  }

  void allocate(bool sums) {
    rows_.allocate();
    step_.allocate(memory_, sweep_);
    sweep_.tensors = rows_.at();
    sweep_.count = count_;
    sweep_.filled = filled_;
    sweep_.blocks = blocks_;
    sweep_.segment = segment_;
    sweep_.skipped = memory_.take<int64_t>(kMaxRows);
    sweep_.sums = memory_.take<Sums>(sums ? blocks_ : 0);
    sweep_.totals = memory_.take<Sums>(count_);
    sweep_.factors = memory_.take<double>(count_);
    sweep_.weights = memory_.take<double>(std::max<int64_t>(count_, 1));
    sweep_.done = memory_.take<uint32_t>(count_ + 1);
    const std::vector<double> ones(size_t(count_), 1.0);
    device::copy_now(sweep_.factors, ones.data(), ones.size() * sizeof(double));
  }

  // What the device is told of the step that was derived last, without the stages in `off`.
  Command command(double scale, double sign, uint32_t off, const Wishes& wishes) const {
    return command_of(numbers_, serial_, scale, sign, off, wishes);
  }

  // Everything that kernels read is on its way. Under capture only the records are: the rest is uploaded before each
  // launch of the graph.
  DeviceSweep prepared(const Command& command, Stream stream) {
    DeviceSweep sweep = sweep_;
    if (device::capturing(stream)) {
      sweep.tensors = rows_.capture();
      return sweep;
    }
    replay_.leave(stream, header(), sweep_.totals);
    rows_.upload(staging_, stream);
    step_.upload(command, numbers_, staging_, stream, true);
    return sweep;
  }

  // A step that has been measured, and is to be completed.
  struct Begun {
    DeviceSweep sweep;
    Start start;
    Wishes wishes;
    bool capturing;
    std::shared_ptr<Outcome> outcome;
  };

  // The kernels that come before any tensor moves. What the device decides is fetched as soon as it is known, for an
  // outcome that wants it.
  void begin(const Command& command, const Wishes& wishes, Stream stream, std::shared_ptr<Outcome> outcome) {
    const bool capturing = device::capturing(stream);
    const DeviceSweep sweep = prepared(command, stream);
    uint32_t stages = 0;  // of any row
    for (const uint32_t each : command.stages) stages |= each;
    const bool plain = !capturing && direct_ && rows_.direct_gradients() && stages == 0;
    const Start start = {blocks_, stream, plain, bool(stages & kMonitor)};
    if (wishes.clip_unit_norm != 0 && blocks_) cuda::engine.unit_norms(sweep, start);
    if (wishes.sums) cuda::engine.gradient_sums(sweep, start);
    if (outcome && !capturing) outcome->fetch_decision(header(), stream);
    run_phases(0, numbers_.phases_before(), sweep, start);
    begun_ = {sweep, start, wishes, capturing, std::move(outcome)};
  }

  void run_phases(int64_t first, int64_t last, const DeviceSweep& sweep, const Start& start) {
    for (int64_t k = first; k < last && blocks_; ++k) {
      variant_.phases[k].measure(sweep, start);
      variant_.phases[k].settle(sweep, start);
    }
  }

  void complete(Stream stream) {
    const auto& [sweep, start, wishes, capturing, outcome] = begun_;
    run_phases(numbers_.phases_before(), variant_.phase_count, sweep, start);
    if (has_[kFloat32] && has_[kFloat64])
      variant_.mixed(sweep, start);
    else if (blocks_)
      variant_.of[has_[kFloat32] ? kFloat32 : kFloat64].update(sweep, start);
    if (start.monitor && count_) cuda::engine.fold_sums(sweep, {count_, stream, false, false});
    if (outcome && !capturing) outcome->fetch_totals(sweep.totals, stream);
    if (capturing)
      device::raise_flag(&header()->decision.launched, stream);
    else
      advance(wishes);
    begun_.outcome.reset();
  }

  // Counts a step, which takes its serial number with it: one that fails before that leaves both to the next.
  void advance(const Wishes& wishes) {
    serial_ += wishes.skip_nonfinite;
    int64_t* clock = clock_.mutable_data();
    numbers_.advance();
    ++clock[kSteps];
    clock[kMicroBatches] = 0;
  }

  const int device_;
  py::type array_type_;  // of the arrays on this device
  py::array tensors_, groups_;
  py::array_t<int64_t> clock_;
  const int64_t count_, group_count_;
  StepNumbers numbers_;
  int64_t blocks_ = 0, filled_ = 0, segment_ = 8;
  bool has_[2] = {};
  bool direct_ = true;         // contiguous, with nothing beside them to write
  int64_t serial_ = kMaxRows;  // of the next step that may be skipped
  int64_t moves_ = 0;
  const DeviceVariant& variant_;
  Extents extents_;
  Watched watched_;
  Containers containers_;
  py::list held_;
  DeviceRows rows_;
  DeviceStep step_;
  Memories memory_;
  DeviceSweep sweep_ = {};
  Begun begun_ = {};
  Replay replay_;
  Pool staging_, decisions_, all_totals_;
};

}  // namespace fastupdate
