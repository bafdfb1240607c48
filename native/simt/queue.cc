#include "simt/queue.h"

#include <cstring>
#include <vector>

namespace lora::simt {
namespace {

Result Changed(const char* what) {
  Result result;
  result.reports.push_back({Kind::kStaging, what});
  return result;
}

}  // namespace

void Queue::Enqueue(Work work) {
  const std::lock_guard lock(mutex_);
  work_.push_back(std::move(work));
  if (kind_ == Kind::kKeeps) return;
  random_ = random_ * 6364136223846793005u + 1442695040888963407u;
  if (options_.async == Async::kEager || (options_.async == Async::kRandom && random_ >> 63))
    Drain();
}

void Queue::CopyToDevice(void* device, const void* host, size_t bytes) {
  const auto* from = static_cast<const char*>(host);
  Enqueue([=, seen = std::vector<char>(from, from + bytes)] {
    DeviceWrite(device, host, bytes);
    if (std::memcmp(seen.data(), host, bytes) == 0) return Result();
    return Changed("the source of a copy to the device changed before the copy ran");
  });
}

void Queue::CopyToHost(void* host, const void* device, size_t bytes) {
  // A program that reads the target too early sees this.
  std::memset(host, 0xa5, bytes);
  Enqueue([=] {
    const std::vector<char> untouched(bytes, static_cast<char>(0xa5));
    const bool changed = std::memcmp(host, untouched.data(), bytes) != 0;
    DeviceRead(host, device, bytes);
    if (!changed) return Result();
    return Changed("the target of a copy from the device changed before the copy ran");
  });
}

void Queue::Free(void* device) {
  Enqueue([=] {
    DeviceFree(device);
    return Result();
  });
}

void Queue::Drain() {
  while (!work_.empty()) {
    const Work work = std::move(work_.front());
    work_.pop_front();
    result_.Add(work());
  }
}

Result Queue::Synchronize() {
  const std::lock_guard lock(mutex_);
  Drain();
  return std::exchange(result_, Result());
}

std::deque<Queue::Work> Queue::Take() {
  const std::lock_guard lock(mutex_);
  return std::exchange(work_, {});
}

}  // namespace lora::simt
