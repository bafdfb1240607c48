#include <string>
#include <vector>

#include "core/error.h"
#include "test/support/any_bits.h"
#include "test/support/page_cases.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

using namespace attention;

struct Case {
  int64_t count, heads, d;
  std::vector<int64_t> lengths;
};

TEST_CASE("page_append: its positions bit for bit, and no others") {
  const std::vector<Case> cases = {
      {1, 1, 8, {1}},
      {1, 3, 64, {64, 65, 1, 200}},
      {5, 2, 12, {5, 66, 130}},
      {130, 3, 16, {130}},
      {64, 1, 1, {128, 64}},
      {70, 2, 7, {100, 71}},
      {1, 2, 128, {63, 64}},
      {0, 2, 8, {0, 3}},
      {1, 0, 8, {4}},
      {3, 2, 0, {4}},
      {1, 2, 8, {}},
  };
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const Case& c : cases) {
      CAPTURE(NameOf(dtype));
      CAPTURE(c.count);
      CAPTURE(c.d);
      const auto batch = static_cast<int64_t>(c.lengths.size());
      const PageLayout layout(c.lengths, 1, 5);
      const Tensor src = AnyBits(dtype, {batch, c.count, c.heads, c.d});
      const Tensor before = Full(dtype, {layout.pages, c.heads, kPageSize, c.d}, 9);
      const Tensor expected = before;
      for (int64_t b = 0; b < batch; ++b)
        for (int64_t i = 0; i < c.count; ++i)
          for (int64_t h = 0; h < c.heads; ++h) {
            const int64_t position = c.lengths[static_cast<size_t>(b)] - c.count + i;
            CopyElements(src, ((b * c.count + i) * c.heads + h) * c.d, expected,
                         PageOffset(before, layout.Page(b, position), h, position), c.d);
          }
      const Tensor reference = before;
      Run(ReferenceBackend(), PageAppendArgs{src, reference, layout.table, layout.lengths});
      CHECK_IDENTICAL(reference, expected);
      OnEveryPath(
          [&](Context& context) {
            std::vector<Tensor> pool = {before};
            RunTested(PageAppendArgs{src, pool[0], layout.table, layout.lengths}, context);
            return pool;
          },
          [&](const std::vector<Tensor>& pool) { CHECK_IDENTICAL(pool[0], expected); });
    }
  }
}

TEST_CASE("page_append: only the pages that it writes must exist") {
  PageLayout layout({130, 64}, 0, 1);
  layout.table.Set(0, -1);
  layout.table.Set(1, 1000);
  const Tensor src = Full(DType::kF32, {2, 2, 1, 4}, 3);
  const Tensor pool = Zeros(DType::kF32, {layout.pages, 1, kPageSize, 4});
  RunTested(PageAppendArgs{src, pool, layout.table, layout.lengths}, *NextContext());
  CHECK(pool.at(PageOffset(pool, layout.Page(0, 129), 0, 129)) == 3);
}

TEST_CASE("page_append: lengths and pages out of range are refused before anything is written") {
  struct Wrong {
    int64_t at, value;
    bool length;
    std::string problem;
  };
  const std::vector<Wrong> wrong = {
      {0, 1, true,
       "lengths from 2 (the positions of this call) to 192 (64 per column of pageTable) but "
       "received 1 for sequence 0"},
      {1, 193, true,
       "lengths from 2 (the positions of this call) to 192 (64 per column of pageTable) but "
       "received 193 for sequence 1"},
      {5, -1, false, "pages from 0 to 7 but received -1 at column 2 of pageTable for sequence 1"},
      {4, 8, false, "pages from 0 to 7 but received 8 at column 1 of pageTable for sequence 1"},
  };
  for (const Wrong& w : wrong) {
    PageLayout layout({70, 129}, 0, 1);
    REQUIRE(layout.pages == 8);
    (w.length ? layout.lengths : layout.table).Set(w.at, static_cast<double>(w.value));
    const Tensor src = Full(DType::kF32, {2, 2, 1, 4}, 3);
    const Tensor pool = Zeros(DType::kF32, {8, 1, kPageSize, 4});
    try {
      RunTested(PageAppendArgs{src, pool, layout.table, layout.lengths}, *NextContext());
      FAIL("expected an error");
    } catch (const Error& error) {
      CHECK(error.code() == "ERR_DATA");
      CHECK(std::string(error.what()) == "[page_append] expected " + w.problem);
    }
    CHECK_IDENTICAL(pool, Zeros(DType::kF32, pool.shape()));
  }
}

}  // namespace
}  // namespace lora::test
