// Steps in CUDA graphs: what cannot be captured, and what the graph that was launched last has found.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <stdexcept>
#include <utility>

#include "python/cuda_outcome.h"

namespace fastupdate {

inline void refuse_capture(Stream stream, const char* why) {
  if (device::capturing(stream)) throw std::runtime_error(why);
}

// The captured step that was prepared last, until its figures have been fetched. They are on the stream that its graph
// is launched on, whatever stream is current when somebody asks for them.
class Replay {
 public:
  // owner: what keeps the stream alive
  void prepare(std::shared_ptr<Outcome> outcome, Stream stream, py::object owner) {
    outcome_ = std::move(outcome);
    stream_ = stream;
    owner_ = std::move(owner);
  }

  // For whoever waits for the figures. Of a graph that has yet to be launched they are fetched another time.
  void fetch(const StepHeader* header, const Sums* totals) {
    const std::shared_ptr<Outcome> outcome = outcome_;  // for others may prepare the next while this waits
    if (!outcome) return;
    queue(header, totals);
    if (!outcome->launched())
      outcome->forget();
    else if (outcome_ == outcome)
      forget();
  }

  // Before `stream` overwrites the figures, they are on their way.
  void leave(Stream stream, const StepHeader* header, const Sums* totals) {
    if (!outcome_) return;
    queue(header, totals);
    if (stream_ != stream) device::follow(stream, stream_);
    forget();
  }

  void forget() {
    outcome_.reset();
    owner_ = py::object();
  }
  py::handle owner() const { return owner_; }

 private:
  void queue(const StepHeader* header, const Sums* totals) const {
    outcome_->fetch_decision(header, stream_);
    outcome_->fetch_totals(totals, stream_);
  }

  std::shared_ptr<Outcome> outcome_;
  Stream stream_ = 0;
  py::object owner_;
};

}  // namespace fastupdate
