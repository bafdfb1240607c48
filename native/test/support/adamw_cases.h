// adamw of every backend: 50 steps beside the same formula in double, with a bound on how far f32
// arithmetic may have strayed from it.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/ops/ops.h"
#include "test/support/close.h"
#include "test/support/tensors.h"

namespace lora::test {

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

  // p, m, v of every segment after all steps. run_step(args) runs one.
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

}  // namespace lora::test
