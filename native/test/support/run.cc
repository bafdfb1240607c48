#include "test/support/run.h"

namespace lora::test {

FrozenWeight::FrozenWeight(const Backend& backend, const Tensor& w, Context& context) {
  const int64_t rows = w.shape()[0], cols = w.shape()[1];
  const auto pack = [&](Direction direction, Tensor& memory) {
    const size_t bytes = backend.packed_bytes(rows, cols, w.dtype(), direction);
    memory = Tensor(DType::kI32, {static_cast<int64_t>((bytes + 3) / 4)});
    Run(backend, PackArgs{w.view(), memory.view().data, direction}, context);
    CHECK_MESSAGE(memory.intact(), "pack wrote behind the end of its destination");
    return PackedView{memory.view().data, w.dtype(), rows, cols, direction};
  };
  forward_ = pack(Direction::kForward, forward_memory_);
  backward_ = forward_;
  backward_.direction = Direction::kBackward;
  if (backend.packed_bytes(rows, cols, w.dtype(), Direction::kBackward) > 0) {
    backward_ = pack(Direction::kBackward, backward_memory_);
  }
}

}  // namespace lora::test
