#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "core/error.h"
#include "test/support/gradient.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

struct DeltaCase {
  int64_t batch, tokens, k_heads, group, dk, dv;
  std::vector<int32_t> begins = {};  // of one row; empty: one text
  double decay = 1;                  // of a token, about
};

// Begins of texts of these lengths.
std::vector<int32_t> Texts(const std::vector<int32_t>& lengths) {
  std::vector<int32_t> begins;
  for (const int32_t length : lengths)
    begins.insert(begins.end(), static_cast<size_t>(length), static_cast<int32_t>(begins.size()));
  return begins;
}

struct DeltaInputs {
  Tensor q, k, v, g, beta, key_begin, dy;

  DeltaInputs(const DeltaCase& c, DType act, DType gates = DType::kF32) {
    const Shape keys{c.batch, c.tokens, c.k_heads, c.dk};
    const Shape values{c.batch, c.tokens, c.k_heads * c.group, c.dv};
    const Shape heads{c.batch, c.tokens, c.k_heads * c.group};
    q = Normal(act, keys, 1);
    k = Normal(act, keys, 2);
    v = Normal(act, values, 3);
    g = Uniform(gates, heads, 4, -2 * c.decay, 0);
    beta = Uniform(gates, heads, 5, 0, 1);
    dy = Normal(act, values, 6);
    if (c.begins.empty()) return;
    std::vector<int32_t> rows;
    for (int64_t b = 0; b < c.batch; ++b) rows.insert(rows.end(), c.begins.begin(), c.begins.end());
    key_begin = Ints({c.batch, c.tokens}, rows);
  }
  DeltaInputs Widened() const {
    DeltaInputs wide = *this;
    for (Tensor* x : {&wide.q, &wide.k, &wide.v, &wide.g, &wide.beta, &wide.dy})
      *x = x->As(DType::kF64);
    return wide;
  }
  GatedDeltaForwardArgs Forward(const Tensor& y) const {
    return {q, k, v, g, beta, key_begin, kScale, kEps, y};
  }
  GatedDeltaBackwardArgs Backward(const std::vector<Tensor>& d) const {
    return {q, k, v, g, beta, key_begin, dy, kScale, kEps, d[0], d[1], d[2], d[3], d[4]};
  }
  std::vector<Tensor> Gradients() const {
    std::vector<Tensor> made;
    for (const Tensor* x : {&q, &k, &v, &g, &beta}) made.emplace_back(x->dtype(), x->shape());
    return made;
  }
  static constexpr float kScale = 0.4f, kEps = 0.1f;
};

double LargestOf(const Tensor& x) {
  double largest = 0;
  for (const double value : x.Values()) largest = std::max(largest, std::fabs(value));
  return largest;
}

// How far results may be from those of the reference in f64: by sums in f32 of the largest terms.
std::vector<double> BoundsOf(const Tensor& expected, DType dtype, double steps = 100) {
  const double sums = steps * kU * LargestOf(expected);
  std::vector<double> bounds;
  for (const double value : expected.Values()) bounds.push_back(sums + RoundingBound(dtype, value));
  return bounds;
}

std::vector<DeltaCase> DeltaCases() {
  std::vector<DeltaCase> cases = {
      {1, 1, 1, 1, 1, 1},
      {2, 5, 1, 2, 3, 5},
      {1, 63, 2, 1, 8, 12},
      {1, 64, 1, 2, 16, 4},
      {1, 65, 1, 1, 17, 16},
      {2, 70, 2, 2, 8, 12, Texts({3, 1, 40, 21, 5}), 0.02},
      {1, 6, 1, 1, 4, 4, {0, 0, 5, 3, 0, 9}},  // any numbers, whatever texts they make
      {0, 3, 1, 1, 4, 4},
      {1, 0, 1, 1, 4, 4},
      {1, 3, 0, 1, 4, 4},
      {1, 3, 2, 0, 4, 4},
      {1, 3, 1, 1, 0, 4},
      {1, 3, 1, 1, 4, 0},
  };
  if (!Tested().emulated) {
    cases.push_back({1, 130, 1, 1, 8, 20, Texts({20, 47, 63}), 0.02});
    cases.push_back({1, 130, 1, 1, 4, 8, {}, 0.02});
    cases.push_back({1, 70, 1, 1, 4, 8, {}, 12});
    cases.push_back({1, 200, 3, 2, 32, 64, Texts({64, 64, 1, 71})});
    cases.push_back({1, 129, 1, 1, 128, 130});
  }
  return cases;
}

