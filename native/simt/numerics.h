// Which numbers the emulated GPU gives where those of hardware differ from card to card.
#pragma once

#include <cstdint>

namespace lora::simt {

// How mma.sync adds products (tensor_core.cc).
enum class TensorCore : uint8_t {
  kAmpere,  // in steps of eight, as sm_80 and 86 do
  kHopper,  // in steps of sixteen on a finer grid, as sm_90 and 100 do
  kF32,     // one after another, each sum rounded to nearest in f32
};

// How far exp, log, pow and exp2 are from what the host's library gives: not at all; by all of the
// ulps that CUDA states, upwards or downwards; or by as many as are drawn for each argument.
enum class Errors : uint8_t { kNone, kUp, kDown, kDrawn };

struct Numerics {
  TensorCore tensor_core = TensorCore::kAmpere;
  Errors errors = Errors::kNone;
  uint64_t seed = 0;  // of kDrawn
};

// Returns what LORA_SIMT_MMA (ampere, hopper or f32) and LORA_SIMT_ULPS (up, down or a seed) say,
// and `otherwise` where they say nothing. Throws ERR_ARGUMENT for anything else.
Numerics NumericsOfEnvironment(const Numerics& otherwise);

// Returns a value at most `ulps` steps from this one, the same for the same argument. It has the
// same sign and is finite; 0 and numbers that are not finite stay.
float WithError(float value, int ulps, uint64_t argument, const Numerics& numerics);
double WithError(double value, int ulps, uint64_t argument, const Numerics& numerics);

}  // namespace lora::simt
