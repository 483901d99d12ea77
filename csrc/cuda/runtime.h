// The little that the host side of the CUDA engine needs from the CUDA runtime (runtime.cu; tests stand in for it).
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <string>
#include <vector>

#include "cuda/sweep.h"

namespace fastupdate::device {

using Event = void*;

constexpr const char* kForked =
    "CUDA cannot be used in a process that was forked after its parent used CUDA; start it by 'spawn' or 'forkserver' "
    "(multiprocessing.set_start_method)";

bool usable();                       // false in a child forked after its parent used CUDA
std::string problem();               // why no device can be used; empty if one can
std::vector<std::string> devices();  // name, compute capability, memory; why the current one cannot run the kernels
std::string driver();                // highest CUDA version that the driver runs
std::string toolkit();               // what the kernels were compiled by

void check(int error);  // throws what a cudaError_t means
int current();          // device
int processors();       // of the current device
int device_of(const void* address);

// Makes a device current for a scope, and lets this thread allocate and free while a graph is captured.
class Scope {
 public:
  explicit Scope(int device);
  ~Scope();
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

 private:
  bool entered_;
  int mode_;
};

// What is allocated is on the current device. It is released from wherever the garbage collector runs, which may be in
// the midst of a capture of somebody else's: `device` says where it is. Releasing memory waits for its device.
void* allocate(size_t bytes);  // zeroed
void release(void* memory, int device) noexcept;
void* allocate_pinned(size_t bytes);
void release_pinned(void* memory, int device) noexcept;

void copy(void* to, const void* from, size_t bytes, Stream stream);
void raise_flag(uint32_t* flag, Stream stream);           // makes it another number than 0
void copy_now(void* to, const void* from, size_t bytes);  // to memory that no stream uses yet
void synchronize(Stream stream);
bool capturing(Stream stream);

Event make_event();
void release_event(Event event, int device) noexcept;  // waits for it
void record(Event event, Stream stream);
bool passed(Event event);
void wait(Event event);
void follow(Stream later, Stream earlier);  // `later` goes on after what `earlier` has been given so far

}  // namespace fastupdate::device
