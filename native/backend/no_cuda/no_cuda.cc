// Defines the CUDA backend's symbols in builds without CUDA, so that no call site needs an #ifdef.
#include "backend/cuda/device.h"
#include "backend/cuda/runtime.h"
#include "core/error.h"
#include "core/ops/backend.h"

namespace lora {

const Backend* CudaBackend() { return nullptr; }

const char* CudaUnavailableReason() {
  return "this build of lora-native has no CUDA backend (it was made without nvcc)";
}

namespace cuda {

const std::string& UnavailableReason() {
  static const std::string reason = CudaUnavailableReason();
  return reason;
}

int DeviceCount() { return 0; }

DeviceSummary Describe(int) { return {}; }

std::vector<Fact> Facts() { return {}; }

std::shared_ptr<Device> OpenDevice(const std::string& name) {
  Throw("ERR_DEVICE_UNAVAILABLE", "device", "cannot open ", name, ": ", CudaUnavailableReason());
}

}  // namespace cuda
}  // namespace lora
