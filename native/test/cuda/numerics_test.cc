// Tests that an emulated device computes with the numbers that the environment chooses.
#ifndef LORA_REAL_GPU
#include <doctest/doctest.h>

#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "core/ops/ops.h"
#include "test/support/run.h"
#include "test/support/schedules.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

// Sets a variable, and restores it.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) {
    const char* before = std::getenv(name);
    before_ = before == nullptr ? "" : before;
    setenv(name, value, 1);
  }
  ~Variable() { setenv(name_, before_.c_str(), 1); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
  std::string before_;
};

// Returns exponentials, and sums of products, of a device that is opened under these.
std::pair<std::vector<double>, std::vector<double>> NumbersOf(const char* mma, const char* ulps) {
  const Variable how_mma("LORA_SIMT_MMA", mma), how_far("LORA_SIMT_ULPS", ulps);
  MirrorContext context = NthContext(0);
  const Tensor x = Uniform(DType::kF32, {64}, 1), a = Normal(DType::kBF16, {32, 512}, 2);
  const Tensor b = Normal(DType::kBF16, {512, 32}, 3);
  Tensor y(DType::kF32, {64}), product(DType::kF32, {32, 32});
  Run(MirroredCuda(), UnaryArgs{UnaryKind::kExponential, 1, x, y}, context);
  Run(MirroredCuda(), MatmulArgs{a, b, product}, context);
  return {y.Values(), product.Values()};
}

}  // namespace

TEST_CASE("cuda: the environment chooses the numbers of an emulated device") {
  const auto usual = NumbersOf("", "");
  CHECK(NumbersOf("ampere", "") == usual);
  const auto hopper = NumbersOf("hopper", ""), f32 = NumbersOf("f32", "");
  CHECK(hopper.first == usual.first);
  CHECK(hopper.second != usual.second);
  CHECK(f32.second != usual.second);
  CHECK(f32.second != hopper.second);
  const auto up = NumbersOf("", "up"), down = NumbersOf("", "down"), drawn = NumbersOf("", "1");
  CHECK(up.second == usual.second);
  for (size_t i = 0; i < usual.first.size(); ++i) {
    CHECK(up.first[i] > usual.first[i]);
    CHECK(down.first[i] < usual.first[i]);
  }
  CHECK(drawn.first != usual.first);
  CHECK(drawn.first != up.first);
  CHECK(NumbersOf("", "2").first != drawn.first);
  CHECK_THROWS(NumbersOf("volta", ""));
  CHECK_THROWS(NumbersOf("", "-1"));
}

}  // namespace lora::test
#endif
