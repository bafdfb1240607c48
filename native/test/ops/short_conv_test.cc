#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "core/error.h"
#include "test/support/gradient.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

constexpr ShortConvKind kConvKinds[] = {ShortConvKind::kGated, ShortConvKind::kSilu};

struct ConvCase {
  int64_t b, s, c, k;
  bool bias;
  std::vector<int32_t> begin;  // of each token; none: 0
};

// Returns the begins of texts of these lengths in one row, and in the next of one text.
std::vector<int32_t> TextsOf(const std::vector<int64_t>& lengths, int64_t rows) {
  std::vector<int32_t> begin;
  int32_t from = 0;
  for (const int64_t length : lengths) {
    begin.insert(begin.end(), static_cast<size_t>(length), from);
    from += static_cast<int32_t>(length);
  }
  begin.resize(begin.size() * static_cast<size_t>(rows), 0);
  return begin;
}

std::vector<ConvCase> ConvCases() {
  std::vector<ConvCase> cases = {
      {2, 5, 1, 3, true, {}},
      {2, 65, 17, 3, false, {}},
      {1, 11, 20, 8, true, {}},
      {1, 3, 8, 1, true, {}},
      {2, 70, 21, 3, true, TextsOf({1, 2, 30, 31, 3, 3}, 2)},
      {1, 4, 5, 4, true, {-7, 3, 9, 1}},  // any numbers, whatever texts they make
      {0, 5, 8, 3, true, {}},
      {2, 0, 8, 3, true, {}},
      {2, 3, 0, 3, true, {}},
      {2, 140, Tested().emulated ? 9 : 300, 3, true, {}},  // several blocks
  };
  if (Tested().emulated) return cases;
  for (const int64_t c : {3, 8, 15, 64, 65}) cases.push_back({2, 5, c, 3, c % 2 == 0, {}});
  for (const int64_t k : {2, 4}) cases.push_back({1, 11, 20, k, true, {}});
  for (const int64_t s : {1, 2, 63, 64, 66, 67, 1000}) cases.push_back({2, s, 9, 4, false, {}});
  return cases;
}

struct ConvOperands {
  Tensor x, weight, bias, key_begin, g;
  Shape y;

  ConvOperands(ShortConvKind kind, const ConvCase& c, DType act, DType parameters)
      : y{c.b, c.s, c.c} {
    x = Normal(act, {c.b, c.s, kind == ShortConvKind::kGated ? 3 * c.c : c.c}, 1);
    weight = Normal(parameters, {c.c, c.k}, 2);
    if (c.bias) bias = Normal(parameters, {c.c}, 3);
    if (!c.begin.empty()) key_begin = Ints({c.b, c.s}, c.begin);
    g = Normal(act, y, 4);
  }
  ShortConvForwardArgs Forward(ShortConvKind kind, const Tensor& to) const {
    return {kind, x, weight, bias, key_begin, to};
  }
  ShortConvBackwardArgs Backward(ShortConvKind kind, const Tensor& dx, const Tensor& dweight,
                                 const Tensor& dbias) const {
    return {kind, x, weight, bias, key_begin, g, dx, dweight, dbias};
  }
};

struct ConvOutputs {
  Tensor y, dx, dweight, dbias;
  ConvOutputs(const ConvOperands& o, DType act, DType sums)
      : y(act, o.y), dx(act, o.x.shape()), dweight(sums, o.weight.shape()), dbias(sums, {o.y[2]}) {}
};

Tensor AbsoluteOf(const Tensor& x) {
  Tensor y = x.As(DType::kF64);
  for (int64_t i = 0; i < y.numel(); ++i) y.Set(i, std::fabs(y.at(i)));
  return y;
}

// The sums of the magnitudes of all terms, by the reference: a gated convolution only multiplies
// and adds. One with silu is that of u = x, and errors of z and of the gate go through it.
ConvOperands MagnitudesOf(ShortConvKind kind, const ConvCase& c, const ConvOperands& of) {
  ConvOperands o = of;
  o.weight = AbsoluteOf(of.weight);
  if (c.bias) o.bias = AbsoluteOf(of.bias);
  o.g = AbsoluteOf(of.g);
  o.x = AbsoluteOf(of.x);
  if (kind == ShortConvKind::kGated) return o;
  o.x = Full(DType::kF64, {c.b, c.s, 3 * c.c}, 1);
  for (int64_t row = 0; row < c.b * c.s; ++row)
    for (int64_t i = 0; i < c.c; ++i) o.x.Set(row * 3 * c.c + i, std::fabs(of.x.at(row * c.c + i)));
  return o;
}

