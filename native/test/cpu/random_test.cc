// random and sample of the CPU backend: the same bits as the reference.
#include <doctest/doctest.h>

#include <limits>

#include "backend/cpu/kernels.h"
#include "core/error.h"
#include "test/support/cpu_paths.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

const Op<RandomArgs> kRandom = {cpu::ScratchBytes, cpu::Run};
const Op<SampleArgs> kSample = {cpu::ScratchBytes, cpu::Run};

TEST_CASE("random: the bits of the reference, with any number of threads") {
  for (const RandomKind kind : {RandomKind::kUniform, RandomKind::kNormal}) {
    for (const int64_t n : OddSizes()) {
      const auto args = [&](const Tensor& y) {
        return RandomArgs{kind, 0x123456789abcULL, 7, -0.25f, 0.5f, y};
      };
      Tensor expected(DType::kF32, {n});
      Run(ReferenceBackend(), args(expected));
      for (const int threads : {1, 2, 3}) {
        cpu::CpuContext context(threads);
        Tensor y(DType::kF32, {n});
        Run(kRandom, args(y), context);
        CHECK_IDENTICAL(y, expected);
        CHECK(y.intact());
      }
    }
  }
}

struct SampleCase {
  float temperature;
  int64_t top_k;
  float top_p;
};

TEST_CASE("sample: the tokens of the reference on every path") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t n : {0, 1, 5}) {
      for (const int64_t vocab : {1, 17, 1000}) {
        for (const SampleCase c : {SampleCase{0, 0, 1}, SampleCase{1, 0, 1}, SampleCase{0.7f, 5, 1},
                                   SampleCase{1.3f, 0, 0.8f}, SampleCase{0.9f, 50, 0.5f}}) {
          CAPTURE(NameOf(dtype));
          CAPTURE(n);
          CAPTURE(vocab);
          CAPTURE(c.temperature);
          const Tensor logits = Normal(dtype, {n, vocab}, 1, 3);
          const auto args = [&](const Tensor& ids) {
            return SampleArgs{logits, c.temperature, c.top_k, c.top_p, 42, 3, ids};
          };
          Tensor expected(DType::kI32, {n});
          Run(ReferenceBackend(), args(expected));
          OnEveryCpuPath(
              [&](Context& context) {
                std::vector<Tensor> ids = {Tensor(DType::kI32, {n})};
                Run(kSample, args(ids[0]), context);
                return ids;
              },
              [&](const std::vector<Tensor>& ids) { CHECK_IDENTICAL(ids[0], expected); });
        }
      }
    }
  }
}

TEST_CASE("sample: logits that are not finite fail with their row") {
  cpu::CpuContext context(2);
  for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    Tensor logits = Normal(DType::kF32, {3, 10}, 1), ids(DType::kI32, {3});
    logits.Set(25, bad);
    try {
      Run(kSample, SampleArgs{logits, 1, 0, 1, 1, 1, ids}, context);
      FAIL("expected an error");
    } catch (const Error& error) {
      CHECK(error.code() == "ERR_NON_FINITE");
      CHECK(std::string(error.what()).find("row 2") != std::string::npos);
    }
  }
}

}  // namespace
}  // namespace lora::test
