// The device that the emulator plays, behind the interface of the CUDA runtime.
#pragma once

#include "backend/cuda/runtime.h"
#include "simt/queue.h"

namespace lora::simt {

// How the devices opened from now on run their work.
void SetEmulatedOptions(const Options& options);
// As a multiprocessor count and an architecture, for plans.
void SetEmulatedProperties(const cuda::DeviceProperties& properties);
// Everything counted since the device was opened. Reports become errors at
// the next Synchronize or Download.
Result EmulatedCounts(const cuda::Gpu& gpu);

}  // namespace lora::simt
