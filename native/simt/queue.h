// A stream of the emulated device: launches, copies and frees wait in it, and run late, at once or
// in between. Host memory that changes while a queued copy needs it is reported: on hardware that
// is a race.
#pragma once

#include <deque>
#include <functional>
#include <mutex>

#include "simt/simt.h"

namespace lora::simt {

class Queue {
 public:
  // Any thread may call. options.async also decides when queued work runs; its schedules and seed
  // hold for every launch.
  explicit Queue(const Options& options) : options_(options), random_(options.seed) {}
  const Options& options() const { return options_; }

  void Enqueue(std::function<Result()> work);
  void CopyToDevice(void* device, const void* host, size_t bytes);
  void CopyToHost(void* host, const void* device, size_t bytes);
  void Free(void* device);
  // Runs what waits, and returns everything reported since the last call.
  Result Synchronize();

 private:
  void Drain();

  Options options_;
  std::mutex mutex_;
  uint64_t random_;
  std::deque<std::function<Result()>> work_;
  Result result_;
};

}  // namespace lora::simt
