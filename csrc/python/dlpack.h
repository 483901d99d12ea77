// What is needed of DLPack 1.3 to look at tensors of another library without linking it: a table of C functions, which
// the library hangs on its tensor type, and the struct that one of them fills in. As laid out in
// https://github.com/dmlc/dlpack/blob/v1.3/include/dlpack/dlpack.h.
#pragma once

#include <stdint.h>

namespace fastupdate::dlpack {

constexpr const char* kExchangeAttribute = "__dlpack_c_exchange_api__";
constexpr const char* kExchangeCapsule = "dlpack_exchange_api";
constexpr uint32_t kMajorVersion = 1;
constexpr int32_t kCpu = 1, kCuda = 2;  // kinds of memory

struct Device {
  int32_t type, id;
};

struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t *shape, *strides;  // in elements
  uint64_t byte_offset;
};

struct Version {
  uint32_t major, minor;
};

struct ExchangeHeader {
  Version version;
  const ExchangeHeader* previous;  // a table of an older version; null: there is none
};

struct Exchange {
  ExchangeHeader header;
  void *allocate, *from_object, *to_object;  // not used here
  int (*look)(void* object, Tensor* out);    // 0: done; it borrows. Null: not offered
  void* work_stream;
};

}  // namespace fastupdate::dlpack
