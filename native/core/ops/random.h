// Describes seeded random numbers. See ops.h for what all ops share.
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

// On the host, for every backend that computes there the same bits:
// out[0 .. end − begin) ← elements [begin, end) of the sequence of (seed, stream); an element
// depends on nothing but these and its index i, so the range may be cut anywhere.
//
// The Philox call with key seed and counter (i / 4 low, i / 4 high, stream, "RAND") gives the four
// words w of elements 4·⌊i / 4⌋ … + 3. With u(w) = w / 2³², in double, rounded to f32 at the end:
//   kUniform: element j = lo + (hi − lo)·u(w_j); where that rounds up to hi, the next smaller f32
//   kNormal:  elements 2p and 2p + 1 = lo + hi·√(−2·ln(1 − u(w_2p)))·cos / sin(2π·u(w_2p+1))
void RandomElements(const RandomArgs& args, int64_t begin, int64_t end, float* out);

using RandomOps = OpList<RandomArgs>;

}  // namespace lora
