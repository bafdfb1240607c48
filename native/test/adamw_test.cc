// adamw of the CPU backend: 50 steps beside the same formula in double.
#include "backend/cpu/adamw.h"

#include <doctest/doctest.h>

#include "test/support/cpu_paths.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

const Op<AdamWArgs> kAdamW = {cpu::AdamWScratchBytes, cpu::AdamW};
constexpr int kSteps = 50;
constexpr double kLr = 3e-3, kBeta1 = 0.9, kBeta2 = 0.999, kEps = 1e-8, kDecay = 0.01;

Tensor Gradient(int64_t n, int step, size_t segment) {
  return Normal(DType::kF32, {n}, static_cast<uint64_t>(1000 * step) + segment, 0.1);
}

AdamWArgs Hyperparameters(int step) {
  AdamWArgs args;
  args.lr = kLr;
  args.beta1 = kBeta1;
  args.beta2 = kBeta2;
  args.eps = kEps;
  args.weight_decay = kDecay;
  args.step = step;
  return args;
}

// One element in double, with a bound on how far f32 arithmetic may have strayed from it: every
// operation and every factor adds kU of its result to the error that its operands bring.
struct Element {
  double p, m = 0, v = 0;
  double dp = 0, dm = 0, dv = 0;

  void Step(double g, int step) {
    dm = kBeta1 * dm + 3 * kU * (kBeta1 * std::fabs(m) + (1 - kBeta1) * std::fabs(g));
    m = kBeta1 * m + (1 - kBeta1) * g;
    v = kBeta2 * v + (1 - kBeta2) * g * g;
    dv = kBeta2 * dv + 4 * kU * v;
    const double correction1 = 1 - std::pow(kBeta1, step);
    const double correction2 = 1 - std::pow(kBeta2, step);
    const double below = std::sqrt(v / correction2) + kEps;
    const double ratio = m / below;
    const double relative = v > 0 ? dv / (2 * v) + 4 * kU : 0;
    const double dratio = (dm + std::fabs(m) * relative) / below + kU * std::fabs(ratio);
    const double rate = kLr / correction1;
    dp = dp + 2 * kU * std::fabs(p) + rate * (dratio + 2 * kU * std::fabs(ratio));
    p = p * (1 - kLr * kDecay) - rate * ratio;
    dp += kU * std::fabs(p);
  }
};

TEST_CASE("adamw: 50 steps over segments of odd sizes stay within the rounding errors of f32") {
  for (const std::vector<int64_t>& sizes :
       {std::vector<int64_t>{1, 0, 3, 7, 16, 17, 63, 65, 1000}, std::vector<int64_t>{},
        std::vector<int64_t>{9, 30011}}) {  // the last is enough for three threads
    std::vector<Tensor> params, expected_p, expected_m, expected_v;
    std::vector<std::vector<Tensor>> gradients(sizes.size());  // of a segment, per step
    std::vector<std::vector<double>> p_bounds, m_bounds, v_bounds;
    for (size_t s = 0; s < sizes.size(); ++s) {
      const int64_t n = sizes[s];
      params.push_back(Normal(DType::kF32, {n}, s));
      std::vector<Element> elements;
      for (int64_t i = 0; i < n; ++i) elements.push_back({params[s].at(i)});
      for (int step = 1; step <= kSteps; ++step) {
        gradients[s].push_back(Gradient(n, step, s));
        const Tensor& g = gradients[s].back();
        for (int64_t i = 0; i < n; ++i) elements[static_cast<size_t>(i)].Step(g.at(i), step);
      }
      expected_p.emplace_back(DType::kF64, Shape{n});
      expected_m.emplace_back(DType::kF64, Shape{n});
      expected_v.emplace_back(DType::kF64, Shape{n});
      p_bounds.emplace_back();
      m_bounds.emplace_back();
      v_bounds.emplace_back();
      for (int64_t i = 0; i < n; ++i) {
        const Element& e = elements[static_cast<size_t>(i)];
        expected_p[s].Set(i, e.p);
        expected_m[s].Set(i, e.m);
        expected_v[s].Set(i, e.v);
        p_bounds[s].push_back(e.dp);
        m_bounds[s].push_back(e.dm);
        v_bounds[s].push_back(e.dv);
      }
    }
    OnEveryCpuPath(
        [&](Context& context) {
          std::vector<Tensor> state = params;
          for (const int64_t n : sizes) state.push_back(Zeros(DType::kF32, {n}));
          for (const int64_t n : sizes) state.push_back(Zeros(DType::kF32, {n}));
          for (int step = 1; step <= kSteps; ++step) {
            AdamWArgs args = Hyperparameters(step);
            for (size_t s = 0; s < sizes.size(); ++s) {
              args.segments.push_back({state[s], gradients[s][static_cast<size_t>(step - 1)],
                                       state[sizes.size() + s], state[2 * sizes.size() + s]});
            }
            Run(kAdamW, args, context);
          }
          return state;
        },
        [&](const std::vector<Tensor>& state) {
          for (size_t s = 0; s < sizes.size(); ++s) {
            CAPTURE(s);
            CHECK_CLOSE(state[s], expected_p[s], p_bounds[s]);
            CHECK_CLOSE(state[sizes.size() + s], expected_m[s], m_bounds[s]);
            CHECK_CLOSE(state[2 * sizes.size() + s], expected_v[s], v_bounds[s]);
          }
        });
  }
}

TEST_CASE("adamw: one step agrees with the reference, and a gradient of 0 leaves only the decay") {
  const int64_t n = 67;
  const Tensor p = Normal(DType::kF32, {n}, 1), m = Normal(DType::kF32, {n}, 2, 0.1);
  const Tensor v = Uniform(DType::kF32, {n}, 3, 0, 0.1), g = Normal(DType::kF32, {n}, 4);
  const Tensor zero = Zeros(DType::kF32, {n});
  const auto step = [&](const Op<AdamWArgs>& op, Context& context, const Tensor& gradient,
                        std::vector<Tensor> state) {
    AdamWArgs args = Hyperparameters(17);
    args.segments.push_back({state[0], gradient, state[1], state[2]});
    Run(op, args, context);
    return state;
  };
  const auto reference = ReferenceBackend().create_context(1);
  const auto expected = step(ReferenceBackend().adamw, *reference, g, {p, m, v});
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
