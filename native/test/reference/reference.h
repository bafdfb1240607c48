// What the tests of the reference backend compute on, and in.
#pragma once

#include "core/ops/backend.h"

namespace lora::test {

inline constexpr DType kF64 = DType::kF64;
inline const Backend& kReference = ReferenceBackend();

}  // namespace lora::test
