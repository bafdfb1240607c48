// The devices of an environment: how they are opened, at once or on another thread, and what is set
// for all of them.
#include <cstdlib>
#include <future>
#include <utility>

#include "core/runtime/devices.h"
#include "node/env_state.h"
#include "node/errors.h"

namespace lora::node {
namespace {

int DefaultThreads() {
  const char* text = std::getenv("LORA_THREADS");
  if (text == nullptr || *text == '\0') return CpuCount();
  char* end = nullptr;
  const long threads = std::strtol(text, &end, 10);
  LORA_CHECK(*end == '\0' && threads >= 1 && threads <= 1024, "device",
             "expected LORA_THREADS to be a number from 1 to 1024 but received \"", text, "\"");
  return static_cast<int>(threads);
}

std::shared_ptr<Device> MakeDevice(const std::string& name, int threads) {
  HostMemoryBudget();  // throws at once when LORA_MEMORY_LIMIT is no size
  if (name.starts_with("cuda")) return lora::cuda::OpenDevice(name);
  if (name == "cpu") return std::make_shared<HostDevice>(name, CpuBackend(), threads);
  return std::make_shared<HostDevice>(name, ReferenceBackend(), 1);
}

void CheckDeviceName(const std::string& name) {
  LORA_CHECK(name.starts_with("cuda") || name == "cpu" || name == "reference", "device",
             "expected a device of cpu, cuda, cuda:N or reference but received \"", name, "\"");
}

}  // namespace

Napi::Value EnvState::OpenDevice(const std::string& name) {
  const auto known = device_handles_.find(name);
  if (known != device_handles_.end()) return known->second.Value();
  CheckDeviceName(name);
  std::shared_ptr<Device> device;
  if (const auto opening = opening_.find(name); opening != opening_.end()) {
    const auto opened = opening->second;
    opening_.erase(opening);  // after a failure the next call tries again
    device = opened.get();
  } else {
    device = MakeDevice(name, name == "cpu" ? threads() : 1);
  }
  device->stream().SetLimits(limits_);
  device->on_bytes = [this](int64_t change) {
    bytes_ += static_cast<size_t>(change);
    peak_bytes_ = std::max(peak_bytes_, bytes_);
    watched_peak_bytes_ = std::max(watched_peak_bytes_, bytes_);
    least_bytes_ = std::min(least_bytes_, bytes_);
  };
  devices_[name] = device;
  const Napi::Value handle = Wrap({.kind = Kind::kDevice, .device = std::move(device)});
  device_handles_[name] = Napi::Reference<Napi::Value>::New(handle, 1);
  return handle;
}

Napi::Promise EnvState::OpenDeviceLater(const std::string& name) {
  CheckDeviceName(name);
  Request* request = nullptr;
  const Napi::Promise promise = NewRequest(&request, nullptr);
  if (device_handles_.contains(name)) {
    Complete(request);
    return promise;
  }
  auto& opening = opening_[name];
  if (!opening.valid()) {
    const int cpu_threads = name == "cpu" ? threads() : 1;
    opening = std::async(std::launch::async, MakeDevice, name, cpu_threads).share();
  }
  openers_.push_back(std::async(
      std::launch::async, [self = shared_from_this(), opened = opening, request, called = tag] {
        Step step;
        step.op = "device";
        request->failure = RunStep(step, called, [&] { opened.get(); });
        self->Complete(request);
      }));
  return promise;
}

int EnvState::threads() {
  if (threads_ == 0) threads_ = DefaultThreads();
  return threads_;
}

void EnvState::SetThreads(int threads) {
  threads_ = threads;
  const auto cpu = devices_.find("cpu");
  if (cpu != devices_.end()) cpu->second->stream().SetThreads(threads);
}

void EnvState::SetLimits(QueueLimits limits) {
  limits_ = limits;
  for (const auto& [name, device] : devices_) device->stream().SetLimits(limits);
}

}  // namespace lora::node
