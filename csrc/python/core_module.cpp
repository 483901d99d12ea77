// The module fastupdate._core.
#include <pthread.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/plan.h"
#include "python/adopt.h"
#include "python/again.h"
#include "python/call.h"
#include "python/collectable.h"
#include "python/containers.h"
#include "python/gil.h"
#include "python/glance.h"
#include "python/held.h"
#include "python/lookout.h"
#include "python/own.h"
#include "python/records.h"
#include "python/skeleton.h"
#include "python/stepping.h"
#include "python/touched.h"

namespace fastupdate {
namespace {

const Target* selected = nullptr;

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

// A plan whose records are Python's own arrays, and the front of it that takes in NumPy arrays.
class PlanOfArrays {
 public:
  PlanOfArrays(const std::string& rule, unsigned flags, py::array tensors, py::array groups, py::array recipe,
               py::array_t<int64_t> clock, py::array sums, const std::optional<py::tuple>& own)
      : tensors_(tensors),
        groups_(groups),
        clock_(clock),
        sums_(sums),
        extents_(records<Tensor>(tensors_, "tensors"), tensors.size()),
        code_(*selected, rule, flags, own),
        plan_(*selected, code_.of, records<Tensor>(tensors_, "tensors"), tensors.size(),
              records<Group>(groups_, "groups"), groups.size(), *records<Recipe>(recipe, "recipe"),
              clock_.mutable_data(), records<Sums>(sums_, "sums")),
        touched_(&plan_.row(0), *records<Recipe>(recipe, "recipe"), code_.of[0].extents, plan_.mover()) {}

  // Takes what the user set from these arrays from now on.
  void take(const py::tuple& given) { given_.emplace(given); }

  // Works out groups and stages of the next step; false if Python has to look first.
  bool derive() { return given_ && given_->revision() == clock_.at(kRevision) && plan_.derive(**given_); }

  // Notes the arrays and containers of the user's, to be looked at again in every step (Watched, Containers::note).
  void watch(const py::list& params, const py::list& others, const py::list& containers) {
    check_lengths(plan_.count(), params, params);
    watched_.note(params, others, host_array_type());
    containers_.note(containers);
  }

  // Takes in the gradients from `start` on; returns the first index that needs a closer look, −1 if none does.
  int64_t adopt(const py::list& params, const py::list& grads, int64_t start, bool writable) {
    check_lengths(plan_.count(), params, grads);
    if (start == 0 && !(containers_.intact() && watched_.intact())) return 0;
    if (start == 0) forget_rows();
    int64_t i = start;
    const auto touches = [&] { return !writable && i >= 0 && i < plan_.count() && touch(i, params, grads); };
    for (bool more = true; more; i += more) {
      while (touches()) ++i;
      i = adopt_dense(params, grads, i, writable);
      more = touches();
    }
    if (touched_.some_lazy()) plan_.recount();
    return i;
  }

  // Takes in the gradients that torch's parameters hold; returns what keeps them alive, or None if they need a closer
  // look. Those that are to be zeroed do, for autograd is told of them.
  py::object hold(const py::list& params) {
    auto kept = std::make_unique<Kept>();
    if (!adopt_held(params, kept.get())) return py::none();
    py::capsule owned(kept.get(), [](void* made) { delete static_cast<Kept*>(made); });
    kept.release();
    return owned;
  }

  void update(double scale, uint32_t off) {
    released([&] { plan_.update(scale, off); });
  }

  // A step in parts: `measure`, and then `finish`, or `measure_again`, `move` for all tensors in any order, `advance`.
  void measure(double scale, uint32_t off) {
    released([&] { plan_.measure(scale, off); });
  }
  void measure_again() {
    released([&] { plan_.measure_again(); });
  }
  void finish() {
    released([&] { plan_.finish(); });
  }
  void move(int64_t first, int64_t last) {
    if (first < 0 || first > last || last > plan_.count()) throw std::invalid_argument("move: no such tensors");
    released([&] { plan_.move(first, last); });
  }
  void advance() { plan_.advance(); }
  void recount() { plan_.recount(); }

