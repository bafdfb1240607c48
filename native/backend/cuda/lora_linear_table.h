// The forward call of lora_linear whose rows have adapters of their own.
#pragma once

#include "core/ops/backend.h"

namespace lora::cuda {

// Plans a call with a table. Up to 16 rows share one read of W; more rows are taken 16 at a time.
PlannedCall PlanTableCall(const LoraLinearForwardArgs& args);

}  // namespace lora::cuda
