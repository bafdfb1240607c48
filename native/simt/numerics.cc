// The functions of CUDA's library and the special function unit. Their errors are at most those of
// the CUDA C++ Programming Guide, "Mathematical Functions": 1 ulp for expf, exp, logf and log, 4
// for powf, and 2 for exp2f, which is one ex2.approx. Square roots and quotients are exact there:
// nvcc's -prec-sqrt and -prec-div are on.
#include "simt/numerics.h"

#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>
#include <type_traits>

#include "backend/cuda/device/primitives.h"
#include "core/error.h"
#include "simt/state.h"

namespace lora::simt {
namespace {

// Changes every bit of the result with every bit of x (the finalizer of SplitMix64: Steele, Lea,
// Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
uint64_t Mixed(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

int StepsOf(int ulps, uint64_t argument, const Numerics& numerics) {
  switch (numerics.errors) {
    case Errors::kNone:
      return 0;
    case Errors::kUp:
      return ulps;
    case Errors::kDown:
      return -ulps;
    case Errors::kDrawn: {
      const auto choices = static_cast<uint64_t>(2 * ulps + 1);
      return static_cast<int>(Mixed(argument + Mixed(numerics.seed + 1)) % choices) - ulps;
    }
  }
  return 0;
}

template <class T>
T Moved(T value, int ulps, uint64_t argument, const Numerics& numerics) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  const int steps = StepsOf(ulps, argument, numerics);
  if (steps == 0 || value == 0 || !std::isfinite(value)) return value;
  // Bits count upwards away from 0 on both sides of it.
  const auto by = static_cast<Bits>(static_cast<int64_t>(std::signbit(value) ? -steps : steps));
  const T moved = std::bit_cast<T>(static_cast<Bits>(std::bit_cast<Bits>(value) + by));
  return std::isfinite(moved) && std::signbit(moved) == std::signbit(value) ? moved : value;
}

const char* TextOf(const char* text) { return text == nullptr ? "" : text; }

}  // namespace

float WithError(float value, int ulps, uint64_t argument, const Numerics& numerics) {
  return Moved(value, ulps, argument, numerics);
}
double WithError(double value, int ulps, uint64_t argument, const Numerics& numerics) {
  return Moved(value, ulps, argument, numerics);
}

Numerics NumericsOfEnvironment(const Numerics& otherwise) {
  Numerics numerics = otherwise;
  const std::string mma = TextOf(std::getenv("LORA_SIMT_MMA"));
  if (mma == "ampere") {
    numerics.tensor_core = TensorCore::kAmpere;
  } else if (mma == "hopper") {
    numerics.tensor_core = TensorCore::kHopper;
  } else if (mma == "f32") {
    numerics.tensor_core = TensorCore::kF32;
  } else if (!mma.empty()) {
    Throw("ERR_ARGUMENT", "device",
          "expected LORA_SIMT_MMA to be ampere, hopper or f32 but received ", mma);
  }
  const std::string ulps = TextOf(std::getenv("LORA_SIMT_ULPS"));
  if (ulps == "up") {
    numerics.errors = Errors::kUp;
  } else if (ulps == "down") {
    numerics.errors = Errors::kDown;
  } else if (!ulps.empty()) {
    if (ulps.size() > 18 || ulps.find_first_not_of("0123456789") != std::string::npos)
      Throw("ERR_ARGUMENT", "device",
            "expected LORA_SIMT_ULPS to be up, down or a whole number but received ", ulps);
    numerics.errors = Errors::kDrawn;
    numerics.seed = std::stoull(ulps);
  }
  return numerics;
}

}  // namespace lora::simt

namespace lora::device {
namespace {

// Keeps the functions' errors apart.
enum class Function : uint64_t { kExp = 1, kLog, kPow, kExp2 };

template <class T>
T Played(T value, int ulps, Function function, uint64_t argument) {
  return simt::WithError(value, ulps, argument * 8 + static_cast<uint64_t>(function),
                         simt::world.options.numerics);
}

}  // namespace

// Whatever the errors, e⁰ is 1 and ln 1 is 0.
float Exp(float f) {
  return f == 0 ? 1.0f : Played(std::exp(f), 1, Function::kExp, FloatToBits(f));
}
double Exp(double d) {
  return d == 0 ? 1.0 : Played(std::exp(d), 1, Function::kExp, DoubleToBits(d));
}
float Log(float f) { return Played(std::log(f), 1, Function::kLog, FloatToBits(f)); }
double Log(double d) { return Played(std::log(d), 1, Function::kLog, DoubleToBits(d)); }
float Pow(float x, float y) {
  if (x == 1 || y == 0) return 1;
  return Played(std::pow(x, y), 4, Function::kPow,
                uint64_t{FloatToBits(x)} << 29 ^ uint64_t{FloatToBits(y)});
}
float Exp2(float f) {
  if (f == 0) return 1;
  const float power = Played(std::exp2(f), 2, Function::kExp2, FloatToBits(f));
  return power < std::numeric_limits<float>::min() ? 0 : power;
}

}  // namespace lora::device
