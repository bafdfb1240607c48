// Holds cross_entropy and its gradient against the reference, within the bounds of
// cross_entropy_cases.h.
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "test/support/cross_entropy_cases.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

using Problem = CrossEntropyProblem;
using Outputs = CrossEntropyOutputs;

std::vector<Tensor> ListOf(Outputs&& out) {
  std::vector<Tensor> list;
  for (Tensor* tensor :
       {&out.loss, &out.count, &out.lse, &out.dlogits, &out.losses, &out.entropies})
    list.push_back(std::move(*tensor));
  return list;
}

// Runs forward, backward from the `lse` of the reference, and forward without an lse of its own.
std::vector<Tensor> RunAll(const Problem& p, const Tensor& lse, Context& context) {
  Outputs out(p), without_lse(p), rows(p);
  RunTested(ForwardArgs(p, out), context);
  RunTested(BackwardArgs(p, lse, out), context);
  without_lse.lse = rows.lse = Tensor();
  RunTested(ForwardArgs(p, without_lse), context);
  CHECK_IDENTICAL(without_lse.loss, out.loss);
  RunTested(RowArgs(p, out), context);
  RunTested(RowArgs(p, rows), context);
  for (const Outputs* each : {&out, &rows}) CHECK_IDENTICAL(each->loss, without_lse.loss);
  CHECK_IDENTICAL(rows.losses, out.losses);
  CHECK_IDENTICAL(rows.entropies, out.entropies);
  return ListOf(std::move(out));
}

void CheckCrossEntropy(const Problem& p) {
  CAPTURE(NameOf(p.logits.dtype()));
  CAPTURE(Text(p.logits.shape()));
  const CrossEntropyExpected expected(p);
  OnEveryPath([&](Context& context) { return RunAll(p, expected.out.lse, context); },
              [&](const std::vector<Tensor>& out) {
                CHECK_CLOSE(out[0], expected.out.loss, Tolerance{expected.loss_bound});
                CHECK(out[1].at(0) == expected.out.count.at(0));
                CHECK_CLOSE(out[2], expected.out.lse, expected.lse_bounds);
                CHECK_CLOSE(out[3], expected.out.dlogits, expected.gradient_bounds);
                CHECK_CLOSE(out[4], expected.out.losses, expected.losses_bounds);
                CHECK_CLOSE(out[5], expected.out.entropies, expected.entropies_bounds);
              });
}

TEST_CASE("cross_entropy and its gradient agree with the reference") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t vocab :
         {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 130, 511, 2047, 2048, 2049})
      CheckCrossEntropy(Problem(dtype, 5, vocab, 2, vocab % 2 == 1));
    for (const int64_t vocab : {4095, 4096, 4097, 8191, 8193, 9001})
      CheckCrossEntropy(Problem(dtype, Tested().emulated ? 2 : 5, vocab, 2, false));
    CheckCrossEntropy(Problem(dtype, 1, 40, 1, false));
    CheckCrossEntropy(Problem(dtype, 67, 20, 30, true));
    CheckCrossEntropy(Problem(dtype, 7, 130, 2, true, true));
  }
}

TEST_CASE("cross_entropy: more rows than a sum of a GPU has threads, each counted once") {
  Problem p(DType::kF32, 1100, 2, 0, false);  // the loss of a row is log 2
  for (int64_t row = 0; row < 1100; row += 7) p.labels.Set(row, -100);
  const Outputs out(p);
  RunTested(ForwardArgs(p, out), *NextContext());
  CHECK(out.count.at(0) == 1100 - 158);
  CHECK(std::fabs(out.loss.at(0) - 942 * std::log(2)) <= 942 * 2 * kU);
}

TEST_CASE("cross_entropy's maximum may lie anywhere, and logits may rise or fall") {
  for (const int64_t at : {0, 1, 2047, 2048, 4095, 4096, 4999, 8191, 9000}) {
    CAPTURE(at);
    Problem p(DType::kF32, 1, 9001, 1, false);
    p.logits.Set(at, 95);
    p.labels.Set(0, 9000 - static_cast<double>(at));
    const Outputs expected(p);
    Run(ReferenceBackend(), ForwardArgs(p, expected));
    OnPathsInTurn(
        [&](Context& context) {
          Outputs out(p);
          RunTested(ForwardArgs(p, out), context);
          return ListOf(std::move(out));
        },
        [&](const std::vector<Tensor>& out) {
          CHECK_CLOSE(out[0], expected.loss, (Tolerance{kSumError, 4 * kU}));
          CHECK_CLOSE(out[2], expected.lse, (Tolerance{kSumError, 4 * kU}));
        });
  }
  for (const double slope : {1e-3, -1e-3, 0.02, 0.0}) {  // rising: every vector rescales
    CAPTURE(slope);
    Problem p(DType::kF32, 1, 20000, 1, false);
    for (int64_t i = 0; i < 20000; ++i) p.logits.Set(i, slope * static_cast<double>(i));
    CheckCrossEntropy(p);
  }
}