struct Magnitudes {
  ConvOperands o;
  ConvOutputs out;

  Magnitudes(ShortConvKind kind, const ConvCase& c, const ConvOperands& of)
      : o(MagnitudesOf(kind, c, of)), out(o, DType::kF64, DType::kF64) {
    Run(ReferenceBackend(), o.Forward(ShortConvKind::kGated, out.y));
    if (kind == ShortConvKind::kSilu)
      for (int64_t i = 0; i < o.g.numel(); ++i)  // what dz may be off by, in units of kU
        o.g.Set(i, o.g.at(i) * ((static_cast<double>(c.k) + 2) * out.y.at(i) + 16));
    Run(ReferenceBackend(), o.Backward(ShortConvKind::kGated, out.dx, out.dweight, out.dbias));
  }
};

std::vector<double> BoundsOf(const Tensor& expected, DType dtype, double steps,
                             const std::function<double(int64_t)>& magnitude) {
  std::vector<double> bounds;
  for (int64_t i = 0; i < expected.numel(); ++i)
    bounds.push_back(steps * kU * magnitude(i) + RoundingBound(dtype, expected.at(i)) + 1e-35);
  return bounds;
}

void CheckOutputs(ShortConvKind kind, const ConvCase& c, DType act, const ConvOutputs& actual,
                  const ConvOutputs& expected, const Magnitudes& m) {
  const double taps = static_cast<double>(c.k) + 6;
  // The longest chain of a sum over rows: of a block, then over blocks.
  const double rows = taps + 260 + static_cast<double>(c.b * c.s) / 64;
  const bool gated = kind == ShortConvKind::kGated;
  CHECK_CLOSE(actual.y, expected.y, BoundsOf(expected.y, act, taps, [&](int64_t i) {
                return gated ? m.out.y.at(i) : 1.1 * m.out.y.at(i) + std::fabs(expected.y.at(i));
              }));
  CHECK_CLOSE(actual.dx, expected.dx, BoundsOf(expected.dx, act, gated ? taps : 2, [&](int64_t i) {
                return m.out.dx.at(gated ? i : i / c.c * 3 * c.c + i % c.c);
              }));
  CHECK_CLOSE(actual.dweight, expected.dweight,
              BoundsOf(expected.dweight, DType::kF32, gated ? rows : rows / 16,
                       [&](int64_t i) { return m.out.dweight.at(i); }));
  CHECK_CLOSE(actual.dbias, expected.dbias,
              BoundsOf(expected.dbias, DType::kF32, gated ? rows : rows / 16,
                       [&](int64_t i) { return m.out.dbias.at(i); }));
}

TEST_CASE("short_conv: forward and backward agree with the reference") {
  for (const ShortConvKind kind : kConvKinds)
    for (const ConvCase& c : ConvCases())
      for (const DType act : Activations()) {
        CAPTURE(kShortConvKinds[static_cast<size_t>(kind)]);
        CAPTURE(c.s);
        CAPTURE(c.c);
        CAPTURE(c.k);
        CAPTURE(NameOf(act));
        const ConvOperands o(kind, c, act, c.s % 2 == 0 ? act : DType::kF32);
        const ConvOutputs expected(o, act, DType::kF32);
        Run(ReferenceBackend(), o.Forward(kind, expected.y));
        const auto reference = ReferenceBackend().create_context(1);
        RunGradient(ReferenceBackend(),
                    o.Backward(kind, expected.dx, expected.dweight, expected.dbias), act,
                    *reference);
        const Magnitudes magnitudes(kind, c, o);
        OnPathsInTurn(
            [&](Context& context) {
              const ConvOutputs out(o, act, DType::kF32), alone(o, act, DType::kF32);
              RunTested(o.Forward(kind, out.y), context);
              RunGradient(Tested().backend, o.Backward(kind, out.dx, out.dweight, out.dbias), act,
                          context);
              // Each gradient has its bits also where the others are not wanted.
              const Tensor none;
              RunGradient(Tested().backend, o.Backward(kind, alone.dx, none, none), act, context);
              RunGradient(Tested().backend, o.Backward(kind, none, alone.dweight, none), act,
                          context);
              RunGradient(Tested().backend, o.Backward(kind, none, none, alone.dbias), act,
                          context);
              CHECK_IDENTICAL(alone.dx, out.dx);
              CHECK_IDENTICAL(alone.dweight, out.dweight);
              CHECK_IDENTICAL(alone.dbias, out.dbias);
              return std::vector<Tensor>{out.y, out.dx, out.dweight, out.dbias};
            },
            [&](const std::vector<Tensor>& made) {
              ConvOutputs out(o, act, DType::kF32);
              out.y = made[0];
              out.dx = made[1];
              out.dweight = made[2];
              out.dbias = made[3];
              CheckOutputs(kind, c, act, out, expected, magnitudes);
            });
      }
}

