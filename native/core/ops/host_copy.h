// What the host wrote into device memory, kept on the host as well: a check of ids, labels, slots
// or lengths then reads it there and waits for no device, and so does who reads a tensor. Numbers
// that a kernel wrote are not here, and are checked on the device, unless their op has read them
// back. The worker of the stream alone touches it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace lora {

class HostCopy {
 public:
  // Larger tensors have none.
  static constexpr size_t kMaxBytes = size_t{16} << 20;

  HostCopy(const void* device, size_t bytes)
      : device_(static_cast<const std::byte*>(device)), bytes_(bytes) {}

  // The host has put these bytes at `to` in the memory of the device, or read them there.
  void Wrote(const void* to, const void* from, size_t bytes) {
    if (bytes == bytes_) known_ = true;
    if (!known_) return;  // other parts of it are the device's
    values_.resize(bytes_);
    std::memcpy(values_.data() + (static_cast<const std::byte*>(to) - device_), from, bytes);
  }
  // A kernel may write there.
  void Forget() { known_ = false; }

  // Returns what lies at an address of the device, or null where only the device knows.
  const void* At(const void* address) const {
    ++looks_;
    if (!known_) return nullptr;
    return values_.data() + (static_cast<const std::byte*>(address) - device_);
  }

  // Returns how often At was called.
  uint64_t looks() const { return looks_; }

 private:
  const std::byte* const device_;
  const size_t bytes_;
  std::vector<std::byte> values_;  // as many as bytes_ once something is known
  bool known_ = false;
  mutable uint64_t looks_ = 0;
};

}  // namespace lora
