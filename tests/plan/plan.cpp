// The plan on its own: lists of tensors in plain memory, against the rules' functions called element by element.
#include "cpu/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <string>

#include "rules/adamw.h"

using namespace fastupdate;
using Weights = std::vector<std::vector<float>>;

#define CHECK(condition)                                                    \
  if (!(condition)) {                                                       \
    fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
    exit(1);                                                                \
  }

namespace {

const std::vector<int64_t> kSizes = {0, 1, 31, 128, 1023, 1024, 1025, 300'001};  // the last wakes every thread
const double kHypers[] = {0.01, 0.9, 0.97, 1e-6, 0.3};                           // AdamW: lr, betas, eps, decay

const RuleEntry& rule(const char* name) {
  for (int64_t k = 0; k < targets[0]->rule_count; ++k)
    if (!strcmp(targets[0]->rules[k]->name, name)) return *targets[0]->rules[k];
  CHECK(!"a rule of this name");
  abort();
}

// Numbers of both signs, none of them zero.
float number(int64_t k) { return float((k * 2654435761 % 2001) - 1000) / 512 + 1.0f / 4096; }

// A list of float32 tensors with two states each, and the plan of its steps.
struct List {
  Weights p, g, m, v;
  std::vector<std::vector<double>> work;
  std::vector<double> trust = std::vector<double>(kSizes.size(), 1.0);
  std::vector<Tensor> tensors = std::vector<Tensor>(kSizes.size());
  Group group = {};
  Recipe recipe = {};
  int64_t clock[3] = {};
  std::vector<Sums> sums, totals = std::vector<Sums>(kSizes.size());
  std::vector<double> row;
  std::unique_ptr<Plan> plan;

  explicit List(const char* name, uint32_t always = 0) {
    int64_t blocks = 0;
    for (size_t i = 0; i < kSizes.size(); ++i) {
      const int64_t n = kSizes[i];
      for (Weights* each : {&p, &g, &m, &v}) each->emplace_back(size_t(n), 0.0f);
      for (int64_t k = 0; k < n; ++k) p[i][size_t(k)] = number(k + int64_t(i)), g[i][size_t(k)] = number(7 * k + 3);
      work.emplace_back(size_t(4 * (2 + block_count_of(n))), 0.0);
    }
    for (size_t i = 0; i < kSizes.size(); ++i) {
      Tensor& t = tensors[i];
      t.p = uint64_t(p[i].data()), t.g = uint64_t(g[i].data()), t.n = kSizes[i], t.samples = 1, t.scale = 1;
      t.slot[0] = uint64_t(m[i].data()), t.slot[1] = uint64_t(v[i].data()), t.slot[2] = uint64_t(&trust[i]);
      t.momentum = 0, t.first_block = blocks, t.rows = kSizes[i], t.columns = 1, t.work = uint64_t(work[i].data());
      blocks += block_count(t);
    }
    sums.resize(size_t(blocks));
    recipe.next_thaw = std::numeric_limits<int64_t>::max();
    recipe.largest = std::numeric_limits<float>::max();
    row.assign(kHypers, kHypers + 5);
    row.insert(row.end(), reinterpret_cast<const double*>(&kDefaults), reinterpret_cast<const double*>(&kDefaults + 1));
    recipe.hypers = 5, recipe.weight_decay = 4, recipe.always = always;
    recipe.before = uint32_t(rule(name).code[0][kFloat32].phase_count);
    plan = std::make_unique<Plan>(*targets[0], rule(name).code[0], tensors.data(), int64_t(tensors.size()), &group, 1,
                                  recipe, clock, sums.data());
  }

  static int64_t block_count_of(int64_t n) { return (n + kBlock - 1) / kBlock; }

  Given given() { return {row.data(), 1, int64_t(row.size()), nullptr, nullptr, 0}; }

  void step() {
    CHECK(plan->derive(given()));
    plan->update(1.0, 0);
  }

  bool same(const List& other) const { return p == other.p && m == other.m && v == other.v && trust == other.trust; }
};

void test_a_plain_step_is_the_rule_on_each_element() {
  List list("adamw");
  Weights p = list.p, m = list.m, v = list.v;
  for (int t = 1; t <= 3; ++t) {
    list.step();
    host::adamw<float, 0>::Hyper hyper;
    memcpy(&hyper, kHypers, sizeof hyper);
    const host::adamw<float, 0> formula(hyper, t);
    for (size_t i = 0; i < p.size(); ++i)
      for (size_t k = 0; k < p[i].size(); ++k) {
        float largest = 0;
        p[i][k] = p[i][k] + formula(list.g[i][k], p[i][k], m[i][k], v[i][k], largest);
      }
    CHECK(list.p == p && list.m == m && list.v == v);
  }
  CHECK(list.clock[kSteps] == 3 && list.group.t == 3 && list.plan->lr() == 0.01);
}

void test_the_number_of_threads_changes_no_bit(const char* name, uint32_t stages) {
  thread_count_fixed = true;
  thread_limit = 1;
  List alone(name, stages);
  for (int t = 0; t < 3; ++t) alone.step();
  for (const int threads : {2, 3, 7}) {
    thread_limit = threads;
    List together(name, stages);
    for (int t = 0; t < 3; ++t) together.step();
    CHECK(together.same(alone));
    CHECK(stages == 0 || !memcmp(together.sums.data(), alone.sums.data(), alone.sums.size() * sizeof(Sums)));
  }
}

// Of little work the first steps are taken by one thread alone, and of plenty by all; either is tried in time.
void test_one_thread_begins_where_little_is_to_be_gained() {
  thread_count_fixed = false;
  thread_limit = 2;
  CHECK(crew_for(1000, 9).most == 1 && crew_for(20000, 1).most == 1);
  for (const bool plenty : {false, true}) {
    const Crew crew = crew_for(plenty ? 1 << 20 : 20000, 9);
    CHECK(crew.most == 2 && crew.plenty() == plenty);
    Team team;
    std::vector<int64_t> threads;
    for (int k = 0; k < 20; ++k)
      team.run(crew, [&](int64_t i, int64_t n) {
        if (i == 0) threads.push_back(n);
      });
    CHECK(threads.size() == 20 && threads[0] == (plenty ? 2 : 1));
    CHECK(std::count(threads.begin(), threads.end(), plenty ? 1 : 2) > 0);
    CHECK(plenty || std::count(threads.begin(), threads.begin() + 16, 2) == 0);
  }
}

// Each element is worked on once; of plenty of work, what one thread does not come to is done by others, unless a piece
// is to be as large as each one's share.
void test_threads_help_each_other() {
  thread_limit = 3;
  const int64_t much = int64_t(1) << 23;
  for (const auto& [cost, piece] :
       {std::pair(much >> 5, much >> 5), {much, much}, {much, much >> 5}, {much << 7, much}})
    for (const int64_t count : {1, 2, 5, 47, 48, 49, 1000})
      for (const int64_t n : {1, 2, 3}) {
        Shares shares(crew_for(cost, 9, piece), count);
        std::vector<int> times(size_t(count), 0);
        int64_t last_found = 0;
        for (int64_t k = n; k-- > 0;)
          shares.work_off(k, n, [&](int64_t first, int64_t last) {
            for (int64_t i = first; i < last; ++i) ++times[size_t(i)];
            last_found = k;
          });
        CHECK(std::count(times.begin(), times.end(), 1) == count);
        CHECK(count < n || last_found == (cost == piece ? 0 : n - 1));
      }
}

// A clock that goes on as it is told.
struct Told {
  static inline double seconds = 0;
  static std::chrono::duration<double> now() { return std::chrono::duration<double>(seconds); }
};

// Steps of gradients of few rows cost what those are, now much, now little: a run is compared with others of its size.
void test_work_may_differ_from_run_to_run() {
  thread_count_fixed = false;
  thread_limit = 2;
  Team team;
  int alone = 0;
  for (int k = 0; k < 20; ++k) {
    const int64_t cost = k % 7 ? 1 << 20 : 1 << 28;
    team.run<Told>(crew_for(cost, 9), [&](int64_t i, int64_t n) {
      if (i == 0) Told::seconds += 1e-9 * double(cost) / double(n), alone += n == 1;
    });
  }
  CHECK(alone == 1);  // which was tried, and took twice as long
}

void test_tensors_moved_one_by_one_end_as_in_a_whole_step(const char* name) {
  List whole(name), parts(name);
  for (int t = 0; t < 3; ++t) {
    whole.step();
    CHECK(parts.plan->derive(parts.given()));
    parts.plan->measure(1.0, 0);
    for (int64_t i = int64_t(kSizes.size()); i-- > 0;) parts.plan->move(i, i + 1);
    parts.plan->advance();
    CHECK(parts.same(whole) && parts.clock[kSteps] == whole.clock[kSteps] && parts.group.t == whole.group.t);
  }
}

void test_sums_of_gradients() {
  List list("adamw");
  list.plan->gradient_sums(1);
  list.plan->fold(list.totals.data());
  double expected = 0;
  for (const std::vector<float>& g : list.g)
    for (const float x : g) expected += double(x) * double(x);
  const auto [squares, nonfinite] = list.plan->overall(list.totals.data());
  CHECK(nonfinite == 0 && squares > 0 && (squares - expected) / expected < 1e-12 &&
        (expected - squares) / expected < 1e-12);
  list.g[7][1000] = __builtin_inff();
  list.plan->gradient_sums(1);
  list.plan->fold(list.totals.data());
  CHECK(list.plan->overall(list.totals.data()).second == 1 && list.totals[7].nonfinite == 1);
}

void test_gradients_are_judged_by_a_limit() {
  for (const double limit : {0.5, 1e9, std::numeric_limits<double>::infinity()}) {
    List list("adamw");
    Judged judged;
    CHECK(list.plan->judge(limit, judged) && judged.norm > 1);
    CHECK(judged.factor == (limit == 0.5 ? limit / (judged.norm + 1e-6) : 1));
    CHECK(!list.plan->judge(1e-199, judged));  // nothing would be left of them
    list.tensors[3].scale = 1e300;
    CHECK(!list.plan->judge(limit, judged));  // float64 does not hold their squares
    list.tensors[3].scale = 1, list.g[3][100] = __builtin_nanf("");
    CHECK(!list.plan->judge(limit, judged) && list.clock[kSteps] == 0);
  }
}

void test_a_step_that_needs_a_closer_look_is_not_taken() {
  List list("adamw");
  list.row[0] = 1e300;  // float32 cannot hold it
  CHECK(!list.plan->derive(list.given()));
  list.row[0] = 0.01;
  CHECK(list.plan->derive(list.given()));
  list.clock[kSteps] = list.recipe.next_thaw;
  CHECK(!list.plan->derive(list.given()));
}

}  // namespace

int main() {
  test_a_plain_step_is_the_rule_on_each_element();
  for (const char* name : {"adamw", "lamb"}) {
    test_the_number_of_threads_changes_no_bit(name, 0);
    test_the_number_of_threads_changes_no_bit(name, kMonitor);
    test_tensors_moved_one_by_one_end_as_in_a_whole_step(name);
  }
  test_one_thread_begins_where_little_is_to_be_gained();
  test_threads_help_each_other();
  test_work_may_differ_from_run_to_run();
  test_sums_of_gradients();
  test_gradients_are_judged_by_a_limit();
  test_a_step_that_needs_a_closer_look_is_not_taken();
  puts("all of it holds");
}
