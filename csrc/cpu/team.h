// The threads that share the work of a step.
#pragma once

#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cctype>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fastupdate {

inline std::atomic<int> thread_limit{1};
inline std::atomic<bool> thread_count_fixed{false};  // by the user: nothing is measured
inline std::atomic<bool> forked{false};              // a forked child has no OpenMP workers, and waking them would hang

constexpr int64_t kParallelCost = 16 * 1024;  // elements below which waking a thread costs more than it saves
constexpr int64_t kPlentyCost = 128 * 1024;   // above it, it mostly pays

// A size in bytes as OpenMP's variables have it, "512", "512K" or "2 G", which is in KiB if it names no unit; 0: none.
inline size_t parse_size(const char* text) {
  if (!text) return 0;
  char* end = nullptr;
  const size_t number = std::strtoull(text, &end, 10);
  while (std::isspace(static_cast<unsigned char>(*end))) ++end;
  const char* const units = "bkmg";
  const char* const unit = std::strchr(units, *end ? std::tolower(static_cast<unsigned char>(*end)) : 'k');
  if (!unit) return 0;
  const int shift = 10 * int(unit - units);
  return number << shift >> shift == number ? number << shift : 0;
}

// The stack that OpenMP's runtime gives to the threads it starts; 0: the system's. Both read this when they are loaded.
inline const size_t worker_stack = [] {
  for (const char* name : {"OMP_STACKSIZE", "GOMP_STACKSIZE", "OMP_STACKSIZE_ALL"})
    if (const size_t size = parse_size(std::getenv(name))) return size;
  return size_t(0);
}();

// A thread that waits at a gate, and then ends.
struct Trial {
  pthread_t thread;
  std::atomic<pid_t> id;
  std::mutex* gate;

  static void* run(void* own) {
    Trial& trial = *static_cast<Trial*>(own);
    trial.id = pid_t(syscall(SYS_gettid));
    std::lock_guard<std::mutex> wait(*trial.gate);
    return nullptr;
  }

  // Waits until the system, too, counts one thread less, which is a little after it can be joined.
  void leave() {
    pthread_join(thread, nullptr);
    for (int k = 0; k < 1000 && syscall(SYS_tgkill, getpid(), pid_t(id), 0) == 0; ++k) sched_yield();
  }
};

// How many further threads like OpenMP's can be started now, of `wanted`.
inline ptrdiff_t startable(ptrdiff_t wanted) {
  const std::unique_ptr<Trial[]> trials(new (std::nothrow) Trial[size_t(wanted)]);
  pthread_attr_t attributes;
  if (!trials || pthread_attr_init(&attributes)) return 0;
  if (worker_stack) pthread_attr_setstacksize(&attributes, worker_stack);  // else, as OpenMP does, with the system's
  std::mutex gate;
  std::unique_lock<std::mutex> closed(gate);
  ptrdiff_t started = 0;
  for (; started < wanted; ++started) {
    Trial& trial = trials[started];
    trial.gate = &gate;
    if (pthread_create(&trial.thread, &attributes, Trial::run, &trial)) break;
  }
  closed.unlock();
  for (ptrdiff_t k = 0; k < started; ++k) trials[k].leave();
  pthread_attr_destroy(&attributes);
  return started;
}

// The rounding and flush-to-zero mode of a thread, which workers take over from their caller: the bits of a step are
// then those of one thread.
class FloatingPointMode {
 public:
#if defined(__x86_64__)
  FloatingPointMode() : bits_(_mm_getcsr() & ~kFlags) {}
  bool operator==(const FloatingPointMode& other) const { return bits_ == other.bits_; }
  void set() const { _mm_setcsr(bits_); }

 private:
  static constexpr unsigned kFlags = 0x3f;  // what has happened, not what is to
  unsigned bits_;
#elif defined(__aarch64__)
  FloatingPointMode() { asm volatile("mrs %0, fpcr" : "=r"(bits_)); }
  bool operator==(const FloatingPointMode& other) const { return bits_ == other.bits_; }
  void set() const { asm volatile("msr fpcr, %0" : : "r"(bits_)); }

 private:
  uint64_t bits_;
#else
  bool operator==(const FloatingPointMode&) const { return true; }
  void set() const {}
#endif
};

// For a scope, the mode of another thread.
class Adopted {
 public:
  explicit Adopted(const FloatingPointMode& mode) : differs_(!(mode == own_)) {
    if (differs_) mode.set();
  }
  ~Adopted() {
    if (differs_) own_.set();
  }
  Adopted(const Adopted&) = delete;
  Adopted& operator=(const Adopted&) = delete;

 private:
  FloatingPointMode own_;
  bool differs_;
};

// The threads that may share some work.
struct Crew {
  int most;
  int64_t cost;       // of the work, in elements
  int64_t piece = 0;  // of what one of them takes at a time, at least

  bool plenty() const { return cost >= kPlentyCost; }
};

constexpr Crew kAlone = {1, 1};

// Those for work of a cost in elements, that is several parts. They are all that there are, though some may have
// nothing to do: OpenMP ends threads that a region leaves out, and would start them again for the next.
inline Crew crew_for(int64_t cost, int64_t parts, int64_t piece = 0) {
  if (parts <= 1 || cost < kParallelCost || forked) return kAlone;
  return {int(thread_limit), cost, piece};
}

