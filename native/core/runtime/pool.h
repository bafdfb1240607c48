// The memory of what a recorded program makes (program.h). A block that is freed while the program
// is recorded serves what the program makes later. Nobody else gets it before the program is gone,
// because every run writes there again. Blocks in use after that go back one by one.
#pragma once

#include <cstddef>
#include <map>
#include <memory>

#include "core/runtime/allocator.h"

namespace lora {

class Device;

// The thread of the device's allocator owns it. The pool counts what it holds as the device's.
class Pool {
 public:
  explicit Pool(std::shared_ptr<Device> device);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  const std::shared_ptr<Device>& device() const { return device_; }
  // Returns a block without data when the device has no memory left.
  Block Allocate(size_t bytes);
  void Free(const Block& block);
  // Gives the free blocks back to the device, and those that are freed later at once.
  void Close();

 private:
  std::shared_ptr<Device> device_;
  std::multimap<size_t, Block> free_;
  bool closed_ = false;
};

}  // namespace lora
