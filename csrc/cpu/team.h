// The threads that share the work of a step.
#pragma once

#include <omp.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fastupdate {

inline std::atomic<int> thread_limit{1};
inline std::atomic<bool> thread_count_fixed{false};  // by the user: nothing is measured
inline std::atomic<bool> forked{false};              // a forked child has no OpenMP workers, and waking them would hang

constexpr int64_t kParallelCost = 128 * 1024;  // elements below which waking a thread costs more than it saves

// Whether n threads can run beside each other here. OpenMP ends the process if it cannot start one, so this is tried
// before the first region of that size in each thread that opens one, for each has workers of its own.
inline bool can_run(int n) {
  thread_local int proven = 1;
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

// The most threads that share work of a cost in elements, that is at most `parts` parts.
inline int most_threads(int64_t cost, int64_t parts) {
  const int64_t limit = thread_limit;
  const int threads = int(limit < parts ? limit : parts);
  return threads > 1 && cost >= kParallelCost && !forked && can_run(threads) ? threads : 1;
}

// Calls work(k, n) in each of n threads.
template <class Work>
void in_team(int threads, Work work) {
  if (threads == 1) return work(0, 1);
  const FloatingPointMode mode;
#pragma omp parallel num_threads(threads)
  {
    const Adopted adopted(mode);
    work(omp_get_thread_num(), omp_get_num_threads());
  }
}

// The threads of one kind of work that is done again and again. Their number does not touch the bits, so it is
// measured: beside another library's waiting threads, or on a machine that others use, two threads can be many times
// slower than one. One thread and all of them are tried; the faster stays, and the other is tried again now and then,
// the more seldom the slower it was.
class Team {
 public:
  // Calls work(k, n) in each of n threads, of which there are at most `most`.
  template <class Work>
  void run(int most, Work work) {
    if (most == 1 || thread_count_fixed) return in_team(most, work);
    const bool trial = wait_-- <= 0, all = all_ != trial;
    const auto start = std::chrono::steady_clock::now();
    in_team(all ? most : 1, work);
    note(trial, all, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }

  // Calls work(first, last) for equal parts of 0 … count − 1, one for each thread.
  template <class Work>
  void share(int most, int64_t count, Work work) {
    run(most, [&](int64_t k, int64_t n) { work(count * k / n, count * (k + 1) / n); });
  }

 private:
  void note(bool trial, bool all, double seconds) {
    double& mean = time_[all];
    mean = trial || mean == 0 ? seconds : mean + kWeight * (seconds - mean);
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

  bool all_ = true;          // all threads are used now
  double time_[2] = {0, 0};  // of one thread, and of all; 0: not known yet
  int64_t wait_ = 2, pause_ = kSoon;
};

}  // namespace fastupdate
