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

void RunOn(const Problem& p, const Outputs& out, Context& context, bool gradient = true) {
  const FrozenWeight weight(Tested().backend, p.weight, context);
  LinearCrossEntropyArgs args = ArgsOf(p, weight, out);
  if (!gradient) args.d_hidden = TensorView();
  RunTested(args, context);
}

void CheckLinearCrossEntropy(const Problem& p) {
  CAPTURE(NameOf(p.hidden.dtype()));
  CAPTURE(Text(p.hidden.shape()));
  CAPTURE(Text(p.weight.shape()));
  const bool halves = p.hidden.dtype() != DType::kF32;
  const LinearCrossEntropyExpected expected(p, halves && Tested().tensor_cores,
                                            Tested().tensor_cores ? 1 : 2);
  OnPathsInTurn(
      [&](Context& context) {
        Outputs out(p), without_gradient(p);
        RunOn(p, out, context);
        RunOn(p, without_gradient, context, false);
        CHECK_IDENTICAL(without_gradient.loss, out.loss);
        std::vector<Tensor> list;
        for (Tensor* tensor : {&out.loss, &out.count, &out.d_hidden})
          list.push_back(std::move(*tensor));
        return list;
      },
      [&](const std::vector<Tensor>& out) {
        CHECK_CLOSE(out[0], expected.out.loss, Tolerance{expected.loss_bound});
        CHECK(out[1].at(0) == expected.out.count.at(0));
        CHECK_CLOSE(out[2], expected.out.d_hidden, expected.d_hidden_bounds);
      });
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
      RunOn(p, Outputs(p), *context);
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
