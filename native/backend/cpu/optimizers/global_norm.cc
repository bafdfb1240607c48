// norm = √(Σ x²). Squares and sums are double, over pieces of a fixed size whose sums are added in
// order, so that the result does not depend on the number of threads. Clipping multiplies every
// element once, or reads nothing where the norm is small enough.
#include <cmath>
#include <limits>

#include "backend/cpu/kernels.h"
#include "backend/cpu/runtime/arena.h"
#include "backend/cpu/runtime/parallel.h"
#include "core/maths/ceil_div.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/optimizers/global_norm.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/simd/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

double SumOfSquares(const float* x, size_t n) {
  const DF64 dd;
  auto even = hn::Zero(dd), odd = hn::Zero(dd);
  size_t i = 0;
  for (; i < n; i += kLanes) {
    const VF v = i + kLanes <= n ? ReadVec(x + i) : ReadPart(x + i, n - i);
    const auto lower = hn::PromoteLowerTo(dd, v), upper = hn::PromoteUpperTo(dd, v);
    even = hn::MulAdd(lower, lower, even);
    odd = hn::MulAdd(upper, upper, odd);
  }
  return hn::ReduceSum(dd, hn::Add(even, odd));
}

void ScaleInPlace(float* x, float factor, size_t n) {
  struct Times {
    float factor;
    HWY_INLINE VF operator()(DF d, VF v) const { return hn::Mul(v, hn::Set(d, factor)); }
  };
  Map(Times{factor}, n, x, x);
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {

HWY_EXPORT(SumOfSquares);
HWY_EXPORT(ScaleInPlace);

namespace {

constexpr size_t kPiece = 16384;

size_t PiecesOf(const TensorView& tensor) {
  return CeilDiv(static_cast<size_t>(tensor.numel()), kPiece);
}

// Calls fn(data, count, piece) for the pieces [begin, end) of all tensors, numbered in order.
template <class Fn>
void ForPieces(const std::vector<TensorView>& tensors, size_t begin, size_t end, const Fn& fn) {
  size_t first = 0;
  for (const TensorView& tensor : tensors) {
    const size_t last = first + PiecesOf(tensor), n = static_cast<size_t>(tensor.numel());
    for (size_t piece = std::max(first, begin); piece < std::min(last, end); ++piece) {
      const size_t from = (piece - first) * kPiece;
      fn(tensor.as<float>() + from, std::min(kPiece, n - from), piece);
    }
    first = last;
  }
}

size_t AllPieces(const std::vector<TensorView>& tensors) {
  size_t pieces = 0;
  for (const TensorView& tensor : tensors) pieces += PiecesOf(tensor);
  return pieces;
}

}  // namespace

size_t ScratchBytes(const GlobalNormArgs& args, int) {
  Arena arena;
  arena.Take<double>(AllPieces(args.tensors));
  return arena.bytes();
}

void Run(const GlobalNormArgs& args, Scratch scratch, Context& context) {
  const size_t pieces = AllPieces(args.tensors);
  Arena arena(scratch);
  double* sums = arena.Take<double>(pieces);
  ForRange(context, pieces, 2, 1, [&](size_t begin, size_t end) {
    ForPieces(args.tensors, begin, end, [&](const float* x, size_t n, size_t piece) {
      sums[piece] = HWY_DYNAMIC_DISPATCH(SumOfSquares)(x, n);
    });
  });
  double total = 0;
  for (size_t piece = 0; piece < pieces; ++piece) total += sums[piece];
  args.norm.as<float>()[0] = static_cast<float>(std::sqrt(total));
}

void Run(const ClipByNormArgs& args, Scratch, Context& context) {
  const double norm = static_cast<double>(args.norm.as<const float>()[0]);
  const double scale = static_cast<double>(args.max_norm) / (norm + 1e-6);
  if (std::isfinite(norm) && scale >= 1) return;
  // A norm that is not finite makes every element NaN, so that the failure is visible.
  const float factor =
      std::isfinite(norm) ? static_cast<float>(scale) : std::numeric_limits<float>::quiet_NaN();
  ForRange(context, AllPieces(args.tensors), 2, 1, [&](size_t begin, size_t end) {
    ForPieces(args.tensors, begin, end, [&](float* x, size_t n, size_t) {
      HWY_DYNAMIC_DISPATCH(ScaleInPlace)(x, factor, n);
    });
  });
}

template PlannedCall Plan(const GlobalNormArgs&, int);
template PlannedCall Plan(const ClipByNormArgs&, int);
}  // namespace lora::cpu
#endif  // HWY_ONCE