  // Makes the tensors whole again whose gradients, as `adopt` took them in, touched rows.
  void forget_rows() {
    const bool shorter = touched_.some_lazy();
    touched_.forget();
    if (shorter) plan_.recount();
  }

  // A step of parts (Plan::prepare). parts: [part][row of tensors, first element, one past the last].
  void prepare(double scale, uint32_t off) { plan_.prepare(scale, off); }
  void update_parts(py::array tensors, py::array_t<int64_t> parts) { with_parts(true, 0, 0, tensors, parts); }
  void measure_parts(int phase, uint32_t stage, py::array tensors, py::array_t<int64_t> parts) {
    with_parts(false, phase, stage, tensors, parts);
  }
  void settle(int phase, uint32_t stage) {
    released([&] { plan_.settle(phase, stage); });
  }

  // From now on the whole fast path clips by the norm of all gradients.
  void clip(double limit) { limit_ = limit; }
  bool judges() const { return limit_.has_value(); }

  // The whole fast path: if every array and number is as expected, updates; else false, and nothing has changed.
  // Without gradients, those are taken that torch's parameters hold. alone: no other Python thread is to run meanwhile.
  bool step(const py::list& params, const py::list* given, double scale, Judged& judged, bool alone) {
    if (clock_.at(kMicroBatches) || !derive()) return false;
    if (!given && small() && adopt_held(params, nullptr)) return update_on_held(scale, judged);
    if (alone && !small() && !(given && touched_.named(*given) < kHoldCost)) return false;
    const py::list grads = given ? *given : py::list(size_t(plan_.count()));  // empty places, to be filled in
    const bool zeroes = plan_.stages() & kZeroGrads;
    if (adopt(params, grads, 0, zeroes) >= 0) return false;
    const auto run = [&](auto work) { alone ? work() : released(work); };
    bool clear = true;
    if (limit_) run([&] { clear = plan_.judge(*limit_, judged); });
    if (!clear) return false;
    tell_torch(watched_.of_torch(), zeroes ? &grads : nullptr);
    run([&] { plan_.update(scale * judged.factor, 0); });
    forget_rows();
    return true;
  }

  // The same on gradients that torch's parameters hold, if no other Python thread need run meanwhile.
  bool step_on_held(const py::list& params, double scale, Judged& judged) {
    if (!small() || clock_.at(kMicroBatches) || !derive()) return false;
    return adopt_held(params, nullptr) && update_on_held(scale, judged);
  }

  int64_t steps() const { return plan_.steps(); }

  // How many times gradients were found elsewhere than before.
  int64_t moves() const { return moves_; }

  uint32_t stages() const { return plan_.stages(); }
  double lr() const { return plan_.lr(); }

  void gradient_sums(double scale) {
    released([&] { plan_.gradient_sums(scale); });
  }
  void unit_norms(double scale) {
    released([&] { plan_.unit_norms(scale); });
  }
  void accumulate() {
    released([&] { plan_.accumulate(); });
  }
  void clear_gradients() {
    released([&] { plan_.clear_gradients(); });
  }
  void fold(py::array totals) { plan_.fold(one_for_each_tensor(totals)); }
  std::pair<double, int64_t> overall(py::array totals) { return plan_.overall(one_for_each_tensor(totals)); }

  // Shows each reference to what is the user's (collectable).
  template <class See>
  void visit(See see) const {
    watched_.visit(see);
    containers_.visit(see);
  }

  void forget() {
    watched_.forget();
    containers_.forget();
  }

 private:
  int64_t adopt_dense(const py::list& params, const py::list& grads, int64_t start, bool writable) {
    const int64_t count = plan_.count();
    const bool some_of_torch = py::len(watched_.of_torch());
    PyObject* const first_grad = start < count ? PyList_GET_ITEM(grads.ptr(), start) : Py_None;
    const bool alone = some_of_torch || is_torch(first_grad);
    const Crew crew = alone ? kAlone : crew_for((count - start) * kTensorCost, count);
    if (some_of_torch) footprints_.resize(size_t(count));
    Footprint* const footprints = some_of_torch ? footprints_.data() : nullptr;
    const Adoption adoption = {&plan_.row(0), extents_, watched_, params, grads, writable, crew.most == 1, footprints};
    std::atomic<int64_t> found{count};
    std::atomic<bool> changed{false};
    team_.share(crew, count - start, [&](int64_t first, int64_t last) {
      bool moved = false;
      const int64_t i = adoption.adopt(start + first, start + last, moved);
      if (moved) changed = true;
      for (int64_t least = found; i >= 0 && i < least && !found.compare_exchange_weak(least, i);) {
      }
    });
    moves_ += changed;
    return found < count ? int64_t(found) : -1;
  }

