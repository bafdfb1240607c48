// Holds what is known of a tensor after its op was enqueued: what went wrong, and what it holds.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "core/ops/host_copy.h"

namespace lora {

struct Failure {
  std::string code, op, message;
  int64_t tag = 0;  // of the call that failed
};
using FailurePtr = std::shared_ptr<const Failure>;

// The state of one storage. Only the worker of its stream touches it, or the JavaScript thread
// while that stream is drained.
struct Status {
  FailurePtr failure;
  std::unique_ptr<HostCopy> host_copy;  // set when the storage is made, or null
};
using StatusPtr = std::shared_ptr<Status>;

// Remembers the first failure that kept an in-place update from running. Any thread may call it.
class Guard {
 public:
  void Remember(const FailurePtr& failure) {
    const std::lock_guard lock(mutex_);
    if (!failure_) failure_ = failure;
  }
  FailurePtr failure() const {
    const std::lock_guard lock(mutex_);
    return failure_;
  }
  void Clear() {
    const std::lock_guard lock(mutex_);
    failure_ = nullptr;
  }

 private:
  mutable std::mutex mutex_;
  FailurePtr failure_;
};

}  // namespace lora
