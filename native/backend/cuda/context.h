// The ops of the CUDA backend run on a CudaContext: the stream of one device.
#pragma once

#include <cstddef>
#include <memory>

#include "backend/cuda/runtime.h"
#include "core/ops/backend.h"

namespace lora::cuda {

class CudaContext final : public Context {
 public:
  explicit CudaContext(std::shared_ptr<Gpu> gpu);

  // Besides the problem, the scratch of a plan may depend on the number of multiprocessors only.
  int threads() const override { return properties().multiprocessors; }
  void Finish() override;

  const DeviceProperties& properties() const { return gpu_->properties(); }
  Gpu& gpu() const { return *gpu_; }

  // Is called after every launch (launch.h) and throws when the launch was refused. With
  // LORA_CUDA_SYNC=1 it waits; only then is an error certain to be this op's.
  void Launched(const char* op, int error);
  // Waits for everything launched so far and reads. It serves the few numbers that decide whether
  // an op fails on its data (an id that a kernel wrote and that is out of range).
  void ReadNow(void* host, const void* device, size_t bytes);
  // Returns when `host` has been read.
  void Upload(void* device, const void* host, size_t bytes);

 private:
  std::shared_ptr<Gpu> gpu_;
  bool sync_ = false;    // LORA_CUDA_SYNC=1
  int launches_ = 0;     // since the last Pace or wait
  bool is_idle_ = true;  // nothing was launched or uploaded since the last wait
};

}  // namespace lora::cuda
