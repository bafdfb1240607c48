// The reference backend defines what is correct: its ops are scalar loops with double accumulators,
// which are slow and easy to check.
#include "backend/reference/rows.h"
#include "core/ops/backend.h"

namespace lora {
namespace reference {

// Its definition is instantiated in the file of each op (kernels.h).
template <class Args>
PlannedCall Plan(const Args&, int threads);

namespace {

class ReferenceContext final : public Context {};

std::unique_ptr<Context> CreateContext(int) { return std::make_unique<ReferenceContext>(); }

size_t PackedBytes(int64_t rows, int64_t cols, WeightFormat format) {
  return RowMajorBytes(format, rows, cols);
}

Backend Table() {
  Backend b;
  b.name = "reference";
  b.create_context = CreateContext;
  b.f16_activations = true;
  b.bf16_deltas = true;
  b.reads = Fits;
  b.packed_bytes = PackedBytes;
  AllOps::ForEach([&]<class Args>(std::type_identity<Args>) { b.op<Args>() = {Plan}; });
  return b;
}

}  // namespace
}  // namespace reference

const Backend& ReferenceBackend() {
  static const Backend backend = reference::Table();
  return backend;
}

}  // namespace lora
