// The CUDA backend needs this much of the CUDA runtime. There are two implementations: cudart's
// (runtime.cc, ask_driver.cc), and the emulator's (simt/emulated_runtime.cc) in builds that run the
// kernels on the CPU.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "core/runtime/devices.h"

namespace lora::cuda {

// Plans may know this of a device. It tells neither how much memory is free nor how long anything
// took, so that two runs give the same bits.
struct DeviceProperties {
  int multiprocessors = 0;
  int arch = 80;            // 10·major + minor
  size_t shared_bytes = 0;  // that a block may have after opting in
};

// One device with one stream and one pool of memory. Any thread may call anything; work that calls
// put into the stream runs on the device in the order of the calls. Errors of the device throw
// lora::Error with code ERR_DEVICE_LOST, and so does every call after the first error.
class Gpu {
 public:
  // Opens the device. Throws ERR_DEVICE_UNAVAILABLE where that fails, also where this build has no
  // code for the device, ERR_OUT_OF_MEMORY where the device has too little memory left.
  static std::shared_ptr<Gpu> Open(int ordinal);
  virtual ~Gpu() = default;

  virtual const DeviceProperties& properties() const = 0;
  virtual void* stream() const = 0;  // a device::Stream

  // kCounters words for each multiprocessor, at which blocks of one launch arrive (LastToArrive).
  // They are 0 except while a launch uses them, which leaves them at 0, so that nothing clears them
  // between launches. No two launches use them at once: all that a Gpu launches goes to its one
  // stream, also in a graph, and a launch that uses them either is not programmatic, so that it
  // starts when all before it have ended, or calls GridDependencyWait first.
  virtual uint32_t* counters() const = 0;
  static constexpr int kCounters = 2;

  // Takes memory in stream order. Returns nullptr when there is not that much, even after
  // everything freed was given back.
  virtual void* Allocate(size_t bytes) = 0;
  virtual void Free(void* data) = 0;
  virtual size_t free_bytes() const = 0;

  // Upload returns when `host` has been read, Download when the bytes have arrived. Both copy
  // through pinned memory.
  virtual void Upload(void* device, const void* host, size_t bytes) = 0;
  virtual void Download(void* host, const void* device, size_t bytes) = 0;
  // Clears the error of a launch that was refused, and returns what it was.
  virtual std::string TakeLaunchError(int error) = 0;
  // Comes before every launch: loads the kernel at that place in device::Kernels() where it is its
  // first on the device, and returns whether its launches may overlap (LaunchShape::programmatic).
  // Throws for `op` where the kernel cannot be loaded, after which the device goes on:
  // ERR_OUT_OF_MEMORY or ERR_UNSUPPORTED.
  virtual bool LoadKernel(const char* op, size_t kernel) = 0;
  // Waits until all work so far is done.
  virtual void Synchronize() = 0;
  // Waits until the work before the last call of this is done, and marks the work so far. Called
  // regularly, it keeps the queue short while the device goes on.
  virtual void Pace() = 0;

  // Calls work(stream), with a device::Stream, and returns a graph of what it launches there, which
  // does not run. `work` asks the device for nothing else. Throws what `work` throws, and
  // ERR_UNSUPPORTED where the device makes no graph.
  virtual void* Capture(const std::function<void(void* stream)>& work) = 0;
  // Launches all that a graph has, in the order of stream(). Throws ERR_UNSUPPORTED where the
  // device refuses it.
  virtual void LaunchGraph(void* graph) = 0;
  // Also while the device works on it, and when the device is lost.
  virtual void FreeGraph(void* graph) = 0;

  // How often contexts launched a kernel, also in a graph, waited for the device, and launched a
  // graph.
  std::atomic<int64_t> launches = 0, waits = 0, graphs = 0;

  struct Refusals {
    int64_t count = 0;
    std::string why;  // the last one
  };
  // Takes note of launches of which there is no graph.
  void Refused(const std::string& why) {
    const std::lock_guard lock(refusals_mutex_);
    ++refusals_.count;
    refusals_.why = why;
  }
  Refusals refusals() const {
    const std::lock_guard lock(refusals_mutex_);
    return refusals_;
  }

 private:
  mutable std::mutex refusals_mutex_;
  Refusals refusals_;
};

}  // namespace lora::cuda
