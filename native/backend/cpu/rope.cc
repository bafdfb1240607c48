// For the halves x1, x2 of each head:
//   y1 = x1·cos − x2·sin
//   y2 = x2·cos + x1·sin
// A token's row of the tables is read once for all its heads. y may be x.
#include "backend/cpu/convert.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/parallel.h"
#include "core/error.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/rope.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {
namespace {

template <class T>
HWY_INLINE void RotateHead(const T* x, const float* cos, const float* sin, bool inverse,
                           size_t half, T* y) {
  const DF d;
  const VF flip = hn::Set(d, inverse ? -1.0f : 1.0f);
  size_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const VF x1 = ReadVec(x + i), x2 = ReadVec(x + half + i);
    const VF c = ReadVec(cos + i), s = hn::Mul(flip, ReadVec(sin + i));
    WriteVec(hn::NegMulAdd(x2, s, hn::Mul(x1, c)), y + i);
    WriteVec(hn::MulAdd(x1, s, hn::Mul(x2, c)), y + half + i);
  }
  if (i == half) return;
  const size_t n = half - i;
  const VF x1 = ReadPart(x + i, n), x2 = ReadPart(x + half + i, n);
  const VF c = ReadPart(cos + i, n), s = hn::Mul(flip, ReadPart(sin + i, n));
  WritePart(hn::NegMulAdd(x2, s, hn::Mul(x1, c)), y + i, n);
  WritePart(hn::MulAdd(x1, s, hn::Mul(x2, c)), y + half + i, n);
}

template <class T>
void RotateTokens(const RopeArgs& args, size_t begin, size_t end) {
  const size_t sequence = static_cast<size_t>(args.x.dim(1));
  const size_t heads = static_cast<size_t>(args.x.dim(2)), dim = static_cast<size_t>(args.x.dim(3));
  const size_t half = dim / 2;
  for (size_t token = begin; token < end; ++token) {
    const size_t position = args.positions
                                ? static_cast<size_t>(args.positions.as<const int32_t>()[token])
                                : static_cast<size_t>(args.offset) + token % sequence;
    const float* cos = args.cos.as<const float>() + position * half;
    const float* sin = args.sin.as<const float>() + position * half;
    for (size_t head = token * heads; head < (token + 1) * heads; ++head) {
      RotateHead(args.x.as<const T>() + head * dim, cos, sin, args.inverse, half,
                 args.y.as<T>() + head * dim);
    }
  }
}

}  // namespace

void RopeTokens(const RopeArgs& args, size_t begin, size_t end) {
  if (args.x.dtype == DType::kBF16) {
    RotateTokens<hwy::bfloat16_t>(args, begin, end);
  } else {
    RotateTokens<float>(args, begin, end);
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {

HWY_EXPORT(RopeTokens);

void Run(const RopeArgs& args, Scratch, Context& context) {
  RequireActivation("rope", args.x.dtype);
  const size_t tokens = static_cast<size_t>(args.x.dim(0) * args.x.dim(1));
  if (args.positions) {  // before anything is rotated: x may be y
    const auto* positions = args.positions.as<const int32_t>();
    for (size_t i = 0; i < tokens; ++i) {
      if (positions[i] < 0 || positions[i] >= args.cos.dim(0)) {
        Throw("ERR_DATA", "rope", "expected positions from 0 to ", args.cos.dim(0) - 1,
              " but received ", positions[i]);
      }
    }
  }
  ForRows(context, tokens, static_cast<size_t>(args.x.dim(2) * args.x.dim(3)), kCheapGrain,
          [&](size_t begin, size_t end) { HWY_DYNAMIC_DISPATCH(RopeTokens)(args, begin, end); });
}

}  // namespace lora::cpu
#endif  // HWY_ONCE