TEST_CASE("gated_delta: forward and backward") {
  for (const DeltaCase& c : DeltaCases()) {
    for (const DType act : Activations()) {
      CAPTURE(c.tokens);
      CAPTURE(c.dk);
      CAPTURE(c.dv);
      CAPTURE(NameOf(act));
      const DeltaInputs inputs(c, act), wide = inputs.Widened();
      const Tensor y(DType::kF64, inputs.v.shape());
      const std::vector<Tensor> expected = wide.Gradients();
      Run(ReferenceBackend(), wide.Forward(y));
      Run(ReferenceBackend(), wide.Backward(expected));
      OnPathsInTurn(
          [&](Context& context) {
            std::vector<Tensor> out = inputs.Gradients();
            RunGradient(Tested().backend, inputs.Backward(out), act, context);
            out.emplace_back(act, inputs.v.shape());
            RunTested(inputs.Forward(out.back()), context);
            return out;
          },
          [&](const std::vector<Tensor>& out) {
            CHECK_CLOSE(out[5], y, BoundsOf(y, act));
            for (size_t i = 0; i < expected.size(); ++i) {
              CAPTURE(i);
              CHECK_CLOSE(out[i], expected[i], BoundsOf(expected[i], out[i].dtype(), 200));
            }
          });
    }
  }
}

TEST_CASE("gated_delta: a packed text has the gradients of the text alone, and none of others") {
  if (Tested().emulated) return;  // a GPU goes token by token
  const std::vector<int32_t> lengths = {9, 70, 1, 50};
  const DeltaCase c{1, 130, 1, 2, 8, 16, Texts(lengths)};
  const DeltaInputs packed(c, DType::kF32);
  const Tensor y(DType::kF64, packed.v.shape());
  const auto part = [](const Tensor& x, int64_t first, int64_t count) {
    const Shape& s = x.shape();
    const int64_t width = x.numel() / s[1];
    Tensor rows(x.dtype(), s.rank() == 4 ? Shape{1, count, s[2], s[3]} : Shape{1, count, s[2]});
    for (int64_t i = 0; i < rows.numel(); ++i) rows.Set(i, x.at(first * width + i));
    return rows;
  };
  std::vector<Tensor> whole = packed.Widened().Gradients();
  Run(ReferenceBackend(), packed.Widened().Forward(y));
  Run(ReferenceBackend(), packed.Widened().Backward(whole));
  whole.push_back(y);
  int64_t first = 0;
  for (const int32_t length : lengths) {
    CAPTURE(length);
    DeltaInputs alone = packed;
    for (Tensor* x : {&alone.q, &alone.k, &alone.v, &alone.g, &alone.beta, &alone.dy})
      *x = part(*x, first, length);
    alone.key_begin = Tensor();
    OnPathsInTurn(
        [&](Context& context) {
          std::vector<Tensor> out = alone.Gradients();
          RunTested(alone.Backward(out), context);
          out.emplace_back(DType::kF32, alone.v.shape());
          RunTested(alone.Forward(out.back()), context);
          return out;
        },
        [&](const std::vector<Tensor>& out) {
          for (size_t i = 0; i < out.size(); ++i) {
            const Tensor of_whole = part(whole[i], first, length);
            CHECK_CLOSE(out[i], of_whole, (Tolerance{200 * kU * LargestOf(whole[i])}));
          }
          CHECK(out[3].at(0) == 0);  // nothing decays before the first token
        });
    first += length;
  }
}

TEST_CASE("gated_delta: the reference's gradients are those of y") {
  for (const DeltaCase& c : std::vector<DeltaCase>{{1, 1, 1, 1, 2, 3},
                                                   {2, 4, 1, 2, 3, 2},
                                                   {1, 7, 2, 1, 2, 3, Texts({3, 1, 3})},
                                                   {1, 5, 1, 1, 2, 2, {0, 0, 5, 3, 0}}}) {
    DeltaInputs inputs(c, DType::kF64, DType::kF64);
    const Tensor y(DType::kF64, inputs.v.shape());
    const std::vector<Tensor> d = inputs.Gradients();
    const auto loss = [&] {
      Run(ReferenceBackend(), inputs.Forward(y));
      return Project(y, inputs.dy);
    };
    Run(ReferenceBackend(), inputs.Backward(d));
    CheckGradient("dq", inputs.q, d[0], loss);
    CheckGradient("dk", inputs.k, d[1], loss);
    CheckGradient("dv", inputs.v, d[2], loss);
    CheckGradient("dg", inputs.g, d[3], loss);
    CheckGradient("dbeta", inputs.beta, d[4], loss);
  }
}

