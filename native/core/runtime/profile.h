// The time that the ops of a device take, by op and shape, while the device has a profile. Each
// timed call also waits for the device, so that on a GPU it is not only the launch that is timed.
// Without a profile calls are as they were: a call is wrapped when it is planned.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "core/ops/backend.h"
#include "core/ops/work.h"

namespace lora {

class Profile {
 public:
  // All calls of an op with one shape. The worker adds to it.
  struct Entry {
    std::string op;
    Work work;  // of one call
    std::atomic<int64_t> calls{0}, nanoseconds{0};
  };

  // Returns the call, timed. It may run after the profile has ended, as a program's does.
  PlannedCall Timed(PlannedCall call, const char* op, Work work);

  using Entries = std::map<std::pair<std::string, std::string>, std::shared_ptr<Entry>>;
  const Entries& entries() const { return entries_; }

 private:
  Entries entries_;  // by op and shape
};

}  // namespace lora
