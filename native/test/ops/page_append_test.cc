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
  int64_t behind = 0;  // numbers of a head that are not rotated
};

// The operands of a call, of which none is a special case.
struct AppendOperands {
  PageLayout layout;
  Tensor q, k, v, cos, sin, k_pool, v_pool, y;

  AppendOperands(DType act, const Case& c, int64_t more_columns = 1, uint32_t seed = 5)
      : layout(c.lengths, more_columns, seed) {
    const auto batch = static_cast<int64_t>(c.lengths.size());
    const Shape kv{batch, c.count, c.heads, c.d};
    q = Normal(act, {batch, c.count, 3 * c.heads, c.d}, 1);
    k = Normal(act, kv, 2);
    v = AnyBits(act, kv);
    const Shape angles{layout.table.shape()[1] * kPageSize + 1, (c.d - c.behind) / 2};
    cos = Uniform(DType::kF32, angles, 3);
    sin = Uniform(DType::kF32, angles, 4);
    k_pool = v_pool = Full(act, {layout.pages, c.heads, kPageSize, c.d}, 9);
    y = Tensor(act, q.shape());
  }
  PageAppendArgs Args(const Tensor& to_k, const Tensor& to_v, const Tensor& to_y) const {
    return {q, k, v, cos, sin, to_k, to_v, layout.table, layout.lengths, to_y};
  }
};

// The rows of src [b, count, heads, d] lie in `expected` as the op puts them there.
void PutRows(const Tensor& src, const Case& c, const PageLayout& layout, const Tensor& expected) {
  for (int64_t b = 0; b < src.shape()[0]; ++b)
    for (int64_t i = 0; i < c.count; ++i)
      for (int64_t h = 0; h < c.heads; ++h) {
        const int64_t position = c.lengths[static_cast<size_t>(b)] - c.count + i;
        CopyElements(src, ((b * c.count + i) * c.heads + h) * c.d, expected,
                     PageOffset(expected, layout.Page(b, position), h, position), c.d);
      }
}

TEST_CASE("page_append: q and k as rope turns them, v bit for bit, and no other positions") {
  const std::vector<Case> cases = {
      {1, 1, 8, {1}},
      {1, 3, 64, {64, 65, 1, 200}},
      {5, 2, 12, {5, 66, 130}},
      {Tested().emulated ? 66 : 130, 3, 16, {130}},
      {64, 1, 2, {128, 64}},
      {70, 2, 14, {100, 71}},
      {1, 2, 128, {63, 64}},
      {1, 2, 16, {63, 64}, 4},
      {5, 2, 64, {5, 66, 130}, 34},
      {0, 2, 8, {0, 3}},
      {1, 0, 8, {4}},
      {3, 2, 0, {4}},
      {1, 2, 8, {}},
  };
  for (const DType act : Activations()) {
    for (const Case& c : cases) {
      CAPTURE(NameOf(act));
      CAPTURE(c.count);
      CAPTURE(c.d);
      const AppendOperands o(act, c);
      const auto batch = static_cast<int64_t>(c.lengths.size());
      Tensor positions(DType::kI32, {batch, c.count});
      for (int64_t b = 0; b < batch; ++b)
        for (int64_t i = 0; i < c.count; ++i) {
          const int64_t position = c.lengths[static_cast<size_t>(b)] - c.count + i;
          positions.Set(b * c.count + i, static_cast<double>(position));
        }
      // What rope makes of q and k on a backend.
      const auto turned = [&](const Backend& backend, Context& context) {
        std::vector<Tensor> y = {Tensor(act, o.q.shape()), Tensor(act, o.k.shape())};
        Run(backend, RopeArgs{o.q, o.k, o.cos, o.sin, positions, 0, false, y[0], y[1]}, context);
        return y;
      };
      const auto check = [&](const std::vector<Tensor>& out, const std::vector<Tensor>& rope) {
        const Tensor k_pool = o.k_pool, v_pool = o.v_pool;
        PutRows(rope[1], c, o.layout, k_pool);
        PutRows(o.v, c, o.layout, v_pool);
        CHECK_IDENTICAL(out[0], k_pool);
        CHECK_IDENTICAL(out[1], v_pool);
        CHECK_IDENTICAL(out[2], rope[0]);
      };
      const auto reference = ReferenceBackend().create_context(1);
      const std::vector<Tensor> out = {o.k_pool, o.v_pool, Tensor(act, o.q.shape())};
      Run(ReferenceBackend(), o.Args(out[0], out[1], out[2]), *reference);
      check(out, turned(ReferenceBackend(), *reference));
      OnEveryPath(
          [&](Context& context) {
            std::vector<Tensor> made = {o.k_pool, o.v_pool, Tensor(act, o.q.shape())};
            RunTested(o.Args(made[0], made[1], made[2]), context);
            check(made, turned(Tested().backend, context));
            return made;
          },
          [](const std::vector<Tensor>&) {});
    }
  }
}

