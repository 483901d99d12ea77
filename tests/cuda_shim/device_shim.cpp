// runtime.h and cuda_shim.h on a host without a GPU. Streams are queues that run when somebody waits for them, so that
// whatever is read or overwritten too early shows; a capture is a queue that is kept.
#include <pybind11/pybind11.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>

#include "cuda_shim.h"

namespace fastupdate::shim {
namespace {

constexpr int kMaxThreads = 1024, kWarp = 32;
constexpr size_t kStack = (1 << 16) + 5 * 64;  // no power of two, or all stacks would want the same lines of the cache

enum class State { ready, at_barrier, at_exchange, finished };

// One thread block: its threads take turns, each until it must wait for others. A thread that has finished waits for
// the next thread block, so that contexts are made once: that takes system calls, and jumps do not.
struct ThreadBlock {
  Kernel run;
  const void* argument;
  int threads;
  int64_t index, grid;
  int current = 0;
  State state[kMaxThreads];
  uint64_t given[2][kMaxThreads];  // to the exchanges of a warp, which use them in turn
  bool turn[kMaxThreads];
  bool started[kMaxThreads] = {};
  jmp_buf resumption[kMaxThreads], scheduler;
  std::vector<unsigned char> shared;
};

ThreadBlock block;
std::unique_ptr<unsigned char[]> stacks;
int schedule = 0;      // 0: threads in order; 1: in reverse; else a seed
int64_t resident = 3;  // thread blocks that the "device" holds at once
std::string failure;   // of a kernel

void yield(State state) {
  const int me = block.current;
  block.state[me] = state;
  if (!_setjmp(block.resumption[me])) _longjmp(block.scheduler, 1);
}

void enter() {
  for (;;) {
    block.run(block.argument);
    yield(State::finished);
  }
}

void start(int k) {
  block.started[k] = true;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack = {&stacks[size_t(k) * kStack], 0, kStack};
  makecontext(&context, enter, 0);
  setcontext(&context);
}

// Lets a thread run until it must wait.
void resume(int k) {
  block.current = k;
  if (_setjmp(block.scheduler)) return;
  if (block.started[k]) _longjmp(block.resumption[k], 1);
  start(k);
}

std::vector<int> order() {
  std::vector<int> all(size_t(block.threads));
  for (int k = 0; k < block.threads; ++k) all[size_t(k)] = schedule == 1 ? block.threads - 1 - k : k;
  if (schedule > 1) std::shuffle(all.begin(), all.end(), std::mt19937(unsigned(schedule)));
  return all;
}

// Lets the threads of a warp, or of the thread block, go on if all of them wait alike.
bool release(int first, int last, State state) {
  for (int k = first; k < last; ++k)
    if (block.state[k] != state) return false;
  for (int k = first; k < last; ++k) block.state[k] = State::ready;
  return true;
}

bool release_waiting() {
  bool any = release(0, block.threads, State::at_barrier);
  for (int first = 0; first < block.threads; first += kWarp) any |= release(first, first + kWarp, State::at_exchange);
  return any;
}

void run_block(const std::vector<int>& turns) {
  std::memset(block.shared.data(), 0xff, block.shared.size());  // garbage: NaN, −1
  std::fill_n(block.state, block.threads, State::ready);
  std::fill_n(block.turn, block.threads, false);
  for (bool going = true; going;) {
    going = false;
    for (int k : turns)
      if (block.state[k] == State::ready) {
        resume(k);
        going = true;
      }
    going |= release_waiting();
  }
  for (int k = 0; k < block.threads; ++k)
    if (block.state[k] != State::finished) {
      failure = "threads of a block wait for others that have gone another way";
      block.started[k] = false;  // its stack is given up
    }
}

}  // namespace

int thread_index() { return block.current; }
int thread_count() { return block.threads; }
int64_t block_index() { return block.index; }
int64_t grid_size() { return block.grid; }
void barrier() { yield(State::at_barrier); }
unsigned char* shared_memory() { return block.shared.data(); }

uint64_t exchange(uint64_t x, int distance) {
  const int me = block.current;
  uint64_t* given = block.given[block.turn[me]];
  block.turn[me] = !block.turn[me];  // a lane can be one exchange ahead of its warp
  given[me] = x;
  yield(State::at_exchange);
  return me % kWarp + distance < kWarp ? given[me + distance] : x;
}

}  // namespace fastupdate::shim