// ---- gated_delta_append ------------------------------------------------------------------------

// A text of each sequence in calls of `cuts` tokens, or in one call. A call of one token is a
// decode step where `decodes`.
struct Calls {
  DeltaCase c;
  std::vector<int64_t> cuts;
  bool decodes;
};

constexpr int64_t kSlots = 5;

// Returns rows b of x, tokens [first, first + count).
Tensor TokensOf(const Tensor& x, const std::vector<int64_t>& rows, int64_t first, int64_t count) {
  const Shape& s = x.shape();
  const int64_t width = s.rank() == 4 ? s[2] * s[3] : s[2];
  const auto batch = static_cast<int64_t>(rows.size());
  Tensor part(x.dtype(),
              s.rank() == 4 ? Shape{batch, count, s[2], s[3]} : Shape{batch, count, s[2]});
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t i = 0; i < count * width; ++i)
      part.Set(b * count * width + i,
               x.at((rows[static_cast<size_t>(b)] * s[1] + first) * width + i));
  return part;
}

// Returns y and the pool that the calls leave, for rows of the inputs that have a slot each.
std::vector<Tensor> InCalls(const Backend& backend, const Calls& calls, const DeltaInputs& inputs,
                            const std::vector<int64_t>& rows, const std::vector<int32_t>& slots,
                            Context& context) {
  const DeltaCase& c = calls.c;
  Tensor pool = Full(DType::kF32, {kSlots, c.k_heads * c.group, c.dk, c.dv}, 9);
  const auto per_slot = pool.numel() / kSlots;
  for (const int32_t slot : slots)
    for (int64_t i = 0; i < per_slot; ++i)
      pool.Set(slot * per_slot + i, std::numeric_limits<double>::quiet_NaN());
  const auto batch = static_cast<int64_t>(rows.size());
  Tensor y(inputs.v.dtype(), {batch, c.tokens, c.k_heads * c.group, c.dv});
  int64_t first = 0;
  for (const int64_t count : calls.cuts) {
    const auto of = [&](const Tensor& x) { return TokensOf(x, rows, first, count); };
    const Tensor q = of(inputs.q), k = of(inputs.k), v = of(inputs.v), g = of(inputs.g);
    const Tensor beta = of(inputs.beta), part(v.dtype(), v.shape());
    const auto end = static_cast<int32_t>(first + count);
    const auto phase =
        calls.decodes && count == 1 ? AttentionPhase::kDecode : AttentionPhase::kPrefill;
    Run(backend,
        GatedDeltaAppendArgs{q, k, v, g, beta, pool, Ints({batch}, slots),
                             Ints({batch}, std::vector<int32_t>(rows.size(), end)),
                             DeltaInputs::kScale, DeltaInputs::kEps, phase, part},
        context);
    const int64_t width = c.k_heads * c.group * c.dv;
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t i = 0; i < count * width; ++i)
        y.Set((b * c.tokens + first) * width + i, part.at(b * count * width + i));
    first += count;
  }
  return {y, pool};
}