// How many threads ran in the last region that this thread has opened: it has workers of its own, which stay.
inline thread_local int running = 1;

// Calls work(k, n) in each of n threads, which are fewer than `threads` if no more can be started: OpenMP would end the
// process then, so that is tried before.
template <class Work>
void in_team(int threads, Work work) {
  if (threads > running) threads = running + int(startable(threads - running));
  if (threads == 1) return work(0, 1);
  const FloatingPointMode mode;
#pragma omp parallel num_threads(threads)
  {
    const Adopted adopted(mode);
    work(omp_get_thread_num(), omp_get_num_threads());
  }
  running = threads;
}

// What threads do of 0 … count − 1: each its own equal share, in pieces, and then pieces that others have not come to,
// for they may be kept from their cores.
class Shares {
 public:
  Shares(Crew crew, int64_t count) : count_(count) {
    const int64_t least = crew.piece > kPieceCost ? crew.piece : kPieceCost;
    const int64_t most = crew.most * kPieces, pieces = crew.cost / least < most ? crew.cost / least : most;
    piece_ = pieces > crew.most && crew.most <= kMost ? (count + pieces - 1) / pieces : count;
    if (piece_ < count)
      for (int k = 0; k < crew.most; ++k) taken_[k].count = 0;
  }

  // As the k-th of n threads.
  template <class Work>
  void work_off(int64_t k, int64_t n, Work work) {
    if (n == 1 || piece_ >= count_) return some(first(k, n), first(k + 1, n), work);
    for (int64_t turn = 0; turn < n; ++turn) {
      const int64_t of = (k + turn) % n, end = first(of + 1, n);
      for (int64_t at; (at = first(of, n) + taken_[of].count.fetch_add(piece_)) < end;)
        some(at, at + piece_ < end ? at + piece_ : end, work);
    }
  }

 private:
  static constexpr int kMost = 64, kPieces = 16;     // threads; pieces of each one's share
  static constexpr int64_t kPieceCost = 512 * 1024;  // of a piece, at least: what others have is far from this core

  struct alignas(64) Taken {
    std::atomic<int64_t> count;
  };

  int64_t first(int64_t k, int64_t n) const { return count_ * k / n; }

  template <class Work>
  static void some(int64_t first, int64_t last, Work work) {
    if (first < last) work(first, last);
  }

  int64_t count_, piece_;
  Taken taken_[kMost];  // of each thread's share, by whomever
};

// The threads of one kind of work that is done again and again. Their number does not touch the bits, so it is
// measured: beside another library's waiting threads, or on a machine that others use, two threads can be many times
// slower than one. One thread and all of them are tried; the faster stays, and the other is tried again now and then,
// the more seldom the slower it was. Where little is to be gained one thread begins, and a plan that takes few steps
// never tries more.
class Team {
 public:
  // Calls work(k, n) in each of n threads. Clock: what tells the time.
  template <class Clock = std::chrono::steady_clock, class Work>
  void run(Crew crew, Work work) {
    const int most = crew.most;
    if (most == 1 || thread_count_fixed) return in_team(most, work);
    const bool begins = time_[0] == 0 && time_[1] == 0;
    if (begins && !crew.plenty()) all_ = false, wait_ = kPatience;
    const bool trial = wait_-- <= 0, all = all_ != trial;
    const auto start = Clock::now();
    in_team(all ? most : 1, work);
    const std::chrono::duration<double> seconds = Clock::now() - start;
    note(trial, all, seconds.count() / double(crew.cost));
  }

  // Whether the next run is one of all threads, unless it is a trial.
  bool shares(Crew crew) const { return crew.most > 1 && crew.plenty() && all_; }

  // Calls work(first, last) for parts of 0 … count − 1, each of which one thread takes.
  template <class Work>
  void share(Crew crew, int64_t count, Work work) {
    Shares shares(crew, count);
    run(crew, [&](int64_t k, int64_t n) { shares.work_off(k, n, work); });
  }

 private:
  // Notes what a run took for each element, for the next may have more of them or fewer.
  void note(bool trial, bool all, double time) {
    double& mean = time_[all];
    mean = trial || mean == 0 ? time : mean + kWeight * (time - mean);
    const double own = time_[all_], other = time_[!all_];
    if (other != 0 && other < own) {
      all_ = !all_;
      wait_ = pause_ = kSoon;
    } else if (trial) {
      const int64_t doubled = 2 * pause_ < kSeldom ? 2 * pause_ : kSeldom, seldom = int64_t(kShare * other / own);
      wait_ = pause_ = doubled > seldom ? doubled : seldom;
    }
  }

  static constexpr double kWeight = 0.25;             // of the latest run in the mean
  static constexpr double kShare = 50;                // trials may take one part in so many of all time
  static constexpr int64_t kSoon = 4, kSeldom = 256;  // runs from one trial to the next
  static constexpr int64_t kPatience = 16;            // runs before the first trial of more than one thread

  bool all_ = true;          // all threads are used now
  double time_[2] = {0, 0};  // for an element, of one thread, and of all; 0: not known yet
  int64_t wait_ = 2, pause_ = kSoon;
};

}  // namespace fastupdate