// Returns rows [first, first + count) of x [1, s, ..].
Tensor RowsOf(const Tensor& x, int64_t first, int64_t count) {
  const int64_t width = x.shape()[2];
  Tensor rows(x.dtype(), {1, count, width});
  for (int64_t i = 0; i < count * width; ++i) rows.Set(i, x.at(first * width + i));
  return rows;
}

TEST_CASE("short_conv: a text has its bits whatever stands beside it, NaN too") {
  const std::vector<int64_t> lengths = {3, 1, 66, 2, 7};
  for (const ShortConvKind kind : kConvKinds)
    for (const DType act : Activations()) {
      CAPTURE(kShortConvKinds[static_cast<size_t>(kind)]);
      CAPTURE(NameOf(act));
      const ConvCase c{1, 79, 10, 4, true, TextsOf(lengths, 1)};
      const ConvOperands o(kind, c, act, DType::kF32);
      int64_t begin = 0;
      for (const int64_t length : lengths) {
        ConvOperands others = o, alone = o;
        for (int64_t i = 0; i < o.x.numel(); ++i) {
          const int64_t t = i / o.x.shape()[2];
          if (t < begin || t >= begin + length)
            others.x.Set(i, std::numeric_limits<double>::quiet_NaN());
        }
        alone.x = RowsOf(o.x, begin, length);
        alone.g = RowsOf(o.g, begin, length);
        alone.key_begin = Tensor();
        alone.y = alone.g.shape();
        OnPathsInTurn(
            [&](Context& context) {
              const ConvOutputs packed(others, act, DType::kF32), single(alone, act, DType::kF32);
              const Tensor none;
              RunTested(others.Forward(kind, packed.y), context);
              RunTested(alone.Forward(kind, single.y), context);
              RunGradient(Tested().backend, others.Backward(kind, packed.dx, none, none), act,
                          context);
              RunGradient(Tested().backend, alone.Backward(kind, single.dx, none, none), act,
                          context);
              CHECK_IDENTICAL(RowsOf(packed.y, begin, length), single.y);
              CHECK_IDENTICAL(RowsOf(packed.dx, begin, length), single.dx);
              return std::vector<Tensor>{single.y, single.dx};
            },
            [](const std::vector<Tensor>&) {});
        begin += length;
      }
    }
}

TEST_CASE("short_conv: the reference's gradients are those of y") {
  for (const ShortConvKind kind : kConvKinds)
    for (const ConvCase& c :
         {ConvCase{2, 7, 3, 3, true, TextsOf({2, 1, 4}, 2)}, ConvCase{1, 3, 2, 4, false, {}},
          ConvCase{1, 4, 2, 3, true, {-7, 3, 9, 1}}}) {
      ConvOperands o(kind, c, DType::kF64, DType::kF64);
      const ConvOutputs out(o, DType::kF64, DType::kF64);
      const auto loss = [&] {
        Run(ReferenceBackend(), o.Forward(kind, out.y));
        return Project(out.y, o.g);
      };
      Run(ReferenceBackend(), o.Backward(kind, out.dx, out.dweight, out.dbias));
      CheckGradient("dx", o.x, out.dx, loss);
      CheckGradient("dweight", o.weight, out.dweight, loss);
      if (c.bias) CheckGradient("dbias", o.bias, out.dbias, loss);
    }
}

// ---- short_conv_append -------------------------------------------------------------------------

struct AppendCase {
  int64_t c, k;
  std::vector<int64_t> cuts;  // the lengths of the calls of a text
};

