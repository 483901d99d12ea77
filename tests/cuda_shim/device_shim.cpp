// device.h and cuda_shim.h on a host without a GPU. Streams are queues that run when somebody waits for them, so that
// whatever is read or overwritten too early shows; a capture is a queue that is kept.
#include <pybind11/pybind11.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

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
constexpr size_t kStack = 1 << 16;

enum class State { ready, at_barrier, at_exchange, finished };

// One thread block: its threads take turns, each until it must wait for others.
struct ThreadBlock {
  Kernel run;
  const void* argument;
  int threads;
  int64_t index, grid;
  int current = 0;
  State state[kMaxThreads];
  uint64_t given[kMaxThreads];
  bool started[kMaxThreads];
  ucontext_t context[kMaxThreads];  // where a thread starts; from then on jumps are cheaper
  jmp_buf resumption[kMaxThreads], scheduler;
  std::vector<unsigned char> shared;
};

ThreadBlock block;
std::vector<unsigned char> stacks;
int schedule = 0;      // 0: threads in order; 1: in reverse; else a seed
int64_t resident = 3;  // thread blocks that the "device" holds at once
std::string failure;   // of a kernel

void enter() {
  block.run(block.argument);
  block.state[block.current] = State::finished;
  _longjmp(block.scheduler, 1);
}

void yield(State state) {
  const int me = block.current;
  block.state[me] = state;
  if (!_setjmp(block.resumption[me])) _longjmp(block.scheduler, 1);
}

// Lets a thread run until it must wait.
void resume(int k) {
  block.current = k;
  if (_setjmp(block.scheduler)) return;
  if (std::exchange(block.started[k], true)) _longjmp(block.resumption[k], 1);
  setcontext(&block.context[k]);
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

void run_block() {
  std::memset(block.shared.data(), 0xff, block.shared.size());  // garbage: NaN, −1
  for (int k = 0; k < block.threads; ++k) {
    block.state[k] = State::ready;
    block.started[k] = false;
    getcontext(&block.context[k]);
    block.context[k].uc_stack = {&stacks[size_t(k) * kStack], 0, kStack};
    block.context[k].uc_link = nullptr;
    makecontext(&block.context[k], enter, 0);
  }
  const std::vector<int> turns = order();
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
    if (block.state[k] != State::finished) failure = "threads of a block wait for others that have gone another way";
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
  block.given[me] = x;
  yield(State::at_exchange);
  const uint64_t taken = me % kWarp + distance < kWarp ? block.given[me + distance] : x;
  yield(State::at_exchange);  // before anybody gives the next
  return taken;
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

void give(Stream stream, Work work) {
  const auto capture = captures.find(stream);
  if (capture != captures.end())
    capture->second.push_back(std::move(work));
  else
    streams[stream].push_back(std::move(work));
}

// Device memory, which the host may touch only while the "device" is at work. Behind each piece are bytes that nobody
// may write. Space is used again when all is free.
constexpr size_t kReserved = size_t(1) << 36, kAlignment = 256, kGuard = 64;
constexpr int kUntouched = 0xa5;
unsigned char* arena = nullptr;
size_t used = 0;
std::map<void*, size_t> pieces;
int working = 0;

void open_memory(bool open) {
  if (used) mprotect(arena, (used + 4095) / 4096 * 4096, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

void check_guards() {
  for (const auto& [memory, bytes] : pieces)
    for (size_t k = 0; k < kGuard; ++k)
      if (static_cast<unsigned char*>(memory)[bytes + k] != kUntouched)
        shim::failure = "written past the end of an array";
}

struct AtWork {
  AtWork() {
    if (working++ == 0) open_memory(true);
  }
  ~AtWork() {
    if (working == 1) check_guards();
    if (--working == 0) open_memory(false);
  }
};

void drain(Stream stream) {
  Queue& queue = streams[stream];
  if (queue.empty()) return;
  const AtWork at_work;
  while (!queue.empty()) {
    Work work = std::move(queue.front());
    queue.pop_front();
    work();
  }
}

void drain_all() {
  for (auto& [stream, queue] : streams) drain(stream);
}

void raise_failure() {
  if (!shim::failure.empty()) throw std::runtime_error("CUDA: " + std::exchange(shim::failure, ""));
}

}  // namespace

bool usable() { return !forked; }
std::string problem() { return ""; }
std::vector<std::string> devices() { return {"host shim"}; }
std::string driver() { return "none"; }
std::string toolkit() { return "none"; }
void check(int) {}
int processors() { return 1; }
int device_of(const void*) { return 0; }

Scope::Scope(int) : before_(0), mode_(0) {
  if (forked) throw std::runtime_error("CUDA cannot be used in a process that was forked after its parent used CUDA");
}
Scope::~Scope() = default;

void* allocate(size_t bytes) {
  if (bytes == 0) return nullptr;
  if (!arena) {
    void* there = mmap(nullptr, kReserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (there == MAP_FAILED) throw std::bad_alloc();
    arena = static_cast<unsigned char*>(there);
  }
  void* memory = arena + used;
  used += (bytes + kGuard + kAlignment - 1) / kAlignment * kAlignment;
  if (used > kReserved) throw std::bad_alloc();
  const AtWork at_work;
  std::memset(memory, 0, bytes);
  std::memset(static_cast<unsigned char*>(memory) + bytes, kUntouched, kGuard);
  pieces[memory] = bytes;
  return memory;
}
void release(void* memory) noexcept {
  drain_all();
  pieces.erase(memory);
  if (pieces.empty()) used = 0;
}
void* allocate_pinned(size_t bytes) { return std::calloc(1, bytes + 1); }
void release_pinned(void* memory) noexcept {
  drain_all();
  std::free(memory);
}

void copy(void* to, const void* from, size_t bytes, Stream stream) {
  give(stream, [=] { std::memcpy(to, from, bytes); });
}
void copy_now(void* to, const void* from, size_t bytes) {
  const AtWork at_work;
  std::memcpy(to, from, bytes);
}

void synchronize(Stream stream) {
  drain(stream);
  raise_failure();
}
bool capturing(Stream stream) { return captures.count(stream) != 0; }

Event make_event() { return new ShimEvent; }
void release_event(Event event) noexcept {
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
  drain(static_cast<ShimEvent*>(event)->stream);
  raise_failure();
}
void follow(Stream later, Stream earlier) {
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
    stacks.resize(kMaxThreads * kStack);
    block.run = run;
    block.argument = kept.data();
    block.threads = threads;
    block.grid = grid;
    block.shared.assign(shared + 16, 0);
    for (block.index = 0; block.index < grid; ++block.index) run_block();
  });
}

}  // namespace fastupdate::shim

namespace fastupdate {
void bind_cuda(pybind11::module_& m);  // csrc/bindings_cuda.cpp
}

// What stands in for fastupdate._cuda. The name differs, for pybind11 has one module of a name in a process.
PYBIND11_MODULE(_cuda_stand_in, m) { fastupdate::bind_cuda(m); }

// What tests do to it.
PYBIND11_MODULE(_cuda_controls, m) {
  using namespace fastupdate;
  m.def("set_schedule", [](int schedule) { shim::schedule = schedule; });
  m.def("set_resident", [](int64_t blocks) { shim::resident = blocks; });
  m.def("set_forked", [](bool forked) { device::forked = forked; });
  m.def("launches", [] { return device::launches; });
  m.def("pending", [](Stream stream) { return device::streams[stream].size(); });
  m.def("synchronize", [](Stream stream) { device::synchronize(stream); });
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
