// Tests where the CPU backend puts the elements of a packed matrix.
#include <doctest/doctest.h>

#include <cstring>

#include "backend/cpu/formats/pack.h"
#include "backend/cpu/runtime/context.h"
#include "test/support/any_bits.h"
#include "test/support/close.h"
#include "test/support/run.h"
#include "test/support/simd_targets.h"

namespace lora::test {
namespace {

Tensor PackedMemory(const Tensor& w) {
  const size_t bytes = cpu::PackedBytes(w.shape()[0], w.shape()[1], FormatOf(w.dtype()));
  return Tensor(DType::kI32, {static_cast<int64_t>(bytes / 4)});
}

TEST_CASE("cpu pack: a row of a packed matrix has every bit") {
  cpu::CpuContext context(2);
  ForEachSimdTarget([&] {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const Shape& shape : {Shape{0, 5}, Shape{5, 0}, Shape{1, 1}, Shape{3, 7}, Shape{63, 33},
                                 Shape{64, 32}, Shape{65, 31}, Shape{130, 67}}) {
        CAPTURE(Text(shape));
        const Tensor w = AnyBits(dtype, shape), rows(dtype, shape);
        const FrozenWeight weight(CpuBackend(), w, context);
        for (int64_t i = 0; i < shape[0]; ++i) {
          cpu::UnpackRow(
              weight.view(), i,
              rows.view().as<std::byte>() + static_cast<size_t>(i * shape[1]) * SizeOf(dtype));
        }
        CHECK_IDENTICAL(rows, w);
      }
    }
  });
}

TEST_CASE("cpu pack: the layout is panels of 32-bit elements, padded with zeros") {
  cpu::CpuContext context(1);
  ForEachSimdTarget([&] {
    const int64_t width = static_cast<int64_t>(cpu::PanelWidth());
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const int64_t n = width + 3, k = 5, per = dtype == DType::kBF16 ? 2 : 1;
      const Tensor w = Integers(dtype, {n, k}, 3, 1, 100);
      const Tensor memory = PackedMemory(w);
      Run(CpuBackend(), PackOf(w, memory.view().data), context);
      const int64_t elements = (k + per - 1) / per;
      REQUIRE(memory.numel() == 2 * elements * width);
      // Element `at` of the packed memory, in units of the dtype.
      const Tensor values(dtype, {memory.numel() * per});
      std::memcpy(values.view().data, memory.view().data, memory.view().bytes());
      for (int64_t i = 0; i < 2 * width; ++i) {
        for (int64_t l = 0; l < elements * per; ++l) {
          const int64_t at =
              (((i / width) * elements + l / per) * width + i % width) * per + l % per;
          CHECK(values.at(at) == (i < n && l < k ? w.at(i * k + l) : 0));
        }
      }
    }
  });
}

}  // namespace
}  // namespace lora::test
