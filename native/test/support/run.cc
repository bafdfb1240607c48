#include "test/support/run.h"

namespace lora::test {

FrozenWeight::FrozenWeight(const Backend& backend, const Tensor& w, Context& context)
    : FrozenWeight(backend, w, Tensor(), w.dtype(), context) {}

FrozenWeight::FrozenWeight(const Backend& backend, const Tensor& w, const Tensor& scales,
                           DType activations, Context& context) {
  const int64_t rows = w.shape()[0], cols = w.shape()[1];
  const WeightFormat format = FormatOf(w.dtype());
  const size_t bytes = backend.packed_bytes(rows, cols, format);
  memory_ = Tensor(DType::kI32, {static_cast<int64_t>((bytes + 3) / 4)});
  Run(backend, PackArgs{w.view(), memory_.view().data, scales}, context);
  CHECK_MESSAGE(memory_.intact(), "pack wrote behind the end of its destination");
  view_ = PackedView{memory_.view().data, activations, rows, cols, format};
}

}  // namespace lora::test
