// Times work on a GPU by its events. Rivals run in turn; medians and extremes are over the rounds.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <string>
#include <vector>

namespace lora::test {

// Holds microseconds per call of the median round, the fastest and the slowest.
struct Times {
  double median = 0, lowest = 0, highest = 0;
};

// One rival. Its calls are made one after the other, round and round, so that each may use memory
// of its own; each enqueues its work and returns.
struct Rival {
  std::string name;
  std::vector<std::function<void()>> calls;
};

struct Mode {
  bool graph = false;  // replayed from a CUDA graph, or launched call by call
  bool cold = false;   // each call after the L2 was filled with other data, or calls back to back
  const char* name() const;
};
inline constexpr Mode kModes[] = {{true, true}, {true, false}, {false, true}, {false, false}};

class Stopwatch {
 public:
  // `settle` waits until all that was enqueued is done.
  Stopwatch(cudaStream_t stream, int multiprocessors, size_t l2_bytes,
            std::function<void()> settle);
  ~Stopwatch();
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  std::vector<Times> Race(const std::vector<Rival>& rivals, Mode mode);
  // Returns bytes per second of a kernel that only reads much more than the L2 holds: median and
  // extremes over the rounds, of the best of a few shapes.
  Times ReadBandwidth();

 private:
  class Plan;
  void Flush();
  double Between(const std::function<void()>& work);  // microseconds

  cudaStream_t stream_;
  const unsigned multiprocessors_;
  std::function<void()> settle_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
  const size_t l2_bytes_, other_bytes_;
  void* other_ = nullptr;  // what the L2 is filled with
  unsigned* sink_ = nullptr;
};

// Throws std::runtime_error.
void Must(cudaError_t error, const char* what);

}  // namespace lora::test
