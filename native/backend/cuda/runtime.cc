// Implements runtime.h on the CUDA runtime. The runtime is linked statically and opens libcuda at
// the first call, so this file also loads on a machine without a driver. Nothing here runs before
// main or after exit.
#include "backend/cuda/runtime.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

#include "backend/cuda/ask_driver.h"
#include "backend/cuda/captures.h"
#include "backend/cuda/device/kernel_list.h"
#include "backend/cuda/driver.h"
#include "backend/cuda/loaded_kernels.h"
#include "backend/cuda/staging.h"
#include "core/error.h"

namespace lora::cuda {
namespace {

std::string NameAndText(cudaError_t error) {
  return std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error);
}

class CudartGpu final : public Gpu {
 public:
  explicit CudartGpu(const DriverDevice& device, std::string id)
      : device_(device), id_(std::move(id)) {}

  ~CudartGpu() override {
    // Errors are dropped here: the process may be ending (cudaErrorCudartUnloading), or the device
    // may be lost, and nobody is left to be told.
    (void)cudaSetDevice(device_.ordinal);
    if (stream_ != nullptr) (void)cudaStreamSynchronize(stream_);
    uploads_.Close();
    downloads_.Close();
    captures_.Close();
    if (done_ != nullptr) (void)cudaEventDestroy(done_);
    if (mark_ != nullptr) (void)cudaEventDestroy(mark_);
    if (counters_ != nullptr) (void)cudaFree(counters_);
    if (pool_ != nullptr) (void)cudaMemPoolDestroy(pool_);
    if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
    (void)cudaGetLastError();
  }

