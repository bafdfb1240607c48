// Implements the interface of the CUDA runtime by the device that the emulator plays.
#pragma once

#include "backend/cuda/runtime.h"
#include "simt/queue.h"

namespace lora::simt {

// Sets how the devices opened from now on run their work.
void SetEmulatedOptions(const Options& options);
// Sets the properties that plans see.
void SetEmulatedProperties(const cuda::DeviceProperties& properties);
// Returns everything counted since the device was opened. Reports become errors at the next
// Synchronize or Download.
Result EmulatedCounts(const cuda::Gpu& gpu);

}  // namespace lora::simt
