// Fills the CPU backend's table of ops.
#include "backend/cpu/formats/pack.h"
#include "backend/cpu/product/panels.h"
#include "backend/cpu/runtime/context.h"
#include "backend/cpu/runtime/targets.h"
#include "core/ops/backend.h"

namespace lora {
namespace cpu {

// Its definition is instantiated in the file of each op (kernels.h).
template <class Args>
PlannedCall Plan(const Args&, int threads);

}  // namespace cpu
namespace {

std::unique_ptr<Context> CreateContext(int threads) {
  cpu::LimitTargetsByEnvironment();
  return std::make_unique<cpu::CpuContext>(threads);
}

// What depends on the target may be asked for before there is any context to choose the target.
size_t PackedBytes(int64_t rows, int64_t cols, WeightFormat format) {
  cpu::LimitTargetsByEnvironment();
  return cpu::PackedBytes(rows, cols, format);
}

size_t CopiedBytes(bool bf16, size_t rows, std::span<const size_t> widths) {
  cpu::LimitTargetsByEnvironment();
  return cpu::CopiedBytes(bf16, rows, widths);
}

Backend MakeBackend() {
  Backend b;
  b.name = "cpu";
  b.create_context = CreateContext;
  b.reads = Fits;
  b.bf16_deltas = true;
  b.packed_bytes = PackedBytes;
  b.copied_bytes = CopiedBytes;
  AllOps::ForEach([&]<class Args>(std::type_identity<Args>) { b.op<Args>() = {cpu::Plan}; });
  return b;
}

}  // namespace

const Backend& CpuBackend() {
  static const Backend backend = MakeBackend();
  return backend;
}

}  // namespace lora
