// The records of tensors on a device: what kernels read of them, uploaded when it has changed.
#pragma once

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cuda/memory.h"

namespace fastupdate {

// Device memory that lives as long as its plan.
class Memories {
 public:
  template <class T>
  T* take(int64_t count) {
    memory_.push_back(std::make_unique<Memory>(size_t(count) * sizeof(T)));
    return memory_.back()->as<T>();
  }
  void clear() { memory_.clear(); }

 private:
  std::vector<std::unique_ptr<Memory>> memory_;
};

class DeviceRows {
 public:
  // host: the records that Python fills in
  DeviceRows(const Tensor* host, int64_t count) : host_(host), count_(count), uploaded_(size_t(count)) {}

  // Takes the memory that they need of the current device.
  void allocate() {
    int64_t units = 0;
    for (const Tensor* t = host_; t < host_ + count_; ++t)
      if (t->unit_scale) units = std::max(units, unit_offset(*t) + t->n / t->unit_length + 1);
    there_ = memory_.take<Tensor>(count_);
    unit_scale_ = memory_.take<double>(units);
  }
  void clear() { memory_.clear(); }

  const Tensor* at() const { return there_; }
  bool direct_gradients() const { return direct_gradients_; }  // contiguous and whole, as of the last upload
  void touch() { touched_ = true; }                            // they may have changed

  // Uploads the stretch of records that covers those that have changed.
  void upload(Pool& staging, Stream stream) {
    if (!touched_) return;
    const bool all = std::exchange(fresh_, true);  // if there is no memory for them, whoever comes next uploads all
    int64_t first = count_, last = 0;
    direct_gradients_ = true;
    for (int64_t i = 0; i < count_; ++i) {
      direct_gradients_ &= is_direct(host_[i]);
      const Tensor there = translated(host_[i]);
      if (all || std::memcmp(&there, &uploaded_[size_t(i)], sizeof there)) {
        uploaded_[size_t(i)] = there;
        first = std::min(first, i);
        last = i + 1;
      }
    }
    if (first < last) {
      const size_t bytes = size_t(last - first) * sizeof(Tensor);
      std::shared_ptr<Pinned> buffer = staging.take();
      std::memcpy(buffer->as(), &uploaded_[size_t(first)], bytes);
      device::copy(there_ + first, buffer->as(), bytes, stream);
      buffer->mark(stream);
    }
    touched_ = fresh_ = false;
  }

  // Records for a captured step: its addresses are frozen with it, so they get memory that nothing else writes.
  const Tensor* capture() {
    std::vector<Tensor> there;
    for (int64_t i = 0; i < count_; ++i) there.push_back(translated(host_[i]));
    Tensor* const rows = memory_.take<Tensor>(count_);
    device::copy_now(rows, there.data(), there.size() * sizeof(Tensor));
    captured_ = true;
    return rows;
  }
  bool captured() const { return captured_; }  // whether a step ever was

 private:
  int64_t unit_offset(const Tensor& t) const { return int64_t((t.unit_scale - host_->unit_scale) / sizeof(double)); }

  // The device's own copy of a layout. Layouts never change once they are there, so none is ever waited for.
  uint64_t device_layout(uint64_t address) {
    if (!address) return 0;
    const Layout& layout = *reinterpret_cast<const Layout*>(address);
    const std::string key(reinterpret_cast<const char*>(&layout), sizeof layout);
    uint64_t& copy = layouts_[key];
    if (!copy) {
      Layout* there = memory_.take<Layout>(1);
      device::copy_now(there, &layout, sizeof layout);
      copy = uint64_t(there);
    }
    return copy;
  }

  // A record as kernels read it.
  Tensor translated(const Tensor& t) {
    Tensor there = t;
    there.p_layout = device_layout(t.p_layout);
    there.g_layout = device_layout(t.g_layout);
    there.unit_norms = 0;
    if (t.unit_scale) there.unit_scale = uint64_t(unit_scale_ + unit_offset(t));
    return there;
  }

  const Tensor* host_;
  int64_t count_;
  Memories memory_;
  Tensor* there_ = nullptr;
  double* unit_scale_ = nullptr;
  std::vector<Tensor> uploaded_;
  std::map<std::string, uint64_t> layouts_;
  bool touched_ = true, fresh_ = true, direct_gradients_ = true;  // fresh: all are to be uploaded
  bool captured_ = false;
};

}  // namespace fastupdate
