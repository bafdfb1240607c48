// Describes the ops of an optimizer's step. See ops.h for what all ops share.
#pragma once

#include <cstdint>
#include <vector>

#include "core/maths/ceil_div.h"
#include "core/maths/dynamic_code.h"
#include "core/ops/describe.h"
#include "core/ops/step_factors.h"

namespace lora {

// A step updates many parameters at once. A segment is one of them with its gradient and the state
// that the optimizer keeps for it, all f32 and of the same numel unless said otherwise. A parameter
// may also be bf16, without an f32 copy of it: its new values are computed in f32 and rounded
// stochastically (core/maths/stochastic_rounding.h).

// The counters of the random bits. A parameter of f32 has none.
struct StochasticRounding {
  uint64_t seed = 0;
  uint32_t parameter = 0;  // its number in the optimizer
  uint32_t step = 0;       // 1 at the first call; 0 where there is no rounding

  static constexpr auto Describe() {
    using R = StochasticRounding;
    return PartDescription{
        Whole("seed", &R::seed),
        Whole("parameter", &R::parameter),
        Whole("step", &R::step, 1),
    };
  }
};

// The arguments of AdamW, whose segments say how the moments are kept.
template <class SegmentOfOp>
struct AdamWStepArgs {
  using Segment = SegmentOfOp;
  std::vector<Segment> segments;
  double lr = 0, beta1 = 0, beta2 = 0, eps = 0, weight_decay = 0;
  int64_t step = 1;  // 1 at the first call

  static constexpr auto Describe() {
    using A = AdamWStepArgs;
    return OpDescription{
        Segment::kOp,
        Segment::kOp,
        Each("segments", "segment", &A::segments),
        Options(Number("lr", &A::lr), Number("beta1", &A::beta1), Number("beta2", &A::beta2),
                Number("eps", &A::eps), Number("weightDecay", &A::weight_decay),
                Whole("step", &A::step, 1)),
        Guarded(),
    };
  }
};

struct AdamWSegment {
  static constexpr const char* kOp = "adamw";
  TensorView param, grad, m, v;
  StochasticRounding rounding = {};

  static constexpr auto Describe() {
    using S = AdamWSegment;
    return PartDescription{
        Update("param", &S::param),
        In("grad", &S::grad),
        Update("m", &S::m),
        Update("v", &S::v),
        MaybePart("rounding", &S::rounding),
    };
  }
};

// Updates in place, in f32, with decoupled weight decay (Loshchilov & Hutter 2019) and bias
// correction:
//   p ← p·(1 − lr·decay);  m ← β1·m + (1−β1)·g;  v ← β2·v + (1−β2)·g²
//   p ← p − lr/(1−β1^step) · m / (√(v/(1−β2^step)) + eps)
using AdamWArgs = AdamWStepArgs<AdamWSegment>;
void Check(const AdamWArgs&);
AdamWFactors FactorsOf(const AdamWArgs&);

// The moments are kept in blocks of kDynamicBlock elements, the last of which may be shorter. A
// moment is the scale of its block times the value of its code (core/maths/dynamic_code.h), which
// has a sign for m and none for v. Codes are bytes, four in an i32. They are stored for whole
// blocks, and those behind the end of the parameter are 0.
struct AdamW8bitSegment {
  static constexpr const char* kOp = "adamw8bit";
  TensorView param, grad;         // f32, same numel
  TensorView m_codes, v_codes;    // i32 [blocks·64]
  TensorView m_scales, v_scales;  // f32 [blocks]
  StochasticRounding rounding = {};

  int64_t blocks() const { return CeilDiv(param.numel(), kDynamicBlock); }

  static constexpr auto Describe() {
    using S = AdamW8bitSegment;
    return PartDescription{
        Update("param", &S::param),          In("grad", &S::grad),
        Update("mCodes", &S::m_codes),       Update("vCodes", &S::v_codes),
        Update("mScales", &S::m_scales),     Update("vScales", &S::v_scales),
        MaybePart("rounding", &S::rounding),
    };
  }
};

// AdamW with the state in 8 bits (Dettmers et al. 2022): the moments are dequantized, p is updated
// by the new ones in f32, and these are quantized. A second moment above 0 stays above 0
// (core/maths/dynamic_code.h). A scale is the largest magnitude of its block. It is NaN where a
// moment of the block is not finite; then its codes are 0.
using AdamW8bitArgs = AdamWStepArgs<AdamW8bitSegment>;
void Check(const AdamW8bitArgs&);
AdamWFactors FactorsOf(const AdamW8bitArgs&);

// Updates in place, in f32, as PyTorch's SGD does (Sutskever et al. 2013):
//   g ← g + decay·p;  v ← μ·v + g;  p ← p − lr·v, or p ← p − lr·(g + μ·v) with nesterov
// Without a velocity v is g, and μ is 0.
struct SgdArgs {
  struct Segment {
    TensorView param, grad, velocity;  // all segments of a call have a velocity, or none has
    StochasticRounding rounding = {};

    static constexpr auto Describe() {
      using S = Segment;
      return PartDescription{
          Update("param", &S::param),
          In("grad", &S::grad),
          Update("velocity", &S::velocity).OrNone(),
          MaybePart("rounding", &S::rounding),
      };
    }
  };
  std::vector<Segment> segments;
  double lr = 0, momentum = 0, weight_decay = 0;
  bool nesterov = false;

  bool has_velocity() const { return !segments.empty() && segments[0].velocity; }

  static constexpr auto Describe() {
    using A = SgdArgs;
    return OpDescription{
        "sgd",
        "sgd",
        Each("segments", "segment", &A::segments),
        Options(Number("lr", &A::lr), Number("momentum", &A::momentum),
                Number("weightDecay", &A::weight_decay), Flag("nesterov", &A::nesterov)),
        Guarded(),
    };
  }
};
void Check(const SgdArgs&);
SgdFactors FactorsOf(const SgdArgs&);

// Updates in place, in f32, with decoupled weight decay (Chen et al. 2023):
//   p ← p·(1 − lr·decay) − lr·sign(β1·m + (1−β1)·g);  m ← β2·m + (1−β2)·g
// sign(0) is 0, and the sign of a NaN is NaN.
struct LionArgs {
  struct Segment {
    TensorView param, grad, m;
    StochasticRounding rounding = {};

    static constexpr auto Describe() {
      using S = Segment;
      return PartDescription{
          Update("param", &S::param),
          In("grad", &S::grad),
          Update("m", &S::m),
          MaybePart("rounding", &S::rounding),
      };
    }
  };
  std::vector<Segment> segments;
  double lr = 0, beta1 = 0, beta2 = 0, weight_decay = 0;

  static constexpr auto Describe() {
    using A = LionArgs;
    return OpDescription{
        "lion",
        "lion",
        Each("segments", "segment", &A::segments),
        Options(Number("lr", &A::lr), Number("beta1", &A::beta1), Number("beta2", &A::beta2),
                Number("weightDecay", &A::weight_decay)),
        Guarded(),
    };
  }
};
void Check(const LionArgs&);
LionFactors FactorsOf(const LionArgs&);

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

using OptimizerOps =
    OpList<AdamWArgs, AdamW8bitArgs, SgdArgs, LionArgs, GlobalNormArgs, ClipByNormArgs>;

}  // namespace lora