  void Open() {
    OpenStep(cudaSetDevice(device_.ordinal), "choosing the device");
    int value = 0;
    OpenStep(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, device_.ordinal),
             "counting its multiprocessors");
    properties_.multiprocessors = value;
    properties_.arch = device_.arch;
    OpenStep(
        cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, device_.ordinal),
        "asking for its shared memory");
    properties_.shared_bytes = static_cast<size_t>(value);
    // Work of other streams, such as the legacy default stream, does not wait for this one.
    OpenStep(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
    OpenStep(cudaEventCreateWithFlags(&done_, cudaEventDisableTiming | cudaEventBlockingSync),
             "making an event");
    OpenStep(cudaEventCreateWithFlags(&mark_, cudaEventDisableTiming | cudaEventBlockingSync),
             "making an event");
    OpenPool();
    const size_t counters = static_cast<size_t>(kCounters * properties_.multiprocessors);
    OpenStep(cudaMalloc(reinterpret_cast<void**>(&counters_), counters * sizeof *counters_),
             "taking memory");
    OpenStep(cudaMemsetAsync(counters_, 0, counters * sizeof *counters_, stream_),
             "clearing memory");
    OpenStep(uploads_.Open(), "taking page-locked memory");
    OpenStep(downloads_.Open(), "taking page-locked memory");
    if (device::Kernels().empty()) return;
    // All kernels are compiled for the same architectures, so that one tells whether there is code
    // for this device. The others are loaded when they are first launched.
    cudaFuncAttributes attributes;
    const cudaError_t error = cudaFuncGetAttributes(&attributes, device::Kernels().front());
    if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction) {
      (void)cudaGetLastError();
      Throw("ERR_DEVICE_UNAVAILABLE", "device", "cannot open ", id_, " (", device_.name,
            "): this build of lora-native has no code for compute capability ", device_.arch / 10,
            ".", device_.arch % 10, ", only for ", LORA_CUDA_ARCHITECTURES);
    }
    OpenStep(error, "loading a kernel");
  }

  const DeviceProperties& properties() const override { return properties_; }

  void* stream() const override {
    // Every launch asks for the stream, on any thread, and the current device
    // belongs to the thread.
    (void)cudaSetDevice(device_.ordinal);
    return stream_;
  }

  uint32_t* counters() const override { return counters_; }

  void* Allocate(size_t bytes) override {
    Enter();
    if (void* data = TryAllocate(bytes)) return data;
    GiveBack();
    return TryAllocate(bytes);
  }

  void Free(void* data) override {
    if (data == nullptr || lost() || cudaSetDevice(device_.ordinal) != cudaSuccess) return;
    cudaError_t error = cudaSuccess;
    if (pool_ != nullptr) {
      error = cudaFreeAsync(data, stream_);
    } else {
      error = cudaStreamSynchronize(stream_);  // cudaFree does not follow the stream's order
      if (error == cudaSuccess) error = cudaFree(data);
    }
    Freed(error, "giving memory back");
  }

  size_t free_bytes() const override {
    if (lost() || cudaSetDevice(device_.ordinal) != cudaSuccess) return 0;
    size_t free = 0, total = 0;
    if (cudaMemGetInfo(&free, &total) != cudaSuccess) return 0;
    uint64_t reserved = 0, used = 0;
    if (pool_ != nullptr &&
        cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrReservedMemCurrent, &reserved) ==
            cudaSuccess &&
        cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrUsedMemCurrent, &used) == cudaSuccess)
      free += reserved - std::min(used, reserved);
    return free;
  }

  void Upload(void* device, const void* host, size_t bytes) override {
    const std::lock_guard lock(uploads_.mutex);
    Enter();
    const auto* from = static_cast<const char*>(host);
    auto* to = static_cast<char*>(device);
    while (bytes > 0) {
      const size_t chunk = std::min(bytes, uploads_.bytes());
      Staging::Slot& slot = uploads_.Next();
      Check(cudaEventSynchronize(slot.free), "waiting for an upload");
      std::memcpy(slot.data, from, chunk);
      Check(cudaMemcpyAsync(to, slot.data, chunk, cudaMemcpyHostToDevice, stream_), "an upload");
      Check(cudaEventRecord(slot.free, stream_), "an upload");
      from += chunk;
      to += chunk;
      bytes -= chunk;
    }
  }

  void Download(void* host, const void* device, size_t bytes) override {
    const std::lock_guard lock(downloads_.mutex);
    Enter();
    const auto* from = static_cast<const char*>(device);
    auto* to = static_cast<char*>(host);
    if (bytes == 0) return Synchronize();
    // The next pieces are copied by the device while one is copied out.
    struct Piece {
      Staging::Slot* slot;
      size_t bytes;
    };
    std::vector<Piece> flying;
    size_t asked = 0, arrived = 0, first = 0;
    while (arrived < bytes) {
      while (asked < bytes && flying.size() - first < downloads_.slots()) {
        const Piece piece{&downloads_.Next(), std::min(bytes - asked, downloads_.bytes())};
        Check(cudaMemcpyAsync(piece.slot->data, from + asked, piece.bytes, cudaMemcpyDeviceToHost,
                              stream_),
              "a download");
        Check(cudaEventRecord(piece.slot->free, stream_), "a download");
        asked += piece.bytes;
        flying.push_back(piece);
      }
      const Piece& piece = flying[first++];
      Check(cudaEventSynchronize(piece.slot->free), "waiting for a download");
      std::memcpy(to + arrived, piece.slot->data, piece.bytes);
      arrived += piece.bytes;
    }
  }

  bool LoadKernel(const char* op, size_t kernel) override {
    return kernels_.MayOverlap(kernel, [&](const void* address) {
      Enter();
      bool may_overlap = false;
      cudaError_t error = LoadCode(address, properties_.shared_bytes, may_overlap);
      // A capture may forbid that a kernel is loaded. It ends with this error, the launches go to
      // the stream, and the first of them loads the kernel. Of the stream or of memory nothing can
      // be asked here: an answer that the thread captures says nothing of the device.
      if (error != cudaSuccess && captures_.IsCapturing())
        Throw("ERR_UNSUPPORTED", op,
              "the device could not load a kernel inside of a capture: ", NameAndText(error));
      if (error == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        GiveBack();
        error = LoadCode(address, properties_.shared_bytes, may_overlap);
      }
      if (error != cudaSuccess)
        Throw(error == cudaErrorMemoryAllocation ? "ERR_OUT_OF_MEMORY" : "ERR_UNSUPPORTED", op,
              "the device could not load a kernel: ", TakeLaunchError(error));
      return may_overlap;
    });
  }

  std::string TakeLaunchError(int code) override {
    const auto error = static_cast<cudaError_t>(code);
    (void)cudaGetLastError();
    // A launch also reports errors that came before it. Then the stream is dead and says so.
    const cudaError_t state = cudaStreamQuery(stream_);
    (void)cudaGetLastError();  // clears the error of a stream that is only busy
    if (state != cudaSuccess && state != cudaErrorNotReady) Check(state, "a launch");
    return NameAndText(error);
  }

  void Synchronize() override {
    Enter();
    // Each call has an event of its own, because two threads may wait for two points in the stream.
    cudaEvent_t event = nullptr;
    {
      const std::lock_guard lock(event_mutex_);
      event = std::exchange(done_, nullptr);
    }
    if (event == nullptr)
      Check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventBlockingSync),
            "making an event");
    cudaError_t error = cudaEventRecord(event, stream_);
    if (error == cudaSuccess) error = cudaEventSynchronize(event);
    {
      const std::lock_guard lock(event_mutex_);
      std::swap(event, done_);
    }
    if (event != nullptr) (void)cudaEventDestroy(event);
    Check(error, "waiting for the device");
  }

  void Pace() override {
    Enter();
    Check(cudaEventSynchronize(mark_), "waiting for the device");
    Check(cudaEventRecord(mark_, stream_), "marking the work so far");
  }

  void* Capture(const std::function<void(void*)>& work) override {
    Enter();
    cudaGraphExec_t graph = nullptr;
    if (const cudaError_t error = captures_.Capture(work, graph); error != cudaSuccess)
      Throw("ERR_UNSUPPORTED", "program", "the device made no graph: ", TakeLaunchError(error));
    return graph;
  }

  void LaunchGraph(void* graph) override {
    Enter();
    const cudaError_t error = cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), stream_);
    if (error != cudaSuccess)
      Throw("ERR_UNSUPPORTED", "program", "the device refused a graph: ", TakeLaunchError(error));
  }

  void FreeGraph(void* graph) override {
    (void)cudaSetDevice(device_.ordinal);
    Freed(cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)), "giving a graph back");
  }

 private:
  static constexpr int kUploadSlots = 16, kDownloadSlots = 4;
  static constexpr size_t kUploadBytes = size_t{512} << 10, kDownloadBytes = size_t{1} << 20;

  void OpenStep(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return;
    (void)cudaGetLastError();
    Throw(error == cudaErrorMemoryAllocation ? "ERR_OUT_OF_MEMORY" : "ERR_DEVICE_UNAVAILABLE",
          "device", "cannot open ", id_, " (", device_.name, "): ", what, " gave ",
          NameAndText(error));
  }

  // Waits for what was freed, which comes back only when the stream gets there, and gives it to the
  // device; what the pool holds may be in pieces of the wrong size.
  void GiveBack() {
    Synchronize();
    if (pool_ != nullptr) Check(cudaMemPoolTrimTo(pool_, 0), "trimming the pool");
  }

  // The pool is ours, and keeps what was freed; the default pool is shared with other libraries.
  // Without pools every block is a cudaMalloc, but core/runtime/allocator.h keeps blocks for reuse
  // as well.
  void OpenPool() {
    int pools = 0;
    OpenStep(cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, device_.ordinal),
             "asking for memory pools");
    if (pools == 0) return;
    cudaMemPoolProps props{};
    props.allocType = cudaMemAllocationTypePinned;
    props.location.type = cudaMemLocationTypeDevice;
    props.location.id = device_.ordinal;
    OpenStep(cudaMemPoolCreate(&pool_, &props), "making a memory pool");
    uint64_t threshold = UINT64_MAX;
    OpenStep(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &threshold),
             "making a memory pool");
  }

  // Returns nullptr when there is not that much. An allocation of no bytes has an address too.
  void* TryAllocate(size_t bytes) {
    void* data = nullptr;
    bytes = std::max<size_t>(bytes, 1);
    if (bytes > device_.memory_bytes) return nullptr;  // drivers give different errors for that
    const cudaError_t error = pool_ != nullptr
                                  ? cudaMallocFromPoolAsync(&data, bytes, pool_, stream_)
                                  : cudaMalloc(&data, bytes);
    if (error == cudaSuccess) return data;
    (void)cudaGetLastError();
    if (error != cudaErrorMemoryAllocation) Check(error, "taking memory");
    return nullptr;
  }

  void Enter() const {
    {
      const std::lock_guard lock(lost_mutex_);
      if (!lost_.empty()) throw Error("ERR_DEVICE_LOST", "cuda", lost_);
    }
    Check(cudaSetDevice(device_.ordinal), "choosing the device");
  }
  // Every error that is not one of memory or of a launch's shape ends the device, because CUDA
  // repeats it at each later call until the process ends.
  void Check(cudaError_t error, const char* what) const {
    if (error == cudaSuccess) return;
    (void)cudaGetLastError();
    Lose(error, what);
    const std::lock_guard lock(lost_mutex_);
    throw Error("ERR_DEVICE_LOST", "cuda", lost_);
  }
  // The next call throws the error, because destructors give things back.
  void Freed(cudaError_t error, const char* what) const {
    if (error == cudaSuccess || error == cudaErrorCudartUnloading) return;
    (void)cudaGetLastError();
    Lose(error, what);
  }
  void Lose(cudaError_t error, const char* what) const {
    const std::lock_guard lock(lost_mutex_);
    if (!lost_.empty()) return;
    lost_ = "[cuda] the device " + id_ + " (" + device_.name + ") was lost: " + NameAndText(error) +
            ", seen at " + what +
            "; it can be used again after a restart of the process. LORA_CUDA_SYNC=1 finds the op "
            "that did it";
  }
  bool lost() const {
    const std::lock_guard lock(lost_mutex_);
    return !lost_.empty();
  }

  const DriverDevice device_;
  const std::string id_;
  DeviceProperties properties_;
  cudaStream_t stream_ = nullptr;
  cudaMemPool_t pool_ = nullptr;
  uint32_t* counters_ = nullptr;
  LoadedKernels kernels_;
  Captures captures_;
  std::mutex event_mutex_;
  cudaEvent_t done_ = nullptr;  // null while someone waits with it
  cudaEvent_t mark_ = nullptr;  // where Pace was called last; only the stream's worker calls it
  Staging uploads_{kUploadSlots, kUploadBytes}, downloads_{kDownloadSlots, kDownloadBytes};
  mutable std::mutex lost_mutex_;
  mutable std::string lost_;  // the first error, as a sentence
};

}  // namespace

std::shared_ptr<Gpu> Gpu::Open(int ordinal) {
  if (const std::string& reason = UnavailableReason(); !reason.empty())
    Throw("ERR_DEVICE_UNAVAILABLE", "device", reason);
  if (ordinal < 0 || ordinal >= DeviceCount())
    Throw("ERR_DEVICE_UNAVAILABLE", "device", "there is no CUDA device ", ordinal, ", only ",
          DeviceCount());
  const auto gpu =
      std::make_shared<CudartGpu>(Devices()[static_cast<size_t>(ordinal)], Describe(ordinal).id);
  gpu->Open();
  return gpu;
}

}  // namespace lora::cuda
