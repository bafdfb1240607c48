// Fragment layouts against the formulas of the PTX manual.
#include <doctest/doctest.h>

#include <vector>

#include "core/dtype.h"
#include "test/simt/layout_kernels.h"

namespace lora::simt {
namespace {

void CheckLoadMatrix(bool transposed, int matrices) {
  std::vector<uint16_t> in(256);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint16_t>(1000 + i);
  Buffer in_device(512, "in"), out_device(512, "out");
  in_device.Upload(in.data());
  const Result result = LoadMatrixLayout(Options(), transposed, matrices, in_device.as<uint16_t>(),
                                         out_device.as<uint32_t>());
  CHECK_MESSAGE(result.reports.empty(), result.Text());
  std::vector<uint32_t> out(128);
  out_device.Download(out.data());
  for (size_t lane = 0; lane < 32; ++lane)
    for (size_t i = 0; i < 4; ++i) {
      // Lane l holds elements 2·(l % 4) and the next of row l / 4; transposed, of column l / 4.
      const size_t line = lane / 4, place = lane % 4 * 2;
      const auto element = [&](size_t row, size_t col) { return in[i * 64 + row * 8 + col]; };
      const uint32_t low = transposed ? element(place, line) : element(line, place);
      const uint32_t high = transposed ? element(place + 1, line) : element(line, place + 1);
      const uint32_t expected = static_cast<int>(i) < matrices ? low | high << 16 : 0;
      CHECK(out[lane * 4 + i] == expected);
    }
}

}  // namespace

TEST_CASE("ldmatrix gives each lane a pair of its row, or of its column when transposed") {
  for (const int matrices : {4, 2})
    for (const bool transposed : {false, true}) CheckLoadMatrix(transposed, matrices);
}

TEST_CASE("mma.sync m16n8k16 multiplies fragments laid out as the manual says") {
  for (const bool bf16 : {true, false}) {
    std::vector<uint16_t> a(256), b(128);
    std::vector<float> c(128), d(128);
    const auto number = [&](float f) { return bf16 ? BF16FromF32(f) : F16FromF32(f); };
    // Distinct enough that a swap of any two elements changes some sum; all sums are exact.
    const auto x = [](size_t i, size_t k) {
      return static_cast<float>((i * 37 + k * 11 + i * k) % 61) - 30;
    };
    const auto y = [](size_t k, size_t n) {
      return static_cast<float>((k * 29 + n * 17 + k * n) % 53) - 26;
    };
    for (size_t i = 0; i < 16; ++i)
      for (size_t k = 0; k < 16; ++k) a[i * 16 + k] = number(x(i, k));
    for (size_t k = 0; k < 16; ++k)
      for (size_t n = 0; n < 8; ++n) b[k * 8 + n] = number(y(k, n));
    for (size_t i = 0; i < 128; ++i) c[i] = static_cast<float>(i) * 0.5f;
    Buffer a_device(512, "a"), b_device(256, "b"), c_device(512, "c"), d_device(512, "d");
    a_device.Upload(a.data());
    b_device.Upload(b.data());
    c_device.Upload(c.data());
    const Result result =
        MmaLayout(Options(), bf16, a_device.as<uint16_t>(), b_device.as<uint16_t>(),
                  c_device.as<float>(), d_device.as<float>());
    CHECK_MESSAGE(result.reports.empty(), result.Text());
    d_device.Download(d.data());
    for (size_t i = 0; i < 16; ++i)
      for (size_t n = 0; n < 8; ++n) {
        float sum = c[i * 8 + n];
        for (size_t k = 0; k < 16; ++k) sum += x(i, k) * y(k, n);
        CHECK(d[i * 8 + n] == sum);
      }
  }
}

}  // namespace lora::simt
