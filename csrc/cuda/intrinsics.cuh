// What kernels need from the device, under names that a host can stand in for (tests/cuda_shim/cuda_shim.h).
#pragma once

#include <cuda_runtime.h>

#include "core/plan.h"
#include "cuda/runtime.h"

#define FASTUPDATE_KERNEL __global__ void
#define FASTUPDATE_DEVICE __device__ __forceinline__
#define FASTUPDATE_DEVICE_CALL static __device__ __noinline__
#define FASTUPDATE_LAUNCH_BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)

namespace fastupdate::FASTUPDATE_TARGET {

FASTUPDATE_DEVICE int thread_index() { return int(threadIdx.x); }
FASTUPDATE_DEVICE int thread_count() { return int(blockDim.x); }
FASTUPDATE_DEVICE int64_t block_index() { return blockIdx.x; }
FASTUPDATE_DEVICE int64_t grid_size() { return gridDim.x; }

FASTUPDATE_DEVICE void barrier() { __syncthreads(); }
FASTUPDATE_DEVICE void fence() { __threadfence(); }

template <class V>
FASTUPDATE_DEVICE V from_lane_above(V x, int distance) {
  return __shfl_down_sync(0xffffffffu, x, distance);
}

template <class V>
FASTUPDATE_DEVICE V atomic_add(V* at, V x) {
  return atomicAdd(at, x);
}

FASTUPDATE_DEVICE unsigned char* shared_memory() {
  extern __shared__ __align__(16) unsigned char memory[];
  return memory;
}

// Past L1, which does not see what other thread blocks have written.
FASTUPDATE_DEVICE double load_coherent(const double* x) { return __ldcg(x); }
FASTUPDATE_DEVICE int64_t load_coherent(const int64_t* x) { return __ldcg(reinterpret_cast<const long long*>(x)); }

// 16 bytes at a time; they are used once, so L1 is left alone.
FASTUPDATE_DEVICE Pack<float, 4> load_vector(const float* from) {
  const float4 v = __ldcg(reinterpret_cast<const float4*>(from));
  return {{v.x, v.y, v.z, v.w}};
}
FASTUPDATE_DEVICE Pack<double, 4> load_vector(const double* from) {
  const double2* at = reinterpret_cast<const double2*>(from);
  const double2 v = __ldcg(at), w = __ldcg(at + 1);
  return {{v.x, v.y, w.x, w.y}};
}
FASTUPDATE_DEVICE Pack<uint16_t, 4> load_vector(const uint16_t* from) {
  const uint2 v = __ldcg(reinterpret_cast<const uint2*>(from));
  return {{uint16_t(v.x), uint16_t(v.x >> 16), uint16_t(v.y), uint16_t(v.y >> 16)}};
}
FASTUPDATE_DEVICE void store_vector(float* to, const Pack<float, 4>& v) {
  __stcg(reinterpret_cast<float4*>(to), make_float4(v.at[0], v.at[1], v.at[2], v.at[3]));
}
FASTUPDATE_DEVICE void store_vector(double* to, const Pack<double, 4>& v) {
  double2* at = reinterpret_cast<double2*>(to);
  __stcg(at, make_double2(v.at[0], v.at[1]));
  __stcg(at + 1, make_double2(v.at[2], v.at[3]));
}
FASTUPDATE_DEVICE void store_vector(uint16_t* to, const Pack<uint16_t, 4>& v) {
  __stcg(reinterpret_cast<uint2*>(to),
         make_uint2(v.at[0] | uint32_t(v.at[1]) << 16, v.at[2] | uint32_t(v.at[3]) << 16));
}

template <class Argument>
void launch(void (*kernel)(Argument), const Argument& argument, const Start& how, int threads, size_t shared) {
  int resident = 1;
  device::check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, threads, shared));
  const int64_t room = int64_t(resident) * device::processors();
  const int64_t grid = how.blocks < room ? how.blocks : room;
  kernel<<<unsigned(grid > 0 ? grid : 1), unsigned(threads), shared, reinterpret_cast<cudaStream_t>(how.stream)>>>(
      argument);
  device::check(cudaGetLastError());
}

}  // namespace fastupdate::FASTUPDATE_TARGET