  bool touch(int64_t i, const py::list& params, const py::list& grads) {
    return touched_.take(i, PyList_GET_ITEM(params.ptr(), i), PyList_GET_ITEM(grads.ptr(), i), watched_, extents_);
  }

  void with_parts(bool move, int phase, uint32_t stage, py::array& tensors, py::array_t<int64_t>& parts) {
    const Tensor* const rows = records<Tensor>(tensors, "tensors");
    static_assert(sizeof(Part) == 3 * sizeof(int64_t));
    const Part* const first = reinterpret_cast<const Part*>(parts.data());
    const int64_t count = parts.size() / 3;
    released([&] { plan_.take(move, phase, stage, rows, first, count); });
  }

  template <class Work>
  void released(Work work) {
    plan_.cost() < kReleaseCost ? work() : without_gil(work);
  }

  // Takes in the gradients that torch's parameters hold; without `kept`, nobody else may run until they have been read.
  bool adopt_held(const py::list& params, Kept* kept) {
    if (!shim.found || plan_.stages() & kZeroGrads || !(containers_.intact() && watched_.intact())) return false;
    const int64_t count = plan_.count();
    check_lengths(count, params, params);
    std::atomic<bool> done{true}, moved{false}, unsure{false};
    team_.share(kept ? kAlone : crew_for(plan_.cost(), count), count, [&](int64_t first, int64_t last) {
      Held held(&plan_.row(0), extents_, watched_, params);
      if (!held.adopt(first, last, kept)) done = false;
      if (held.moved) moved = true;
      if (held.unsure) unsure = true;
    });
    moves_ += moved;
    return done && !(unsure && Held(&plan_.row(0), extents_, watched_, params).some_negated());
  }

  // Whether others can wait for a step.
  bool small() const { return plan_.cost() < kHoldCost; }

  bool update_on_held(double scale, Judged& judged) {
    if (limit_ && !plan_.judge(*limit_, judged)) return false;
    raise_versions(watched_.of_torch());
    plan_.update(scale * judged.factor, 0);
    return true;
  }

  Sums* one_for_each_tensor(py::array& totals) const {
    if (totals.size() != plan_.count()) throw std::invalid_argument("totals: one record for each tensor");
    return records<Sums>(totals, "totals");
  }

  py::array tensors_, groups_;
  py::array_t<int64_t> clock_;
  py::array sums_;
  Extents extents_;
  Watched watched_;
  Containers containers_;
  std::vector<Footprint> footprints_;
  CodeOfRule code_;
  Plan plan_;
  TouchedRows touched_;  // of the step that is being taken
  Team team_;            // that adopts
  std::optional<GivenArrays> given_;
  std::optional<double> limit_;
  int64_t moves_ = 0;
};

}  // namespace
}  // namespace fastupdate

