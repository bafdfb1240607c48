// Tries a backend with memory of its own with tensors in host memory. Every operand is copied to
// the device, the op runs there, and what it wrote is copied back, so that the tests of an op need
// not know where it runs.
#pragma once

#include <memory>

#include "backend/cuda/context.h"
#include "core/ops/backend.h"

namespace lora::test {

// Where the tensors of a call lie, in the order of its operands: at multiples of 256 bytes, or one
// element behind them. A path for aligned memory must have looked at each of its operands.
enum class Addresses { kAligned, kSecondOdd, kFirstOdd, kOdd };

// A context of the CUDA backend for MirroredCuda(). Every tensor lies in memory of exactly its own
// size.
class MirrorContext final : public Context {
 public:
  explicit MirrorContext(std::shared_ptr<cuda::Gpu> gpu, Addresses addresses = Addresses::kAligned)
      : device(std::move(gpu)), addresses(addresses) {}
  int threads() const override { return device.threads(); }

  cuda::GpuContext device;
  Addresses addresses;
};

// Returns the ops of CudaBackend() for host tensors. Frozen matrices stay in host memory too (they
// are row-major). Contexts are MirrorContexts; create_context makes one of device 0.
const Backend& MirroredCuda();

}  // namespace lora::test
