#include "test/support/run.h"

namespace lora::test {

PackArgs PackOf(const Tensor& w, void* dst, const Tensor& scales) {
  return {w, dst, scales, FormatOf(w.dtype()), w.shape()[0], w.shape()[1]};
}

FrozenWeight::FrozenWeight(const Backend& backend, const Tensor& w, Context& context)
    : FrozenWeight(backend, w, Tensor(), w.dtype(), context) {}

FrozenWeight::FrozenWeight(const Backend& backend, const Tensor& w, const Tensor& scales,
                           DType activations, Context& context)
    : FrozenWeight(backend, PackOf(w, nullptr, scales), activations, context) {}

FrozenWeight::FrozenWeight(const Backend& backend, PackArgs args, DType activations,
                           Context& context) {
  const auto [rows, cols] = std::pair(args.rows, args.cols);
  const WeightFormat format = args.format;
  const size_t bytes = backend.packed_bytes(rows, cols, format);
  memory_ = Tensor(DType::kI32, {static_cast<int64_t>((bytes + 3) / 4)});
  args.dst = memory_.view().data;
  Run(backend, args, context);
  CHECK_MESSAGE(memory_.intact(), "pack wrote behind the end of its destination");
  view_ = PackedView{memory_.view().data, activations, rows, cols, format};
}

}  // namespace lora::test