// Sequences b of one text each, which lie in slots 2b + 1 of a pool of anything.
TEST_CASE("short_conv_append: a text in calls has the bits of the text at once") {
  const std::vector<AppendCase> cases = {
      {5, 4, {1, 1, 1, 1, 1, 1}},
      {16, 3, {64, 3, 1, 1}},
      {7, 4, {2, 5, 1}},
      {9, 8, {3, 1, 2, 9}},
      {6, 8, {2, 1}},
      {33, 1, {2, 1}},
      {300, 3, {5, 1}},
      {4, 3, {6}},
      {3, 2, {0, 2, 0, 1}},
  };
  for (const ShortConvKind kind : kConvKinds)
    for (const AppendCase& of : cases)
      for (const DType act : Activations()) {
        CAPTURE(kShortConvKinds[static_cast<size_t>(kind)]);
        CAPTURE(of.c);
        CAPTURE(of.k);
        CAPTURE(NameOf(act));
        constexpr int64_t kBatch = 2, kSlots = 5;
        int64_t s = 0;
        for (const int64_t count : of.cuts) s += count;
        const ConvCase c{kBatch, s, of.c, of.k, of.k % 2 == 0, {}};
        const ConvOperands o(kind, c, act, DType::kF32);
        const Tensor slots = Ints({kBatch}, {1, 3});
        const int64_t width = o.x.shape()[2];
        const Tensor dirty = Full(DType::kF32, {kSlots, of.k - 1, of.c}, 9);
        // [y, pool] of the calls one after the other.
        const auto in_calls = [&](const Backend& backend, Context& context) {
          Tensor pool = dirty, y(act, o.y);
          for (const int64_t slot : {1, 3})
            for (int64_t i = 0; i < dirty.numel() / kSlots; ++i)
              pool.Set(slot * (dirty.numel() / kSlots) + i,
                       std::numeric_limits<double>::quiet_NaN());
          int64_t at = 0;
          for (const int64_t count : of.cuts) {
            Tensor x(act, {kBatch, count, width}), part(act, {kBatch, count, of.c});
            const auto end = static_cast<int32_t>(at + count);
            for (int64_t b = 0; b < kBatch; ++b)
              for (int64_t i = 0; i < count * width; ++i)
                x.Set(b * count * width + i, o.x.at((b * s + at) * width + i));
            Run(backend,
                ShortConvAppendArgs{kind, x, o.weight, o.bias, pool, slots,
                                    Ints({kBatch}, {end, end}), part},
                context);
            for (int64_t b = 0; b < kBatch; ++b)
              for (int64_t i = 0; i < count * of.c; ++i)
                y.Set((b * s + at) * of.c + i, part.at(b * count * of.c + i));
            at += count;
          }
          return std::vector<Tensor>{y, pool};
        };
        const auto at_once = [&](const Backend& backend, Context& context) {
          const Tensor y(act, o.y);
          Run(backend, o.Forward(kind, y), context);
          return y;
        };
        const auto reference = ReferenceBackend().create_context(1);
        const std::vector<Tensor> expected = in_calls(ReferenceBackend(), *reference);
        // Its pool rounds what it computes in double otherwise.
        CHECK_CLOSE(expected[0], at_once(ReferenceBackend(), *reference),
                    (Tolerance{1e-5, 2 * UnitRoundoff(act)}));
        OnPathsInTurn(
            [&](Context& context) {
              const std::vector<Tensor> made = in_calls(Tested().backend, context);
              CHECK_IDENTICAL(made[0], at_once(Tested().backend, context));
              return made;
            },
            [&](const std::vector<Tensor>& made) { CHECK_IDENTICAL(made[1], expected[1]); });
        // Slots of no sequence keep what they have; a text shorter than the taps has zeros before.
        for (int64_t i = 0; i < dirty.numel() / kSlots; ++i) {
          CHECK(expected[1].at(2 * (dirty.numel() / kSlots) + i) == 9);
          if (i / of.c + s < of.k - 1) CHECK(expected[1].at(dirty.numel() / kSlots + i) == 0);
        }
      }
}

TEST_CASE(
    "short_conv_append: slots and lengths out of range are refused before anything is written") {
  struct Wrong {
    int32_t slot, length;
    std::string problem;
  };
  const std::vector<Wrong> wrong = {
      {3, 9, "slots from 0 to 2 but received 3 for sequence 1"},
      {-1, 9, "slots from 0 to 2 but received -1 for sequence 1"},
      {2, 1, "lengths of at least 2 (the positions of this call) but received 1 for sequence 1"},
  };
  for (const Wrong& w : wrong) {
    const ConvOperands o(ShortConvKind::kGated, {2, 2, 4, 3, false, {}}, DType::kF32, DType::kF32);
    const Tensor pool = Full(DType::kF32, {3, 2, 4}, 9), y(DType::kF32, o.y);
    try {
      RunTested(ShortConvAppendArgs{ShortConvKind::kGated,
                                    o.x,
                                    o.weight,
                                    {},
                                    pool,
                                    Ints({2}, {0, w.slot}),
                                    Ints({2}, {5, w.length}),
                                    y},
                *NextContext());
      FAIL("expected an error");
    } catch (const Error& error) {
      CHECK(error.code() == "ERR_DATA");
      CHECK(std::string(error.what()) == "[short_conv_append] expected " + w.problem);
    }
    CHECK_IDENTICAL(pool, Full(DType::kF32, pool.shape(), 9));
  }
}

}  // namespace
}  // namespace lora::test
