// Memory that the host side of the CUDA engine owns.
#pragma once

#include <memory>
#include <vector>

#include "cuda/runtime.h"
#include "cuda/sweep.h"

namespace fastupdate {

// Device memory, zeroed.
class Memory {
 public:
  explicit Memory(size_t bytes) : bytes_(bytes), at_(device::allocate(bytes)) {}
  ~Memory() { device::release(at_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  template <class T = unsigned char>
  T* as() const {
    return static_cast<T*>(at_);
  }
  size_t bytes() const { return bytes_; }

 private:
  size_t bytes_;
  void* at_;
};

// Pinned host memory that a copy on a stream reads or writes, and an event for when it has.
class Pinned {
 public:
  explicit Pinned(size_t bytes)
      : at_(device::allocate_pinned(bytes), device::release_pinned),
        event_(device::make_event(), device::release_event) {}
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
  using Held = std::unique_ptr<void, void (*)(void*) noexcept>;  // as soon as it is there: what is next may fail

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

 private:
  size_t bytes_;
  std::vector<std::shared_ptr<Pinned>> buffers_;
};

}  // namespace fastupdate
