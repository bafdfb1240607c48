// Holds attention over pages against the reference in f64, and the reference against its own
// attention_forward.
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

void CheckPaged(const PagedCase& c, const PagedOperands& o) {
  CAPTURE(c.Name());
  const auto batch = static_cast<int64_t>(c.lengths.size());
  PagedOperands wide = o;
  wide.q = o.q.As(DType::kF64);
  wide.k_pool = o.k_pool.As(DType::kF64);
  wide.v_pool = o.v_pool.As(DType::kF64);
  const Tensor reference(DType::kF64, o.q.shape());
  Run(ReferenceBackend(), PagedArgs(c, wide, reference));
  std::vector<Tensor> expected;
  for (int64_t b = 0; b < batch; ++b) {
    expected.push_back(Rows(reference, b, 1));
  }
  auto bounds_of_path = OfPath(c.Sequence(c.lengths[0]), [&](const Rounding& rounding) {
    std::vector<ForwardBounds> bounds;
    for (size_t i = 0; i < c.lengths.size(); ++i) {
      bounds.push_back(
          BoundsOf(c.Sequence(c.lengths[i]), o.sequences[i], expected[i], Tensor(), rounding));
    }
    return bounds;
  });
  OnPathsInTurn(
      [&](Context& context) {
        std::vector<Tensor> y = {Tensor(c.dtype, o.q.shape())};
        RunTested(PagedArgs(c, o, y[0]), context);
        return y;
      },
      [&](const std::vector<Tensor>& y) {
        const std::vector<ForwardBounds>& bounds = bounds_of_path();
        for (int64_t b = 0; b < batch; ++b) {
          CAPTURE(b);
          const auto i = static_cast<size_t>(b);
          CHECK_CLOSE(Rows(y[0], b, 1), expected[i], bounds[i].y);
        }
      });
}
void CheckPaged(const PagedCase& c) { CheckPaged(c, PagedOperands(c)); }

TEST_CASE("attention_paged of the reference: the last queries of attention_forward") {
  for (const PagedCase& c :
       std::vector<PagedCase>{{DType::kF64, kDecode, 1, 6, 2, 16, 0, {63, 1, 64, 65, 130}},
                              {DType::kF64, kDecode, 1, 4, 1, 7, 40, {30, 64, 140}},
                              {DType::kF64, kPrefill, 33, 4, 2, 12, 0, {33, 65, 140}},
                              {DType::kF64, kPrefill, 30, 2, 1, 8, 20, {30, 100}},
                              {DType::kF64, kDecode, 1, 6, 2, 16, 30, {1, 64, 130}, true},
                              {DType::kF64, kPrefill, 5, 4, 2, 8, 0, {5, 70}, true}}) {
    CAPTURE(c.Name());
    const PagedOperands o(c);
    const Tensor y(DType::kF64, o.q.shape());
    Run(ReferenceBackend(), PagedArgs(c, o, y));
    for (size_t b = 0; b < c.lengths.size(); ++b) {
      CAPTURE(b);
      AttentionCase whole = c.Sequence(c.lengths[b]);
      whole.queries = c.lengths[b];
      whole.q_offset = 0;
      Operands all(whole);
      const Operands& own = o.sequences[b];
      all.k = own.k;
      all.v = own.v;
      const int64_t before = all.q.numel() - own.q.numel();
      CopyElements(own.q, 0, all.q, before, own.q.numel());
      const Tensor every(DType::kF64, all.q.shape()), last(DType::kF64, own.q.shape());
      Run(ReferenceBackend(), ForwardArgs(whole, all, every, Tensor()));
      CopyElements(every, before, last, 0, last.numel());
      CHECK_IDENTICAL(Rows(y, static_cast<int64_t>(b), 1), last);
    }
  }
}

TEST_CASE("attention_paged: one query of each sequence") {
  for (const DType dtype : Activations()) {
    const std::vector<PagedCase> cases = {
        {dtype, kDecode, 1, 1, 1, 8, 0, {1}},
        {dtype, kDecode, 1, 3, 1, 64, 0, {63, 1, 64, 65}},
        {dtype, kDecode, 1, 9, 3, 64, 0, {127, 1000}},
        {dtype, kDecode, 1, 8, 1, 128, 0, {65, 200, 128}},
        {dtype, kDecode, 1, 4, 2, 64, 0, {62, 131}},
        {dtype, kDecode, 1, 2, 2, 128, 0, {61, 190}},
        {dtype, kDecode, 1, 13, 1, 64, 0, {150, 66}},
        {dtype, kDecode, 1, 4, 4, 12, 0, {129, 3}},
        {dtype, kDecode, 1, 17, 1, 24, 0, {140, 7}},
        {dtype, kDecode, 1, 2, 1, 256, 0, {130}},
        {dtype, kDecode, 1, 3, 1, 64, 1, {64, 65}},
        {dtype, kDecode, 1, 6, 2, 64, 40, {30, 64, 100, 300}},
        {dtype, kDecode, 1, 8, 1, 128, 100, {64, 228, 229, 200}},
        {dtype, kDecode, 1, 8, 1, 64, 0, {1, 65, 1000}, true},
        {dtype, kDecode, 1, 6, 2, 64, 128, {127, 300}, true},
        {dtype, kDecode, 1, 17, 1, 24, 40, {140, 7}, true},
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
        {dtype, kPrefill, 20, 8, 1, 64, 128, {20, 300}, true},
        {dtype, kPrefill, 70, 2, 1, 12, 0, {130}, true},
        // Two tiles of 128 rows for every multiprocessor, of 4 and of 108.
        {dtype, kPrefill, 70, 4, 2, 64, 40, {100, 130}},
        {dtype, kPrefill, 17, 72, 72, 8, 0, {17, 80, 130}},
    };
    for (const PagedCase& c : cases) CheckPaged(c);
  }
}

