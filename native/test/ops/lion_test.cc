#include <cmath>
#include <vector>

#include "test/support/tested.h"

namespace lora::test {
namespace {

constexpr double kLr = 0.125, kBeta1 = 0.9, kBeta2 = 0.99, kDecay = 0.25;

// The tensors of some segments: p, g and m.
using Segments = std::vector<std::vector<Tensor>>;

// Takes a step, and returns p and m of every segment.
std::vector<Tensor> Step(const Backend& backend, Context& context, const Segments& start) {
  const Segments segments = start;
  LionArgs args;
  args.lr = kLr;
  args.beta1 = kBeta1;
  args.beta2 = kBeta2;
  args.weight_decay = kDecay;
  for (const auto& tensors : segments)
    args.segments.push_back({tensors[0], tensors[1], tensors[2]});
  Run(backend, args, context);
  std::vector<Tensor> results;
  for (const auto& tensors : segments) results.insert(results.end(), {tensors[0], tensors[2]});
  return results;
}

TEST_CASE("lion: a step over segments of odd sizes agrees with the reference") {
  const auto reference = ReferenceBackend().create_context(1);
  std::vector<std::vector<int64_t>> cases = {
      {1, 0, 3, 7, 16, 17, 63, 65, 1000}, {4095, 4096, 4097}, {}};
  if (Tested().many > 10000) cases.push_back({9, 30011});  // enough for three threads
  for (const auto& sizes : cases) {
    Segments start;
    for (size_t s = 0; s < sizes.size(); ++s) {
      const Shape shape{sizes[s]};
      start.push_back({Normal(DType::kF32, shape, 10 * s), Normal(DType::kF32, shape, 10 * s + 1),
                       Normal(DType::kF32, shape, 10 * s + 2)});
      // A blend that rounds to the other side of 0 would move p by 2·lr.
      for (int64_t i = 0; i < sizes[s]; ++i) {
        const double m = start[s][2].at(i), g = start[s][1].at(i);
        if (std::fabs(kBeta1 * m + (1 - kBeta1) * g) < 1e-5) start[s][1].Set(i, g + 1);
      }
    }
    const auto expected = Step(ReferenceBackend(), *reference, start);
    OnEveryPath([&](Context& context) { return Step(Tested().backend, context, start); },
                [&](const std::vector<Tensor>& results) {
                  for (size_t i = 0; i < results.size(); ++i)
                    CHECK_CLOSE(results[i], expected[i], (Tolerance{6 * kU, 4 * kU}));
                });
  }
}

TEST_CASE(
    "lion: every element moves by lr, not at all where the momentum is 0; NaN spoils its own") {
  const std::vector<double> gradients = {
      1e-30, -1e-30, 0, 3e38, -3e38, std::ldexp(1, -120), -0.0, 5, std::nan("")};
  const Segments start{
      {Zeros(DType::kF32, {9}), Of(DType::kF32, {9}, gradients), Zeros(DType::kF32, {9})}};
  OnEveryPath([&](Context& context) { return Step(Tested().backend, context, start); },
              [&](const std::vector<Tensor>& results) {
                const double moved[] = {-kLr, kLr, 0, -kLr, kLr, -kLr, 0, -kLr};
                for (int64_t i = 0; i < 8; ++i) {
                  CAPTURE(i);
                  CHECK(results[0].at(i) == moved[i]);
                  CHECK(std::isfinite(results[1].at(i)));
                }
                CHECK(std::isnan(results[0].at(8)));
                CHECK(std::isnan(results[1].at(8)));
              });
}

TEST_CASE("lion: more segments than one launch takes") {
  constexpr size_t kSegments = 250;
  Segments start;
  const auto sign = [](size_t s) { return s % 2 == 0 ? 1.0 : -1.0; };
  for (size_t s = 0; s < kSegments; ++s) {
    const Shape shape{static_cast<int64_t>(s % 3)};
    start.push_back(
        {Zeros(DType::kF32, shape), Full(DType::kF32, shape, sign(s)), Zeros(DType::kF32, shape)});
  }
  OnEveryPath([&](Context& context) { return Step(Tested().backend, context, start); },
              [&](const std::vector<Tensor>& results) {
                for (size_t s = 0; s < kSegments; ++s) {
                  CAPTURE(s);
                  CHECK_IDENTICAL(results[2 * s],
                                  Full(DType::kF32, start[s][0].shape(), -kLr * sign(s)));
                }
              });
}

}  // namespace
}  // namespace lora::test
