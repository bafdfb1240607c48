// Tests what of sample only the CUDA backend has: the device draws the tokens of the reference by
// itself, and the host decides only where the error of a sum could matter.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <string>

#include "core/error.h"
#include "test/support/close.h"
#include "test/support/run.h"
#include "test/support/sample_rows.h"
#include "test/support/schedules.h"

namespace lora::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

using Rules = SampleRules;

int turn = 0;

// Counts what is read back from the device.
class CountingGpu final : public cuda::Gpu {
 public:
  explicit CountingGpu(std::shared_ptr<cuda::Gpu> gpu) : gpu_(std::move(gpu)) {}
  const cuda::DeviceProperties& properties() const override { return gpu_->properties(); }
  void* stream() const override { return gpu_->stream(); }
  uint32_t* counters() const override { return gpu_->counters(); }
  void* Allocate(size_t bytes) override { return gpu_->Allocate(bytes); }
  void Free(void* data) override { gpu_->Free(data); }
  size_t free_bytes() const override { return gpu_->free_bytes(); }
  void Upload(void* device, const void* host, size_t bytes) override {
    gpu_->Upload(device, host, bytes);
  }
  void Download(void* host, const void* device, size_t bytes) override {
    ++downloads;
    gpu_->Download(host, device, bytes);
  }
  bool LoadKernel(const char* op, size_t kernel) override { return gpu_->LoadKernel(op, kernel); }
  std::string TakeLaunchError(int error) override { return gpu_->TakeLaunchError(error); }
  void* Capture(const std::function<void(void*)>& work) override { return gpu_->Capture(work); }
  void LaunchGraph(void* graph) override { gpu_->LaunchGraph(graph); }
  void FreeGraph(void* graph) override { gpu_->FreeGraph(graph); }
  void Synchronize() override { gpu_->Synchronize(); }
  void Pace() override { gpu_->Pace(); }

  int downloads = 0;

 private:
  std::shared_ptr<cuda::Gpu> gpu_;
};

struct Drawn {
  Tensor ids;
  int on_host = 0;  // rows whose logits were read back
};

Drawn Draw(const Tensor& logits, const SampleRows& rows, Addresses addresses) {
  simt::SetEmulatedOptions(NthOptions(turn++));
  const auto gpu = std::make_shared<CountingGpu>(OpenGpu());
  MirrorContext context(gpu, addresses);
  Drawn drawn{Tensor(DType::kI32, {logits.shape()[0]})};
  Run(MirroredCuda(), rows.Args(logits, drawn.ids), context);
  CHECK(drawn.ids.intact());
  drawn.on_host = gpu->downloads - 2;         // what was found out about the rows, and the ids
  if (drawn.on_host > 0) drawn.on_host -= 2;  // the options of all rows
  return drawn;
}

// Returns how many rows the host drew.
int CheckDraws(const Tensor& logits, const SampleRows& rows,
               Addresses addresses = Addresses::kAligned) {
  CAPTURE(NameOf(logits.dtype()));
  CAPTURE(Text(logits.shape()));
  CAPTURE(addresses);
  const Drawn drawn = Draw(logits, rows, addresses);
  const Tensor expected(DType::kI32, {logits.shape()[0]});
  Run(ReferenceBackend(), rows.Args(logits, expected));
  CHECK_IDENTICAL(drawn.ids, expected);
  return drawn.on_host;
}
int CheckDraws(const Tensor& logits, const Rules& rules, uint64_t seed = 77,
               Addresses addresses = Addresses::kAligned) {
  CAPTURE(rules.temperature);
  CAPTURE(rules.top_k);
  CAPTURE(rules.top_p);
  return CheckDraws(logits, SampleRows(logits.shape()[0], rules, seed, 5), addresses);
}

const Rules kRules[] = {{0, 0, 1},
                        {1, 0, 1},
                        {0.7f, 0, 0.9f},
                        {1.3f, 10, 1},
                        {1, 20, 0.8f},
                        {2, 0, 0.3f},
                        {1, 66, 0.999f},
                        {0.5f, 1, 1},
                        {1, 1 << 20, 1},
                        {1, 0, 1e-6f},
                        {5, 3, 0.99f},
                        {1e-3f, 0, 0.5f},
                        {1, 40, 0.9999f},
                        {10, 0, 0.99f},
                        {1, 0, 1, 0.05f},
                        {1, 20, 1, 0.3f},
                        {1.5f, 0, 0.9f, 0.01f},
                        {3, 30, 0.95f, 1e-4f}};

TEST_CASE("cuda sample: the token that the reference draws, by the device alone") {
  const Tensor wide = Normal(DType::kF32, {2, 509}, 9, 3);
  const Tensor narrow = Normal(DType::kBF16, {1, 67}, 8, 3), half = narrow.As(DType::kF16);
  for (size_t i = 0; i < std::size(kRules); ++i) {
    const auto addresses = static_cast<Addresses>(i % 4);
    CHECK(CheckDraws(wide, kRules[i], 77, addresses) == 0);
    CHECK(CheckDraws(narrow, kRules[i], 78, addresses) == 0);
    CHECK(CheckDraws(half, kRules[i], 79, addresses) == 0);
  }
  for (const int64_t vocab : {2, 3, 8, 16, 17, 255, 256, 257, 4097}) {
    const Tensor logits = Normal(DType::kF32, {1, vocab}, 4, 2);
    for (const Rules& rules : {kRules[0], kRules[1], kRules[4]}) {
      CHECK(CheckDraws(logits, rules) == 0);
    }
  }
  CheckDraws(Normal(DType::kF32, {1, 1}, 4, 2), {1, 0, 1});
}

