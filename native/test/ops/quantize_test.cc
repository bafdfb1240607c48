#include "core/maths/quantize.h"

#include <cmath>
#include <limits>
#include <vector>

#include "test/support/tested.h"

namespace lora::test {
namespace {

constexpr WeightFormat kWithScales[] = {WeightFormat::kI8Rows, WeightFormat::kNF4,
                                        WeightFormat::kFP4};

// The values and the magnitudes of w.
std::vector<Tensor> Quantized(const Backend& backend, const Tensor& w, WeightFormat format,
                              Context& context) {
  QuantizeArgs args;
  args.src = w;
  args.format = format;
  Tensor values(DType::kI8, args.ValueShape());
  Tensor magnitudes(DType::kF32, {ScaleCount(format, args.rows(), args.cols())});
  args.values = values;
  args.magnitudes = magnitudes;
  Run(backend, args, context);
  return {values, magnitudes};
}

TEST_CASE("quantize: the same bits as the reference, for blocks that straddle rows too") {
  const auto reference = ReferenceBackend().create_context(1);
  for (const WeightFormat format : kWithScales) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      for (const Shape& shape : {Shape{1, 1}, Shape{3, 7}, Shape{5, 64}, Shape{4, 172},
                                 Shape{33, 65}, Shape{2, 1100}, Shape{0, 5}, Shape{5, 0}}) {
        CAPTURE(NameOf(format));
        CAPTURE(NameOf(dtype));
        CAPTURE(shape);
        const Tensor w = Normal(dtype, shape, 7);
        const auto expected = Quantized(ReferenceBackend(), w, format, *reference);
        OnEveryPath(
            [&](Context& context) { return Quantized(Tested().backend, w, format, context); },
            [&](const std::vector<Tensor>& results) {
              CHECK_IDENTICAL(results[0], expected[0]);
              CHECK_IDENTICAL(results[1], expected[1]);
            });
      }
    }
  }
}

TEST_CASE("quantize: a group of zeros, tiny and huge values, and those that are not finite") {
  const float tiny = std::numeric_limits<float>::denorm_min(), huge = 3e38f;
  const auto row = [](double first, double second) {
    std::vector<double> values(64, 0.0);
    values[0] = first;
    values[1] = second;
    return values;
  };
  std::vector<double> all;
  for (const auto& values : {row(0, 0), row(huge, -huge), row(1, std::nan("")), row(INFINITY, 1),
                             row(1, -0.5), row(tiny, 0)})
    all.insert(all.end(), values.begin(), values.end());
  const Tensor w = Of(DType::kF32, {6, 64}, all);
  for (const WeightFormat format : kWithScales) {
    CAPTURE(NameOf(format));
    const bool coded = HasCodes(format);
    const auto zero = static_cast<int>(TraitsOf(format).zero);
    const int zeros = coded ? static_cast<int8_t>(zero << 4 | zero) : 0;
    OnEveryPath([&](Context& context) { return Quantized(Tested().backend, w, format, context); },
                [&](const std::vector<Tensor>& results) {
                  const Tensor &values = results[0], &magnitudes = results[1];
                  const int64_t per_row = coded ? 32 : 64;
                  CHECK(magnitudes.at(0) == 0);
                  CHECK(magnitudes.at(1) == huge);
                  CHECK(std::isnan(magnitudes.at(2)));
                  CHECK(std::isnan(magnitudes.at(3)));
                  CHECK(magnitudes.at(4) == 1);
                  for (const int64_t r : {0, 2, 3})
                    for (int64_t i = 0; i < per_row; ++i)
                      CHECK(values.at(r * per_row + i) == zeros);
                  for (const int64_t r : {1, 4}) {
                    const auto first = static_cast<int>(values.at(r * per_row)) & 0xff;
                    const double least = r == 1 ? -1 : -0.5;
                    if (coded) {
                      const CodeTable& codes = *TraitsOf(format).codes;
                      CHECK(codes.values[first >> 4] == 1);
                      CHECK(std::fabs(codes.values[first & 15] - least) < 0.03);
                    } else {
                      CHECK(first == 127);
                      CHECK(values.at(r * per_row + 1) == (r == 1 ? -127 : -64));
                    }
                    CHECK(values.at(r * per_row + 1 + (coded ? 0 : 1)) == zeros);
                  }
                });
  }
}

}  // namespace
}  // namespace lora::test