namespace fastupdate::device {
namespace {

using Work = std::function<void()>;
using Queue = std::deque<Work>;

struct ShimEvent {
  uint64_t stream = 0;
  bool passed = true;
};

std::map<Stream, Queue> streams;
std::map<Stream, std::vector<Work>> captures;  // by stream, while it is capturing
int64_t launches = 0;
bool forked = false;
int64_t until_failure = -1;  // allocations that succeed before one fails; −1: none does

// Before each allocation.
void may_fail() {
  if (until_failure >= 0 && until_failure-- == 0) throw std::bad_alloc();
}

void give(Stream stream, Work work) {
  const auto capture = captures.find(stream);
  if (capture != captures.end())
    capture->second.push_back(std::move(work));
  else
    streams[stream].push_back(std::move(work));
}

// Device memory is mapped twice: where arrays have their addresses, it can be touched only while a kernel runs; copies
// go through the other one. Behind each piece are bytes that nobody may write.
constexpr size_t kReserved = size_t(1) << 36, kAlignment = 256, kGuard = 64;
constexpr int kUntouched = 0xa5;
unsigned char *arena = nullptr, *back_door = nullptr;
std::map<unsigned char*, size_t> pieces;

void reserve_memory() {
  const int file = memfd_create("device memory", 0);
  if (file < 0 || ftruncate(file, off_t(kReserved)) != 0) throw std::bad_alloc();
  void* there = mmap(nullptr, kReserved, PROT_NONE, MAP_SHARED | MAP_NORESERVE, file, 0);
  void* open = mmap(nullptr, kReserved, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
  close(file);
  if (there == MAP_FAILED || open == MAP_FAILED) throw std::bad_alloc();
  arena = static_cast<unsigned char*>(there);
  back_door = static_cast<unsigned char*>(open);
}

// Where the host reaches an address of the device; host addresses stay as they are.
unsigned char* reach(const void* address) {
  auto* at = static_cast<unsigned char*>(const_cast<void*>(address));
  return at >= arena && at < arena + kReserved ? back_door + (at - arena) : at;
}

size_t room_for(size_t bytes) { return (bytes + kGuard + kAlignment - 1) / kAlignment * kAlignment; }

// The first gap that is large enough, so that little memory is opened and closed.
unsigned char* find_gap(size_t room) {
  unsigned char* end = arena;
  for (const auto& [memory, bytes] : pieces) {
    if (size_t(memory - end) >= room) break;
    end = memory + room_for(bytes);
  }
  if (end + room > arena + kReserved) throw std::bad_alloc();
  return end;
}

void open_memory(bool open) {
  if (pieces.empty()) return;
  const auto& [last, bytes] = *pieces.rbegin();
  const size_t used = size_t(last - arena) + room_for(bytes);
  mprotect(arena, (used + 4095) / 4096 * 4096, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

void check_guards() {
  static const std::vector<unsigned char> untouched(kGuard, kUntouched);
  for (const auto& [memory, bytes] : pieces)
    if (std::memcmp(reach(memory) + bytes, untouched.data(), kGuard) != 0)
      shim::failure = "written past the end of an array";
}

void drain(Stream stream) {
  Queue& queue = streams[stream];
  while (!queue.empty()) {
    Work work = std::move(queue.front());
    queue.pop_front();
    work();
  }
}

// What is queued may be a function of Python's: whoever waits for it and keeps the GIL waits for ever.
void check_gil() {
  if (PyGILState_Check()) shim::failure = "whoever waits for a device holds the GIL";
}

void drain_all() {
  for (auto& [stream, queue] : streams) drain(stream);
}

void raise_failure() {
  if (!shim::failure.empty()) throw std::runtime_error("CUDA: " + std::exchange(shim::failure, ""));
}

}  // namespace

bool usable() { return !forked; }
std::string problem() { return forked ? kForked : ""; }
std::vector<std::string> devices() { return {"host shim"}; }
std::string driver() { return "none"; }
std::string toolkit() { return "none"; }
void check(int) {}
int current() { return 0; }
int processors() { return 1; }
int device_of(const void*) { return 0; }

Scope::Scope(int) : entered_(false), mode_(0) {
  if (forked) throw std::runtime_error(kForked);
}
Scope::~Scope() = default;

void* allocate(size_t bytes) {
  if (bytes == 0) return nullptr;
  may_fail();
  if (!arena) reserve_memory();
  unsigned char* memory = find_gap(room_for(bytes));
  pieces[memory] = bytes;
  std::memset(reach(memory), 0, bytes);
  std::memset(reach(memory) + bytes, kUntouched, kGuard);
  return memory;
}
void release(void* memory, int) noexcept {
  check_gil();
  drain_all();
  pieces.erase(static_cast<unsigned char*>(memory));
}
void* allocate_pinned(size_t bytes) {
  may_fail();
  return std::calloc(1, bytes + 1);
}
void release_pinned(void* memory, int) noexcept {
  drain_all();
  std::free(memory);
}

void copy(void* to, const void* from, size_t bytes, Stream stream) {
  give(stream, [=] { std::memcpy(reach(to), reach(from), bytes); });
}
void raise_flag(uint32_t* flag, Stream stream) {
  give(stream, [=] { *reinterpret_cast<uint32_t*>(reach(flag)) = 1; });
}
void copy_now(void* to, const void* from, size_t bytes) { std::memcpy(reach(to), reach(from), bytes); }

void synchronize(Stream stream) {
  check_gil();
  drain(stream);
  raise_failure();
}
bool capturing(Stream stream) { return captures.count(stream) != 0; }

Event make_event() {
  may_fail();
  return new ShimEvent;
}
void release_event(Event event, int) noexcept {
  check_gil();
  drain_all();
  delete static_cast<ShimEvent*>(event);
}
void record(Event event, Stream stream) {
  auto* e = static_cast<ShimEvent*>(event);
  e->stream = stream;
  e->passed = false;
  give(stream, [e] { e->passed = true; });
}
bool passed(Event event) { return static_cast<ShimEvent*>(event)->passed; }
void wait(Event event) {
  check_gil();
  drain(static_cast<ShimEvent*>(event)->stream);
  raise_failure();
}
void follow(Stream later, Stream earlier) {
  if (capturing(later) != capturing(earlier))
    throw std::runtime_error("CUDA: a captured stream waits for one that is not, or the other way round");
  give(later, [=] { drain(earlier); });
}

}  // namespace fastupdate::device

namespace fastupdate::shim {

void enqueue(Kernel run, const void* argument, size_t bytes, const Start& how, int threads, size_t shared) {
  const int64_t grid = std::max<int64_t>(std::min(how.blocks, resident), 1);
  std::vector<unsigned char> kept(bytes);
  std::memcpy(kept.data(), argument, bytes);
  ++device::launches;
  device::give(how.stream, [=] {
    if (!stacks) stacks.reset(new unsigned char[kMaxThreads * kStack]);  // pages that nobody touches cost nothing
    block.run = run;
    block.argument = kept.data();
    block.threads = threads;
    block.grid = grid;
    block.shared.assign(shared + 16, 0);
    const std::vector<int> turns = order();
    device::open_memory(true);
    for (block.index = 0; block.index < grid; ++block.index) run_block(turns);
    device::open_memory(false);
    device::check_guards();
  });
}

}  // namespace fastupdate::shim

namespace fastupdate {
void bind_cuda(pybind11::module_& m);  // csrc/python/cuda_plan.cpp
}

// What stands in for fastupdate._cuda. The name differs, for pybind11 has one module of a name in a process.
PYBIND11_MODULE(_cuda_stand_in, m) { fastupdate::bind_cuda(m); }

// What tests do to it.
PYBIND11_MODULE(_cuda_controls, m) {
  using namespace fastupdate;
  m.def("set_schedule", [](int schedule) { shim::schedule = schedule; });
  m.def("set_resident", [](int64_t blocks) { shim::resident = blocks; });
  m.def("set_forked", [](bool forked) { device::forked = forked; });
  m.def("fail_allocation", [](int64_t n) { device::until_failure = n; });
  m.def("launches", [] { return device::launches; });
  m.def("pending", [](Stream stream) { return device::streams[stream].size(); });
  m.def("synchronize", &device::synchronize, pybind11::call_guard<pybind11::gil_scoped_release>());
  m.def("enqueue_copy", [](uint64_t to, uint64_t from, size_t bytes, Stream stream) {
    device::copy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes, stream);
  });
  m.def("begin_capture", [](Stream stream) { device::captures[stream]; });
  m.def("end_capture", [](Stream stream) {
    auto graph = std::make_shared<std::vector<device::Work>>(std::move(device::captures[stream]));
    device::captures.erase(stream);
    return pybind11::cpp_function([graph](Stream on) {
      for (const auto& work : *graph) device::streams[on].push_back(work);
    });
  });
}
