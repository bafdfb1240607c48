#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "core/error.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct SampleCase {
  float temperature;
  int64_t top_k;
  float top_p;
};

TEST_CASE("sample: the tokens of the reference on every path") {
  for (const DType dtype : Activations()) {
    for (const int64_t n : {0, 1, 5}) {
      for (const int64_t vocab : {1, 17, 1000}) {
        if (Tested().emulated && n * vocab > 17) continue;  // cuda/sample_device_test.cc has larger
        for (const SampleCase c : {SampleCase{0, 0, 1}, SampleCase{1, 0, 1}, SampleCase{0.7f, 5, 1},
                                   SampleCase{1.3f, 0, 0.8f}, SampleCase{0.9f, 50, 0.5f}}) {
          CAPTURE(NameOf(dtype));
          CAPTURE(n);
          CAPTURE(vocab);
          CAPTURE(c.temperature);
          const Tensor logits = Normal(dtype, {n, vocab}, 1, 3), expected(DType::kI32, {n});
          const auto args = [&](const Tensor& ids) {
            return SampleArgs{logits, c.temperature, c.top_k, c.top_p, 42, 3, ids};
          };
          Run(ReferenceBackend(), args(expected));
          OnPathsInTurn(
              [&](Context& context) {
                std::vector<Tensor> ids = {Tensor(DType::kI32, {n})};
                RunTested(args(ids[0]), context);
                return ids;
              },
              [&](const std::vector<Tensor>& ids) { CHECK_IDENTICAL(ids[0], expected); });
        }
      }
    }
  }
}

std::string FailureOf(const Tensor& logits, float temperature) {
  const Tensor ids(DType::kI32, {logits.shape()[0]});
  try {
    RunTested(SampleArgs{logits, temperature, 0, 1, 1, 0, ids}, *NextContext());
  } catch (const Error& error) {
    return error.code() + ": " + error.what();
  }
  return "no error";
}

TEST_CASE("sample: logits that are no numbers fail with their row and token") {
  for (const float temperature : {0.0f, 1.0f}) {
    Tensor logits = Normal(DType::kF32, {3, 8300}, 1);
    const auto at = [](int64_t row, int64_t token) { return row * 8300 + token; };
    logits.Set(at(2, 3), std::nan(""));
    logits.Set(at(1, 8299), std::nan(""));
    CHECK(FailureOf(logits, temperature) ==
          "ERR_NON_FINITE: [sample] logits of row 1 hold NaN at token 8299");
    logits.Set(at(1, 8), kInfinity);
    CHECK(FailureOf(logits, temperature) ==
          "ERR_NON_FINITE: [sample] logits of row 1 hold +Infinity at token 8");
    for (int64_t i = 0; i < 8300; ++i) logits.Set(i, -kInfinity);
    CHECK(FailureOf(logits, temperature) ==
          "ERR_NON_FINITE: [sample] logits of row 0 are all -Infinity");
    logits.Set(0, std::nan(""));
    CHECK(FailureOf(logits, temperature) ==
          "ERR_NON_FINITE: [sample] logits of row 0 hold NaN at token 0");
  }
}

}  // namespace
}  // namespace lora::test
