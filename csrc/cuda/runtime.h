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
std::vector<std::string> devices();  // name, compute capability, memory
std::string driver();                // highest CUDA version that the driver runs
std::string toolkit();               // what the kernels were compiled by

void check(int error);  // throws what a cudaError_t means
int processors();       // of the current device
int device_of(const void* address);

// Makes a device current for a scope, and lets this thread allocate while it captures a graph.
class Scope {
 public:
  explicit Scope(int device);
  ~Scope();
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

 private:
  int before_, mode_;
};

void* allocate(size_t bytes);  // zeroed
void release(void* memory) noexcept;
void* allocate_pinned(size_t bytes);
void release_pinned(void* memory) noexcept;

void copy(void* to, const void* from, size_t bytes, Stream stream);
void copy_now(void* to, const void* from, size_t bytes);  // to memory that no stream uses yet
void synchronize(Stream stream);
bool capturing(Stream stream);

Event make_event();
void release_event(Event event) noexcept;
void record(Event event, Stream stream);
bool passed(Event event);
void wait(Event event);
void follow(Stream later, Stream earlier);  // `later` goes on after what `earlier` has been given so far

}  // namespace fastupdate::device
