// A stretch of a tensor at a time, in the order in which its elements are worked on. Arrays that lie in another order
// are copied into it, so that all else meets contiguous arrays alone, and what a step has moved is copied back.
#pragma once

#include <stdlib.h>

#include "cpu/transpose.h"

namespace fastupdate {

constexpr int64_t kTile = 128;  // elements that are worked on together, in L1

// What is done with the arrays of a tensor: its gradient is read, or its weight too, or all that a step moves is moved.
enum class Use { kNothing, kReadGradient, kRead, kMove };

namespace FASTUPDATE_TARGET {

// Memory that a thread keeps for its windows; none if there was none left.
class Room {
 public:
  static constexpr int64_t kBytes = 1 << 20;  // they stay in L2
  static constexpr int64_t kMore = 3 << 20;   // for panels
  static unsigned char* of_thread() {
    thread_local const Room room;
    return room.bytes_;
  }
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;

 private:
  Room() : bytes_(static_cast<unsigned char*>(aligned_alloc(kLine, kBytes + kMore))) {}
  ~Room() { free(bytes_); }

  unsigned char* const bytes_;
};

template <class T>
class Window {
 public:
  // For elements begin … end − 1: in C order if `logical`, else in the order of the tensor's own memory. zero_grads:
  // gradients that were copied are set to zero where they are.
  Window(const Tensor& t, Use use, bool logical, bool zero_grads, int64_t begin, int64_t end)
      : t_(t), seen_(&t), begin_(begin), end_(end), start_(begin), stop_(end) {
    const bool reorders = logical && t.order;
    const uint64_t layout = reorders ? t.order : t.p_layout, g_layout = reorders ? t.g_order : t.g_layout;
    if (!layout && !g_layout) return;
    here_ = t;
    seen_ = &here_;
    here_.p_layout = here_.g_layout = 0;
    if (reorders) here_.order = 0;
    if (g_layout) copy_gradient(g_layout, zero_grads);
    if (layout && use != Use::kReadGradient) copy(t.p, here_.p, layout, sizeof(T), use == Use::kMove);
    if (reorders && use == Use::kMove) copy_slots(layout);
    if (count_) share_room();
  }
  ~Window() { put_back(stop_); }
  Window(const Window&) = delete;
  Window& operator=(const Window&) = delete;

  // The tensor, as if its arrays lay in order around the elements that were covered last.
  const Tensor& tensor() const { return *seen_; }
  bool copies() const { return count_; }  // else all of it is read where it lies

  // Makes sure of elements i … i + n − 1, n ≤ kTile, of which none was covered before. Those before stop() are there.
  void cover(int64_t i, int64_t n) {
    if (__builtin_expect(i + n > stop_ || !filled_, false)) move_to(i);
  }
  int64_t stop() const { return stop_; }

 private:
  struct Copy {
    uint64_t array;  // where it is
    uint64_t* seen;  // where it is told to be
    const Layout* layout;
    int64_t size;  // bytes of an element
    bool moved;
    unsigned char* buffer;
  };

  void copy(uint64_t array, uint64_t& seen, uint64_t layout, int64_t size, bool moved) {
    if (array) copies_[count_++] = {array, &seen, reinterpret_cast<const Layout*>(layout), size, moved, nullptr};
  }

  // Several samples are summed into a buffer, by way of another one.
  void copy_gradient(uint64_t layout, bool zero_grads) {
    zero_grads_ = zero_grads;
    gradient_ = true;
    copy(t_.g, t_.samples == 1 ? here_.g : sample_, layout, item_size(t_.g_dtype), false);
    if (t_.samples == 1) return;
    copy(t_.g, here_.g, layout, sizeof(T), false);
    here_.samples = 1;
    here_.g_dtype = t_.dtype;
  }

  // All arrays of a tensor lie in one order; its layout counts bytes of T.
  void copy_slots(uint64_t layout) {
    for (int k = 0; k < kSlots; ++k)
      if (is_moved(k)) copy(t_.slot[k], here_.slot[k], layout, sizeof(T), true);
    if (!t_.slot[kShadow]) return;
    const Layout& order = *reinterpret_cast<const Layout*>(layout);
    const int64_t size = item_size(t_.shadow_dtype);
    shadow_.ndim = order.ndim;
    for (int64_t d = 0; d < order.ndim; ++d) {
      shadow_.shape[d] = order.shape[d];
      shadow_.stride[d] = order.stride[d] / int64_t(sizeof(T)) * size;
    }
    copy(t_.slot[kShadow], here_.slot[kShadow], uint64_t(&shadow_), size, true);
  }

