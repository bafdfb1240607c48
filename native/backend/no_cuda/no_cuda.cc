// Defines the CUDA backend's symbols in builds without CUDA, so that no call site needs an #ifdef.
#include "core/error.h"
#include "core/ops/backend.h"
#include "core/runtime/devices.h"

namespace lora {

const Backend* CudaBackend() { return nullptr; }

const char* CudaUnavailableReason() {
  return "this build of lora-native has no CUDA backend, because none was asked for or nvcc was "
         "not "
         "found: npx lora-native build --cuda native compiles one for the GPUs of this machine, "
         "with "
         "nvcc 12.8 or newer";
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