TEST_CASE("page_append: sequences with tables of their own, which lie below one another") {
  const Case c{5, 2, 12, {5, 66, 130}};
  for (const DType act : Activations()) {
    CAPTURE(NameOf(act));
    const AppendOperands o(act, c);
    const int64_t rows = o.cos.shape()[0], pairs = o.cos.shape()[1];
    const std::vector<int32_t> of_sequence = {1, 0, 2};
    std::vector<int32_t> starts;
    for (const int32_t table : of_sequence) starts.push_back(table * static_cast<int32_t>(rows));
    const Tensor table_start = Ints({3}, starts);
    const Tensor cos = Uniform(DType::kF32, {3 * rows, pairs}, 6);
    const Tensor sin = Uniform(DType::kF32, {3 * rows, pairs}, 7);
    // What the op makes with each table alone.
    const auto with_table = [&](const Backend& backend, int64_t table, Context& context) {
      std::vector<Tensor> made = {o.k_pool, o.v_pool, Tensor(act, o.q.shape())};
      Tensor own_cos(DType::kF32, {rows, pairs}), own_sin(DType::kF32, {rows, pairs});
      CopyElements(cos, table * rows * pairs, own_cos, 0, rows * pairs);
      CopyElements(sin, table * rows * pairs, own_sin, 0, rows * pairs);
      PageAppendArgs args = o.Args(made[0], made[1], made[2]);
      args.cos = own_cos;
      args.sin = own_sin;
      Run(backend, args, context);
      return made;
    };
    const auto run = [&](const Backend& backend, Context& context) {
      std::vector<Tensor> made = {o.k_pool, o.v_pool, Tensor(act, o.q.shape())};
      PageAppendArgs args = o.Args(made[0], made[1], made[2]);
      args.cos = cos;
      args.sin = sin;
      args.table_start = table_start;
      Run(backend, args, context);
      const Tensor k_pool = o.k_pool, y(act, o.q.shape());
      for (int64_t b = 0; b < 3; ++b) {
        const int64_t table = of_sequence[static_cast<size_t>(b)];
        const std::vector<Tensor> alone = with_table(backend, table, context);
        const int64_t in_y = y.numel() / 3, in_page = 2 * kPageSize * c.d;
        CopyElements(alone[2], b * in_y, y, b * in_y, in_y);
        for (int64_t p = 0; p < c.lengths[static_cast<size_t>(b)]; p += kPageSize) {
          const int64_t page = o.layout.Page(b, p) * in_page;
          CopyElements(alone[0], page, k_pool, page, in_page);
        }
      }
      CHECK_IDENTICAL(made[0], k_pool);
      CHECK_IDENTICAL(made[2], y);
      return made;
    };
    const auto reference = ReferenceBackend().create_context(1);
    const std::vector<Tensor> expected = run(ReferenceBackend(), *reference);
    OnEveryPath([&](Context& context) { return run(Tested().backend, context); },
                [&](const std::vector<Tensor>& made) { CHECK_IDENTICAL(made[1], expected[1]); });
  }
}

TEST_CASE("page_append: a table that begins out of range is refused before anything is written") {
  for (const int32_t start : {-1, 6}) {
    AppendOperands o(DType::kF32, {2, 1, 4, {70, 129}}, 0, 1);
    PageAppendArgs args = o.Args(o.k_pool, o.v_pool, o.y);
    const Tensor angles = Uniform(DType::kF32, {3 * kPageSize + 5, 2}, 1);
    const Tensor starts = Ints({2}, {5, start});
    args.cos = args.sin = angles;
    args.table_start = starts;
    try {
      RunTested(args, *NextContext());
      FAIL("expected an error");
    } catch (const Error& error) {
      CHECK(error.code() == "ERR_DATA");
      CHECK(std::string(error.what()) ==
            "[page_append] expected tableStart from 0 to 5 (the positions of cos less 64 per "
            "column of pageTable) but received " +
                std::to_string(start) + " for sequence 1");
    }
    CHECK_IDENTICAL(o.k_pool, Full(DType::kF32, o.k_pool.shape(), 9));
    CHECK_IDENTICAL(o.v_pool, Full(DType::kF32, o.v_pool.shape(), 9));
  }
}

TEST_CASE("page_append: only the pages that it writes must exist") {
  const Case c{2, 1, 4, {130, 64}};
  AppendOperands o(DType::kF32, c, 0, 1);
  o.layout.table.Set(0, -1);
  o.layout.table.Set(1, 1000);
  RunTested(o.Args(o.k_pool, o.v_pool, o.y), *NextContext());
  const int64_t at = PageOffset(o.v_pool, o.layout.Page(0, 129), 0, 129);
  CHECK(o.v_pool.at(at) == o.v.at(4));
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
    AppendOperands o(DType::kF32, {2, 1, 4, {70, 129}}, 0, 1);
    REQUIRE(o.layout.pages == 8);
    (w.length ? o.layout.lengths : o.layout.table).Set(w.at, static_cast<double>(w.value));
    try {
      RunTested(o.Args(o.k_pool, o.v_pool, o.y), *NextContext());
      FAIL("expected an error");
    } catch (const Error& error) {
      CHECK(error.code() == "ERR_DATA");
      CHECK(std::string(error.what()) == "[page_append] expected " + w.problem);
    }
    CHECK_IDENTICAL(o.k_pool, Full(DType::kF32, o.k_pool.shape(), 9));
    CHECK_IDENTICAL(o.v_pool, Full(DType::kF32, o.v_pool.shape(), 9));
  }
}

}  // namespace
}  // namespace lora::test
