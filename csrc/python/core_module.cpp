// The module fastupdate._core.
#include <omp.h>
#include <pthread.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cpu/registry.h"
#include "python/adopt.h"
#include "python/records.h"

namespace fastupdate {
namespace {

const Target* selected = nullptr;
int thread_limit = 1;
std::atomic<bool> forked{false};  // a forked child has no OpenMP workers, and waking them would hang

constexpr int64_t kTensorCost = 64;            // a tensor costs about as much as this many elements
constexpr int64_t kParallelCost = 128 * 1024;  // below it, waking a thread costs more than it saves
constexpr int64_t kReleaseCost = 8192;         // below it, releasing the GIL does

// Whether n threads can run beside each other here. OpenMP ends the process if it cannot start one, so this is tried
// before the first region of that size.
bool can_run(int n) {
  static std::atomic<int> proven{1};
  if (n <= proven) return true;
  std::mutex gate;
  std::unique_lock<std::mutex> closed(gate);
  std::vector<std::thread> threads;
  try {
    while (int(threads.size()) < n - 1) threads.emplace_back([&gate] { std::lock_guard<std::mutex> wait(gate); });
    proven = n;
  } catch (const std::exception&) {  // too little memory, or too many threads
  }
  closed.unlock();
  for (std::thread& thread : threads) thread.join();
  return n <= proven;
}

void select_isa(const std::string& name) {
  for (int k = 0; k < target_count; ++k)
    if (name == targets[k]->name) {
      if (!runs_here(*targets[k])) throw std::invalid_argument("this processor cannot run " + name);
      selected = targets[k];
      return;
    }
  throw std::invalid_argument("no such instruction set in this build: " + name);
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (int k = 0; k < target_count; ++k)
    if (runs_here(*targets[k])) names.push_back(targets[k]->name);
  return names;
}

// A list of tensors, planned once; the arrays given are Python's own and stay shared with it.
class Plan {
 public:
  Plan(const std::string& rule, unsigned flags, py::array tensors, py::array groups, py::array_t<int64_t> clock,
       py::array sums)
      : tensors_(tensors),
        groups_(groups),
        clock_(clock),
        sums_(sums),
        count_(tensors.size()),
        group_count_(groups.size()),
        scalars_(size_t(groups.size()) * 2 * kScalarBytes),
        extents_(records<Tensor>(tensors_, "tensors"), count_) {
    const RuleEntry& entry = find_rule(selected->rules, selected->rule_count, rule);
    target_ = selected;
    sweep_ = {records<Tensor>(tensors_, "tensors"),
              count_,
              records<Group>(groups_, "groups"),
              {&entry.code[flags][0], &entry.code[flags][1]},
              scalars_.data(),
              1.0,
              0,
              false,
              records<Sums>(sums_, "sums")};
    for (int64_t i = 0; i < count_; ++i) {
      const Tensor& t = row(i);
      cost_ += t.n + kTensorCost;
      blocks_ += block_count(t);
    }
    for (int dtype : {kFloat32, kFloat64})
      if (std::any_of(&row(0), &row(0) + count_, [=](const Tensor& t) { return t.dtype == dtype; }))
        dtypes_.push_back(dtype);
  }

  // Takes in the gradients from `start` on; returns the first index that needs a closer look, −1 if none does.
  int64_t adopt(const py::list& params, const py::list& grads, int64_t start, bool writable) {
    check_lengths(count_, params, grads);
    const Adoption adoption = {&row(0), extents_, host_array_type(), params, grads, writable};
    const int threads = team((count_ - start) * kTensorCost);
    bool changed = false;
    const int64_t found = threads == 1
                              ? adoption.adopt(start, count_, changed)  // a region costs as much as a small step
                              : adopt_together(adoption, start, threads, changed);
    moves_ += changed;
    return found;
  }

  // One step over all tensors. The clocks advance in the same call, so that no interrupt can come between.
  void update(double scale, uint32_t stages) {
    int64_t* clock = clock_.mutable_data();
    Group* groups = static_cast<Group*>(groups_.mutable_data());
    for (int64_t k = 0; k < group_count_; ++k)
      for (int dtype : dtypes_)
        sweep_.code[dtype]->scalars(groups[k].hyper, groups[k].t + 1, &scalars_[size_t(k * 2 + dtype) * kScalarBytes]);
    sweep_.scale = scale;
    sweep_.stages = stages;
    run(target_->engine.update);
    for (int64_t k = 0; k < group_count_; ++k) ++groups[k].t;
    ++clock[kSteps];
    clock[kMicroBatches] = 0;
  }

  // The whole fast path: if every array is as expected, updates and returns the number of steps taken, else 0.
  int64_t step(const py::list& params, const py::list& grads, double scale, uint32_t stages) {
    if (adopt(params, grads, 0, stages & kZeroGrads) >= 0) return 0;
    update(scale, stages);
    return clock_.at(kSteps);
  }

  // Whether no other Python thread can run during a call.
  bool keeps_gil() const { return cost_ < kReleaseCost; }

