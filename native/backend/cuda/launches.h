// Lists what a planned call would have a device do, without a device. The code that runs the call
// also makes its list, so that the two cannot differ.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "backend/cuda/device/launch_shape.h"
#include "backend/cuda/runtime.h"
#include "core/ops/backend.h"

namespace lora::cuda {

struct PlannedStep {
  enum class Kind {
    kLaunch,
    kWait,    // the host waits for the device and reads an answer
    kUpload,  // the host copies bytes of its own to the device
  };
  Kind kind = Kind::kLaunch;
  // Of a launch:
  std::string op, kernel;  // "lora_linear", "Skinny<SkinnyForm::kDown, BF16>"
  device::LaunchShape shape;
  unsigned threads = 0;  // of a block
  bool waits = false;    // the kernel calls GridDependencyWait
};

// Returns the steps of a call in their order. They follow from the arguments of the call, among
// them the alignment of the operands' addresses, and from the properties. Where an op waits for an
// answer that decides what comes next, what is listed behind the wait is that of data as it should
// be: ids in range, every label one that counts, every token drawn by the device. Throws what the
// op throws, for example for ids that the host knows.
std::vector<PlannedStep> LaunchesOf(const PlannedCall& call, const DeviceProperties& properties);

// Writes a launch as "GemmReduce, 12 of 256": the grid, and the threads of a block. Behind them are
// the bytes of shared memory, and "programmatic".
std::string Text(const PlannedStep& step);

// Names the first launch of a call that breaks the rule of LaunchShape::programmatic, as far as a
// list shows it; empty where all keep to it.
std::string BrokenRule(std::span<const PlannedStep> steps);

}  // namespace lora::cuda
