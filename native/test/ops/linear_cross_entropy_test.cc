// Holds linear_cross_entropy against the reference, within the bounds of
// linear_cross_entropy_cases.h.
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "test/support/linear_cross_entropy_cases.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

using Problem = LinearCrossEntropyProblem;
using Outputs = LinearCrossEntropyOutputs;

// `alone`: the loss and its count, as where nobody wants gradients and values of rows.
void RunOn(const Problem& p, const Outputs& out, Context& context, bool alone = false) {
  const FrozenWeight weight(Tested().backend, p.weight, context);
  LinearCrossEntropyArgs args = ArgsOf(p, weight, out);
  if (alone) args.d_hidden = args.losses = args.entropies = TensorView();
  RunTested(args, context);
}

void CheckLinearCrossEntropy(const Problem& p) {
  CAPTURE(NameOf(p.hidden.dtype()));
  CAPTURE(Text(p.hidden.shape()));
  CAPTURE(Text(p.weight.shape()));
  const bool halves = p.hidden.dtype() != DType::kF32;
  const LinearCrossEntropyExpected expected(p, halves && Tested().tensor_cores);
  OnPathsInTurn(
      [&](Context& context) {
        Outputs out(p), alone(p);
        RunOn(p, out, context);
        RunOn(p, alone, context, true);
        CHECK_IDENTICAL(alone.loss, out.loss);
        std::vector<Tensor> list;
        for (Tensor* tensor : {&out.loss, &out.count, &out.d_hidden, &out.losses, &out.entropies})
          list.push_back(std::move(*tensor));
        return list;
      },
      [&](const std::vector<Tensor>& out) {
        CHECK_CLOSE(out[0], expected.out.loss, Tolerance{expected.loss_bound});
        CHECK(out[1].at(0) == expected.out.count.at(0));
        CHECK_CLOSE(out[2], expected.out.d_hidden, expected.d_hidden_bounds);
        CHECK_CLOSE(out[3], expected.out.losses, expected.losses_bounds);
        CHECK_CLOSE(out[4], expected.out.entropies, expected.entropies_bounds);
      });
}

// Without labels that count there is nothing but zeros.
void CheckZeros(const Problem& p) {
  const Outputs out(p);
  RunOn(p, out, *NextContext());
  CHECK(out.loss.at(0) == 0);
  CHECK(out.count.at(0) == 0);
  CHECK_IDENTICAL(out.losses, Zeros(DType::kF32, p.labels.shape()));
  CHECK_IDENTICAL(out.entropies, Zeros(DType::kF32, p.labels.shape()));
  CHECK_IDENTICAL(out.d_hidden, Zeros(DType::kF32, p.hidden.shape()));
}

TEST_CASE("linear_cross_entropy and its gradient agree with the reference") {
  struct Size {
    int64_t rows, dim, vocab;
  };
  std::vector<Size> sizes = {{1, 1, 1},    {3, 7, 2},     {7, 16, 63},   {64, 24, 64}, {5, 33, 65},
                             {65, 8, 130}, {13, 65, 130}, {17, 48, 500}, {3, 9, 2049}};
  if (!Tested().emulated)
    sizes.insert(sizes.end(), {{17, 48, 1000}, {4, 8, 4096}, {6, 5, 4097}, {3, 9, 9001}});
  for (const DType dtype : {DType::kF32, DType::kBF16})
    for (const Size size : sizes)
      CheckLinearCrossEntropy(Problem(dtype, size.rows, size.dim, size.vocab));
}

TEST_CASE("linear_cross_entropy at a temperature agrees with the reference") {
  for (const DType dtype : {DType::kF32, DType::kBF16})
    for (const float scale : {0.7f, 3.0f}) {
      CheckLinearCrossEntropy(Problem(dtype, 7, 33, 65, scale));
      CheckLinearCrossEntropy(Problem(dtype, 3, 9, 2049, scale));
    }
}

