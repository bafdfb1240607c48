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
  using Work = std::function<Result()>;
  enum class Kind {
    kRuns,
    kKeeps,  // what it is given does not run
  };
  // Any thread may call. options.async also decides when queued work runs; its schedules and seed
  // hold for every launch.
  explicit Queue(const Options& options, Kind kind = Kind::kRuns)
      : options_(options), kind_(kind), random_(options.seed) {}
  const Options& options() const { return options_; }

  void Enqueue(Work work);
  void CopyToDevice(void* device, const void* host, size_t bytes);
  void CopyToHost(void* host, const void* device, size_t bytes);
  void Free(void* device);
  // Runs what waits, and returns everything reported since the last call.
  Result Synchronize();
  // Returns what waits.
  std::deque<Work> Take();

 private:
  void Drain();

  Options options_;
  const Kind kind_;
  std::mutex mutex_;
  uint64_t random_;
  std::deque<Work> work_;
  Result result_;
};

}  // namespace lora::simt
