// Fills the CUDA backend's table of ops.
#include "backend/cuda/context.h"
#include "backend/cuda/pack.h"
#include "backend/cuda/runtime.h"
#include "core/ops/backend.h"

namespace lora {
namespace cuda {

// Its definition is instantiated in the file of each op (kernels.h).
template <class Args>
PlannedCall Plan(const Args&, int threads);

}  // namespace cuda
namespace {

Backend MakeBackend() {
  Backend b;
  b.name = "cuda";
  b.create_context = [](int) -> std::unique_ptr<Context> {
    return std::make_unique<cuda::GpuContext>(cuda::Gpu::Open(0));
  };
  b.f16_activations = true;
  b.reads = Fits;
  b.packed_bytes = cuda::PackedBytes;
  AllOps::ForEach([&]<class Args>(std::type_identity<Args>) { b.op<Args>() = {cuda::Plan}; });
  return b;
}

}  // namespace

const Backend* CudaBackend() {
  static const Backend backend = MakeBackend();
  return cuda::UnavailableReason().empty() ? &backend : nullptr;
}

const char* CudaUnavailableReason() { return cuda::UnavailableReason().c_str(); }

}  // namespace lora
