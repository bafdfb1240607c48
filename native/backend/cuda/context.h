// What an op of the CUDA backend runs on: the stream of one device.
#pragma once

#include <cstddef>
#include <memory>

#include "backend/cuda/runtime.h"
#include "core/backend.h"

namespace lora::cuda {

class CudaContext final : public Context {
 public:
  explicit CudaContext(std::shared_ptr<Gpu> gpu);

  // What the scratch of a plan may depend on besides the problem: the multiprocessors.
  int threads() const override { return properties().multiprocessors; }
  void Finish() override;

  const DeviceProperties& properties() const { return gpu_->properties(); }
  Gpu& gpu() const { return *gpu_; }

  // After every launch; see launch.h. Throws when it was refused. With LORA_CUDA_SYNC=1 it waits,
  // and only then is an error certain to be this op's.
  void Launched(const char* op, int error);
  // Waits for everything launched so far: for the few numbers that decide whether an op fails on
  // its data (an id out of range).
  void ReadNow(const char* op, void* host, const void* device, size_t bytes);

 private:
  std::shared_ptr<Gpu> gpu_;
  bool sync_ = false;  // LORA_CUDA_SYNC=1
  int in_flight_ = 0;  // launches since the device was last waited for
};

}  // namespace lora::cuda