TEST_CASE("cuda sample: rows of more than one part, with the largest logit in any of them") {
  for (const int64_t at : {0, 8191, 8192, 16999}) {
    Tensor logits = Normal(DType::kF32, {1, 17000}, 11, 2);
    logits.Set(at, 12);
    for (const Rules& rules : {Rules{0, 0, 1}, Rules{1, 0, 1}, Rules{1, 50, 0.9f}}) {
      const Addresses addresses = at % 2 == 0 ? Addresses::kAligned : Addresses::kOdd;
      CHECK(CheckDraws(logits, rules, static_cast<uint64_t>(at), addresses) == 0);
    }
  }
}

TEST_CASE("cuda sample: equal logits are taken by rising id") {
  // 1300 tokens of three kinds, so that a draw lands far inside of many equal ones.
  Tensor logits(DType::kF32, {3, 1300});
  for (int64_t i = 0; i < 3 * 1300; ++i) {
    logits.Set(i, i % 7 == 3 ? 1.37 : i % 5 == 0 ? -0.0 : i % 2 == 0 ? 0.0 : -2.3);
  }
  for (const Rules& rules : {Rules{0, 0, 1}, Rules{1.1f, 0, 1}, Rules{1.1f, 700, 1},
                             Rules{0.9f, 0, 0.83f}, Rules{0.9f, 333, 0.77f}}) {
    CHECK(CheckDraws(logits, rules) == 0);
  }
}

TEST_CASE("cuda sample: where a sum may meet its target exactly, the host decides") {
  // 8 equal weights: half the mass is 4 tokens or, were a sum to err, 5.
  const Tensor logits = Full(DType::kF32, {2, 8}, 1);
  CHECK(CheckDraws(logits, {1, 0, 0.5f}) == 2);
  CHECK(CheckDraws(logits, {1, 4, 0.25f}) == 2);
  CHECK(CheckDraws(logits.As(DType::kBF16), {1, 4, 0.25f}) == 2);
  CHECK(CheckDraws(logits.As(DType::kF16), {1, 4, 0.25f}) == 2);
}

TEST_CASE("cuda sample: where a weight may meet min_p exactly, the host decides") {
  const Tensor logits = Normal(DType::kF32, {3, 40}, 6);
  CHECK(CheckDraws(logits, {1, 0, 1, 1}) == 3);  // the largest weight is 1
  Tensor half = Full(DType::kF32, {1, 8}, -3);
  half.Set(2, 1);
  half.Set(5, 0.5);
  CHECK(CheckDraws(half, {1, 0, 1, 0.6f}) == 0);
  // exp(−1/2) in f32 is further from exp(−1/2) than an exp errs, but is it by much?
  CHECK(CheckDraws(half, {1, 0, 1, std::exp(-0.5f)}) == 0);
}

TEST_CASE("cuda sample: nor is the device sure within the errors of two sums") {
  // The first token has weight 1, the others exp(−c): top_p · total is so near to 1 that a sum in
  // another order may lie on the other side, and not so near that it is 1 in every order.
  constexpr int64_t kVocab = 4096;
  constexpr double kErrors = static_cast<double>(kVocab) / (uint64_t{1} << 51);  // of a sum of 1
  int found = 0;
  for (int i = 1; i < 4000 && found < 2; ++i) {
    const float c = static_cast<float>(i) / 4096;
    double total = 1;
    for (int64_t n = 1; n < kVocab; ++n) total += std::exp(-static_cast<double>(c));
    const float top_p = static_cast<float>(1 / total);
    const double distance = std::fabs(top_p * total - 1) / total;
    if (distance > kErrors / 4 || distance < kErrors / 64) continue;
    ++found;
    Tensor logits = Full(DType::kF32, {1, kVocab}, -c);
    logits.Set(100, 0);
    CAPTURE(i);
    CHECK(CheckDraws(logits, {1, 0, top_p}) == 1);
  }
  CHECK(found == 2);
}

TEST_CASE("cuda sample: minus infinity is never drawn") {
  Tensor logits = Normal(DType::kF32, {3, 33}, 5, 1);
  for (int64_t i = 0; i < logits.numel(); ++i) {
    if (i % 33 != 7 && i % 33 != 20) logits.Set(i, -kInfinity);
  }
  for (const Rules& rules : {Rules{0, 0, 1}, Rules{1, 0, 1}, Rules{1, 9, 1}, Rules{1, 0, 0.99f}}) {
    CheckDraws(logits, rules);
  }
}

TEST_CASE("cuda sample: more rows than are drawn at once, each by rules and a seed of its own") {
  constexpr int64_t kRows = 300;  // 256 at once
  SampleRows rows(kRows, {}, 0, 0);
  for (int64_t row = 0; row < kRows; ++row) {
    rows.SetRules(row, kRules[static_cast<size_t>(row) % std::size(kRules)]);
    rows.SetSeed(row, static_cast<uint64_t>(row) << 30, static_cast<uint32_t>(row / 3));
  }
  CheckDraws(Normal(DType::kF32, {kRows, 5}, 3, 1), rows);
}

TEST_CASE("cuda sample: seed and step matter") {
  const Tensor logits = Normal(DType::kF32, {9, 5}, 3, 1);
  const auto draw = [&](uint64_t seed, uint32_t step, Addresses addresses = Addresses::kAligned) {
    return Draw(logits, SampleRows(9, {}, seed, step), addresses).ids;
  };
  CHECK(!Identical(draw(1, 2), draw(2, 2)).ok);
  CHECK(!Identical(draw(1, 2), draw(1, 3)).ok);
  CHECK_IDENTICAL(draw(1, 2), draw(1, 2, Addresses::kOdd));
  Draw(Tensor(DType::kF32, {0, 5}), SampleRows(0, {}, 1, 2), Addresses::kAligned);
}

}  // namespace
}  // namespace lora::test
