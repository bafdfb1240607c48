// For the first and the second w numbers x1, x2 of each head of q and k:
//   y1 = x1·cos − x2·sin
//   y2 = x2·cos + x1·sin
// What is behind x2 is copied. A token's row of the tables is read once for all its heads.
// y may be x.
#include "backend/cpu/elementwise/convert.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/runtime/parallel.h"
#include "core/error.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/layers/rope.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/layers/rotation-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {
namespace {

template <class T>
void RotateTokens(const RopeArgs& args, size_t begin, size_t end) {
  const size_t sequence = static_cast<size_t>(args.q.dim(1));
  const size_t dim = static_cast<size_t>(args.q.dim(3));
  const size_t pairs = static_cast<size_t>(args.cos.dim(1));
  for (size_t token = begin; token < end; ++token) {
    const size_t position = args.positions
                                ? static_cast<size_t>(args.positions.as<const int32_t>()[token])
                                : static_cast<size_t>(args.offset) + token % sequence;
    const float* cos = args.cos.as<const float>() + position * pairs;
    const float* sin = args.sin.as<const float>() + position * pairs;
    const auto rotate = [&](const TensorView& x, const TensorView& y) HWY_ATTR {
      const size_t heads = static_cast<size_t>(x.dim(2));
      for (size_t head = token * heads; head < (token + 1) * heads; ++head) {
        RotateHead(x.as<const T>() + head * dim, cos, sin, args.inverse, pairs, dim,
                   y.as<T>() + head * dim);
      }
    };
    rotate(args.q, args.rotated_q);
    if (args.k) rotate(args.k, args.rotated_k);
  }
}

}  // namespace

void RopeTokens(const RopeArgs& args, size_t begin, size_t end) {
  if (args.q.dtype == DType::kBF16) {
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
  RequireActivation("rope", args.q.dtype);
  const size_t tokens = static_cast<size_t>(args.q.dim(0) * args.q.dim(1));
  const int64_t heads = args.q.dim(2) + (args.k ? args.k.dim(2) : 0);
  if (args.positions) {  // before anything is rotated: x may be y
    const auto* positions = args.positions.as<const int32_t>();
    for (size_t i = 0; i < tokens; ++i) {
      if (positions[i] < 0 || positions[i] >= args.cos.dim(0)) {
        Throw("ERR_DATA", "rope", "expected positions from 0 to ", args.cos.dim(0) - 1,
              " but received ", positions[i]);
      }
    }
  }
  ForRows(context, tokens, static_cast<size_t>(heads * args.q.dim(3)), kCheapGrain,
          [&](size_t begin, size_t end) { HWY_DYNAMIC_DISPATCH(RopeTokens)(args, begin, end); });
}

template PlannedCall Plan(const RopeArgs&, int);
}  // namespace lora::cpu
#endif  // HWY_ONCE
