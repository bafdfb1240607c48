#include "backend/cuda/context.h"

#include <cstdlib>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace lora::cuda {
namespace {

// The context keeps the device at most two times so many launches behind, because a longer queue
// hides how far behind the device is.
constexpr int kPacedLaunches = 256;

bool SyncFromEnvironment() {
  const char* text = std::getenv("LORA_CUDA_SYNC");
  return text != nullptr && std::strcmp(text, "1") == 0;
}

}  // namespace

GpuContext::GpuContext(std::shared_ptr<Gpu> gpu)
    : gpu_(std::move(gpu)), sync_(SyncFromEnvironment()) {}

void GpuContext::Launch(const KernelLaunch& launch) {
  device::LaunchShape shape = launch.shape;
  const bool may_overlap = gpu_->LoadKernel(launch.op, launch.place);
  shape.programmatic = shape.programmatic && may_overlap;
  const int error = launch.start(shape, gpu_->stream(), launch.params);
  if (error != 0)
    Throw("ERR_UNSUPPORTED", launch.op,
          "the device refused a launch: ", gpu_->TakeLaunchError(error));
  ++gpu_->launches;
  is_idle_ = false;
  if (sync_) {
    try {
      Finish();
    } catch (const Error& lost) {
      // The stream runs one op after the other, so the error is this op's.
      Throw("ERR_DEVICE_LOST", launch.op, lost.what());
    }
  } else if (++launches_ == kPacedLaunches) {
    launches_ = 0;
    gpu_->Pace();
  }
}

void GpuContext::Finish() {
  if (is_idle_) return;
  ++gpu_->waits;
  gpu_->Synchronize();
  launches_ = 0;
  is_idle_ = true;
}

void GpuContext::ReadNow(void* host, const void* device, size_t bytes) {
  ++gpu_->waits;
  gpu_->Download(host, device, bytes);
  launches_ = 0;
  is_idle_ = true;
}

void GpuContext::Upload(void* device, const void* host, size_t bytes) {
  is_idle_ = false;
  gpu_->Upload(device, host, bytes);
}

}  // namespace lora::cuda
