// Tensors that are columns of one matrix, one after the other: their elements share cache lines, so that they are
// copied together, and every engine entry meets contiguous columns alone.
#pragma once

#include "cpu/window.h"

namespace fastupdate {

// How an entry of the engine goes through tensors.
struct Access {
  Use use;
  bool zeroes = false;    // gradients, if the step asks for it
  bool anywhere = false;  // it may also read what lies after the elements that it is asked for
};

namespace FASTUPDATE_TARGET {

// Whether array b is contiguous, as a is, or the column after a.
inline bool follows(uint64_t a, uint64_t a_layout, uint64_t b, uint64_t b_layout, int64_t size) {
  if (!a_layout || !b_layout) return a_layout == b_layout;
  const Layout &here = *reinterpret_cast<const Layout*>(a_layout), &there = *reinterpret_cast<const Layout*>(b_layout);
  return here.ndim == 1 && there.ndim == 1 && here.stride[0] == there.stride[0] && b == a + uint64_t(size);
}

inline bool follows(const Tensor& a, const Tensor& b) {
  return a.n == b.n && a.dtype == b.dtype && a.g_dtype == b.g_dtype && b.samples == 1 && !b.order &&
         follows(a.p, a.p_layout, b.p, b.p_layout, item_size(a)) &&
         follows(a.g, a.g_layout, b.g, b.g_layout, item_size(a.g_dtype));
}

// How many of these tensors are columns beside each other on one cache line; 1: the first is none, or alone.
inline int64_t columns_beside(const Tensor* t, int64_t most) {
  if ((!t->p_layout && !t->g_layout) || t->samples > 1 || t->order) return 1;
  const int64_t full = kLine / item_size(*t);
  int64_t count = 1;
  for (; count < most && count < full && follows(t[count - 1], t[count]);) ++count;
  if (count < full) return count;
  const uint64_t first = t->p_layout ? t->p : t->g;
  return full - int64_t(first % kLine) / item_size(*t);  // up to the end of a line: the next ones begin there
}

// The same array of several columns, from element `begin` on.
class Side {
 public:
  Side(uint64_t array, uint64_t layout, int64_t size, bool used)
      : array_(array), stride_(layout && used ? reinterpret_cast<const Layout*>(layout)->stride[0] : 0), size_(size) {}

  int64_t bytes() const { return stride_ ? size_ : 0; }  // of an element, in the copy

  // Looks at n elements of `count` columns, which are copied to `copy`.
  void look(int64_t count, int64_t begin, int64_t n, unsigned char* copy) {
    copy_ = copy, begin_ = begin, count_ = count, n_ = n;
  }
  uint64_t first() const { return array_ + uint64_t(begin_ * stride_); }
  void read() const { copy_all(false); }
  void write() const { copy_all(true); }
  void clear() const {
    if (!stride_) return;
    Layout layout;
    layout.ndim = 2;
    layout.shape[0] = count_, layout.shape[1] = n_;
    layout.stride[0] = size_, layout.stride[1] = stride_;
    clear_stretch(size_, first(), layout, 0, count_ * n_);
  }
  // Points a tensor at column k of the copy.
  void show(int64_t k, uint64_t& array, uint64_t& layout) const {
    if (!stride_) return;
    array = uint64_t(copy_) + uint64_t((k * pitch(n_) - begin_) * size_);
    layout = 0;
  }

  // From column to column of the copy: whole blocks would lie on each other in a cache.
  static int64_t pitch(int64_t n) { return n + kLine; }

 private:
  void copy_all(bool back) const {
    if (stride_) copy_rows(size_, first(), {1, &n_, &stride_}, n_, count_, copy_, pitch(n_), back);
  }

  uint64_t array_;
  int64_t stride_, size_, begin_, count_, n_;
  unsigned char* copy_;
};

// Calls span(tensor, begin, end) for stretches of columns that lie beside each other, of one after the other; false,
// and nothing, if that is no use.
template <class Visit>
bool walk_columns(const Tensor* t, int64_t count, const Access& access, bool zero_grads, Visit span) {
  if (access.use == Use::kNothing) return false;
  Side p(t->p, t->p_layout, item_size(*t), access.use != Use::kReadGradient);
  Side g(t->g, t->g_layout, item_size(t->g_dtype), true);
  unsigned char* const room = Room::of_thread();
  const int64_t bytes = count * (p.bytes() + g.bytes());
  if (!bytes || !room) return false;
  const int64_t length = (Room::kBytes / bytes - kLine) / kBlock * kBlock;
  if (access.anywhere && length < t->n) return false;
  for (int64_t begin = 0; begin < t->n; begin += length) {
    const int64_t end = begin + length < t->n ? begin + length : t->n, n = end - begin;
    p.look(count, begin, n, room);
    g.look(count, begin, n, room + count * Side::pitch(n) * p.bytes());
    p.read();
    g.read();
    for (int64_t k = 0; k < count; ++k) {
      Tensor here = t[k];
      p.show(k, here.p, here.p_layout);
      g.show(k, here.g, here.g_layout);
      span(here, begin, end);
    }
    if (access.use == Use::kMove) p.write();
    if (access.zeroes && zero_grads) g.clear();
  }
  return true;
}

}  // namespace FASTUPDATE_TARGET
}  // namespace fastupdate
