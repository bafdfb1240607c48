// Launches kernels from an op. Only .cu files include this.
#pragma once

#include "backend/cuda/context.h"
#include "backend/cuda/device/launch.h"
#include "backend/cuda/occupancy.h"
#include "core/error.h"
#include "core/maths/ceil_div.h"

namespace lora::cuda {

// Returns a sentence of the compiler that names the kernel.
template <auto kKernel>
const char* Spelled() {
  return __PRETTY_FUNCTION__;
}

// Instead of the bytes, for a kernel whose launches differ: its Params say kSharedByCall, and
// LaunchShape::shared_bytes are those of each launch.
inline constexpr size_t kSharedByCall = ~size_t{0};

// Returns the dynamic shared memory of a kernel's blocks, which stands beside its threads in
// Params::kSharedBytes; 0 where nothing does.
template <class Params>
constexpr size_t SharedBytesOf() {
  if constexpr (requires { Params::kSharedByCall; }) {
    return kSharedByCall;
  } else if constexpr (requires { Params::kSharedBytes; }) {
    constexpr size_t kShared = Params::kSharedBytes;
    static_assert(kShared <= kLeastSharedBytes, "some device has no room for a block");
    static_assert(BlocksBySharedMemory(kShared, kMaxSharedBytes) >= Params::kMinBlocks,
                  "no device holds so many blocks, so that registers must not be kept for them");
    return kShared;
  } else {
    return 0;
  }
}

// Is KernelLaunch::start of a kernel. In the names that an object has for these functions
// scripts/cuda-report.mjs finds the shared memory of every kernel.
template <size_t kSharedBytes, auto kKernel, class Params>
int Start(const device::LaunchShape& shape, void* stream, const void* params) {
  return static_cast<int>(device::Launch<kKernel>(shape, static_cast<device::Stream>(stream),
                                                  *static_cast<const Params*>(params)));
}

// Is called as Launch<Kernel<T>>("rms_norm", context, shape, params). A grid without
// blocks launches nothing.
template <auto kKernel, class Params>
void Launch(const char* op, Context& context, const device::LaunchShape& shape,
            const Params& params) {
  constexpr size_t kShared = SharedBytesOf<Params>();
  if (shape.grid_x == 0 || shape.grid_y == 0 || shape.grid_z == 0) return;
  KernelLaunch launch;
  launch.op = op;
  launch.kernel = Spelled<kKernel>();
  launch.place = device::Registered<kKernel>::index;
  launch.shape = shape;
  if constexpr (kShared != kSharedByCall) launch.shape.shared_bytes = kShared;
  launch.threads = Params::kThreads;
  if constexpr (requires { Params::kWaits; }) launch.waits = Params::kWaits;
  launch.params = &params;
  launch.append = [](const void* params, std::string& text) {
    Params copy = *static_cast<const Params*>(params);
#if defined(__has_builtin)
#if __has_builtin(__builtin_clear_padding)
    __builtin_clear_padding(&copy);
#endif
#endif
    text.append(reinterpret_cast<const char*>(&copy), sizeof copy);
  };
  launch.start = Start<kShared, kKernel, Params>;
  static_cast<CudaContext&>(context).Launch(launch);
}

// Returns a one-dimensional grid with blocks of `per_block` elements for `count` elements.
inline device::LaunchShape Blocks(int64_t count, int64_t per_block) {
  device::LaunchShape shape;
  shape.grid_x = static_cast<unsigned>(CeilDiv(count, per_block));
  return shape;
}

// Calls f.template operator()<T>() for the element type: float, device::BF16 or device::F16.
template <class F>
void ForFloat(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kF32:
      return f.template operator()<float>();
    case DType::kBF16:
      return f.template operator()<device::BF16>();
    case DType::kF16:
      return f.template operator()<device::F16>();
    default:
      Throw("ERR_UNSUPPORTED", "cuda", "no kernel for dtype ", NameOf(dtype));
  }
}

// Returns null where there is no data.
template <class T>
T* Offset(T* data, int64_t elements) {
  return data == nullptr ? nullptr : data + elements;
}

template <class T>
T* Data(const TensorView& view) {
  return static_cast<T*>(view.data);
}

}  // namespace lora::cuda
