// runtime.h by the CUDA runtime.
#include <cuda_runtime.h>
#include <pthread.h>
#include <unistd.h>

#include <stdexcept>

#include "cuda/runtime.h"

namespace fastupdate::device {
namespace {

bool used = false;  // a context may exist
bool forked = false;

cudaStream_t stream_of(Stream stream) { return reinterpret_cast<cudaStream_t>(stream); }
cudaEvent_t event_of(Event event) { return static_cast<cudaEvent_t>(event); }

std::string version(int number) {
  return number ? std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10) : "none";
}

void notice_use() {
  if (forked) throw std::runtime_error(kForked);
  if (!used) {
    used = true;
    pthread_atfork(nullptr, nullptr, [] { forked = true; });
  }
}

}  // namespace

void check(int error) {
  if (error == cudaSuccess) return;
  const auto code = static_cast<cudaError_t>(error);
  cudaGetLastError();  // the error is reported once, not again by whoever calls next
  throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(code) + " (" + cudaGetErrorName(code) + ")");
}

bool usable() { return !forked; }

std::string problem() {
  if (forked) return kForked;
  if (driver() == "none") return "there is no NVIDIA driver (libcuda.so.1)";
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    cudaGetLastError();
    return cudaGetErrorString(error);
  }
  return count ? "" : "no CUDA device";
}

std::vector<std::string> devices() {
  std::vector<std::string> found;
  int count = 0;
  if (!problem().empty() || cudaGetDeviceCount(&count) != cudaSuccess) return found;
  for (int k = 0; k < count; ++k) {
    cudaDeviceProp p;
    check(cudaGetDeviceProperties(&p, k));
    found.push_back(std::string(p.name) + " (sm_" + std::to_string(p.major) + std::to_string(p.minor) + ", " +
                    std::to_string(p.totalGlobalMem >> 20) + " MiB)");
  }
  return found;
}

std::string driver() {
  int number = 0;
  return cudaDriverGetVersion(&number) == cudaSuccess ? version(number) : "none";
}

std::string toolkit() { return version(CUDART_VERSION); }

int processors() {
  int device = 0, count = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

int device_of(const void* address) {
  notice_use();
  cudaPointerAttributes attributes;
  check(cudaPointerGetAttributes(&attributes, address));
  return attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged ? attributes.device : -1;
}

Scope::Scope(int device) {
  notice_use();
  check(cudaGetDevice(&before_));
  if (before_ != device) check(cudaSetDevice(device));
  auto mode = cudaStreamCaptureModeRelaxed;
  check(cudaThreadExchangeStreamCaptureMode(&mode));
  mode_ = mode;
}

Scope::~Scope() {
  auto mode = static_cast<cudaStreamCaptureMode>(mode_);
  cudaThreadExchangeStreamCaptureMode(&mode);
  cudaSetDevice(before_);
}

void* allocate(size_t bytes) {
  void* memory = nullptr;
  if (bytes == 0) return memory;
  check(cudaMalloc(&memory, bytes));
  cudaStream_t own;
  check(cudaStreamCreateWithFlags(&own, cudaStreamNonBlocking));
  check(cudaMemsetAsync(memory, 0, bytes, own));
  check(cudaStreamSynchronize(own));
  check(cudaStreamDestroy(own));
  return memory;
}

void release(void* memory) noexcept {
  if (!forked) cudaFree(memory);
}

void* allocate_pinned(size_t bytes) {
  void* memory = nullptr;
  check(cudaHostAlloc(&memory, bytes ? bytes : 1, cudaHostAllocPortable));
  return memory;
}

void release_pinned(void* memory) noexcept {
  if (!forked) cudaFreeHost(memory);
}

void copy(void* to, const void* from, size_t bytes, Stream stream) {
  if (bytes) check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_of(stream)));
}

void copy_now(void* to, const void* from, size_t bytes) {
  cudaStream_t own;
  check(cudaStreamCreateWithFlags(&own, cudaStreamNonBlocking));
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, own));
  check(cudaStreamSynchronize(own));
  check(cudaStreamDestroy(own));
}

void synchronize(Stream stream) { check(cudaStreamSynchronize(stream_of(stream))); }

bool capturing(Stream stream) {
  cudaStreamCaptureStatus status;
  check(cudaStreamIsCapturing(stream_of(stream), &status));
  return status != cudaStreamCaptureStatusNone;
}

Event make_event() {
  cudaEvent_t event;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  return event;
}

void release_event(Event event) noexcept {
  if (!forked) cudaEventDestroy(event_of(event));
}

void record(Event event, Stream stream) { check(cudaEventRecord(event_of(event), stream_of(stream))); }

bool passed(Event event) {
  const cudaError_t error = cudaEventQuery(event_of(event));
  if (error != cudaErrorNotReady) check(error);
  return error == cudaSuccess;
}

void wait(Event event) { check(cudaEventSynchronize(event_of(event))); }

void follow(Stream later, Stream earlier) {
  Event event = make_event();
  record(event, earlier);
  check(cudaStreamWaitEvent(stream_of(later), event_of(event), 0));
  release_event(event);
}

}  // namespace fastupdate::device
