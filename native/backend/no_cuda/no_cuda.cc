// Stands in for the CUDA backend in builds without nvcc, so that no call site needs an #ifdef.
#include "core/backend.h"

namespace lora {

const Backend* CudaBackend() { return nullptr; }

const char* CudaUnavailableReason() {
  return "this build of lora-native holds no CUDA backend (it was compiled without nvcc)";
}

}  // namespace lora
