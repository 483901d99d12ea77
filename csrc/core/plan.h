// The plan: plain records that Python fills in (fastupdate/engines/records.py names the same fields) and every engine
// reads.
#pragma once

#include <stdint.h>

#include "core/scalar.h"
#include "stages.h"

namespace fastupdate {

constexpr int64_t kBlock = 1024;  // elements of a block: the unit of work and of every reduction
constexpr int kLanes = 32;        // lanes that sum a block
constexpr int kMaxStates = 10;
constexpr unsigned kAllStates = (1u << kMaxStates) - 1;
constexpr int kMaxHypers = 16;
constexpr int kScalarBytes = 128;  // room for a rule's scalars in one compute type
constexpr int kMaxDims = 64;       // NumPy's own limit

// The types that arrays are stored in: name here and elsewhere, bytes, how NumPy numbers it (0: a type that was added
// to NumPy, known by its name) and DLPack's code of its kind. A step computes in the first two; each of the others has
// a codec of its name in core/storage.h. fastupdate/arrays/memory.py has the same rows.
#define FASTUPDATE_COMPUTE_TYPES(ROW) ROW(Float32, "float32", 4, 11, 2) ROW(Float64, "float64", 8, 12, 2)
#define FASTUPDATE_NARROW_TYPES(ROW) ROW(Float16, "float16", 2, 23, 2) ROW(Bfloat16, "bfloat16", 2, 0, 4)
#define FASTUPDATE_STORAGE_TYPES(ROW) FASTUPDATE_COMPUTE_TYPES(ROW) FASTUPDATE_NARROW_TYPES(ROW)

enum DType : uint8_t {
#define ROW(type, ...) k##type,
  FASTUPDATE_STORAGE_TYPES(ROW)
#undef ROW
      kNone
};

// The arrays of a tensor beside parameter and gradient: the rule's states, in its order, and what the options keep:
// accumulated micro-batches, low-precision copy, and the arrays of stages.
enum Slot { kAccumulator = kMaxStates, kShadow, kFirstArray, kSlots = kFirstArray + kStageArrays };

// How to find element i (C order) of an array that is not contiguous and aligned.
struct Layout {
  int64_t ndim;
  int64_t shape[kMaxDims];
  int64_t stride[kMaxDims];  // bytes
};

// A gradient that touches few rows of its tensor, which are slices along the first axis: which ones, in rising order,
// and which rows of the gradient's array add up to each, positions[starts[k]] … positions[starts[k + 1] − 1] in turn.
struct Rows {
  int64_t length, count;           // elements of a row; rows that are touched
  int64_t lazy;                    // only these move, and the tensor's n counts their elements alone
  uint64_t at, starts, positions;  // int64_t*
};

// One tensor. Addresses are 0 where there is no such array; only p and g may have a layout. What every step reads comes
// first, in two cache lines.
struct Tensor {
  uint64_t p, g;
  uint64_t p_layout, g_layout;  // Layout*, 0: contiguous
  int64_t n;                    // elements
  int64_t samples;              // the gradient is a sum over so many arrays
  double scale;                 // this tensor's own gradient factor
  int32_t group;                // row of the groups
  int8_t momentum;              // the state that is the momentum, −1: none
  uint8_t dtype;                // that the step computes in, and all arrays but two are stored in
  uint8_t shadow_dtype, g_dtype;
  int64_t first_block;  // blocks of the tensors before this one
  uint64_t touched;     // Rows*: the gradient is one of few rows; 0: it is of all
  uint64_t unit_scale;  // double*: the factor of each unit, which is a slice along axis 0
  uint64_t slot[kSlots];
  int64_t sample_stride;  // bytes from sample to sample
  uint64_t unit_norms;    // double*: [unit][gradient, weight]
  int64_t unit_length;    // elements of a unit
  // Where the elements do not lie in C order: the layouts (Layout*) by which the tensor's own arrays and the gradient
  // are found in C order. Everything else about the tensor is in the order of memory. 0: they lie in C order.
  uint64_t order, g_order;
  int64_t rows, columns;  // of each of the matrices that the tensor is cut into (core/extents.h)
  uint64_t work;          // double*: what its sums add up in, while a rule is measured
};

FASTUPDATE_HD bool is_narrow(uint8_t dtype) { return dtype > kFloat64; }

// Bytes of an element.
FASTUPDATE_HD int64_t item_size(uint8_t dtype) {
  switch (dtype) {
#define ROW(type, name, bytes, ...) \
  case k##type:                     \
    return bytes;
    FASTUPDATE_STORAGE_TYPES(ROW)
#undef ROW
    default:
      return 0;
  }
}
FASTUPDATE_HD int64_t item_size(const Tensor& t) { return t.dtype == kFloat32 ? 4 : 8; }

// Whether a slot holds what a step moves in its own type.
FASTUPDATE_HD constexpr bool is_moved(int slot) { return slot != kAccumulator && slot != kShadow; }

// The type that one of its slots is stored in.
FASTUPDATE_HD uint8_t slot_dtype(const Tensor& t, int slot) { return slot == kShadow ? t.shadow_dtype : t.dtype; }

FASTUPDATE_HD int64_t block_count(const Tensor& t) { return (t.n + kBlock - 1) / kBlock; }

// Whether the gradient is one array, which lies as the tensor does.
FASTUPDATE_HD bool is_whole(const Tensor& t) { return !t.g_layout && t.samples == 1 && !t.touched; }

// Whether it can be read where it is, as the step's own type.
FASTUPDATE_HD bool is_direct(const Tensor& t) { return is_whole(t) && t.g_dtype == t.dtype; }

// What the tensors of a group share in one step. Float64, rounded once to the compute type.
struct Group {
  double hyper[kMaxHypers];
  StageNumbers numbers;
  int64_t t;      // steps taken
  int64_t given;  // row of what the user set (core/derive.h)
};

// What a step may be asked for beside the stages.
constexpr uint32_t kZeroGrads = kFirstOther, kMonitor = 2 * kFirstOther;

// What one block, and after folding one tensor, adds up to.
struct Sums {
  double gg, pp, uu, gm, mm, gu;  // Σ of squares of gradient, new weight, update; gradient·momentum; momentum²;
                                  // gradient·update
  double largest;                 // max |update|
  int64_t nonfinite, zeros, stalled;
};

}  // namespace fastupdate
