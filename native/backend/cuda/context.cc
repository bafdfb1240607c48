#include "backend/cuda/context.h"

#include <cstdlib>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace lora::cuda {
namespace {

// The context waits for the device after this many launches, because a queue that never empties
// hides how far behind the device is.
constexpr int kMostLaunches = 512;

bool SyncFromEnvironment() {
  const char* text = std::getenv("LORA_CUDA_SYNC");
  return text != nullptr && std::strcmp(text, "1") == 0;
}

}  // namespace

CudaContext::CudaContext(std::shared_ptr<Gpu> gpu)
    : gpu_(std::move(gpu)), sync_(SyncFromEnvironment()) {}

void CudaContext::Launched(const char* op, int error) {
  if (error != 0)
    Throw("ERR_UNSUPPORTED", op, "the device refused a launch: ", gpu_->TakeLaunchError(error));
  if (++in_flight_ < kMostLaunches && !sync_) return;
  try {
    Finish();
  } catch (const Error& lost) {
    // The stream runs one op after the other, so with LORA_CUDA_SYNC=1 the error is this op's.
    if (sync_) Throw("ERR_DEVICE_LOST", op, lost.what());
    throw;
  }
}

void CudaContext::Finish() {
  in_flight_ = 0;
  gpu_->Synchronize();
}

void CudaContext::ReadNow(const char*, void* host, const void* device, size_t bytes) {
  in_flight_ = 0;
  gpu_->Download(host, device, bytes);
}

}  // namespace lora::cuda
