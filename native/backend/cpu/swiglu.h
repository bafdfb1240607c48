// silu(gate)·up and its gradient.
#pragma once

#include "core/backend.h"

namespace lora::cpu {

size_t SwigluForwardScratchBytes(const SwigluForwardArgs&, int threads);
void SwigluForward(const SwigluForwardArgs&, Scratch, Context&);

size_t SwigluBackwardScratchBytes(const SwigluBackwardArgs&, int threads);
void SwigluBackward(const SwigluBackwardArgs&, Scratch, Context&);

}  // namespace lora::cpu
