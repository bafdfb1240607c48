// Holds the reference's gradients of lora_linear and of the losses against central differences.
#include <cmath>

#include "test/reference/reference.h"
#include "test/support/close.h"
#include "test/support/gradient.h"
#include "test/support/lora_problem.h"

namespace lora::test {
namespace {

TEST_CASE("lora_linear: dx, d_up and d_down are the gradients of y") {
  const std::vector<LoraLinearCase> cases = {
      {DType::kF32, 1, 1, {{1, 1}}},
      {DType::kF32, 3, 7, {{5, 2}}},
      {DType::kF32, 4, 6, {{3, 0, true}}},
      {DType::kF32, 5, 11, {{4, 3, true, 0.4f}}},
      {DType::kF32, 3, 9, {{4, 2, false, 0.3f}, {2, 0, true}, {3, 5, true}, {1, 1, false, 0.6f}}},
  };
  const auto context = ReferenceBackend().create_context(1);
  for (const LoraLinearCase& c : cases) {
    CAPTURE(c.Name());
    LoraLinearProblem problem = LoraLinearProblem(c).As(kF64);
    const auto loss = [&] {
      const LoraLinearOutputs out = problem.Forward(ReferenceBackend(), *context);
      double sum = 0;
      for (size_t i = 0; i < out.y.size(); ++i) sum += Project(out.y[i], problem.g[i]);
      return sum;
    };
    const LoraLinearOutputs forward = problem.Forward(ReferenceBackend(), *context);
    const LoraLinearOutputs gradient = problem.Backward(ReferenceBackend(), *context, forward.h);
    CheckGradient("dx", problem.x, gradient.dx, loss);
    for (size_t i = 0; i < c.branches.size(); ++i) {
      if (c.branches[i].r == 0) continue;
      CAPTURE(i);
      CheckGradient("d_up", problem.branches[i].up, gradient.d_up[i], loss);
      CheckGradient("d_down", problem.branches[i].down, gradient.d_down[i], loss);
    }
  }
}

// Any of dx, d_up and d_down may be absent; the others stay what they are.
TEST_CASE("lora_linear: gradients that nobody wants are not computed") {
  const LoraLinearProblem problem =
      LoraLinearProblem({DType::kF32, 3, 8, {{4, 2, true, 0.3f}}}).As(kF64);
  const auto context = ReferenceBackend().create_context(1);
  const LoraLinearOutputs forward = problem.Forward(ReferenceBackend(), *context);
  const LoraLinearOutputs all = problem.Backward(ReferenceBackend(), *context, forward.h);
  const FrozenWeight weight(ReferenceBackend(), problem.branches[0].weight, *context);
  const BranchOperands& b = problem.branches[0];
  const LoraBranch branch{weight.view(), b.bias, b.up, b.down, b.scale, b.dropout};
  const auto run = [&](const TensorView& x, const TensorView& h, const TensorView& dx,
                       const TensorView& d_up, const TensorView& d_down) {
    Run(ReferenceBackend(),
        LoraLinearBackwardArgs{x, {branch}, {problem.g[0]}, {h}, dx, {d_up}, {d_down}}, *context);
  };
  const Tensor dx(kF64, all.dx.shape()), d_up(kF64, b.up.shape()), d_down(kF64, b.down.shape());
  run({}, {}, dx, {}, {});
  run({}, forward.h[0], {}, d_up, {});
  run(problem.x, {}, {}, {}, d_down);
  CHECK_IDENTICAL(dx, all.dx);
  CHECK_IDENTICAL(d_up, all.d_up[0]);
  CHECK_IDENTICAL(d_down, all.d_down[0]);

  // dx with u, and the others with that u.
  const Tensor u(kF64, {3, 2}), d_x = dx, d_a = d_up, d_b = d_down;
  LoraLinearBackwardArgs first{{}, {branch}, {problem.g[0]}, {{}}, d_x, {{}}, {{}}};
  LoraLinearBackwardArgs rest{problem.x, {branch}, {problem.g[0]}, {forward.h[0]},
                              {},        {d_a},    {d_b}};
  first.kept_u = rest.u = {u};
  Run(ReferenceBackend(), first, *context);
  Run(ReferenceBackend(), rest, *context);
  CHECK_IDENTICAL(d_x, all.dx);
  CHECK_IDENTICAL(d_a, all.d_up[0]);
  CHECK_IDENTICAL(d_b, all.d_down[0]);
  for (int64_t row = 0; row < 3; ++row) {
    for (int64_t r = 0; r < 2; ++r) {
      double sum = 0;
      for (int64_t o = 0; o < 4; ++o) sum += problem.g[0].at(row * 4 + o) * b.up.at(o * 2 + r);
      CHECK(u.at(row * 2 + r) == doctest::Approx(sum));
    }
  }
}

TEST_CASE("cross_entropy: dlogits is the gradient of the summed loss") {
  const Tensor labels = Ints({6}, {4, -100, 0, 2, -100, 4}), g = Full(kF64, {1}, 0.37);
  Tensor logits = Normal(kF64, {6, 5}, 1, 2), loss(kF64, {1}), count(kF64, {1}), lse(kF64, {6});
  const auto forward = [&] {
    Run(ReferenceBackend(), CrossEntropyForwardArgs{logits, labels, loss, count, lse, {}, {}});
    return 0.37 * loss.at(0);
  };
  forward();
  CHECK(count.at(0) == 4);
  const Tensor gradient(kF64, {6, 5});
  Run(ReferenceBackend(), CrossEntropyBackwardArgs{logits, labels, lse, g, gradient});
  CheckGradient("dlogits", logits, gradient, forward);
}

TEST_CASE("linear_cross_entropy: d_hidden is the gradient of the summed loss") {
  const Tensor labels = Ints({5}, {6, -100, 0, 3, 6}), weight = Normal(kF64, {7, 4}, 2);
  Tensor hidden = Normal(kF64, {5, 4}, 1), loss(kF64, {1}), count(kF64, {1});
  const Tensor gradient(kF64, {5, 4});
  const auto context = ReferenceBackend().create_context(1);
  const FrozenWeight w(ReferenceBackend(), weight, *context);
  const auto run = [&](const TensorView& d_hidden) {
    Run(ReferenceBackend(),
        LinearCrossEntropyArgs{hidden, w.view(), labels, loss, count, d_hidden, {}, {}}, *context);
    return loss.at(0);
  };
  run(gradient);
  CHECK(count.at(0) == 4);
  CheckGradient("d_hidden", hidden, gradient, [&] { return run({}); });
}

TEST_CASE("the gradient of linear_cross_entropy with a cap") {
  const Tensor labels = Ints({3}, {6, -100, 0}), weight = Normal(kF64, {7, 4}, 2);
  const Tensor gradient(kF64, {3, 4});
  Tensor hidden = Normal(kF64, {3, 4}, 1), loss(kF64, {1}), count(kF64, {1});
  const auto context = ReferenceBackend().create_context(1);
  const FrozenWeight w(ReferenceBackend(), weight, *context);
  const auto run = [&](const TensorView& d_hidden) {
    Run(ReferenceBackend(),
        LinearCrossEntropyArgs{hidden, w.view(), labels, loss, count, d_hidden, {}, {}, 0.5f, 1.5f},
        *context);
    return loss.at(0);
  };
  run(gradient);
  CheckGradient("d_hidden", hidden, gradient, [&] { return run({}); });
}

TEST_CASE("the losses of rows have gradients of their own, at a temperature") {
  const Tensor labels = Ints({4}, {6, -100, 0, 3}), weight = Normal(kF64, {7, 4}, 2);
  const Tensor g = Normal(kF64, {4}, 3), gradient(kF64, {4, 4}), entropies(kF64, {4});
  Tensor hidden = Normal(kF64, {4, 4}, 1), loss(kF64, {1}), count(kF64, {1}), losses(kF64, {4});
  const auto context = ReferenceBackend().create_context(1);
  const FrozenWeight w(ReferenceBackend(), weight, *context);
  const auto run = [&](const TensorView& d_hidden) {
    Run(ReferenceBackend(),
        LinearCrossEntropyArgs{hidden, w.view(), labels, loss, count, d_hidden, losses, entropies,
                               0.5f},
        *context);
    return Project(losses, g);
  };
  run(gradient);
  Tensor scaled = gradient;
  for (int64_t i = 0; i < 16; ++i) scaled.Set(i, gradient.at(i) * g.at(i / 4));
  CheckGradient("d_hidden", hidden, scaled, [&] { return run({}); });

  Tensor logits(kF64, {4, 7}), lse(kF64, {4}), same(kF64, {4}), dlogits(kF64, {4, 7});
  Run(ReferenceBackend(), MatmulArgs{hidden, weight, logits, false, true}, *context);
  for (int64_t i = 0; i < 28; ++i) logits.Set(i, logits.at(i) / 2);
  const auto of_logits = [&] {
    Run(ReferenceBackend(),
        CrossEntropyForwardArgs{logits, labels, loss, count, lse, same, entropies});
    return Project(same, g);
  };
  CHECK(of_logits() == doctest::Approx(Project(losses, g)));
  for (int64_t row = 0; row < 4; ++row) {
    double entropy = 0;
    for (int64_t c = 0; c < 7; ++c) {
      const double log_p = logits.at(row * 7 + c) - lse.at(row);
      entropy -= std::exp(log_p) * log_p;
    }
    CHECK(entropies.at(row) == doctest::Approx(row == 1 ? 0 : entropy));
  }
  Run(ReferenceBackend(), CrossEntropyBackwardArgs{logits, labels, lse, g, dlogits});
  CheckGradient("dlogits", logits, dlogits, of_logits);
}

TEST_CASE("linear_cross_entropy is cross_entropy of the product") {
  const Tensor labels = Ints({3}, {6, 1, 0}), weight = Normal(kF64, {7, 4}, 2);
  const Tensor hidden = Normal(kF64, {3, 4}, 1), logits(kF64, {3, 7});
  const Tensor loss(kF64, {1}), count(kF64, {1}), fused(kF64, {1});
  const Backend& backend = ReferenceBackend();
  const auto context = backend.create_context(1);
  const FrozenWeight w(backend, weight, *context);
  Run(backend, MatmulArgs{hidden, weight, logits, false, true}, *context);
  Run(backend, CrossEntropyForwardArgs{logits, labels, loss, count, {}, {}, {}}, *context);
  Run(backend, LinearCrossEntropyArgs{hidden, w.view(), labels, fused, count, {}, {}, {}},
      *context);
  CHECK_CLOSE(fused, loss, (Tolerance{1e-13, 0}));
}

}  // namespace
}  // namespace lora::test
