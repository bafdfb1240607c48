// Describes random numbers. See ops.h for what all ops share.
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

using RandomOps = OpList<RandomArgs>;

}  // namespace lora
