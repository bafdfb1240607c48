#include "backend/cuda/context.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "core/error.h"

namespace lora::cuda {
namespace {

// The context keeps the device at most two times so many launches behind, or two graphs of more,
// because a longer queue hides how far behind the device is.
constexpr int kPacedLaunches = 256;

bool SyncFromEnvironment() {
  const char* text = std::getenv("LORA_CUDA_SYNC");
  return text != nullptr && std::strcmp(text, "1") == 0;
}

// Ends work that wants more of the device than launches while those are held back.
struct MoreThanLaunches : std::runtime_error {
  MoreThanLaunches() : std::runtime_error("an op waits for the device, or copies to it") {}
};
struct RefusedInCapture {
  int error;
};

// Sets a pointer as long as it lives.
template <class T>
class Held {
 public:
  Held(T*& place, T* value) : place_(place) { place_ = value; }
  ~Held() { place_ = nullptr; }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

 private:
  T*& place_;
};

class GpuGraph final : public Graph {
 public:
  GpuGraph(std::shared_ptr<Gpu> gpu, void* handle, int launches)
      : gpu_(std::move(gpu)), handle_(handle), launches_(launches) {}
  ~GpuGraph() override { gpu_->FreeGraph(handle_); }
  void* handle() const { return handle_; }
  int launches() const { return launches_; }

 private:
  const std::shared_ptr<Gpu> gpu_;
  void* const handle_;
  const int launches_;
};

// Appends what tells a launch from others.
void Append(const KernelLaunch& launch, std::string& text) {
  const auto append = [&](const auto& value) {
    text.append(reinterpret_cast<const char*>(&value), sizeof value);
  };
  append(launch.place);
  append(launch.shape.grid_x);
  append(launch.shape.grid_y);
  append(launch.shape.grid_z);
  append(launch.shape.shared_bytes);
  append(launch.shape.programmatic);
  launch.append(launch.params, text);
}

}  // namespace

GpuContext::GpuContext(std::shared_ptr<Gpu> gpu)
    : gpu_(std::move(gpu)), sync_(SyncFromEnvironment()) {}

void GpuContext::Launch(const KernelLaunch& launch) {
  ++given_.launches;
  if (trace_ != nullptr) return Append(launch, *trace_);
  device::LaunchShape shape = launch.shape;
  const bool may_overlap = gpu_->LoadKernel(launch.op, launch.place);
  shape.programmatic = shape.programmatic && may_overlap;
  const int error =
      launch.start(shape, capture_ != nullptr ? capture_ : gpu_->stream(), launch.params);
  if (capture_ != nullptr) {
    if (error != 0) throw RefusedInCapture{error};
    return;
  }
  if (error != 0)
    Throw("ERR_UNSUPPORTED", launch.op,
          "the device refused a launch: ", gpu_->TakeLaunchError(error));
  if (!sync_) return Count(1);
  ++gpu_->launches;
  is_idle_ = false;
  try {
    Finish();
  } catch (const Error& lost) {
    // The stream runs one op after the other, so the error is this op's.
    Throw("ERR_DEVICE_LOST", launch.op, lost.what());
  }
}

void GpuContext::Count(int launches) {
  gpu_->launches += launches;
  is_idle_ = false;
  launches_ += launches;
  if (launches_ < kPacedLaunches) return;
  launches_ = 0;
  gpu_->Pace();
}

void GpuContext::RequireDevice() {
  if (trace_ != nullptr || capture_ != nullptr) throw MoreThanLaunches();
  given_.waited = true;
}

void GpuContext::Finish() {
  if (is_idle_ && trace_ == nullptr && capture_ == nullptr) return;
  RequireDevice();
  ++gpu_->waits;
  gpu_->Synchronize();
  launches_ = 0;
  is_idle_ = true;
}

void GpuContext::ReadNow(void* host, const void* device, size_t bytes) {
  RequireDevice();
  ++gpu_->waits;
  gpu_->Download(host, device, bytes);
  launches_ = 0;
  is_idle_ = true;
}

void GpuContext::Upload(void* device, const void* host, size_t bytes) {
  RequireDevice();
  is_idle_ = false;
  gpu_->Upload(device, host, bytes);
}

Graphs::Given GpuContext::TakeGiven() { return std::exchange(given_, {}); }

std::optional<std::string> GpuContext::Trace(const Work& work) {
  std::string launches;
  const Held held(trace_, &launches);
  try {
    work();
  } catch (const MoreThanLaunches&) {
    return std::nullopt;
  }
  return launches;
}

std::unique_ptr<Graph> GpuContext::Capture(const Work& work) {
  try {
    int launches = 0;
    void* const graph = CaptureOrThrow(work, launches);
    return std::make_unique<GpuGraph>(gpu_, graph, launches);
  } catch (const std::exception& error) {
    gpu_->Refused(error.what());
  }
  return nullptr;
}

void* GpuContext::CaptureOrThrow(const Work& work, int& launches) {
  try {
    return gpu_->Capture([&](void* stream) {
      const Held held(capture_, stream);
      TakeGiven();
      work();
      launches = TakeGiven().launches;
    });
  } catch (const RefusedInCapture& launch) {
    // The device may be asked only now, after the capture.
    Throw("ERR_UNSUPPORTED", "program",
          "the device captured no launch: ", gpu_->TakeLaunchError(launch.error));
  }
}

bool GpuContext::Launch(Graph& graph) {
  try {
    const auto& it = static_cast<const GpuGraph&>(graph);
    gpu_->LaunchGraph(it.handle());
    ++gpu_->graphs;
    Count(it.launches());
    return true;
  } catch (const Error& error) {
    gpu_->Refused(error.what());
    return false;
  }
}

}  // namespace lora::cuda