TEST_CASE("cross_entropy takes minus infinity as an excluded token, and shows NaN") {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  Problem p(DType::kF32, 5, 19, 1, false);
  p.labels = Ints({5}, {4, 5, 6, -100, 7});
  p.logits.Set(3, -kInfinity);
  p.logits.Set(19 + 18, std::nan(""));
  for (int64_t i = 0; i < 19; ++i) p.logits.Set(2 * 19 + i, -kInfinity);
  p.logits.Set(3 * 19 + 1, std::nan(""));  // does not count
  p.logits.Set(4 * 19 + 1, kInfinity);
  OnEveryPath(
      [&](Context& context) {
        Outputs out(p);
        RunTested(RowArgs(p, out), context);
        RunTested(BackwardArgs(p, out.lse, out), context);
        return ListOf(std::move(out));
      },
      [&](const std::vector<Tensor>& out) {
        const Tensor &loss = out[0], &lse = out[2], &dlogits = out[3], &entropies = out[5];
        CHECK(entropies.at(0) > 0);
        CHECK(std::isnan(entropies.at(1)));
        CHECK(entropies.at(3) == 0);
        CHECK(std::isfinite(lse.at(0)));
        CHECK(std::isnan(lse.at(1)));
        CHECK(lse.at(2) == -kInfinity);
        CHECK(std::isnan(lse.at(3)));
        CHECK(lse.at(4) == kInfinity);
        CHECK(std::isnan(loss.at(0)));
        CHECK(dlogits.at(3) == 0);
        CHECK(std::isfinite(dlogits.at(0)));
        CHECK(std::isnan(dlogits.at(19)));
        for (int64_t i = 3 * 19; i < 4 * 19; ++i) CHECK(dlogits.at(i) == 0);
      });
  // A row that does not count is not in the loss either.
  p.labels = Ints({5}, {4, -100, -100, -100, -100});
  const Outputs out(p);
  RunTested(ForwardArgs(p, out), *NextContext());
  CHECK(std::isfinite(out.loss.at(0)));
}

TEST_CASE("cross_entropy's gradient may take the place of the logits") {
  const Problem p(DType::kBF16, 3, 3001, 2, true);
  const CrossEntropyExpected expected(p);
  OnEveryPath(
      [&](Context& context) {
        Problem in_place = p;
        CrossEntropyBackwardArgs args = BackwardArgs(in_place, expected.out.lse, expected.out);
        args.dlogits = in_place.logits;
        RunTested(args, context);
        std::vector<Tensor> out;
        out.push_back(std::move(in_place.logits));
        return out;
      },
      [&](const std::vector<Tensor>& out) {
        CHECK_CLOSE(out[0], expected.out.dlogits, expected.gradient_bounds);
      });
}

TEST_CASE("cross_entropy names a label that is no token") {
  const auto context = NextContext();
  const auto failure = [&](const Problem& p) -> std::string {
    try {
      RunTested(ForwardArgs(p, Outputs(p)), *context);
    } catch (const Error& error) {
      return error.code() + ' ' + error.what();
    }
    return "no error";
  };
  Problem p(DType::kF32, 3, 10, 1, false);
  p.labels = Ints({3}, {4, -100, 10});
  CHECK(failure(p) ==
        "ERR_DATA [cross_entropy] expected labels from 0 to 9, or -100, but received 10 at row 2");
  p.labels = Ints({3}, {4, -1, 0});
  CHECK(failure(p) ==
        "ERR_DATA [cross_entropy] expected labels from 0 to 9, or -100, but received -1 at row 1");
  p.labels = Ints({3}, {-100, -100, -100});
  CHECK(failure(p) == "ERR_DATA [cross_entropy] expected at least one label that is not -100");
  const Outputs zeros(p);
  RunTested(RowArgs(p, zeros), *context);
  CHECK_IDENTICAL(zeros.losses, Zeros(DType::kF32, {3}));
  CHECK_IDENTICAL(zeros.entropies, Zeros(DType::kF32, {3}));
  CHECK(failure(Problem(DType::kF32, 0, 10, 1, false)) ==
        "ERR_DATA [cross_entropy] expected at least one label that is not -100");
}

TEST_CASE("cross_entropy's gradient names a label that is no token, and needs none") {
  const auto context = NextContext();
  Problem p(DType::kF32, 3, 10, 1, false);
  const Outputs out(p);
  const Tensor lse = Zeros(DType::kF32, {3});
  p.labels = Ints({3}, {1, 2, 10});
  CHECK_THROWS_WITH_AS(
      RunTested(BackwardArgs(p, lse, out), *context),
      "[cross_entropy] expected labels from 0 to 9, or -100, but received 10 at row 2", Error);
  p.labels = Ints({3}, {-100, -100, -100});
  RunTested(BackwardArgs(p, lse, out), *context);
  CHECK_IDENTICAL(out.dlogits, Zeros(DType::kF32, {3, 10}));
}

}  // namespace
}  // namespace lora::test
