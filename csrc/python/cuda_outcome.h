// What a step on a device is asked to find out, and what it has found.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstring>
#include <memory>
#include <stdexcept>

#include "cuda/memory.h"
#include "python/gil.h"
#include "python/records.h"

namespace fastupdate {

// What the device is to find out about the gradients and do about it.
struct Wishes {
  double clip_norm = 0, clip_tensor_norm = 0, clip_unit_norm = 0;  // 0: not asked for
  bool sums = false, skip_nonfinite = false, monitor = false;
};

// What one step is asked to find out, and what it decided and summed, on its way to the host.
class Outcome {
 public:
  Outcome(const Wishes& wishes, int device, int64_t count, std::shared_ptr<Pinned> decision,
          std::shared_ptr<Pinned> totals)
      : wishes(wishes),
        device_(device),
        count_(wishes.monitor ? count : 0),
        decision_(std::move(decision)),
        totals_(std::move(totals)) {}
  ~Outcome() {
    without_gil([&] { decision_.reset(), totals_.reset(); });  // they may be copied to at this time
  }
  Outcome(const Outcome&) = delete;
  Outcome& operator=(const Outcome&) = delete;

  const Wishes wishes;

  void fetch_decision(const StepHeader* header, Stream stream) {
    device::copy(decision_->as(), &header->decision, sizeof(Decision), stream);
    decision_->mark(stream);
    decided_ = true;
  }
  void fetch_totals(const Sums* totals, Stream stream) {
    if (!count_) return;
    device::copy(totals_->as(), totals, size_t(count_) * sizeof(Sums), stream);
    totals_->mark(stream);
  }
  bool fetched() const { return decided_; }
  bool ready() const {
    if (!decided_) return false;
    device::Scope scope(device_);
    return decision_->idle();
  }

  // Whether the step that was fetched had run, as one has whose graph is launched; waits for the device.
  bool launched() const {
    device::Scope scope(device_);
    without_gil([&] { decision_->wait(); });
    return decision_->as<Decision>()->launched != 0;
  }
  bool lost() const { return decided_ && !launched(); }  // no launch is to come
  void forget() { decided_ = false; }                    // what was fetched: it was too early

  // (norm, clip factor, number of non-finite gradients, skipped); waits for the device.
  py::tuple decision() const {
    check_launched();
    const Decision& d = *decision_->as<Decision>();
    return py::make_tuple(d.norm, d.factor, d.nonfinite, bool(d.skip));
  }

  // Writes the sums of each tensor; waits for the device.
  void totals(py::array out) const {
    Sums* to = records<Sums>(out, "totals");
    if (out.size() != count_) throw std::invalid_argument("totals: one record for each tensor of a monitored step");
    check_launched();
    if (!count_) return;
    device::Scope scope(device_);
    without_gil([&] { totals_->wait(); });
    std::memcpy(to, totals_->as(), size_t(count_) * sizeof(Sums));
  }

 private:
  void check_launched() const {
    if (!decided_ || !launched())
      throw std::runtime_error("the graph whose step this reports has not been launched since before_replay");
  }

  int device_;
  int64_t count_;
  std::shared_ptr<Pinned> decision_, totals_;
  bool decided_ = false;
};

}  // namespace fastupdate
