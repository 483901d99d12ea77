// csrc/cuda/intrinsics.cuh for a host without a GPU: the kernels' own source, one thread block at a time, its threads
// as coroutines that run until they reach a barrier or an exchange between lanes. Shared memory starts out as garbage.
#pragma once

#include <stdint.h>
#include <string.h>

#include "core/plan.h"
#include "cuda/runtime.h"

#define FASTUPDATE_KERNEL inline void
#define FASTUPDATE_DEVICE inline
#define FASTUPDATE_DEVICE_CALL inline
#define FASTUPDATE_LAUNCH_BOUNDS(threads, blocks)

namespace fastupdate::shim {

int thread_index();
int thread_count();
int64_t block_index();
int64_t grid_size();
void barrier();
uint64_t exchange(uint64_t x, int distance);
unsigned char* shared_memory();

using Kernel = void (*)(const void* argument);
// Puts a grid on a stream: like everything on a stream it runs when somebody waits for it.
void enqueue(Kernel run, const void* argument, size_t bytes, const Start& how, int threads, size_t shared);

}  // namespace fastupdate::shim

namespace fastupdate::FASTUPDATE_TARGET {

using shim::barrier;
using shim::block_index;
using shim::grid_size;
using shim::shared_memory;
using shim::thread_count;
using shim::thread_index;

inline void fence() {}

template <class V>
V from_lane_above(V x, int distance) {
  uint64_t bits = 0;
  memcpy(&bits, &x, sizeof x);
  bits = shim::exchange(bits, distance);
  memcpy(&x, &bits, sizeof x);
  return x;
}

template <class V>
V atomic_add(V* at, V x) {
  V before = *at;
  *at += x;
  return before;
}

template <class V>
V load_coherent(const V* x) {
  return *x;
}

// A vector access must be aligned: anything else would fault on a device.
template <class T>
Pack<T, 4> load_vector(const T* from) {
  Pack<T, 4> v;
  if (reinterpret_cast<uintptr_t>(from) % (sizeof v < 16 ? sizeof v : 16)) __builtin_trap();
  memcpy(&v, from, sizeof v);
  return v;
}
template <class T>
void store_vector(T* to, const Pack<T, 4>& v) {
  if (reinterpret_cast<uintptr_t>(to) % (sizeof v < 16 ? sizeof v : 16)) __builtin_trap();
  memcpy(to, &v, sizeof v);
}

template <class Argument>
void launch(void (*kernel)(Argument), const Argument& argument, const Start& how, int threads, size_t shared) {
  struct Call {
    void (*kernel)(Argument);
    Argument argument;
  } call = {kernel, argument};
  shim::enqueue([](const void* c) { static_cast<const Call*>(c)->kernel(static_cast<const Call*>(c)->argument); },
                &call, sizeof call, how, threads, shared);
}

}  // namespace fastupdate::FASTUPDATE_TARGET
