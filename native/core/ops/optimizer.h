// Describes the ops of an optimizer's step. See ops.h for what all ops share.
#pragma once

#include <cstdint>
#include <vector>

#include "core/ops/describe.h"

namespace lora {

// Updates in place, in f32, with decoupled weight decay (Loshchilov & Hutter 2019) and bias
// correction:
//   p ← p·(1 − lr·decay);  m ← β1·m + (1−β1)·g;  v ← β2·v + (1−β2)·g²
//   p ← p − lr/(1−β1^step) · m / (√(v/(1−β2^step)) + eps)
struct AdamWArgs {
  struct Segment {
    TensorView param, grad, m, v;  // f32, same numel

    static constexpr auto Describe() {
      using S = Segment;
      return PartDescription{
          Update("param", &S::param),
          In("grad", &S::grad),
          Update("m", &S::m),
          Update("v", &S::v),
      };
    }
  };
  std::vector<Segment> segments;
  double lr = 0, beta1 = 0, beta2 = 0, eps = 0, weight_decay = 0;
  int64_t step = 1;  // 1 at the first call

  static constexpr auto Describe() {
    using A = AdamWArgs;
    return OpDescription{
        "adamw",
        "adamw",
        Each("segments", "segment", &A::segments),
        Options(Number("lr", &A::lr), Number("beta1", &A::beta1), Number("beta2", &A::beta2),
                Number("eps", &A::eps), Number("weightDecay", &A::weight_decay),
                Whole("step", &A::step, 1)),
        Guarded(),
    };
  }
};
void Check(const AdamWArgs&);

// norm [1] f32 = √(Σ over all tensors and elements of x²).
struct GlobalNormArgs {
  std::vector<TensorView> tensors;  // f32
  TensorView norm;

  static constexpr auto Describe() {
    using A = GlobalNormArgs;
    return OpDescription{
        "global_norm",
        "global_norm",
        InEach("tensors", "tensor", &A::tensors),
        OutScalar("norm", &A::norm),
    };
  }
};
void Check(const GlobalNormArgs&);

// x ← x·min(1, max_norm/(norm + 1e-6)), in place; a non-finite norm leaves NaN, as PyTorch does.
struct ClipByNormArgs {
  std::vector<TensorView> tensors;  // f32
  TensorView norm;
  float max_norm = 0;

  static constexpr auto Describe() {
    using A = ClipByNormArgs;
    // The access is kInOut rather than kUpdate, because a gradient whose clipping failed must not
    // reach the optimizer as if it had been clipped.
    return OpDescription{
        "clip_by_norm",
        "clip_by_norm",
        InOutEach("tensors", "tensor", &A::tensors),
        In("norm", &A::norm),
        Number("maxNorm", &A::max_norm),
    };
  }
};
void Check(const ClipByNormArgs&);

using OptimizerOps = OpList<AdamWArgs, GlobalNormArgs, ClipByNormArgs>;

}  // namespace lora
