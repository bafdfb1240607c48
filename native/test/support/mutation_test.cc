// Tests that the bounds of lora_linear can fail: at k = 4096 they reject every mistake below, and
// accept the right result rounded once.
#include <functional>

#include "test/support/lora_problem.h"

namespace lora::test {
namespace {

struct Mutation {
  const char* name;
  std::function<void(LoraLinearProblem&)> apply;
};

// Zeroes column `column` of a matrix.
void DropColumn(Tensor& t, int64_t column) {
  const int64_t cols = t.shape()[1];
  for (int64_t i = 0; i < t.shape()[0]; ++i) t.Set(i * cols + column, 0);
}

void DropRow(Tensor& t, int64_t row) {
  const int64_t cols = t.shape()[1];
  for (int64_t j = 0; j < cols; ++j) t.Set(row * cols + j, 0);
}

LoraLinearProblem ProblemOf(DType dtype, float dropout) {
  return LoraLinearProblem({dtype, 12, 4096, {{48, 8, true, dropout}}});
}

// Imitates an accumulation in f32 and one rounding: rounds the exact result to the dtype.
LoraLinearOutputs Rounded(const LoraLinearOutputs& exact, DType dtype) {
  LoraLinearOutputs out;
  out.y.push_back(exact.y[0].As(dtype));
  out.h.push_back(exact.h[0].As(DType::kF32));
  out.dx = exact.dx.As(dtype);
  out.d_up.push_back(exact.d_up[0].As(DType::kF32));
  out.d_down.push_back(exact.d_down[0].As(DType::kF32));
  return out;
}

struct Verdict {
  bool y, h, dx, d_up, d_down;
};
Verdict Judge(const LoraLinearOutputs& actual, const LoraLinearOutputs& expected,
              const LoraLinearBounds& bounds) {
  return {Close(actual.y[0], expected.y[0], bounds.y[0]).ok,
          Close(actual.h[0], expected.h[0], bounds.h[0]).ok,
          Close(actual.dx, expected.dx, bounds.dx).ok,
          Close(actual.d_up[0], expected.d_up[0], bounds.d_up[0]).ok,
          Close(actual.d_down[0], expected.d_down[0], bounds.d_down[0]).ok};
}

const std::vector<Mutation>& ForwardMutations() {
  static const std::vector<Mutation> mutations = {
      {"last k of x dropped", [](auto& p) { DropColumn(p.x, 4095); }},
      {"last k of W dropped", [](auto& p) { DropColumn(p.branches[0].weight, 4095); }},
      {"one rank dropped", [](auto& p) { DropColumn(p.branches[0].up, 7); }},
      {"LoRA dropped",
       [](auto& p) { p.branches[0].up = Zeros(DType::kF32, p.branches[0].up.shape()); }},
      {"s off by 1%", [](auto& p) { p.branches[0].scale *= 1.01f; }},
      {"bias dropped",
       [](auto& p) { p.branches[0].bias = Zeros(DType::kF32, p.branches[0].bias.shape()); }},
      {"one output's weights dropped", [](auto& p) { DropRow(p.branches[0].weight, 47); }},
  };
  return mutations;
}

// Of CPUs, and of tensor cores.
std::vector<Precision> PrecisionsOf(DType dtype) {
  return {Precision::Of(dtype), Precision::OnTensorCores(dtype)};
}

// y alone: a fraction of the work.
Tensor OutputOf(const LoraLinearProblem& problem) {
  const auto context = ReferenceBackend().create_context(1);
  const LoraLinearOutputs exact = problem.As(DType::kF64).Forward(ReferenceBackend(), *context);
  return exact.y[0].As(problem.x.dtype());
}

TEST_CASE("the bound of y rejects mistakes at k = 4096") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const float dropout : {0.0f, 0.1f}) {
      CAPTURE(NameOf(dtype));
      CAPTURE(dropout);
      const LoraLinearProblem problem = ProblemOf(dtype, dropout);
      const LoraLinearOutputs expected = problem.Expected();
      for (const Precision& precision : PrecisionsOf(dtype)) {
        CAPTURE(precision.tensor_cores.has_value());
        const LoraLinearBounds bounds = problem.Bounds(expected, precision);
        CHECK_CLOSE(expected.y[0].As(dtype), expected.y[0], bounds.y[0]);
        for (const Mutation& mutation : ForwardMutations()) {
          LoraLinearProblem mutant = problem;
          mutation.apply(mutant);
          CHECK_MESSAGE(!Close(OutputOf(mutant), expected.y[0], bounds.y[0]).ok, mutation.name);
        }
        if (dropout > 0) {
          LoraLinearProblem mutant = problem;
          mutant.branches[0].dropout.forward += 1;
          CHECK_MESSAGE(!Close(OutputOf(mutant), expected.y[0], bounds.y[0]).ok, "another mask");
        }
      }
    }
  }
}

TEST_CASE("the bounds of h and of the gradients reject mistakes") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    CAPTURE(NameOf(dtype));
    const LoraLinearProblem problem = ProblemOf(dtype, 0.1f);
    const LoraLinearOutputs expected = problem.Expected();
    for (const Precision& precision : PrecisionsOf(dtype)) {
      CAPTURE(precision.tensor_cores.has_value());
      const LoraLinearBounds bounds = problem.Bounds(expected, precision);
      const auto judge = [&](const std::function<void(LoraLinearProblem&)>& mutate) {
        LoraLinearProblem mutant = problem;
        mutate(mutant);
        return Judge(Rounded(mutant.Expected(), dtype), expected, bounds);
      };
      const Verdict same = judge([](auto&) {});
      CHECK((same.y && same.h && same.dx && same.d_up && same.d_down));

      const Verdict scale = judge([](auto& p) { p.branches[0].scale *= 1.01f; });
      CHECK_FALSE((scale.dx || scale.d_up || scale.d_down));
      const Verdict last_k = judge([](auto& p) { DropColumn(p.x, 4095); });
      CHECK_FALSE((last_k.h || last_k.d_up || last_k.d_down));
      const Verdict last_row = judge([](auto& p) {
        DropRow(p.g[0], 11);
        DropRow(p.x, 11);
      });
      CHECK_FALSE((last_row.h || last_row.dx || last_row.d_up || last_row.d_down));
      const Verdict last_output = judge([](auto& p) { DropColumn(p.g[0], 47); });
      CHECK_FALSE((last_output.dx || last_output.d_up || last_output.d_down));
      const Verdict rank = judge([](auto& p) { DropRow(p.branches[0].down, 7); });
      CHECK_FALSE((rank.h || rank.dx || rank.d_up));
      const Verdict mask = judge([](auto& p) { p.branches[0].dropout.layer += 1; });
      CHECK_FALSE((mask.h || mask.dx || mask.d_up || mask.d_down));
    }
  }
}

}  // namespace
}  // namespace lora::test
