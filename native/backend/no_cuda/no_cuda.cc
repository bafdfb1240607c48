// Stands in for the CUDA backend where there is none, so that no call site needs an #ifdef.
#include "core/backend.h"

namespace lora {

const Backend* CudaBackend() { return nullptr; }

const char* CudaUnavailableReason() {
  return "this version of lora-native has no CUDA backend yet";
}

}  // namespace lora
