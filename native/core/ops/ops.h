// The arguments of every op, one plain struct each, by topic. Beside each stand its description
// (describe.h) and the declaration of its rules. Every caller runs Check before it enqueues; it
// throws Error(ERR_ARGUMENT) with one sentence:
//   "[op] expected down of shape [16, 4096] (rank, in) but received [4096, 16]"
//
// "act" is the activation dtype of a call: f32 or bf16 (f64 in the reference backend's tests).
// Outputs are written whole, never accumulated into, unless said otherwise. A dimension may be 0.
#pragma once

#include "core/ops/experts.h"
#include "core/ops/gated_delta.h"
#include "core/ops/layers.h"
#include "core/ops/linear.h"
#include "core/ops/losses.h"
#include "core/ops/optimizer.h"
#include "core/ops/pages.h"
#include "core/ops/random.h"
#include "core/ops/sampling.h"
#include "core/ops/states.h"
#include "core/ops/tape.h"

namespace lora {

using AllOps =
    decltype(LinearOps() + ExpertOps() + LayerOps() + PageOps() + StateOps() + GatedDeltaOps() +
             LossOps() + OptimizerOps() + TapeOps() + RandomOps() + SamplingOps());

}  // namespace lora
