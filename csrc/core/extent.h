// What states and sums of rules and stages may be of (core/extents.h says which elements that are).
#pragma once

#include <stdint.h>

namespace fastupdate {

enum Extent : uint8_t { kElement, kRow, kColumn, kMatrix, kUnit, kTensor, kList, kExtents };

}  // namespace fastupdate
