#include "simt/emulated_runtime.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string_view>
#include <thread>

#include "core/error.h"
#include "simt/buffer.h"

namespace lora::simt {
namespace {

std::mutex settings_mutex;
Options settings_options;
// The device is small, so that plans split work as they do on hardware and the emulator stays
// quick.
cuda::DeviceProperties settings_properties{4, 80, 163 * 1024};
constexpr size_t kMemory = size_t{2} << 30;

// LORA_SIMT=late, eager or random says when queued work runs and asynchronous copies land, for
// programs that cannot call SetEmulatedOptions.
Async AsyncOf(Async otherwise) {
  const char* text = std::getenv("LORA_SIMT");
  if (text == nullptr || *text == 0) return otherwise;
  const std::string_view name = text;
  if (name == "late") return Async::kLazy;
  if (name == "eager") return Async::kEager;
  if (name == "random") return Async::kRandom;
  Throw("ERR_ARGUMENT", "device", "expected LORA_SIMT to be late, eager or random but received ",
        text);
}

class EmulatedGpu final : public cuda::Gpu {
 public:
  EmulatedGpu(const Options& options, const cuda::DeviceProperties& properties)
      : properties_(properties), queue_(options) {
    const std::vector<uint32_t> zeros(static_cast<size_t>(kCounters * properties.multiprocessors));
    counters_.Upload(zeros.data());
  }
  ~EmulatedGpu() override {
    const std::lock_guard lock(mutex_);
    queue_.Synchronize();
  }

  const cuda::DeviceProperties& properties() const override { return properties_; }
  void* stream() const override { return &queue_; }
  uint32_t* counters() const override { return counters_.as<uint32_t>(); }

  void* Allocate(size_t bytes) override {
    const std::lock_guard lock(mutex_);
    if (bytes > kMemory - used_) return nullptr;
    void* data = DeviceAlloc(1, bytes, bytes, "block of " + std::to_string(bytes) + " bytes");
    sizes_[data] = bytes;
    used_ += bytes;
    return data;
  }
  void Free(void* data) override {
    const std::lock_guard lock(mutex_);
    used_ -= sizes_.at(data);
    sizes_.erase(data);
    queue_.Free(data);
  }
  size_t free_bytes() const override {
    const std::lock_guard lock(mutex_);
    return kMemory - used_;
  }

  void Upload(void* device, const void* host, size_t bytes) override {
    const std::lock_guard lock(mutex_);
    // As pinned staging does: the caller's memory has been read when this returns.
    const auto* from = static_cast<const char*>(host);
    queue_.Enqueue([device, staged = std::vector<char>(from, from + bytes)] {
      DeviceWrite(device, staged.data(), staged.size());
      return Result();
    });
  }
  void Download(void* host, const void* device, size_t bytes) override {
    Synchronize();
    DeviceRead(host, device, bytes);
  }
  bool LoadKernel(const char*, size_t) override { return true; }
  std::string TakeLaunchError(int error) override { return "error " + std::to_string(error); }
  void Synchronize() override {
    const std::lock_guard lock(mutex_);
    const Result result = queue_.Synchronize();
    counts_.Add(result);
    if (lost_.empty() && !result.reports.empty()) lost_ = result.Text();
    if (!lost_.empty()) Throw("ERR_DEVICE_LOST", "cuda", "the emulator reported\n", lost_);
  }
  void Pace() override { Synchronize(); }
  void* Capture(const std::function<void(void*)>& work) override {
    Queue kept(queue_.options(), Queue::Kind::kKeeps);
    work(&kept);
    return new std::deque<Queue::Work>(kept.Take());
  }
  void LaunchGraph(void* graph) override {
    for (const Queue::Work& work : *static_cast<std::deque<Queue::Work>*>(graph))
      queue_.Enqueue(work);
  }
  void FreeGraph(void* graph) override { delete static_cast<std::deque<Queue::Work>*>(graph); }
  Result counts() const { return counts_; }

 private:
  const cuda::DeviceProperties properties_;
  Buffer counters_{static_cast<size_t>(kCounters * properties_.multiprocessors) * sizeof(uint32_t),
                   "counters"};
  mutable std::mutex mutex_;  // of the queue's callers here; launches lock the queue itself
  mutable Queue queue_;
  std::map<void*, size_t> sizes_;
  size_t used_ = 0;
  Result counts_;
  std::string lost_;
};

}  // namespace

void SetEmulatedOptions(const Options& options) {
  const std::lock_guard lock(settings_mutex);
  settings_options = options;
}

void SetEmulatedProperties(const cuda::DeviceProperties& properties) {
  const std::lock_guard lock(settings_mutex);
  settings_properties = properties;
}

Result EmulatedCounts(const cuda::Gpu& gpu) {
  return static_cast<const EmulatedGpu&>(gpu).counts();
}

}  // namespace lora::simt

namespace lora::cuda {

const std::string& UnavailableReason() {
  static const std::string none;
  return none;
}

int DeviceCount() { return 1; }

DeviceSummary Describe(int) {
  return {"cuda-emulated", "the CPU, as a CUDA device", simt::kMemory, "8.0"};
}

std::vector<Fact> Facts() { return {{"cuda kernels", "on the emulator"}}; }

std::shared_ptr<Gpu> Gpu::Open(int ordinal) {
  if (ordinal != 0) Throw("ERR_DEVICE_UNAVAILABLE", "device", "there is one emulated device");
  // Tests of programs that meanwhile go on set it.
  if (const char* delay = std::getenv("LORA_EMULATED_OPENING_MS"))
    std::this_thread::sleep_for(std::chrono::milliseconds(std::atoi(delay)));
  const std::lock_guard lock(simt::settings_mutex);
  simt::Options options = simt::settings_options;
  options.async = simt::AsyncOf(options.async);
  options.numerics = simt::NumericsOfEnvironment(options.numerics);
  return std::make_shared<simt::EmulatedGpu>(options, simt::settings_properties);
}

}  // namespace lora::cuda
