// Runs one op as the product does: checked, with scratch of exactly the size that the op asked for.
#pragma once

#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "core/ops/backend.h"
#include "core/ops/ops.h"
#include "test/support/tensors.h"

namespace lora::test {

// It is NaN in every float type, so that garbage shows even where it is multiplied by 0; as i32 it
// is beyond every array and, unlike −1, no empty count.
inline constexpr uint16_t kScratchPoison = 0x7FFB;
inline std::byte ScratchPoisonAt(size_t i) {
  return static_cast<std::byte>(i % 2 == 0 ? kScratchPoison & 0xFF : kScratchPoison >> 8);
}
// A call may ask for megabytes, so whole words are written.
inline void FillWithPoison(std::byte* memory, size_t bytes) {
  for (size_t i = 0; i + 1 < bytes; i += 2) std::memcpy(memory + i, &kScratchPoison, 2);
  if (bytes % 2 != 0) memory[bytes - 1] = ScratchPoisonAt(bytes - 1);
}

// Runs an op without checking its arguments, for what it can do but no caller may ask for:
// gradients in f16. Scratch comes full of garbage, as the product's is reused memory, and has a
// guard behind.
template <class Args>
void RunUnchecked(const Op<Args>& op, const Args& args, Context& context) {
  REQUIRE(op.plan != nullptr);
  const PlannedCall call = op.plan(args, context.threads());
  const size_t bytes = call.scratch_bytes;
#ifdef __SANITIZE_ADDRESS__
  constexpr size_t kGuard = 0;  // AddressSanitizer has its own, and reports the place
#else
  constexpr size_t kGuard = 256;
#endif
  constexpr std::align_val_t kAlign{64};
  const std::unique_ptr<std::byte[], void (*)(std::byte*)> memory(
      static_cast<std::byte*>(::operator new(bytes + kGuard, kAlign)),
      [](std::byte* p) { ::operator delete(p, kAlign); });
  FillWithPoison(memory.get(), bytes + kGuard);
  call.run(Scratch(memory.get(), bytes), context);
  bool guard_intact = true;
  for (size_t i = bytes; i < bytes + kGuard; ++i) guard_intact &= memory[i] == ScratchPoisonAt(i);
  CHECK_MESSAGE(guard_intact, "the op wrote behind the end of its scratch");
}

template <class Args>
void Run(const Op<Args>& op, const Args& args, Context& context) {
  Check(args);
  RunUnchecked(op, args, context);
}

// Runs the op that takes these arguments: Run(CpuBackend(), AccumulateArgs{x, y}, context).
template <class Args>
void Run(const Backend& backend, const Args& args, Context& context) {
  Run(backend.op<Args>(), args, context);
}

// Does the same on a context of its own.
template <class Args>
void Run(const Backend& backend, const Args& args, int threads = 1) {
  const std::unique_ptr<Context> context = backend.create_context(threads);
  Run(backend.op<Args>(), args, *context);
}

// Returns every kind that has a word: EachKind<UnaryKind>(kUnaryKinds).
template <class Kind, size_t N>
std::vector<Kind> EachKind(const std::array<const char*, N>&) {
  std::vector<Kind> kinds;
  for (size_t i = 0; i < N; ++i) kinds.push_back(static_cast<Kind>(i));
  return kinds;
}

// The arguments that pack w as it is stored.
PackArgs PackOf(const Tensor& w, void* dst, const Tensor& scales = Tensor());

// W [rows, cols] packed, as a layer keeps it.
class FrozenWeight {
 public:
  FrozenWeight() = default;
  FrozenWeight(const Backend& backend, const Tensor& w, Context& context);
  // For activations of another dtype. scales belong to a w of int8, and are absent otherwise.
  FrozenWeight(const Backend& backend, const Tensor& w, const Tensor& scales, DType activations,
               Context& context);
  // What args says, whose dst is absent.
  FrozenWeight(const Backend& backend, PackArgs args, DType activations, Context& context);

  const PackedView& view() const { return view_; }

 private:
  Tensor memory_;
  PackedView view_;
};

}  // namespace lora::test
