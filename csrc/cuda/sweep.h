// What the host and the kernels of the CUDA engine tell each other. All of it lives in device memory, so that a
// captured graph replays with whatever was uploaded last.
#pragma once

#include "core/plan.h"

namespace fastupdate {

// Which step this is depends on how many of the last ones were skipped, and only the device may know that yet. So the
// host uploads a row of groups and scalars for each number of them.
constexpr int kMaxRows = 8;

// A unit of gradients of which float64 holds the squares, whatever they are.
constexpr double kLarge = 0x1p600;

// Uploaded before every step. Limits are 0 where they were not asked for.
struct Command {
  double scale, sign;  // of the raw gradients: 1 / (loss scale · micro-batches); −1 to maximise
  double clip_norm, clip_tensor_norm, clip_unit_norm;
  int64_t serial, undecided;  // of steps that may be skipped; how many before it the host knows nothing of
  uint32_t stages[kMaxRows];  // by row
  uint8_t skip_nonfinite, first, large, pad[5];  // first: the accumulators are overwritten; large: the unit of sums
};

// What the gradients were found to be, and what follows. The upload holds what is so if nothing is asked of them; of a
// captured step `launched` is 0 in it, until the graph has run.
struct Decision {
  double scale;  // what the update multiplies raw gradients by
  double norm, factor;
  int64_t nonfinite, skip;
  int64_t row;
  uint32_t stages, launched;
};

struct StepHeader {
  Command command;
  Decision decision;
};

constexpr int kMaxSegment = 64;  // blocks that one thread block may sum up before it writes

// The argument of every kernel.
struct DeviceSweep {
  const Tensor* tensors;  // layouts and units are device addresses here
  int64_t count, filled;  // tensors; those that have elements
  int64_t blocks;
  int64_t segment;  // blocks that one thread block sums up before it writes: a power of two
  StepHeader* step;
  const unsigned char* rows;  // each Group[group], and then scalars [group][dtype][kScalarBytes]
  int64_t row_bytes, scalars_offset;
  int64_t* skipped;  // [serial mod kMaxRows] whether that step was
  Sums* sums;        // one per block
  Sums* totals;      // one per tensor
  double* factors;   // one per tensor: what clipping its own norm multiplies it by
  double* weights;   // one per tensor: work space
  uint32_t* done;    // [tensor] segments summed, and after them the number of tensors; 0 between launches
};

using Stream = uint64_t;  // a cudaStream_t

// Elements that a thread has in hand.
template <class T, int width>
struct Pack {
  T at[width];
};

// How a kernel is started: as many thread blocks as the device holds at once, at most `blocks`.
struct Start {
  int64_t blocks;
  Stream stream;
  bool plain, monitor;  // an update of contiguous arrays without options; one that sums what it did
};
using Launch = void (*)(const DeviceSweep&, const Start&);

// A compiled rule for one compute type.
struct DeviceCode {
  void (*scalars)(const double* hyper, int64_t t, void* out);
  Launch update;
};

// One phase of a rule whose step depends on sums, for lists of any types.
struct DevicePhase {
  Launch measure, settle;
};

// A rule under one set of flags.
struct DeviceVariant {
  DeviceCode of[2];  // [dtype]
  Launch mixed;      // updates a list of both types
  const DevicePhase* phases;
  int64_t phase_count;
};

struct DeviceRule {
  const char *name, *hypers, *flags, *states;
  const DeviceVariant* variants;  // [flags]
};

struct DeviceEngine {
  Launch gradient_sums, unit_norms, accumulate, clear_gradients, fold_sums;
  const DeviceRule* const* rules;
  int64_t rule_count;
};

namespace cuda {
extern const DeviceEngine engine;
}

}  // namespace fastupdate
