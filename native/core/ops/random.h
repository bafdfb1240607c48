// Describes random numbers, and tokens that are drawn with them. See ops.h for what all ops share.
#pragma once

#include <array>
#include <cstdint>

#include "core/ops/describe.h"

namespace lora {

enum class RandomKind : uint8_t { kUniform, kNormal };
inline constexpr std::array<const char*, 2> kRandomKinds{"uniform", "normal"};

// Element i depends on (seed, stream, i) only. kUniform: [lo, hi); kNormal: mean lo, std hi.
struct RandomArgs {
  RandomKind kind;
  uint64_t seed = 0;
  uint32_t stream = 0;
  float lo = 0, hi = 1;
  TensorView y;  // f32

  static constexpr auto Describe() {
    using A = RandomArgs;
    return OpDescription{
        "random",
        "random",
        OnDevice(),
        Choice("kind", &A::kind, kRandomKinds),
        Whole("seed", &A::seed),
        Whole("stream", &A::stream),
        Number("lo", &A::lo),
        Number("hi", &A::hi),
        ShapeOf(&A::y),
        Out("y", &A::y, [](const A& a) { return F32Result(a.y.shape); }),
    };
  }
};
void Check(const RandomArgs&);

// ids[i] of logits row i. temperature 0 is greedy (first of equals). Otherwise
// softmax(logits/temperature) limited to the top_k largest (0: all) and then to the smallest set of
// mass ≥ top_p (1: all), drawn with the uniform number of (seed, step, i).
struct SampleArgs {
  TensorView logits;  // [n, vocab] act or f32
  float temperature = 0;
  int64_t top_k = 0;
  float top_p = 1;
  uint64_t seed = 0;
  uint32_t step = 0;
  TensorView ids;  // [n] i32

  static constexpr auto Describe() {
    using A = SampleArgs;
    return OpDescription{
        "sample",
        "sample",
        In("logits", &A::logits).Activation(),
        Options(Number("temperature", &A::temperature), Whole("topK", &A::top_k),
                Number("topP", &A::top_p), Whole("seed", &A::seed), Whole("step", &A::step)),
        Out("ids", &A::ids, [](const A& a) { return Result{DType::kI32, {a.logits.dim(0)}}; }),
    };
  }
};
void Check(const SampleArgs&);

using RandomOps = OpList<RandomArgs, SampleArgs>;

}  // namespace lora
