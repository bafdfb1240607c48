// In bf16, vectors are rounded two at a time, where a cast rounds one.
#include <cmath>
#include <limits>
#include <vector>

#include "backend/cpu/runtime/context.h"
#include "test/support/close.h"
#include "test/support/run.h"
#include "test/support/simd_targets.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

TEST_CASE("cpu gated: bf16 results are those of f32 as a cast rounds them") {
  cpu::CpuContext one(1);
  const Shape shape{1000};
  Tensor gate = Normal(DType::kBF16, shape, 1, 3), up = Normal(DType::kBF16, shape, 2);
  const Tensor g = Normal(DType::kBF16, shape, 3);
  // σ(40) is 1: these results are subnormal, or 0, or no numbers.
  const double least = std::ldexp(1.0, -133), nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> ups = {least, -least, 3 * least, 0, -0.0, nan, 1e38, -1e38, 1};
  for (int64_t i = 0; i < 400; i += 7) {
    gate.Set(i, 40);
    up.Set(i, ups[static_cast<size_t>(i / 7) % ups.size()]);
  }
  ForEachSimdTarget([&] {
    std::vector<Tensor> results, casts;
    for (const DType dtype : {DType::kBF16, DType::kF32}) {
      const Tensor x = gate.As(dtype), u = up.As(dtype), v = g.As(dtype);
      std::vector<Tensor> out;
      for (int i = 0; i < 4; ++i) out.push_back(Tensor(dtype, shape));
      Run(CpuBackend(), GatedForwardArgs{GatedKind::kSilu, x, u, out[0]}, one);
      Run(CpuBackend(), GatedBackwardArgs{GatedKind::kSilu, x, u, v, out[1], out[2], out[3]}, one);
      CHECK_IDENTICAL(out[3], out[0]);
      for (const Tensor& y : out) {
        if (dtype == DType::kBF16) {
          results.push_back(y);
        } else {
          casts.push_back(Tensor(DType::kBF16, shape));
          Run(CpuBackend(), UnaryArgs{UnaryKind::kCopy, 1, y, casts.back()}, one);
        }
      }
    }
    for (size_t i = 0; i < results.size(); ++i) CHECK_IDENTICAL(results[i], casts[i]);
    CHECK(results[0].at(0) == 40 * least);
  });
}

}  // namespace
}  // namespace lora::test