PYBIND11_MODULE(_core, m, pybind11::mod_gil_not_used()) {
  using namespace fastupdate;
  namespace py = pybind11;
  // pybind11 lets other Python threads run while it looks for NumPy's functions, the first time that it needs them.
  // Later they could drop arrays that are being looked at.
  host_array_type();
  selected = targets[0];
  pthread_atfork(nullptr, nullptr, [] { forked = true; });
  m.def("select_isa", &select_isa);
  m.def("available_isas", &available_isas);
  m.def("selected_isa", [] { return selected->name; });
  m.def("set_threads", [](int n, bool fixed) {
    thread_limit = std::max(n, 1);
    thread_count_fixed = fixed;
  });
  m.def("rules", [] { return describe_rules(selected->rules, selected->rule_count); });
  m.def("record_sizes", &record_sizes);
  m.def("meet_torch", [](py::type tensor, py::type parameter, py::object raise_versions) {
    return meet_torch(tensor, parameter, raise_versions, dlpack::kCpu);
  });
  m.def("find_shim", &find_shim);
  m.def("reads", [](py::handle array) {
    View view;
    return look(array.ptr(), host_array_type(), view);
  });
  m.def("function", [](py::dict spec) { return Function::make(spec, selected); });
  m.def("glance", &glance);
  m.def("grouped", &grouped);
  m.def("meet_rows", &meet_rows);
  m.def("same_objects", &same_objects);
  m.def("again", &Again<PlanOfArrays>::make);
  const py::custom_type_setup with_care(make_with_care);
  const py::detail::is_new_style_constructor made;
  py::class_<Skeleton>(m, "Skeleton", with_care)
      .def("__init__", constructor<Skeleton, py::handle, py::object>(), made)
      .def("leaves", &Skeleton::leaves);
  py::class_<Lookout>(m, "Lookout", with_care)
      .def("__init__", constructor<Lookout, const py::list&>(), made)
      .def("intact", &Lookout::intact);
  py::class_<SeenGroups>(m, "SeenGroups", collectable<SeenGroups>())
      .def("__init__",
           constructor<SeenGroups, const py::list&, py::array_t<double>, const std::vector<int64_t>&, double, double>(),
           made)
      .def("changed", &SeenGroups::changed);
  py::class_<Tally>(m, "Tally", with_care)
      .def("__init__", constructor<Tally, py::array, const std::vector<int64_t>&>(), made)
      .def("look", &Tally::look)
      .def("intact", &Tally::intact)
      .def("advance", &Tally::advance);
  m.attr("compiler") = __VERSION__;
  m.attr("openmp") = _OPENMP;
  py::class_<PlanOfArrays>(m, "Plan", collectable<PlanOfArrays>())
      .def("__init__",
           constructor<PlanOfArrays, const std::string&, unsigned, py::array, py::array, py::array,
                       py::array_t<int64_t>, py::array, const std::optional<py::tuple>&>(),
           py::detail::is_new_style_constructor())
      .def_property_readonly("clips", [](const PlanOfArrays&) { return true; })
      .def_property_readonly("judges", [](const PlanOfArrays&) { return false; })
      .def_property_readonly("moves", &PlanOfArrays::moves)
      .def_property_readonly("stages", &PlanOfArrays::stages)
      .def_property_readonly("lr", &PlanOfArrays::lr)
      .def("take", &PlanOfArrays::take)
      .def("derive", &PlanOfArrays::derive)
      .def("watch", &PlanOfArrays::watch)
      .def("adopt", &PlanOfArrays::adopt)
      .def("hold", &PlanOfArrays::hold)
      .def("update", &PlanOfArrays::update)
      .def("measure", &PlanOfArrays::measure)
      .def("measure_again", &PlanOfArrays::measure_again)
      .def("finish", &PlanOfArrays::finish)
      .def("move", &PlanOfArrays::move)
      .def("advance", &PlanOfArrays::advance)
      .def("recount", &PlanOfArrays::recount)
      .def("forget_rows", &PlanOfArrays::forget_rows)
      .def("prepare", &PlanOfArrays::prepare)
      .def("update_parts", &PlanOfArrays::update_parts)
      .def("measure_parts", &PlanOfArrays::measure_parts)
      .def("settle", &PlanOfArrays::settle)
      .def("clip", &PlanOfArrays::clip)
      .def("stepping", &stepping<PlanOfArrays>)
      .def("repeating", &repeating<PlanOfArrays>)
      .def("gradient_sums", &PlanOfArrays::gradient_sums)
      .def("unit_norms", &PlanOfArrays::unit_norms)
      .def("accumulate", &PlanOfArrays::accumulate)
      .def("clear_gradients", &PlanOfArrays::clear_gradients)
      .def("fold", &PlanOfArrays::fold)
      .def("overall", &PlanOfArrays::overall);
}
