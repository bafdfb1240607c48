// What the backends tell of this machine. Each defines its own, and backend/no_cuda those of CUDA
// in a build without it.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "core/runtime/storage.h"

namespace lora {
namespace cpu {

// Returns the instruction set that runs, in lower case: "avx3_zen4".
std::string ActiveTarget();

// Returns all that are compiled in and that this CPU has, best first.
std::vector<std::string> UsableTargets();

// Returns what this CPU has beyond the best of them, and a build for another CPU left out
// (LORA_SIMD_BUILD), best first.
std::vector<std::string> MissingTargets();

// Returns the version of the headers that the kernels were compiled with: "1.2.0".
std::string HighwayVersion();

}  // namespace cpu

namespace cuda {

struct DeviceSummary {
  std::string id;  // 'cuda', 'cuda:1'
  std::string name;
  size_t memory_bytes = 0;
  std::string compute_capability;  // "8.6"
};

// Returns why there is no usable device, as a sentence; empty when there is one. It
// asks the driver once.
const std::string& UnavailableReason();
// Returns 0 when UnavailableReason() is not empty.
int DeviceCount();
DeviceSummary Describe(int ordinal);

// A line of what a bug report should say about CUDA, such as versions or the
// architectures compiled in.
struct Fact {
  std::string name, value;
};
std::vector<Fact> Facts();

// Opens 'cuda', 'cuda:1' or any other id that Describe() gives. Throws ERR_DEVICE_UNAVAILABLE.
std::shared_ptr<Device> OpenDevice(const std::string& name);

}  // namespace cuda
}  // namespace lora
