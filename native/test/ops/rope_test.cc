#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

struct RopeCase {
  int64_t b, s, heads, d;
  bool with_positions, inverse;
  int64_t behind = 0;  // numbers of a head that are not rotated
  int64_t pairs() const { return (d - behind) / 2; }
};

std::vector<RopeCase> RopeCases() {
  std::vector<RopeCase> cases;
  for (const int64_t d : {0, 2, 6, 8, 14, 16, 30, 32, 34, 64, 126, 128}) {
    cases.push_back({2, 5, 3, d, false, false});
    cases.push_back({2, 5, 3, d, true, true});
  }
  // A part of the head.
  for (const auto& [d, behind] :
       {std::pair{8, 2}, {8, 8}, {16, 4}, {34, 26}, {64, 48}, {128, 32}}) {
    cases.push_back({2, 5, 3, d, false, false, behind});
    cases.push_back({2, 5, 3, d, true, true, behind});
  }
  cases.push_back({0, 5, 3, 64, true, false});
  cases.push_back({3, 0, 3, 64, false, false});
  return cases;
}

// The operands of a case.
struct RopeOperands {
  RopeOperands(const RopeCase& c, DType act)
      : c(c),
        x(Normal(act, {c.b, c.s, c.heads, c.d}, 1)),
        cos(Uniform(DType::kF32, {c.s + 4, c.pairs()}, 2)),
        sin(Uniform(DType::kF32, {c.s + 4, c.pairs()}, 3)),
        positions(Integers(DType::kI32, {c.b, c.s}, 4, 0, static_cast<int>(c.s) + 3)) {}
  RopeArgs Args(const Tensor& from, const Tensor& y) const {
    RopeArgs args;
    args.q = from;
    args.cos = cos;
    args.sin = sin;
    if (c.with_positions) {
      args.positions = positions;
    } else {
      args.offset = 2;
    }
    args.inverse = c.inverse;
    args.rotated_q = y;
    return args;
  }
  std::vector<double> Bounds(const Tensor& expected) const {
    std::vector<double> bounds;
    const int64_t pairs = c.pairs();
    for (int64_t i = 0; i < x.numel(); ++i) {
      const int64_t column = i % c.d, pair = column < pairs ? i + pairs : i - pairs;
      if (column >= 2 * pairs) {
        bounds.push_back(0);
        continue;
      }
      // |cos|, |sin| <= 1
      bounds.push_back(3 * kU * (std::fabs(x.at(i)) + std::fabs(x.at(pair))) +
                       RoundingBound(x.dtype(), expected.at(i)));
    }
    return bounds;
  }
  RopeCase c;
  Tensor x, cos, sin, positions;
};

TEST_CASE("rope: every head size, positions and offset, both directions, in place") {
  std::vector<RopeCase> cases = RopeCases();
  cases.push_back({1, 7, 9, 64, true, false});  // more heads than a thread of a GPU takes
  if (!Tested().emulated) cases.push_back({2, 97, 9, 66, true, false});  // enough for three threads
  for (const DType act : Activations()) {
    for (const RopeCase& c : cases) {
      CAPTURE(NameOf(act));
      CAPTURE(c.s);
      CAPTURE(c.d);
      CAPTURE(c.behind);
      const RopeOperands o(c, act);
      const Tensor expected(act, o.x.shape());
      Run(ReferenceBackend(), o.Args(o.x, expected));
      const std::vector<double> bounds = o.Bounds(expected);
      // Other heads of the same tokens, as k has them.
      RopeOperands few(c, act);
      few.x = Normal(act, {c.b, c.s, 2, c.d}, 5);
      const Tensor expected_k(act, few.x.shape());
      Run(ReferenceBackend(), few.Args(few.x, expected_k));
      OnEveryPath(
          [&](Context& context) {
            std::vector<Tensor> y = {Tensor(act, o.x.shape()), o.x, Tensor(act, o.x.shape()),
                                     Tensor(act, few.x.shape())};
            RunTested(o.Args(o.x, y[0]), context);
            RunTested(o.Args(y[1], y[1]), context);
            RopeArgs both = o.Args(o.x, y[2]);
            both.k = few.x;
            both.rotated_k = y[3];
            RunTested(both, context);
            return y;
          },
          [&](const std::vector<Tensor>& y) {
            CHECK_CLOSE(y[0], expected, bounds);
            CHECK_IDENTICAL(y[1], y[0]);
            CHECK_IDENTICAL(y[2], y[0]);
            CHECK_CLOSE(y[3], expected_k, few.Bounds(expected_k));
          });
    }
  }
}

TEST_CASE("rope: a position outside the table fails before anything is rotated") {
  const Tensor cos = Full(DType::kF32, {4, 2}, 0.5), sin = cos;
  for (const int32_t bad : {-1, 4}) {
    const Tensor x = Full(DType::kF32, {1, 3, 1, 4}, 3);
    RopeArgs args;
    args.q = x;
    args.rotated_q = x;
    args.cos = cos;
    args.sin = sin;
    const Tensor positions = Ints({1, 3}, {0, bad, 99});
    args.positions = positions;
    try {
      RunTested(args, *NextContext());
      FAIL("expected an error");
    } catch (const Error& error) {
      CHECK(error.code() == "ERR_DATA");
      CHECK(std::string(error.what()) ==
            "[rope] expected positions from 0 to 3 but received " + std::to_string(bad));
    }
    CHECK_IDENTICAL(x, Full(DType::kF32, {1, 3, 1, 4}, 3));
  }
}

}  // namespace
}  // namespace lora::test
