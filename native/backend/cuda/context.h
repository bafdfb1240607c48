// The ops of the CUDA backend run on a CudaContext, which is given all that they have a device do:
// launches, uploads, and reads for which they wait. A GpuContext has a device do it. LaunchesOf
// (launches.h) only lists it.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>

#include "backend/cuda/device/launch_shape.h"
#include "backend/cuda/runtime.h"
#include "core/ops/backend.h"

namespace lora::cuda {

// A launch, as launch.h makes it of a kernel and its parameters.
struct KernelLaunch {
  const char* op = "";
  const char* kernel = "";  // as the compiler spells it (launches.cc)
  size_t place = 0;         // in device::Kernels()
  device::LaunchShape shape;
  unsigned threads = 0;  // of a block
  bool waits = false;    // the kernel calls GridDependencyWait
  const void* params = nullptr;
  // Appends the bytes of the parameters, which are equal where the parameters are.
  void (*append)(const void* params, std::string& text) = nullptr;
  // Launches it in a shape, and returns the runtime's error, or 0.
  int (*start)(const device::LaunchShape& shape, void* stream, const void* params) = nullptr;
};

class CudaContext : public Context {
 public:
  // Besides the problem, a plan may depend on these only.
  virtual const DeviceProperties& properties() const = 0;
  int threads() const final { return properties().multiprocessors; }

  // Where blocks of a launch arrive (Gpu::counters).
  virtual uint32_t* counters() const = 0;

  virtual void Launch(const KernelLaunch& launch) = 0;
  // Waits for everything launched so far and reads. It serves the few numbers that decide whether
  // an op fails on its data (an id that a kernel wrote and that is out of range), or how it goes
  // on. `host` comes with the answer of data that is as it should be, on which a list of launches
  // relies.
  virtual void ReadNow(void* host, const void* device, size_t bytes) = 0;
  // Returns when `host` has been read.
  virtual void Upload(void* device, const void* host, size_t bytes) = 0;
};

// The stream of one device.
class GpuContext final : public CudaContext, public Graphs {
 public:
  explicit GpuContext(std::shared_ptr<Gpu> gpu);

  const DeviceProperties& properties() const override { return gpu_->properties(); }
  uint32_t* counters() const override { return gpu_->counters(); }
  Gpu& gpu() const { return *gpu_; }

  // Throws when the launch was refused. With LORA_CUDA_SYNC=1 it waits; only then is an error
  // certain to be this op's.
  void Launch(const KernelLaunch& launch) override;
  void ReadNow(void* host, const void* device, size_t bytes) override;
  void Upload(void* device, const void* host, size_t bytes) override;
  void Finish() override;

  // With LORA_CUDA_SYNC=1 every launch is waited for, so that there are no graphs.
  Graphs* graphs() override { return sync_ ? nullptr : this; }
  Given TakeGiven() override;
  std::optional<std::string> Trace(const Work& work) override;
  std::unique_ptr<Graph> Capture(const Work& work) override;
  bool Launch(Graph& graph) override;

 private:
  void* CaptureOrThrow(const Work& work, int& launches);
  // Throws where launches are held back, which nothing else may be.
  void RequireDevice();
  // Takes note of launches, and waits where there are many.
  void Count(int launches);

  std::shared_ptr<Gpu> gpu_;
  bool sync_ = false;    // LORA_CUDA_SYNC=1
  int launches_ = 0;     // since the last Pace or wait
  bool is_idle_ = true;  // nothing was launched or uploaded since the last wait
  Given given_;
  std::string* trace_ = nullptr;  // of launches that are held back
  void* capture_ = nullptr;       // the stream that captures
};

}  // namespace lora::cuda
