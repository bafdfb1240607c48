// The bits of a query follow from its own sequence and position alone.
#include <vector>

#include "backend/cpu/runtime/context.h"
#include "test/support/page_cases.h"
#include "test/support/simd_targets.h"

namespace lora::test {
namespace {

using namespace attention;

TEST_CASE("cpu attention_paged: a decoded sequence has the bits that it has alone") {
  cpu::CpuContext one(1), two(2);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const PagedCase& c : std::vector<PagedCase>{
             {dtype, AttentionPhase::kDecode, 1, 9, 3, 64, 0, {1, 700, 64, 65, 127, 300, 128}},
             {dtype, AttentionPhase::kDecode, 1, 12, 1, 24, 0, {260, 3, 129}},
             {dtype, AttentionPhase::kDecode, 1, 8, 1, 64, 128, {1, 700, 64, 65, 300}, true},
             {dtype, AttentionPhase::kDecode, 1, 4, 2, 128, 70, {200, 64, 71, 500, 330}}}) {
      CAPTURE(c.Name());
      const PagedOperands together(c);
      ForEachSimdTarget([&] {
        const Tensor all(dtype, together.q.shape());
        Run(CpuBackend(), PagedArgs(c, together, all), two);
        for (size_t b = 0; b < c.lengths.size(); ++b) {
          CAPTURE(b);
          PagedCase single = c;
          single.lengths.assign(1, c.lengths[b]);
          PagedOperands alone(single, static_cast<int64_t>(5 * b), 9);
          const Operands& own = together.sequences[b];
          alone.q = own.q;
          Scatter(own.k, alone.layout, 0, alone.k_pool);
          Scatter(own.v, alone.layout, 0, alone.v_pool);
          const Tensor y(dtype, alone.q.shape());
          Run(CpuBackend(), PagedArgs(single, alone, y), one);
          CHECK_IDENTICAL(y, Rows(all, static_cast<int64_t>(b), 1));
        }
      });
    }
  }
}

TEST_CASE("cpu attention_paged: a prompt has the same bits however it is cut") {
  cpu::CpuContext one(1), two(2);
  const int64_t length = 200;
  const std::vector<std::vector<int64_t>> cuts = {
      {length},
      {1, 199},
      {63, 1, 136},
      {64, 136},
      {65, 70, 65},
      {199, 1},
      std::vector<int64_t>(static_cast<size_t>(length), 1)};
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const PagedCase& whole :
         std::vector<PagedCase>{{dtype, AttentionPhase::kPrefill, length, 3, 1, 64, 0, {length}},
                                {dtype, AttentionPhase::kPrefill, length, 2, 2, 8, 30, {length}},
                                {dtype, AttentionPhase::kPrefill, length, 8, 1, 128, 100, {length}},
                                {dtype, AttentionPhase::kPrefill, length, 4, 2, 20, 1, {length}}}) {
      CAPTURE(whole.Name());
      PagedOperands o(whole);
      const Operands& own = o.sequences[0];
      ForEachSimdTarget([&] {
        Tensor expected;
        for (const std::vector<int64_t>& chunks : cuts) {
          CAPTURE(chunks.size());
          const Tensor y(dtype, own.q.shape());
          const int64_t width = whole.q_heads * whole.d;
          int64_t begin = 0;
          for (const int64_t count : chunks) {
            const Shape shape{1, count, whole.q_heads, whole.d};
            const Tensor part(dtype, shape);
            o.q = Tensor(dtype, shape);
            CopyElements(own.q, begin * width, o.q, 0, count * width);
            o.lengths.Set(0, static_cast<double>(begin + count));
            Run(CpuBackend(), PagedArgs(whole, o, part), chunks.size() % 2 == 0 ? one : two);
            CopyElements(part, 0, y, begin * width, count * width);
            begin += count;
          }
          if (expected) {
            CHECK_IDENTICAL(y, expected);
          } else {
            expected = y;
          }
        }
      });
    }
  }
}

}  // namespace
}  // namespace lora::test