  void share_room() {
    unsigned char* room = Room::of_thread();
    int64_t size = 0;
    for (int k = 0; k < count_; ++k) size += copies_[k].size;
    length_ = (room ? Room::kBytes : int64_t(sizeof little_)) / size / kLine * kLine;
    columns_ = row_length(*copies_[0].layout);
    const int64_t enough = columns_ * kLine > kEnough ? columns_ * kLine : kEnough;
    if (columns_ > 1 && length_ > enough) length_ = enough;
    if (!room || columns_ * kSide > length_) columns_ = 0;
    if (!room) room = little_;
    for (int k = 0; k < count_; ++k) {
      copies_[k].buffer = room;
      room += length_ * copies_[k].size;
    }
    filled_ = false;
  }

  // Whole rows, if several fit in.
  void move_to(int64_t i) {
    put_back(i);
    start_ = i, stop_ = i + length_;
    if (columns_) {
      const int64_t row = i / columns_, rows = length_ / columns_;
      start_ = row * columns_ > begin_ ? row * columns_ : begin_;
      stop_ = (row + (rows < kLine ? rows : rows / kSide * kSide)) * columns_;
    }
    if (stop_ > end_) stop_ = end_;
    filled_ = true;
    for (int k = 0; k < count_; ++k) {
      const Copy& c = copies_[k];
      *c.seen = uint64_t(c.buffer) - uint64_t(start_ * c.size);
      if (k > 1 || t_.samples == 1 || !gradient_) read(c, c.array);
    }
    if (gradient_ && t_.samples > 1) sum_samples();
  }

  void sum_samples() {
    T* const sum = reinterpret_cast<T*>(copies_[1].buffer);
    T sample[kTile];
    for (int64_t s = 0; s < t_.samples; ++s) {
      read(copies_[0], t_.g + uint64_t(s * t_.sample_stride));
      for (int64_t i = 0, n = stop_ - start_; i < n; i += kTile) {
        const int m = int(n - i < kTile ? n - i : kTile);
        load_array(t_.g_dtype, uint64_t(copies_[0].buffer), i, m, s ? sample : sum + i);
        for (int j = 0; s && j < m; ++j) sum[i + j] += sample[j];
      }
    }
  }

  // Elements from `end` on have not been worked on: their gradients are still needed.
  void put_back(int64_t end) const {
    if (!filled_) return;
    const int64_t n = stop_ - start_;
    for (int k = 0; k < count_; ++k) {
      const Copy& c = copies_[k];
      if (c.moved) write_stretch(c.size, c.array, *c.layout, start_, n, c.buffer);
    }
    for (int64_t s = 0; zero_grads_ && s < t_.samples; ++s)
      clear_stretch(copies_[0].size, t_.g + uint64_t(s * t_.sample_stride), *copies_[0].layout, start_, end - start_);
  }

  void read(const Copy& c, uint64_t array) const {
    read_stretch(c.size, array, *c.layout, start_, stop_ - start_, c.buffer);
  }

  static constexpr int64_t kEnough = 8192;  // elements, or as many rows as kLine: more are read no faster
  static constexpr int kMost = kSlots + 3;  // copies: of states and arrays of stages, p, g, and a sample of it
  const Tensor& t_;
  const Tensor* seen_;
  int64_t begin_, end_, start_, stop_;
  bool filled_ = true, gradient_ = false, zero_grads_ = false;
  int count_ = 0;
  int64_t length_ = 0, columns_ = 0;  // of a window, and of a row
  uint64_t sample_;
  Tensor here_;
  Layout shadow_;
  Copy copies_[kMost];
  alignas(kLine) unsigned char little_[kMost * kTile * sizeof(double)];
};

}  // namespace FASTUPDATE_TARGET
}  // namespace fastupdate