TEST_CASE("gated_delta_append: a text in calls, and states of the slots named alone") {
  // Named, for GCC 12 takes members of a case inside the list for uninitialized.
  const DeltaCase steps{2, 6, 1, 2, 4, 5}, chunk_and_steps{2, 67, 1, 1, 8, 36};
  const DeltaCase chunks{1, 67, 1, 1, 8, 17}, empty_call{1, 5, 1, 1, 3, 80};
  const Calls all[] = {
      {steps, {1, 1, 3, 1}, true},
      {chunk_and_steps, {64, 1, 1, 1}, true},
      {chunks, {5, 62}, false},
      {empty_call, {0, 4, 1}, true},
  };
  for (const Calls& calls : all) {
    for (const DType act : Activations()) {
      CAPTURE(calls.c.tokens);
      CAPTURE(NameOf(act));
      const DeltaInputs inputs(calls.c, act);
      std::vector<int64_t> rows;
      std::vector<int32_t> slots;
      for (int64_t b = 0; b < calls.c.batch; ++b) {
        rows.push_back(b);
        slots.push_back(static_cast<int32_t>(3 - 2 * b));
      }
      DeltaInputs wide = inputs;
      for (Tensor* x : {&wide.q, &wide.k, &wide.v}) *x = x->As(DType::kF32);
      const auto reference = ReferenceBackend().create_context(1);
      const std::vector<Tensor> expected =
          InCalls(ReferenceBackend(), calls, wide, rows, slots, *reference);
      const Tensor at_once(DType::kF32, wide.v.shape());
      Run(ReferenceBackend(), wide.Forward(at_once));
      CHECK_CLOSE(expected[0], at_once, BoundsOf(at_once, DType::kF32, 8));
      OnPathsInTurn(
          [&](Context& context) {
            std::vector<Tensor> out =
                InCalls(Tested().backend, calls, inputs, rows, slots, context);
            // The bits of a sequence do not depend on the others.
            const std::vector<Tensor> alone =
                InCalls(Tested().backend, calls, inputs, {rows.back()}, {slots.back()}, context);
            CHECK_IDENTICAL(alone[0], TokensOf(out[0], {rows.back()}, 0, calls.c.tokens));
            return out;
          },
          [&](const std::vector<Tensor>& out) {
            CHECK_CLOSE(out[0], expected[0], BoundsOf(expected[0], act));
            CHECK_CLOSE(out[1], expected[1], BoundsOf(expected[1], DType::kF32));
          });
    }
  }
}

TEST_CASE("gated_delta_append: a prompt has its bits wherever it is cut at multiples of 64") {
  if (Tested().emulated) return;  // a GPU goes token by token
  const DeltaCase c{2, 200, 2, 2, 12, 20};
  for (const DType act : {DType::kF32, DType::kBF16}) {
    const DeltaInputs inputs(c, act);
    OnPathsInTurn(
        [&](Context& context) {
          const auto in = [&](const std::vector<int64_t>& cuts) {
            return InCalls(Tested().backend, {c, cuts, false}, inputs, {0, 1}, {1, 3}, context);
          };
          std::vector<Tensor> out = in({200});
          for (const std::vector<int64_t>& cuts :
               {std::vector<int64_t>{64, 64, 64, 8}, {128, 72}, {64, 136}}) {
            const std::vector<Tensor> other = in(cuts);
            CHECK_IDENTICAL(other[0], out[0]);
            CHECK_IDENTICAL(other[1], out[1]);
          }
          const Tensor trained(act, inputs.v.shape());
          RunTested(inputs.Forward(trained), context);
          CHECK_IDENTICAL(trained, out[0]);
          return out;
        },
        [](const std::vector<Tensor>&) {});
  }
}

TEST_CASE("gated_delta_append: slots and lengths out of range are refused before it writes") {
  struct Wrong {
    int32_t slot, length;
    std::string problem;
  };
  const std::vector<Wrong> wrong = {
      {5, 9, "slots from 0 to 4 but received 5 for sequence 1"},
      {-1, 9, "slots from 0 to 4 but received -1 for sequence 1"},
      {2, 1, "lengths of at least 2 (the positions of this call) but received 1 for sequence 1"},
  };
  for (const Wrong& w : wrong) {
    const DeltaInputs o({2, 2, 1, 1, 4, 4}, DType::kF32);
    const Tensor pool = Full(DType::kF32, {kSlots, 1, 4, 4}, 9), y(DType::kF32, o.v.shape());
    try {
      RunTested(GatedDeltaAppendArgs{o.q, o.k, o.v, o.g, o.beta, pool, Ints({2}, {0, w.slot}),
                                     Ints({2}, {5, w.length}), 1, 0, AttentionPhase::kPrefill, y},
                *NextContext());
      FAIL("expected an error");
    } catch (const Error& error) {
      CHECK(error.code() == "ERR_DATA");
      CHECK(std::string(error.what()) == "[gated_delta_append] expected " + w.problem);
    }
    CHECK_IDENTICAL(pool, Full(DType::kF32, pool.shape(), 9));
  }
}

}  // namespace
}  // namespace lora::test
