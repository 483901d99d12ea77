// What kernels read of one step: its command, and the groups and scalars of each step that it may be.
#pragma once

#include <cstring>
#include <memory>
#include <vector>

#include "cuda/memory.h"
#include "python/cuda_numbers.h"
#include "python/cuda_outcome.h"
#include "python/cuda_rows.h"

namespace fastupdate {

// What the device is told of the step that was derived last, without the stages in `off`.
inline Command command_of(const StepNumbers& numbers, int64_t serial, double scale, double sign, uint32_t off,
                          const Wishes& wishes) {
  Command c = {};
  c.scale = scale;
  c.sign = sign;
  c.clip_norm = wishes.clip_norm;
  c.clip_tensor_norm = wishes.clip_tensor_norm;
  c.clip_unit_norm = wishes.clip_unit_norm;
  c.skip_nonfinite = wishes.skip_nonfinite;
  const std::vector<uint32_t>& stages = numbers.stages();
  for (size_t k = 0; k < stages.size(); ++k) c.stages[k] = stages[k] & ~off;
  c.serial = serial;
  c.undecided = int64_t(stages.size()) - 1;
  return c;
}

class DeviceStep {
 public:
  DeviceStep(const DeviceVariant& variant, int64_t groups) : variant_(variant), groups_(groups) {}

  // Bytes of a step that may be any of so many.
  size_t bytes(int64_t rows) const { return sizeof(StepHeader) + size_t(rows) * row_bytes(); }

  // Takes the memory that it needs of the current device, and shows it to a sweep.
  void allocate(Memories& memory, DeviceSweep& sweep) {
    there_ = memory.take<unsigned char>(int64_t(bytes(kMaxRows)));
    sweep.step = reinterpret_cast<StepHeader*>(there_);
    sweep.rows = there_ + sizeof(StepHeader);
    sweep.row_bytes = int64_t(row_bytes());
    sweep.scalars_offset = int64_t(scalars_offset());
  }

  // launched: what follows on the stream are the kernels themselves, not a graph that may fail to come
  void upload(const Command& command, const StepNumbers& numbers, Pool& staging, Stream stream, bool launched) const {
    std::shared_ptr<Pinned> buffer = staging.take();
    const StepHeader header = {command, {command.scale * command.sign, 0, 1, 0, 0, 0, command.stages[0], launched}};
    std::memcpy(buffer->as(), &header, sizeof header);
    const int64_t rows = command.undecided + 1;
    for (int64_t k = 0; k < rows; ++k) fill_row(numbers.row(k), buffer->as() + bytes(k));
    device::copy(there_, buffer->as(), bytes(rows), stream);
    buffer->mark(stream);
  }

 private:
  size_t scalars_offset() const { return size_t(groups_) * sizeof(Group); }
  size_t row_bytes() const { return scalars_offset() + size_t(groups_) * 2 * kScalarBytes; }

  // Writes groups and scalars of a step to `out`.
  void fill_row(const Group* row, unsigned char* out) const {
    std::memcpy(out, row, size_t(groups_) * sizeof(Group));
    unsigned char* scalars = out + scalars_offset();
    for (int64_t k = 0; k < groups_; ++k)
      for (int dtype : {kFloat32, kFloat64})
        variant_.of[dtype].scalars(row[k].hyper, row[k].t + 1, scalars + size_t(k * 2 + dtype) * kScalarBytes);
  }

  const DeviceVariant& variant_;
  const int64_t groups_;
  unsigned char* there_ = nullptr;
};

}  // namespace fastupdate
