// Compares 50 steps with the same formula in double, within a bound on how far f32 arithmetic may
// stray from it.
#include <cmath>
#include <vector>

#include "test/support/tested.h"

namespace lora::test {
namespace {

struct AdamWRun {
  static constexpr int kSteps = 50;
  static constexpr double kLr = 3e-3, kBeta1 = 0.9, kBeta2 = 0.999, kEps = 1e-8, kDecay = 0.01;
  static constexpr double kU = UnitRoundoff(DType::kF32);

  std::vector<int64_t> sizes;  // of the segments
  std::vector<Tensor> params;
  std::vector<std::vector<Tensor>> gradients;  // of a segment, per step
  std::vector<Tensor> expected_p, expected_m, expected_v;
  std::vector<std::vector<double>> p_bounds, m_bounds, v_bounds;

  explicit AdamWRun(const std::vector<int64_t>& segment_sizes)
      : sizes(segment_sizes), gradients(sizes.size()) {
    for (size_t s = 0; s < sizes.size(); ++s) {
      const int64_t n = sizes[s];
      params.push_back(Normal(DType::kF32, {n}, s));
      std::vector<Element> elements;
      for (int64_t i = 0; i < n; ++i) elements.push_back({params[s].at(i)});
      for (int step = 1; step <= kSteps; ++step) {
        const auto seed = static_cast<uint64_t>(1000 * step) + s;
        gradients[s].push_back(Normal(DType::kF32, {n}, seed, 0.1));
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
  }

  static AdamWArgs Hyperparameters(int step) {
    AdamWArgs args;
    args.lr = kLr;
    args.beta1 = kBeta1;
    args.beta2 = kBeta2;
    args.eps = kEps;
    args.weight_decay = kDecay;
    args.step = step;
    return args;
  }

  // Returns p, m, v of every segment after all steps. run_step(args) runs one.
  template <class StepFn>
  std::vector<Tensor> After(const StepFn& run_step) const {
    std::vector<Tensor> state = params;
    for (int i = 0; i < 2; ++i)
      for (const int64_t n : sizes) state.push_back(Zeros(DType::kF32, {n}));
    for (int step = 1; step <= kSteps; ++step) {
      AdamWArgs args = Hyperparameters(step);
      for (size_t s = 0; s < sizes.size(); ++s) {
        args.segments.push_back({state[s], gradients[s][static_cast<size_t>(step - 1)],
                                 state[sizes.size() + s], state[2 * sizes.size() + s]});
      }
      run_step(args);
    }
    return state;
  }

  void Check(const std::vector<Tensor>& state) const {
    for (size_t s = 0; s < sizes.size(); ++s) {
      CAPTURE(s);
      CHECK_CLOSE(state[s], expected_p[s], p_bounds[s]);
      CHECK_CLOSE(state[sizes.size() + s], expected_m[s], m_bounds[s]);
      CHECK_CLOSE(state[2 * sizes.size() + s], expected_v[s], v_bounds[s]);
    }
  }

 private:
  // Every operation and every factor adds kU of its result to the error that its operands bring.
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
};

TEST_CASE("adamw: 50 steps over segments of odd sizes stay within the rounding errors of f32") {
  std::vector<std::vector<int64_t>> cases = {{1, 0, 3, 7, 16, 17, 63, 65, 1000}, {}};
  if (Tested().many > 10000) cases.push_back({9, 30011});  // enough for three threads
  for (const std::vector<int64_t>& sizes : cases) {
    const AdamWRun run(sizes);
    OnEveryPath(
        [&](Context& context) {
          return run.After([&](const AdamWArgs& args) { RunTested(args, context); });
        },
        [&](const std::vector<Tensor>& state) { run.Check(state); });
  }
}

std::vector<Tensor> OneStep(const Backend& backend, Context& context, const Tensor& gradient,
                            std::vector<Tensor> state) {
  AdamWArgs args = AdamWRun::Hyperparameters(17);
  args.segments.push_back({state[0], gradient, state[1], state[2]});
  Run(backend, args, context);
  return state;
}

TEST_CASE("adamw: one step agrees with the reference, and a gradient of 0 leaves only the decay") {
  const auto reference = ReferenceBackend().create_context(1);
  for (const int64_t n : {67, 4095, 4096, 4097, 9001}) {  // around the block of a GPU
    CAPTURE(n);
    const Tensor p = Normal(DType::kF32, {n}, 1), m = Normal(DType::kF32, {n}, 2, 0.1);
    const Tensor v = Uniform(DType::kF32, {n}, 3, 0, 0.1), g = Normal(DType::kF32, {n}, 4);
    const Tensor zero = Zeros(DType::kF32, {n});
    const auto expected = OneStep(ReferenceBackend(), *reference, g, {p, m, v});
    Tensor decayed = p;
    for (int64_t i = 0; i < n; ++i)
      decayed.Set(i, p.at(i) * (1 - AdamWRun::kLr * AdamWRun::kDecay));
    OnEveryPath(
        [&](Context& context) {
          auto state = OneStep(Tested().backend, context, g, {p, m, v});
          state.push_back(OneStep(Tested().backend, context, zero, {p, zero, zero})[0]);
          return state;
        },
        [&](const std::vector<Tensor>& state) {
          CHECK_CLOSE(state[0], expected[0], (Tolerance{20 * kU * 0.05, 4 * kU}));
          CHECK_CLOSE(state[1], expected[1], (Tolerance{4 * kU, 4 * kU}));
          CHECK_CLOSE(state[2], expected[2], (Tolerance{0, 6 * kU}));
          CHECK_CLOSE(state[3], decayed, (Tolerance{0, 4 * kU}));
        });
  }
}

TEST_CASE("adamw: more segments than one launch takes") {
  // With whole numbers, β = ½ and one step, m = g/2, v = g²/2, and the change is ±1.
  constexpr size_t kSegments = 170;
  const auto shape = [](size_t s) { return Shape{static_cast<int64_t>(s % 7)}; };
  const auto sign = [](size_t s) { return s % 2 == 0 ? 1.0 : -1.0; };
  OnEveryPath(
      [&](Context& context) {
        std::vector<Tensor> state, g;
        for (size_t s = 0; s < kSegments; ++s) {
          state.push_back(Full(DType::kF32, shape(s), static_cast<double>(s)));
          state.push_back(Zeros(DType::kF32, shape(s)));
          state.push_back(Zeros(DType::kF32, shape(s)));
          g.push_back(Full(DType::kF32, shape(s), 4 * sign(s)));
        }
        AdamWArgs args;
        args.lr = 1;
        args.beta1 = args.beta2 = 0.5;
        for (size_t s = 0; s < kSegments; ++s)
          args.segments.push_back({state[3 * s], g[s], state[3 * s + 1], state[3 * s + 2]});
        RunTested(args, context);
        return state;
      },
      [&](const std::vector<Tensor>& state) {
        for (size_t s = 0; s < kSegments; ++s) {
          CAPTURE(s);
          CHECK_CLOSE(state[3 * s], Full(DType::kF32, shape(s), static_cast<double>(s) - sign(s)),
                      (Tolerance{1e-6, 4 * kU}));
          CHECK_IDENTICAL(state[3 * s + 1], Full(DType::kF32, shape(s), 2 * sign(s)));
          CHECK_IDENTICAL(state[3 * s + 2], Full(DType::kF32, shape(s), 8));
        }
      });
}

TEST_CASE("adamw: a gradient that is not finite spoils its own element only") {
  const Tensor p = Full(DType::kF32, {9}, 1), zero = Zeros(DType::kF32, {9});
  Tensor g = Full(DType::kF32, {9}, 1);
  g.Set(4, std::nan(""));
  OnEveryPath(
      [&](Context& context) { return OneStep(Tested().backend, context, g, {p, zero, zero}); },
      [&](const std::vector<Tensor>& state) {
        for (const Tensor& tensor : state)
          for (int64_t i = 0; i < 9; ++i) CHECK(std::isnan(tensor.at(i)) == (i == 4));
      });
}

}  // namespace
}  // namespace lora::test
