#include <algorithm>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "backend/cuda/context.h"
#include "backend/cuda/runtime.h"
#include "core/error.h"
#include "core/runtime/devices.h"
#include "core/runtime/memory_limit.h"

namespace lora::cuda {
namespace {

// What this process may take of a device. Where the driver lends the host's memory in place of the
// device's (WSL2, Windows), taking more would not fail, only be slow.
struct CudaLimit {
  std::optional<size_t> asked;  // LORA_CUDA_MEMORY_LIMIT
  size_t of_device = 0;
  MemoryBudget budget;

  CudaLimit(std::optional<size_t> asked, size_t of_device)
      : asked(asked),
        of_device(of_device),
        budget(std::min(asked.value_or(of_device), of_device)) {}
};

// All environments of the process share a device's memory, hence its limit.
CudaLimit& LimitOf(int ordinal) {
  static std::mutex mutex;
  static auto& limits = *new std::map<int, CudaLimit>();
  const std::lock_guard lock(mutex);
  const auto known = limits.find(ordinal);
  if (known != limits.end()) return known->second;
  const auto asked = BytesFromEnvironment("LORA_CUDA_MEMORY_LIMIT");
  return limits.try_emplace(ordinal, asked, Describe(ordinal).memory_bytes).first->second;
}

class CudaMemory final : public MemorySource {
 public:
  CudaMemory(std::shared_ptr<Gpu> gpu, CudaLimit& limit) : gpu_(std::move(gpu)), limit_(limit) {}
  void* Map(size_t bytes) override {
    if (!limit_.budget.TryReserve(bytes)) return nullptr;
    void* const data = gpu_->Allocate(bytes);
    if (data == nullptr) limit_.budget.Release(bytes);
    return data;
  }
  void Unmap(void* data, size_t bytes) override {
    gpu_->Free(data);
    limit_.budget.Release(bytes);
  }
  size_t free() const override { return std::min(gpu_->free_bytes(), limit_.budget.free()); }
  std::string limit() const override {
    const std::string bytes = MiBText(*limit_.budget.limit(), Rounding::kDown);
    const bool own = !limit_.asked || *limit_.asked > limit_.of_device;
    return own ? "the " + bytes + " of the device" : "LORA_CUDA_MEMORY_LIMIT = " + bytes;
  }

 private:
  const std::shared_ptr<Gpu> gpu_;
  CudaLimit& limit_;
};

class CudaDevice final : public Device {
 public:
  CudaDevice(std::string name, const std::shared_ptr<Gpu>& gpu, CudaLimit& limit)
      : Device(
            std::move(name), *CudaBackend(), std::make_unique<CudaMemory>(gpu, limit),
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
    if (id == name) {
      // These throw before seconds go into opening where a variable is no size.
      (void)BytesFromEnvironment("LORA_CUDA_LOSS_BYTES");
      (void)BytesFromEnvironment("LORA_CUDA_EXPANSION_BYTES");
      CudaLimit& limit = LimitOf(ordinal);
      return std::make_shared<CudaDevice>(name, Gpu::Open(ordinal), limit);
    }
    known += (known.empty() ? "" : ", ") + id;
  }
  Throw("ERR_DEVICE_UNAVAILABLE", "device", "cannot open ", name, ": the CUDA devices here are ",
        known);
}

}  // namespace lora::cuda
