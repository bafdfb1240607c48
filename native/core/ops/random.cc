// States the rules of random numbers, and makes them.
#include "core/ops/random.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/maths/philox.h"
#include "core/ops/rules.h"

namespace lora {

namespace {

constexpr uint32_t kTag = 0x52414e44;  // "RAND"
constexpr int64_t kBlock = 4;

float Uniform(uint32_t word, float lo, float hi) {
  const double low = lo, high = hi;
  const float value = static_cast<float>(low + (high - low) * UniformFromWord(word));
  return value >= hi && hi > lo ? std::nextafter(hi, lo) : value;
}

// Returns the four elements of one call.
std::array<float, kBlock> Block(const RandomArgs& args, uint64_t block) {
  const PhiloxWords words = Philox4x32(
      args.seed,
      {static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), args.stream, kTag});
  std::array<float, kBlock> values;
  if (args.kind == RandomKind::kUniform) {
    for (size_t j = 0; j < kBlock; ++j) values[j] = Uniform(words[j], args.lo, args.hi);
    return values;
  }
  const double mean = args.lo, deviation = args.hi;
  for (size_t j = 0; j < kBlock; j += 2) {
    // 1 − u lies in (0, 1], so the logarithm is finite.
    const double radius = deviation * std::sqrt(-2 * std::log(1 - UniformFromWord(words[j])));
    const double angle = 2 * std::numbers::pi * UniformFromWord(words[j + 1]);
    values[j] = static_cast<float>(mean + radius * std::cos(angle));
    values[j + 1] = static_cast<float>(mean + radius * std::sin(angle));
  }
  return values;
}

}  // namespace

using check::Rules;

void Check(const RandomArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Float32("y", args.y);
  rules.Finite(args.kind == RandomKind::kUniform ? "lo" : "mean", args.lo);
  rules.Finite(args.kind == RandomKind::kUniform ? "hi" : "std", args.hi);
}

void RandomElements(const RandomArgs& args, int64_t begin, int64_t end, float* out) {
  for (int64_t i = begin; i < end;) {
    const int64_t first = i / kBlock * kBlock;
    const std::array<float, kBlock> values = Block(args, static_cast<uint64_t>(i / kBlock));
    const int64_t stop = std::min(end, first + kBlock);
    for (; i < stop; ++i) out[i - begin] = values[static_cast<size_t>(i - first)];
  }
}

}  // namespace lora
