// adamw of the CPU backend: 50 steps beside the same formula in double.
#include <doctest/doctest.h>

#include "backend/cpu/kernels.h"
#include "test/support/adamw_cases.h"
#include "test/support/cpu_paths.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

const Op<AdamWArgs> kAdamW = {cpu::ScratchBytes, cpu::Run};
constexpr double kLr = AdamWRun::kLr, kDecay = AdamWRun::kDecay;

TEST_CASE("adamw: 50 steps over segments of odd sizes stay within the rounding errors of f32") {
  for (const std::vector<int64_t>& sizes :
       {std::vector<int64_t>{1, 0, 3, 7, 16, 17, 63, 65, 1000}, std::vector<int64_t>{},
        std::vector<int64_t>{9, 30011}}) {  // the last is enough for three threads
    const AdamWRun run(sizes);
    OnEveryCpuPath(
        [&](Context& context) {
          return run.After([&](const AdamWArgs& args) { Run(kAdamW, args, context); });
        },
        [&](const std::vector<Tensor>& state) { run.Check(state); });
  }
}

TEST_CASE("adamw: one step agrees with the reference, and a gradient of 0 leaves only the decay") {
  const int64_t n = 67;
  const Tensor p = Normal(DType::kF32, {n}, 1), m = Normal(DType::kF32, {n}, 2, 0.1);
  const Tensor v = Uniform(DType::kF32, {n}, 3, 0, 0.1), g = Normal(DType::kF32, {n}, 4);
  const Tensor zero = Zeros(DType::kF32, {n});
  const auto step = [&](const Op<AdamWArgs>& op, Context& context, const Tensor& gradient,
                        std::vector<Tensor> state) {
    AdamWArgs args = AdamWRun::Hyperparameters(17);
    args.segments.push_back({state[0], gradient, state[1], state[2]});
    Run(op, args, context);
    return state;
  };
  const auto reference = ReferenceBackend().create_context(1);
  const auto expected = step(ReferenceBackend().op<AdamWArgs>(), *reference, g, {p, m, v});
  OnEveryCpuPath(
      [&](Context& context) {
        auto state = step(kAdamW, context, g, {p, m, v});
        state.push_back(step(kAdamW, context, zero, {p, zero, zero})[0]);
        return state;
      },
      [&](const std::vector<Tensor>& state) {
        CHECK_CLOSE(state[0], expected[0], (Tolerance{20 * kU * 0.05, 4 * kU}));
        CHECK_CLOSE(state[1], expected[1], (Tolerance{4 * kU, 4 * kU}));
        CHECK_CLOSE(state[2], expected[2], (Tolerance{0, 6 * kU}));
        Tensor decayed = p;
        for (int64_t i = 0; i < n; ++i) decayed.Set(i, p.at(i) * (1 - kLr * kDecay));
        CHECK_CLOSE(state[3], decayed, (Tolerance{0, 4 * kU}));
      });
}

}  // namespace
}  // namespace lora::test
