#include <utility>

#include "backend/cuda/context.h"
#include "backend/cuda/runtime.h"
#include "core/error.h"
#include "core/runtime/devices.h"

namespace lora::cuda {
namespace {

class CudaMemory final : public MemorySource {
 public:
  explicit CudaMemory(std::shared_ptr<Gpu> gpu) : gpu_(std::move(gpu)) {}
  void* Map(size_t bytes) override { return gpu_->Allocate(bytes); }
  void Unmap(void* data, size_t) override { gpu_->Free(data); }
  size_t free() const override { return gpu_->free_bytes(); }

 private:
  std::shared_ptr<Gpu> gpu_;
};

class CudaDevice final : public Device {
 public:
  CudaDevice(std::string name, const std::shared_ptr<Gpu>& gpu)
      : Device(
            std::move(name), *CudaBackend(), std::make_unique<CudaMemory>(gpu),
            std::make_unique<WorkerStream>([gpu](int) { return std::make_unique<GpuContext>(gpu); },
                                           gpu->properties().multiprocessors)),
        gpu_(gpu) {}
  ~CudaDevice() override { stream().Stop(); }  // no command may see a device that is half destroyed

  void CopyTo(void* device, const void* host, size_t bytes, Context& context) override {
    if (bytes > 0) static_cast<CudaContext&>(context).Upload(device, host, bytes);
  }
  void CopyFrom(void* host, const void* device, size_t bytes, Context& context) override {
    if (bytes > 0) static_cast<CudaContext&>(context).ReadNow(host, device, bytes);
  }
  bool host_memory() const override { return false; }
  Activity activity() const override {
    const auto [refused, why] = gpu_->refusals();
    return {gpu_->launches, gpu_->waits, gpu_->graphs, refused, why};
  }

 private:
  const std::shared_ptr<Gpu> gpu_;
};

}  // namespace

std::shared_ptr<Device> OpenDevice(const std::string& name) {
  if (CudaBackend() == nullptr)
    Throw("ERR_DEVICE_UNAVAILABLE", "device", "cannot open ", name, ": ", CudaUnavailableReason());
  std::string known;
  for (int ordinal = 0; ordinal < DeviceCount(); ++ordinal) {
    const std::string id = Describe(ordinal).id;
    if (id == name) return std::make_shared<CudaDevice>(name, Gpu::Open(ordinal));
    known += (known.empty() ? "" : ", ") + id;
  }
  Throw("ERR_DEVICE_UNAVAILABLE", "device", "cannot open ", name, ": the CUDA devices here are ",
        known);
}

}  // namespace lora::cuda
