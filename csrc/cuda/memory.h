// Memory that the host side of the CUDA engine owns.
#pragma once

#include <memory>
#include <vector>

#include "cuda/runtime.h"
#include "cuda/sweep.h"

namespace fastupdate {

// Memory of the current device, zeroed.
class Memory {
 public:
  explicit Memory(size_t bytes) : device_(device::current()), at_(device::allocate(bytes)) {}
  ~Memory() { device::release(at_, device_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  template <class T = unsigned char>
  T* as() const {
    return static_cast<T*>(at_);
  }

 private:
  int device_;
  void* at_;
};

// Pinned host memory that a copy on a stream reads or writes, and an event for when it has.
class Pinned {
 public:
  explicit Pinned(size_t bytes)
      : device_(device::current()),
        at_(device::allocate_pinned(bytes), {device::release_pinned, device_}),
        event_(device::make_event(), {device::release_event, device_}) {}
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;

  template <class T = unsigned char>
  T* as() const {
    return static_cast<T*>(at_.get());
  }
  void mark(Stream stream) { device::record(event_.get(), stream), used_ = true; }
  bool idle() const { return !used_ || device::passed(event_.get()); }
  void wait() const { device::wait(event_.get()); }

 private:
  struct Release {
    void (*release)(void*, int) noexcept;
    int device;
    void operator()(void* held) const { release(held, device); }
  };
  using Held = std::unique_ptr<void, Release>;  // as soon as it is there: what is next may fail

  const int device_;
  const Held at_, event_;
  bool used_ = false;
};

// Buffers that are used again once nobody holds them and the copy has been made. It never waits: it grows.
class Pool {
 public:
  explicit Pool(size_t bytes) : bytes_(bytes) {}

  std::shared_ptr<Pinned> take() {
    for (auto& buffer : buffers_)
      if (buffer.use_count() == 1 && buffer->idle()) return buffer;
    buffers_.push_back(std::make_shared<Pinned>(bytes_));
    return buffers_.back();
  }
  void clear() { buffers_.clear(); }

 private:
  size_t bytes_;
  std::vector<std::shared_ptr<Pinned>> buffers_;
};

}  // namespace fastupdate
