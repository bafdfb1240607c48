// adamw of the CUDA backend: 50 steps beside the same formula in double.
#include <doctest/doctest.h>

#include "test/support/adamw_cases.h"
#include "test/support/run.h"
#include "test/support/schedules.h"

namespace lora::test {
namespace {

constexpr double kU = UnitRoundoff(DType::kF32);
constexpr double kLr = AdamWRun::kLr, kDecay = AdamWRun::kDecay;

TEST_CASE(
    "cuda adamw: 50 steps over segments of odd sizes stay within the rounding errors of f32") {
  int turn = 0;
  for (const std::vector<int64_t>& sizes :
       {std::vector<int64_t>{1, 0, 3, 7, 16, 17, 63, 65, 1000}, std::vector<int64_t>{}}) {
    const AdamWRun run(sizes);
    std::vector<Tensor> first;
    for (const int64_t skew : {0, 1, 0}) {
      CAPTURE(skew);
      MirrorContext context = NthContext(turn++, skew);
      const std::vector<Tensor> state =
          run.After([&](const AdamWArgs& args) { Run(MirroredCuda(), args, context); });
      run.Check(state);
      for (const Tensor& tensor : state) CHECK(tensor.intact());
      if (first.empty()) first = state;
      for (size_t i = 0; i < state.size(); ++i) CHECK_IDENTICAL(state[i], first[i]);
    }
  }
}

std::vector<Tensor> OneStep(const Op<AdamWArgs>& op, Context& context, const Tensor& gradient,
                            std::vector<Tensor> state) {
  AdamWArgs args = AdamWRun::Hyperparameters(17);
  args.segments.push_back({state[0], gradient, state[1], state[2]});
  Run(op, args, context);
  return state;
}

TEST_CASE("cuda adamw: one step agrees with the reference around a block's edges") {
  const auto reference = ReferenceBackend().create_context(1);
  for (const int64_t n : {67, 4095, 4096, 4097, 9001}) {
    CAPTURE(n);
    const Tensor p = Normal(DType::kF32, {n}, 1), m = Normal(DType::kF32, {n}, 2, 0.1);
    const Tensor v = Uniform(DType::kF32, {n}, 3, 0, 0.1), g = Normal(DType::kF32, {n}, 4);
    const auto expected = OneStep(ReferenceBackend().op<AdamWArgs>(), *reference, g, {p, m, v});
    MirrorContext context = NthContext(static_cast<int>(n), n % 2);
    const auto state = OneStep(MirroredCuda().op<AdamWArgs>(), context, g, {p, m, v});
    CHECK_CLOSE(state[0], expected[0], (Tolerance{20 * kU * 0.05, 4 * kU}));
    CHECK_CLOSE(state[1], expected[1], (Tolerance{4 * kU, 4 * kU}));
    CHECK_CLOSE(state[2], expected[2], (Tolerance{0, 6 * kU}));
    const Tensor zero = Zeros(DType::kF32, {n});
    Tensor decayed = p;
    for (int64_t i = 0; i < n; ++i) decayed.Set(i, p.at(i) * (1 - kLr * kDecay));
    CHECK_CLOSE(OneStep(MirroredCuda().op<AdamWArgs>(), context, zero, {p, zero, zero})[0], decayed,
                (Tolerance{0, 4 * kU}));
  }
}

TEST_CASE("cuda adamw: more segments than one launch takes") {
  // Whole numbers with β = ½ and one step: m = g/2, v = g²/2, and the change is ±1.
  constexpr size_t kSegments = 170;
  std::vector<Tensor> p, g, m, v;
  AdamWArgs args;
  args.lr = 1;
  args.beta1 = args.beta2 = 0.5;
  for (size_t s = 0; s < kSegments; ++s) {
    const Shape shape{static_cast<int64_t>(s % 7)};
    p.push_back(Full(DType::kF32, shape, static_cast<double>(s)));
    g.push_back(Full(DType::kF32, shape, s % 2 == 0 ? 4 : -4));
    m.push_back(Zeros(DType::kF32, shape));
    v.push_back(Zeros(DType::kF32, shape));
  }
  for (size_t s = 0; s < kSegments; ++s) args.segments.push_back({p[s], g[s], m[s], v[s]});
  MirrorContext context = NthContext(5);
  Run(MirroredCuda(), args, context);
  for (size_t s = 0; s < kSegments; ++s) {
    CAPTURE(s);
    const Shape shape = p[s].shape();
    const double sign = s % 2 == 0 ? 1 : -1;
    CHECK_IDENTICAL(m[s], Full(DType::kF32, shape, 2 * sign));
    CHECK_IDENTICAL(v[s], Full(DType::kF32, shape, 8));
    CHECK_CLOSE(p[s], Full(DType::kF32, shape, static_cast<double>(s) - sign),
                (Tolerance{1e-6, 4 * kU}));
  }
}

TEST_CASE("cuda adamw: a gradient that is not finite spoils its own element only") {
  Tensor p = Full(DType::kF32, {9}, 1), g = Full(DType::kF32, {9}, 1);
  g.Set(4, std::nan(""));
  MirrorContext context = NthContext(0);
  const auto state = OneStep(MirroredCuda().op<AdamWArgs>(), context, g,
                             {p, Zeros(DType::kF32, {9}), Zeros(DType::kF32, {9})});
  for (const Tensor& tensor : state)
    for (int64_t i = 0; i < 9; ++i) CHECK(std::isnan(tensor.at(i)) == (i == 4));
}

}  // namespace
}  // namespace lora::test