TEST_CASE("linear_cross_entropy with a cap agrees with the reference, at a temperature, too") {
  for (const DType dtype : {DType::kF32, DType::kBF16})
    for (const float scale : {1.0f, 0.7f}) {
      CheckLinearCrossEntropy(Problem(dtype, 7, 33, 65, scale, 2.5f));
      CheckLinearCrossEntropy(Problem(dtype, 66, 9, 131, scale, 0.5f));
      CheckLinearCrossEntropy(Problem(dtype, 3, 9, 2049, scale, 30));
    }
}

TEST_CASE("linear_cross_entropy gives rows without a label zeros, where no label counts, too") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    Problem p(dtype, 3, 20, 70);
    p.labels = Ints({3}, {-100, -100, -100});
    CheckZeros(p);
    CheckZeros(Problem(dtype, 0, 20, 70));
  }
}

// A backend may begin with logits of −∞, or end with them.
TEST_CASE("linear_cross_entropy: a token that cannot be adds nothing to an entropy") {
  constexpr int64_t kHalf = 2100;
  for (const bool first : {true, false}) {
    Problem p(DType::kF32, 1, 4, 2 * kHalf);
    p.hidden = Full(DType::kF32, {1, 4}, 10);
    for (int64_t i = 0; i < 2 * kHalf * 4; ++i)
      p.weight.Set(i, (i / 4 < kHalf) == first ? -3e38 : 0);
    p.labels.Set(0, first ? 2 * kHalf - 1 : 0);
    const Outputs out(p);
    RunOn(p, out, *NextContext());
    CHECK(std::fabs(out.entropies.at(0) - std::log(kHalf)) < 1e-4);
  }
}

TEST_CASE("linear_cross_entropy leaves out rows without a label") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    Problem p(dtype, 11, 20, 70);
    for (const int64_t row : {0, 1, 4, 10}) p.labels.Set(row, -100);
    // What does not count is not looked at either.
    p.hidden.Set(4 * 20 + 3, std::nan(""));
    CheckLinearCrossEntropy(p);
    for (int64_t row = 0; row < 10; ++row) p.labels.Set(row, -100);
    p.labels.Set(10, 69);
    CheckLinearCrossEntropy(p);
  }
}

TEST_CASE("linear_cross_entropy: a NaN in a row that counts, or in the weight, reaches the loss") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const bool of_weight : {false, true}) {
      Problem p(dtype, 5, 20, 70);
      (of_weight ? p.weight : p.hidden).Set(43, std::nan(""));
      for (int64_t row = 0; row < 5; ++row) p.labels.Set(row, 60);
      const Outputs out(p);
      RunOn(p, out, *NextContext());
      CHECK(std::isnan(out.loss.at(0)));
      CHECK(std::isnan(out.losses.at(of_weight ? 4 : 2)));
      CHECK(std::isnan(out.entropies.at(of_weight ? 4 : 2)));
    }
  }
}

TEST_CASE("linear_cross_entropy: many rows are cut into chunks") {
  Problem p(DType::kF32, 1200, 5, 7);  // of which 1090 count: more than a chunk of a GPU takes
  for (int64_t row = 0; row < 1200; row += 11) p.labels.Set(row, -100);
  CheckLinearCrossEntropy(p);
}

TEST_CASE("linear_cross_entropy names a label that is no token") {
  const auto context = NextContext();
  const auto failure = [&](const Problem& p) -> std::string {
    try {
      RunOn(p, Outputs(p), *context, true);
    } catch (const Error& error) {
      return error.code() + ' ' + error.what();
    }
    return "no error";
  };
  Problem p(DType::kF32, 3, 4, 10);
  p.labels = Ints({3}, {4, 10, 0});
  CHECK(failure(p) ==
        "ERR_DATA [linear_cross_entropy] expected labels from 0 to 9, or -100, but received 10 at "
        "row 1");
  p.labels = Ints({3}, {-100, -100, -100});
  CHECK(failure(p) ==
        "ERR_DATA [linear_cross_entropy] expected at least one label that is not -100");
}

}  // namespace
}  // namespace lora::test