  // How many times gradients were found elsewhere than before.
  int64_t moves() const { return moves_; }

  void gradient_sums() { run(target_->engine.gradient_sums); }
  void unit_norms() { run(target_->engine.unit_norms); }

  // Adds the gradients to the accumulators; the first micro-batch after a step overwrites them.
  void accumulate(uint32_t stages) {
    int64_t* clock = clock_.mutable_data();
    sweep_.first = clock[kMicroBatches] == 0;
    sweep_.stages = stages;
    run(target_->engine.accumulate);
    ++clock[kMicroBatches];
  }

  // Folds the sums of blocks into those of tensors.
  void fold(py::array totals) {
    Sums* total = one_for_each_tensor(totals);
    const Tensor* tensors = &row(0);
    share(team(cost_), count_, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i)
        total[i] = host::fold_blocks(sweep_.sums + tensors[i].first_block, block_count(tensors[i]));
    });
  }

  // Of all tensors: Σ scale²·Σg², folded pairwise, and how many gradients are not finite.
  std::pair<double, int64_t> overall(py::array totals) {
    const Sums* total = one_for_each_tensor(totals);
    host::Pairwise<double> squares;
    int64_t nonfinite = 0;
    for (int64_t i = 0; i < count_; ++i) {
      const double scale = row(i).scale;
      squares.add(total[i].gg * (scale * scale));
      nonfinite += total[i].nonfinite;
    }
    return {squares.total(), nonfinite};
  }

 private:
  Tensor& row(int64_t i) { return static_cast<Tensor*>(tensors_.mutable_data())[i]; }

  Sums* one_for_each_tensor(py::array& totals) const {
    if (totals.size() != count_) throw std::invalid_argument("totals: one record for each tensor");
    return records<Sums>(totals, "totals");
  }

  int64_t adopt_together(const Adoption& adoption, int64_t start, int threads, bool& moved) const {
    const int64_t count = count_ - start;
    int64_t found = count_;
    bool changed = false;
#pragma omp parallel num_threads(threads) reduction(min : found) reduction(|| : changed)
    {
      const int64_t k = omp_get_thread_num(), n = omp_get_num_threads();
      const int64_t i = adoption.adopt(start + count * k / n, start + count * (k + 1) / n, changed);
      if (i >= 0) found = i;
    }
    moved = changed;
    return found < count_ ? found : -1;
  }

  // How many threads share work of a cost.
  int team(int64_t cost) const {
    const int threads = int(std::min<int64_t>(thread_limit, blocks_));
    return threads > 1 && cost >= kParallelCost && !forked && can_run(threads) ? threads : 1;
  }

  void run(Engine::Entry entry) {
    std::optional<py::gil_scoped_release> released;
    if (!keeps_gil()) released.emplace();
    share(team(cost_), blocks_, [&](int64_t first, int64_t last) { entry(sweep_, first, last); });
  }

  // Calls work(first, last) for equal parts of 0 … count − 1, one for each thread.
  template <class Work>
  static void share(int threads, int64_t count, Work work) {
    if (threads == 1) return work(0, count);
#pragma omp parallel num_threads(threads)
    {
      const int64_t k = omp_get_thread_num(), n = omp_get_num_threads();
      work(count * k / n, count * (k + 1) / n);
    }
  }

  py::array tensors_, groups_;
  py::array_t<int64_t> clock_;
  py::array sums_;
  int64_t count_, group_count_, cost_ = 0, blocks_ = 0, moves_ = 0;
  std::vector<int> dtypes_;  // that occur
  std::vector<unsigned char> scalars_;
  Extents extents_;
  const Target* target_;
  Sweep sweep_;
};

}  // namespace
}  // namespace fastupdate

PYBIND11_MODULE(_core, m, pybind11::mod_gil_not_used()) {
  using namespace fastupdate;
  namespace py = pybind11;
  selected = targets[0];
  pthread_atfork(nullptr, nullptr, [] { forked = true; });
  m.def("select_isa", &select_isa);
  m.def("available_isas", &available_isas);
  m.def("selected_isa", [] { return selected->name; });
  m.def("set_threads", [](int n) { thread_limit = std::max(n, 1); });
  m.def("threads", [] { return forked ? 1 : thread_limit; });
  m.def("rules", [] { return describe_rules(selected->rules, selected->rule_count); });
  m.def("record_sizes", &record_sizes);
  m.attr("compiler") = __VERSION__;
  m.attr("openmp") = _OPENMP;
  py::class_<Plan>(m, "Plan")
      .def(py::init<const std::string&, unsigned, py::array, py::array, py::array_t<int64_t>, py::array>())
      .def_property_readonly("keeps_gil", &Plan::keeps_gil)
      .def_property_readonly("moves", &Plan::moves)
      .def("adopt", &Plan::adopt)
      .def("update", &Plan::update)
      .def("step", &Plan::step)
      .def("gradient_sums", &Plan::gradient_sums)
      .def("unit_norms", &Plan::unit_norms)
      .def("accumulate", &Plan::accumulate)
      .def("fold", &Plan::fold)
      .def("overall", &Plan::overall);
}
