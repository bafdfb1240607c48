// The forward pass of attention, which attention_forward and attention_paged share.
#pragma once

#include "backend/cpu/attention/attention_tasks.h"
#include "core/ops/backend.h"

namespace lora::cpu {

struct AttentionCall {
  AttentionShape shape;
  TensorView q, k, v, sinks;  // k and v may be pools of pages; sinks may be absent
  TensorView y, lse;          // lse may be absent
  // Rows are few, so the keys are split into tasks. Otherwise tasks are tiles of rows. The results
  // of both are right for any number of rows, but differ in bits.
  bool decode;
};

PlannedCall PlanAttention(const AttentionCall& call, int threads);

}  // namespace lora::cpu
