// Holds attention over pages against attention_forward of the reference, in f64, over the same keys
// in one block.
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "core/error.h"
#include "test/support/page_cases.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

using namespace attention;

constexpr auto kDecode = AttentionPhase::kDecode, kPrefill = AttentionPhase::kPrefill;

void CheckPaged(const PagedCase& c) {
  CAPTURE(c.Name());
  const PagedOperands o(c);
  const auto batch = static_cast<int64_t>(c.lengths.size());
  std::vector<Tensor> expected;
  std::vector<ForwardBounds> bounds;
  for (int64_t b = 0; b < batch; ++b) {
    const Operands& own = o.sequences[static_cast<size_t>(b)];
    const AttentionCase one = c.Sequence(c.lengths[static_cast<size_t>(b)]);
    Tensor y(DType::kF64, own.q.shape());
    const Tensor lse(DType::kF32, {1, c.q_heads, c.queries});
    Run(ReferenceBackend(), ForwardArgs(one, Widened(own), y, lse));
    bounds.push_back(BoundsOf(one, own, y, lse, WeightRounding(c.dtype)));
    expected.push_back(std::move(y));
  }
  PagedOperands wide = o;
  wide.q = o.q.As(DType::kF64);
  wide.k_pool = o.k_pool.As(DType::kF64);
  wide.v_pool = o.v_pool.As(DType::kF64);
  const Tensor reference(DType::kF64, o.q.shape());
  Run(ReferenceBackend(), PagedArgs(c, wide, reference));
  for (int64_t b = 0; b < batch; ++b)
    CHECK_IDENTICAL(Rows(reference, b, 1), expected[static_cast<size_t>(b)]);
  OnPathsInTurn(
      [&](Context& context) {
        std::vector<Tensor> y = {Tensor(c.dtype, o.q.shape())};
        RunTested(PagedArgs(c, o, y[0]), context);
        return y;
      },
      [&](const std::vector<Tensor>& y) {
        for (int64_t b = 0; b < batch; ++b) {
          CAPTURE(b);
          const auto i = static_cast<size_t>(b);
          CHECK_CLOSE(Rows(y[0], b, 1), expected[i], bounds[i].y);
        }
      });
}

TEST_CASE("attention_paged: one query of each sequence") {
  for (const DType dtype : Activations()) {
    const std::vector<PagedCase> cases = {
        {dtype, kDecode, 1, 1, 1, 8, 0, {1}},
        {dtype, kDecode, 1, 3, 1, 64, 0, {63, 1, 64, 65}},
        {dtype, kDecode, 1, 9, 3, 64, 0, {127, 1000}},
        {dtype, kDecode, 1, 8, 1, 128, 0, {65, 200, 128}},
        {dtype, kDecode, 1, 4, 4, 12, 0, {129, 3}},
        {dtype, kDecode, 1, 17, 1, 24, 0, {140, 7}},
        {dtype, kDecode, 1, 2, 1, 256, 0, {130}},
        {dtype, kDecode, 1, 3, 1, 64, 1, {64, 65}},
        {dtype, kDecode, 1, 6, 2, 64, 40, {30, 64, 100, 300}},
        {dtype, kDecode, 1, 8, 1, 128, 100, {64, 228, 229, 200}},
    };
    for (const PagedCase& c : cases) CheckPaged(c);
  }
}

TEST_CASE("attention_paged: chunks of prompts") {
  for (const DType dtype : Activations()) {
    const std::vector<PagedCase> cases = {
        {dtype, kPrefill, 1, 1, 1, 8, 0, {1, 64, 65}},
        {dtype, kPrefill, 3, 3, 1, 64, 0, {3, 65, 127}},
        {dtype, kPrefill, 64, 2, 1, 64, 0, {64, 200}},
        {dtype, kPrefill, 70, 9, 3, 64, 0, {130}},
        {dtype, kPrefill, 33, 8, 1, 128, 0, {140}},
        {dtype, kPrefill, 5, 4, 2, 12, 0, {1000}},
        {dtype, kPrefill, 66, 1, 1, 256, 0, {70}},
        {dtype, kPrefill, 65, 3, 1, 64, 1, {130}},
        {dtype, kPrefill, 30, 4, 2, 16, 40, {30, 100, 300}},
        {dtype, kPrefill, 2, 8, 1, 128, 100, {200, 228}},
    };
    for (const PagedCase& c : cases) CheckPaged(c);
  }
}

TEST_CASE("attention_paged: nothing where there is no sequence, no query or no head") {
  for (const AttentionPhase phase : {kDecode, kPrefill}) {
    for (const int64_t batch : {0, 2}) {
      for (const int64_t heads : {0, 2}) {
        PagedCase c{DType::kF32, phase, phase == kPrefill ? 0 : 1, heads, heads, 8, 0, {}};
        if (heads != 0 && batch != 0 && phase == kDecode) continue;
        c.lengths.assign(static_cast<size_t>(batch), 5);
        const PagedOperands o(c);
        const Tensor y(c.dtype, o.q.shape());
        RunTested(PagedArgs(c, o, y), *NextContext());
        CHECK(y.intact());
      }
    }
  }
}

// The op must fail before it writes anything.
void CheckRefused(const PagedCase& c, const PagedOperands& o, const std::string& problem) {
  const Tensor y(c.dtype, o.q.shape());
  try {
    RunTested(PagedArgs(c, o, y), *NextContext());
    FAIL("expected an error");
  } catch (const Error& error) {
    CHECK(error.code() == "ERR_DATA");
    CHECK(std::string(error.what()) == "[attention_paged] expected " + problem);
  }
  CHECK(std::isnan(y.at(0)));
}

TEST_CASE("attention_paged: lengths and pages out of range are refused") {
  const std::string lengths =
      "lengths from 1 (the positions of this call) to 192 (64 per column of pageTable) but "
      "received ";
  for (const auto phase : {kDecode, kPrefill}) {
    for (const int32_t wrong : {0, -1, 193, std::numeric_limits<int32_t>::max()}) {
      const PagedCase c{DType::kF32, phase, 1, 2, 1, 8, 0, {3, 130}};
      PagedOperands o(c);
      o.lengths.Set(1, wrong);
      CheckRefused(c, o, lengths + std::to_string(wrong) + " for sequence 1");
    }
    for (const int32_t wrong : {-1, 7, std::numeric_limits<int32_t>::min()}) {
      const PagedCase c{DType::kF32, phase, 1, 2, 1, 8, 0, {3, 130}};
      PagedOperands o(c);
      REQUIRE(o.layout.pages == 7);
      o.table.Set(4, wrong);
      o.table.Set(5, -3);
      CheckRefused(c, o,
                   "pages from 0 to 6 but received " + std::to_string(wrong) +
                       " at column 1 of pageTable for sequence 1");
    }
  }
}

}  // namespace
}  // namespace lora::test