TEST_CASE("attention_paged: one key may outweigh all others, wherever it lies") {
  // exp of the difference of its score to theirs, 200, is no f32.
  for (const DType dtype : Activations()) {
    for (const int64_t loud : {3, 130, 400, 520}) {
      CAPTURE(loud);
      const PagedCase c{dtype, kDecode, 1, 2, 1, 16, 0, {521}};
      PagedOperands o(c);
      Operands& own = o.sequences[0];
      own.q = Full(dtype, own.q.shape(), 1);
      for (int64_t n = 0; n < c.d; ++n) own.k.Set(loud * c.d + n, 200 / (own.scale * 16));
      CopyElements(own.q, 0, o.q, 0, own.q.numel());
      Scatter(own.k, o.layout, 0, o.k_pool);
      CheckPaged(c, o);
    }
  }
}

// The first row of a tile sees all but the last key of a tile of 16, 32 or 64 keys.
TEST_CASE("attention_paged: the first query sees all of a tile of keys but the last one") {
  for (const DType dtype : Activations())
    for (const int64_t d : {16, 100, 256})
      for (const int64_t before : {14, 62})
        for (const int64_t queries : {2, 20})
          CheckPaged({dtype, kPrefill, queries, 1, 1, d, 0, {before + queries}});
}

// Tokens of one text, at positions [first, first + count), as sequences with one row of the page
// table: in one step, or in steps one after another.
std::vector<Tensor> StepsOfOneText(DType dtype, int64_t first, int64_t count, int64_t window,
                                   int64_t at_once, Context& context) {
  const int64_t kv_heads = 2, d = 64, end = first + count;
  const PageLayout layout({end}, 1, 3);
  const Shape pool{layout.pages, kv_heads, kPageSize, d};
  const Tensor k_pool = Normal(dtype, pool, 1), v_pool = Normal(dtype, pool, 2);
  const Tensor q = Normal(dtype, {count, 1, 3 * kv_heads, d}, 3);
  const Tensor k = Normal(dtype, {count, 1, kv_heads, d}, 4);
  const Tensor v = Normal(dtype, {count, 1, kv_heads, d}, 5);
  const int64_t columns = layout.table.shape()[1];
  const Tensor cos = Uniform(DType::kF32, {columns * kPageSize, d / 2}, 6);
  const Tensor sin = Uniform(DType::kF32, {columns * kPageSize, d / 2}, 7);
  const Tensor y(dtype, q.shape());
  for (int64_t row = 0; row < count; row += at_once) {
    Tensor table(DType::kI32, {at_once, columns}), lengths(DType::kI32, {at_once});
    for (int64_t i = 0; i < at_once; ++i) {
      CopyElements(layout.table, 0, table, i * columns, columns);
      lengths.Set(i, static_cast<double>(first + row + i + 1));
    }
    const Tensor own_q = Rows(q, row, at_once), turned(dtype, own_q.shape());
    const Tensor own_y(dtype, own_q.shape());
    RunTested(PageAppendArgs{own_q, Rows(k, row, at_once), Rows(v, row, at_once), cos, sin, k_pool,
                             v_pool, table, lengths, turned},
              context);
    AttentionPagedArgs args;
    args.q = turned;
    args.k_pool = k_pool;
    args.v_pool = v_pool;
    args.page_table = table;
    args.lengths = lengths;
    args.window = window;
    args.scale = 0.125f;
    args.phase = kDecode;
    args.y = own_y;
    RunTested(args, context);
    CopyElements(own_y, 0, y, row * own_y.numel() / at_once, own_y.numel());
  }
  return {k_pool, v_pool, y};
}

TEST_CASE("attention_paged: tokens of one text in one step have the bits of steps of one token") {
  struct Text {
    int64_t first, count, window;
  };
  // A GPU may cut the keys of a longer text by the number of rows.
  std::vector<Text> texts = {{20, 5, 0}, {27, 4, 3}};
  if (std::string(Tested().backend.name) == "cpu") {
    texts.push_back({126, 6, 0});
    texts.push_back({62, 9, 40});
    texts.push_back({700, 8, 0});
  }
  for (const DType dtype : Activations()) {
    for (const Text& text : texts) {
      CAPTURE(NameOf(dtype));
      CAPTURE(text.first);
      const auto run = [&](int64_t at_once, Context& context) {
        return StepsOfOneText(dtype, text.first, text.count, text.window, at_once, context);
      };
      std::vector<Tensor> alone;
      OnEveryPath(
          [&](Context& context) {
            alone = run(1, context);
            return run(text.count, context);
          },
          [&](const std::vector<Tensor>& made) {
            for (size_t i = 0; i < made.size(); ++i) CHECK_IDENTICAL(made[i], alone[i]);
          });
    }
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
