// runtime.h by the CUDA runtime.
#include <cuda.h>
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <mutex>
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

// What an error means, and what helps.
std::string explained(cudaError_t code) {
  const std::string said = std::string(cudaGetErrorString(code)) + " (" + cudaGetErrorName(code) + ")";
  const bool of_build = code == cudaErrorUnsupportedPtxVersion || code == cudaErrorNoKernelImageForDevice;
  return of_build ? said + "; build fastupdate with FASTUPDATE_CUDA_ARCHS=native, or install a newer driver" : said;
}

// The driver's contexts of devices, which are the runtime's too. Whoever enters one and leaves it is where he was:
// cudaSetDevice, to go back to a device that nobody has used, would put a context of hundreds of megabytes on it.
class Contexts {
 public:
  Contexts() {
    void* const driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    if (!driver) throw std::runtime_error("CUDA: there is no NVIDIA driver (libcuda.so.1)");
    retain_ = reinterpret_cast<decltype(retain_)>(dlsym(driver, "cuDevicePrimaryCtxRetain"));
    push_ = reinterpret_cast<decltype(push_)>(dlsym(driver, "cuCtxPushCurrent_v2"));
    pop_ = reinterpret_cast<decltype(pop_)>(dlsym(driver, "cuCtxPopCurrent_v2"));
    if (!retain_ || !push_ || !pop_) throw std::runtime_error("CUDA: the driver has no contexts to enter");
  }

  void enter(int device) {
    const std::lock_guard<std::mutex> lock(mutex_);
    CUcontext& context = retained_[device];  // for good
    if (!context) check(retain_(&context, device));
    check(push_(context));
  }

  void leave() const noexcept {
    CUcontext left;
    pop_(&left);
  }

 private:
  decltype(&cuDevicePrimaryCtxRetain) retain_;
  decltype(&cuCtxPushCurrent) push_;
  decltype(&cuCtxPopCurrent) pop_;
  std::mutex mutex_;
  std::map<int, CUcontext> retained_;
};

Contexts& contexts() {
  static Contexts all;
  return all;
}

// Lets go of something on a device. Where that fails, there is nothing left to be done about it, and whoever calls CUDA
// next is not to hear of it.
template <class Release>
void quietly(int device, Release release) noexcept {
  if (forked) return;
  try {
    const Scope scope(device);
    release();
  } catch (const std::exception&) {
  }
  cudaGetLastError();
}

__global__ void probe() {}

// Why the current device cannot run kernels of this build; empty if it can.
std::string misfit() {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, probe);
  cudaGetLastError();
  return error == cudaSuccess ? "" : explained(error);
}

}  // namespace

void check(int error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // the error is reported once, not again by whoever calls next
  throw std::runtime_error("CUDA: " + explained(static_cast<cudaError_t>(error)));
}

bool usable() { return !forked; }

std::string problem() {
  if (forked) return kForked;
  if (driver() == "none") return "there is no NVIDIA driver (libcuda.so.1)";
  notice_use();  // a child that is forked later could not count them
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
  const std::string problem = misfit();
  if (!problem.empty()) found[size_t(current())] += ": " + problem;
  return found;
}

std::string driver() {
  int number = 0;
  return cudaDriverGetVersion(&number) == cudaSuccess ? version(number) : "none";
}

std::string toolkit() { return version(CUDART_VERSION); }

int current() {
  int device = 0;
  check(cudaGetDevice(&device));
  return device;
}

int processors() {
  int count = 0;
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, current()));
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
  entered_ = current() != device;
  if (entered_) contexts().enter(device);
  auto mode = cudaStreamCaptureModeRelaxed;
  const cudaError_t error = cudaThreadExchangeStreamCaptureMode(&mode);
  if (error != cudaSuccess && entered_) contexts().leave();
  check(error);
  mode_ = mode;
}

Scope::~Scope() {
  auto mode = static_cast<cudaStreamCaptureMode>(mode_);
  if (cudaThreadExchangeStreamCaptureMode(&mode) != cudaSuccess) cudaGetLastError();
  if (entered_) contexts().leave();
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

void release(void* memory, int device) noexcept {
  if (memory) quietly(device, [&] { cudaFree(memory); });
}

void* allocate_pinned(size_t bytes) {
  void* memory = nullptr;
  check(cudaHostAlloc(&memory, bytes ? bytes : 1, cudaHostAllocPortable));
  return memory;
}

void release_pinned(void* memory, int device) noexcept {
  quietly(device, [&] { cudaFreeHost(memory); });
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

void raise_flag(uint32_t* flag, Stream stream) { check(cudaMemsetAsync(flag, 1, sizeof *flag, stream_of(stream))); }

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

void release_event(Event event, int device) noexcept {
  quietly(device, [&] {
    cudaEventSynchronize(event_of(event));
    cudaEventDestroy(event_of(event));
  });
}

void record(Event event, Stream stream) { check(cudaEventRecord(event_of(event), stream_of(stream))); }

bool passed(Event event) {
  const cudaError_t error = cudaEventQuery(event_of(event));
  if (error != cudaErrorNotReady) check(error);
  return error == cudaSuccess;
}

void wait(Event event) { check(cudaEventSynchronize(event_of(event))); }

void follow(Stream later, Stream earlier) {
  const std::unique_ptr<void, void (*)(Event)> event(make_event(), [](Event e) { cudaEventDestroy(event_of(e)); });
  record(event.get(), earlier);
  check(cudaStreamWaitEvent(stream_of(later), event_of(event.get()), 0));
}

}  // namespace fastupdate::device
