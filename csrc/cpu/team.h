// The threads that share the work of a step.
#pragma once

#include <omp.h>

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace fastupdate {

inline std::atomic<int> thread_limit{1};
inline std::atomic<bool> forked{false};  // a forked child has no OpenMP workers, and waking them would hang

constexpr int64_t kParallelCost = 128 * 1024;  // elements below which waking a thread costs more than it saves

// Whether n threads can run beside each other here. OpenMP ends the process if it cannot start one, so this is tried
// before the first region of that size.
inline bool can_run(int n) {
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

// How many threads share work of a cost in elements, that is at most `parts` parts.
inline int team(int64_t cost, int64_t parts) {
  const int64_t limit = thread_limit;
  const int threads = int(limit < parts ? limit : parts);
  return threads > 1 && cost >= kParallelCost && !forked && can_run(threads) ? threads : 1;
}

// Calls work(first, last) for equal parts of 0 … count − 1, one for each thread.
template <class Work>
void share(int threads, int64_t count, Work work) {
  if (threads == 1) return work(int64_t(0), count);
#pragma omp parallel num_threads(threads)
  {
    const int64_t k = omp_get_thread_num(), n = omp_get_num_threads();
    work(count * k / n, count * (k + 1) / n);
  }
}

}  // namespace fastupdate
