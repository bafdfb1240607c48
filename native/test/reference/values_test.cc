// Holds the reference against values worked out by hand. Gradient checks show that backward belongs
// to forward, but not that forward is right.
#include <cmath>
#include <functional>
#include <limits>
#include <numbers>
#include <string>

#include "core/error.h"
#include "test/reference/reference.h"
#include "test/support/close.h"
#include "test/support/run.h"

namespace lora::test {
namespace {

constexpr DType kF32 = DType::kF32;
constexpr Tolerance kTight{1e-15, 1e-14};

template <class Args>
void Do(const Args& args) {
  Run(kReference, args);
}

// Returns "code: message" of what the call throws.
std::string FailureOf(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code() + ": " + error.what();
  }
  return "no error";
}

TEST_CASE("packed is row-major") {
  const Tensor w = Normal(DType::kBF16, {3, 5}, 1);
  const auto context = kReference.create_context(1);
  CHECK(kReference.packed_bytes(3, 5, WeightFormat::kBF16) == 30);
  const FrozenWeight packed(kReference, w, *context);
  const Tensor back(DType::kBF16, {3, 5});
  Do(UnpackArgs{packed.view(), back});
  CHECK_IDENTICAL(back, w);
}

TEST_CASE("lora_linear") {
  for (const DType dtype : {kF32, DType::kBF16, kF64}) {
    CAPTURE(NameOf(dtype));
    const DType master = dtype == kF64 ? kF64 : kF32;
    const auto context = kReference.create_context(1);
    const FrozenWeight w(kReference, Of(dtype, {2, 2}, {1, 0, 3, -1}), *context);
    const Tensor x = Of(dtype, {1, 2}, {1, 2}), bias = Of(dtype, {2}, {10, 20});
    const Tensor a = Of(master, {2, 1}, {1, 2}), b = Of(master, {1, 2}, {3, 1});
    const Tensor y(dtype, {1, 2}), h(master, {1, 1});
    const LoraBranch forward{w.view(), bias, a, b, 2, {}};
    Do(LoraLinearForwardArgs{x, {forward}, {y}, {h}});
    CHECK(h.at(0) == 5);                               // 3·1 + 1·2
    CHECK(y.Values() == std::vector<double>{21, 41});  // 1 + 10 + 2·1·5, 3 − 2 + 20 + 2·2·5

    const Tensor g = Of(dtype, {1, 2}, {1, -1}), dx(dtype, {1, 2});
    const Tensor d_up(master, {2, 1}), d_down(master, {1, 2});
    const LoraBranch backward{w.view(), bias, a, b, 2, {}};
    Do(LoraLinearBackwardArgs{x, {backward}, {g}, {h}, dx, {d_up}, {d_down}});
    CHECK(dx.Values() == std::vector<double>{1 - 3 - 6, 0 + 1 - 2});  // u = −1
    CHECK(d_up.Values() == std::vector<double>{10, -10});
    CHECK(d_down.Values() == std::vector<double>{-2, -4});
  }
}

TEST_CASE("results are rounded once, from double") {
  const Tensor a = Full(kF64, {1}, 1 + 0x1p-8), b = Full(kF64, {1}, 0x1p-40);
  const Tensor y(DType::kBF16, {1});
  Do(BinaryArgs{BinaryKind::kAdd, a, b, y});
  CHECK(y.at(0) == 1 + 0x1p-7);  // by way of f32 it would be a tie, and 1
}

TEST_CASE("embedding takes rows, and refuses an id that is none") {
  const Tensor w = Of(kF32, {3, 2}, {1, 2, 3, 4, 5, 6}), y(kF32, {2, 2});
  const auto context = kReference.create_context(1);
  const FrozenWeight packed(kReference, w, *context);
  Do(EmbeddingArgs{packed.view(), Ints({2}, {2, 0}), y});
  CHECK(y.Values() == std::vector<double>{5, 6, 1, 2});
  for (const int32_t id : {3, -1}) {
    const std::string failure =
        FailureOf([&] { Do(EmbeddingArgs{packed.view(), Ints({2}, {0, id}), y}); });
    CHECK(failure == "ERR_DATA: [embedding] expected ids from 0 to 2 but received " +
                         std::to_string(id) + " at position 1");
  }
}

TEST_CASE("embedding_backward adds the rows of each id") {
  const Tensor dw = Of(kF32, {3, 2}, {1, 2, 3, 4, 5, 6});
  const Tensor g = Of(kF32, {3, 2}, {10, 20, 30, 40, 50, 60});
  Do(EmbeddingBackwardArgs{g, Ints({3}, {2, 0, 2}), dw});
  CHECK(dw.Values() == std::vector<double>{31, 42, 3, 4, 65, 86});
  const std::string failure =
      FailureOf([&] { Do(EmbeddingBackwardArgs{g, Ints({3}, {0, 3, 0}), dw}); });
  CHECK(failure == "ERR_DATA: [embedding] expected ids from 0 to 2 but received 3 at position 1");
}

TEST_CASE("rms_norm") {
  const Tensor x = Of(kF64, {1, 2}, {3, 4}), weight = Of(kF64, {2}, {2, 10});
  const Tensor y(kF64, {1, 2}), rstd(kF64, {1});
  Do(RmsNormForwardArgs{x, {}, weight, 0.5f, {}, y, rstd});
  CHECK_CLOSE(rstd, Of(kF64, {1}, {1 / std::sqrt(13)}), kTight);  // (9 + 16) / 2 + 0.5
  CHECK_CLOSE(y, Of(kF64, {1, 2}, {6 / std::sqrt(13), 40 / std::sqrt(13)}), kTight);
  const Tensor part = Of(kF64, {1, 2}, {1, -5}), rest = Of(kF64, {1, 2}, {2, 9});
  const Tensor sum(kF64, {1, 2}), other(kF64, {1, 2});
  Do(RmsNormForwardArgs{part, rest, weight, 0.5f, sum, other, rstd});
  CHECK(sum.Values() == x.Values());
  CHECK(other.Values() == y.Values());
  const Tensor less = Of(kF64, {2}, {1, 9}), of_less(kF64, {1, 2});
  Do(RmsNormForwardArgs{x, {}, less, 0.5f, {}, of_less, rstd, 1});
  CHECK(of_less.Values() == y.Values());
}

TEST_CASE("rope copies what is behind the numbers that it turns") {
  const Tensor x = Of(kF64, {1, 1, 2, 6}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12});
  // The first pair turns by a quarter, the second by a half.
  const Tensor cosine = Of(kF64, {1, 2}, {0, -1}), sine = Of(kF64, {1, 2}, {1, 0});
  const Tensor y(kF64, x.shape());
  Do(RopeArgs{x, {}, cosine, sine, {}, 0, false, y, {}});
  CHECK(y.Values() == std::vector<double>{-3, -2, 1, -4, 5, 6, -9, -8, 7, -10, 11, 12});
  Do(RopeArgs{y, {}, cosine, sine, {}, 0, true, y, {}});  // in place
  CHECK(y.Values() == x.Values());
}

TEST_CASE("rope turns the halves of a head by the angle of its position") {
  const Tensor x = Of(kF64, {1, 2, 1, 4}, {1, 2, 3, 4, 5, 6, 7, 8});
  // Position 1 turns the first pair by a quarter, the second by a half; position 2 turns neither.
  const Tensor cosine = Of(kF64, {3, 2}, {9, 9, 0, -1, 1, 1});
  const Tensor sine = Of(kF64, {3, 2}, {9, 9, 1, 0, 0, 0}), y(kF64, x.shape());
  Do(RopeArgs{x, {}, cosine, sine, {}, 1, false, y, {}});
  CHECK(y.Values() == std::vector<double>{-3, -2, 1, -4, 5, 6, 7, 8});
  Do(RopeArgs{y, {}, cosine, sine, Ints({1, 2}, {1, 2}), 0, true, y, {}});  // in place
  CHECK(y.Values() == x.Values());
  const Tensor k = Of(kF64, {1, 2, 2, 4}, {1, 2, 3, 4, 5, 6, 7, 8, 8, 7, 6, 5, 4, 3, 2, 1});
  const Tensor turned(kF64, k.shape());
  Do(RopeArgs{x, k, cosine, sine, {}, 1, false, y, turned});
  CHECK(y.Values() == std::vector<double>{-3, -2, 1, -4, 5, 6, 7, 8});
  CHECK(turned.Values() ==
        std::vector<double>{-3, -2, 1, -4, -7, -6, 5, -8, 8, 7, 6, 5, 4, 3, 2, 1});
}

// With q = 0 every key that is seen weighs the same: y is the mean of their values, and lse the
// logarithm of their number. Key j of head h has the value 2^j + 1000·h.
double ValueOf(int64_t j, int64_t h) {
  return std::ldexp(1, static_cast<int>(j)) + 1000.0 * static_cast<double>(h);
}
struct Visibility {
  const char* name;
  int64_t window;
  std::vector<int32_t> key_begin;
  std::vector<std::vector<int>> seen;  // per query
  std::vector<int32_t> key_end{};
};
void CheckMeans(const Tensor& y, const Visibility& c, int64_t heads, int64_t kv_heads) {
  for (size_t i = 0; i < c.seen.size(); ++i) {
    for (int64_t h = 0; h < heads; ++h) {
      double mean = 0;
      for (const int j : c.seen[i]) mean += ValueOf(j, h / (heads / kv_heads));
      if (!c.seen[i].empty()) mean /= static_cast<double>(c.seen[i].size());
      CHECK(y.at(static_cast<int64_t>(i) * heads + h) == doctest::Approx(mean).epsilon(1e-14));
    }
  }
}

TEST_CASE("attention sees the keys that the rules name") {
  const std::vector<Visibility> cases = {
      {"causal", 0, {}, {{0}, {0, 1}, {0, 1, 2}}},
      {"window", 2, {}, {{0}, {0, 1}, {1, 2}, {2, 3}}},
      {"begin", 0, {0, 0, 2, 2}, {{0}, {0, 1}, {2}, {2, 3}}},
      {"begin and window", 2, {1, 1, 0}, {{}, {1}, {1, 2}}},
      {"both directions", 0, {}, {{0, 1, 2}, {0, 1}, {0, 1, 2}}, {3, 2, 7}},
      {"both directions and window", 2, {}, {{0, 1}, {0, 1, 2}, {1, 2, 3}, {2, 3}}, {4, 4, 4, 4}},
      {"both directions, two texts", 2, {0, 0, 2}, {{0, 1}, {0, 1}, {2}}, {2, 2, 3}},
      {"both directions, nothing", 0, {2, 0}, {{}, {0, 1}}, {1, 2}},
  };
  constexpr int64_t kHeads = 4, kKvHeads = 2;
  for (const Visibility& c : cases) {
    CAPTURE(c.name);
    const auto n = static_cast<int64_t>(c.seen.size());
    Tensor v(kF64, {1, n, kKvHeads, 1});
    for (int64_t j = 0; j < n; ++j)
      for (int64_t h = 0; h < kKvHeads; ++h) v.Set(j * kKvHeads + h, ValueOf(j, h));
    const Tensor k = Normal(kF64, v.shape(), 1), q = Zeros(kF64, {1, n, kHeads, 1});
    const Tensor begin = c.key_begin.empty() ? Tensor() : Ints({1, n}, c.key_begin);
    const Tensor y(kF64, q.shape()), lse(kF64, {1, kHeads, n});
    const Tensor end = c.key_end.empty() ? Tensor() : Ints({1, n}, c.key_end);
    Do(AttentionForwardArgs{q, k, v, begin, c.window, 1, y, lse, end});
    CheckMeans(y, c, kHeads, kKvHeads);
    for (int64_t i = 0; i < n; ++i) {
      const size_t seen = c.seen[static_cast<size_t>(i)].size();
      for (int64_t h = 0; h < kHeads; ++h) {
        const double log = std::log(static_cast<double>(seen));  // −∞ of none
        if (seen == 0) CHECK(lse.at(h * n + i) == log);
        if (seen != 0) CHECK(std::fabs(lse.at(h * n + i) - log) <= 1e-14);
      }
    }
  }
}

TEST_CASE("attention_paged sees the keys before its queries, and none behind them") {
  const std::vector<Visibility> cases = {
      {"keys before", 0, {}, {{0, 1, 2, 3}, {0, 1, 2, 3, 4}}},
      {"keys before, and a window", 3, {}, {{1, 2, 3}, {2, 3, 4}}},
      {"one query", 0, {}, {{0, 1}}},
  };
  constexpr int64_t kHeads = 4, kKvHeads = 2, kPage = 1;
  for (const Visibility& c : cases) {
    CAPTURE(c.name);
    Tensor pool(kF64, {2, kKvHeads, kPageSize, 1});
    for (int64_t j = 0; j < 6; ++j)
      for (int64_t h = 0; h < kKvHeads; ++h)
        pool.Set((kPage * kKvHeads + h) * kPageSize + j, ValueOf(j, h));
    const Tensor q = Zeros(kF64, {1, static_cast<int64_t>(c.seen.size()), kHeads, 1});
    const Tensor y(kF64, q.shape()), keys = Normal(kF64, pool.shape(), 1);
    Do(AttentionPagedArgs{q, keys, pool, Ints({1, 1}, {kPage}),
                          Ints({1}, {c.seen.back().back() + 1}), c.window, 1,
                          AttentionPhase::kPrefill, y});
    CheckMeans(y, c, kHeads, kKvHeads);
  }
}

TEST_CASE("attention weighs keys by the exponential of scale·q·k") {
  const Tensor q = Of(kF64, {1, 2, 1, 2}, {0, 0, 1, 2}), v = Of(kF64, {1, 2, 1, 2}, {1, 0, 0, 1});
  const Tensor k = Of(kF64, {1, 2, 1, 2}, {3, 1, 1, 4}), y(kF64, q.shape());
  Do(AttentionForwardArgs{q, k, v, {}, 0, 0.5f, y, {}});  // scores 2.5 and 4.5
  const double first = 1 / (1 + std::exp(2));
  CHECK_CLOSE(y, Of(kF64, q.shape(), {1, 0, first, 1 - first}), kTight);
  // A sink is one more score, without a value.
  const Tensor lse(kF64, {1, 1, 2}), sink = Of(kF64, {1}, {1.5});
  Do(AttentionForwardArgs{q, k, v, {}, 0, 0.5f, y, lse, {}, sink});
  const double alone = 1 + std::exp(1.5), both = std::exp(2.5) + std::exp(4.5) + std::exp(1.5);
  CHECK_CLOSE(y, Of(kF64, q.shape(), {1 / alone, 0, std::exp(2.5) / both, std::exp(4.5) / both}),
              kTight);
  CHECK_CLOSE(lse, Of(kF64, {1, 1, 2}, {std::log(alone), std::log(both)}), kTight);
}

TEST_CASE("gated") {
  const Tensor gate = Of(kF64, {3}, {0, 1, -2}), up = Of(kF64, {3}, {5, 3, 1}), y(kF64, {3});
  Do(GatedForwardArgs{GatedKind::kSilu, gate, up, y});
  CHECK_CLOSE(y, Of(kF64, {3}, {0, 3 / (1 + std::exp(-1)), -2 / (1 + std::exp(2))}), kTight);
  const auto gelu = [](double x) {
    return x / 2 * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
  };
  Do(GatedForwardArgs{GatedKind::kGeluTanh, gate, up, y});
  CHECK_CLOSE(y, Of(kF64, {3}, {0, 3 * gelu(1), gelu(-2)}), (Tolerance{0, 1e-7}));  // f32 factors
}

TEST_CASE("gated: a clamped gate and up") {
  // The kind's constant is an f32.
  const auto gate_of = [](double x) { return x / (1 + std::exp(-double{1.702f} * x)); };
  const Shape shape{6};
  const Tensor gate = Of(kF64, shape, {2, -1, 7, 9, -9, 1}), y(kF64, shape);
  const Tensor up = Of(kF64, shape, {3, -7, 7, 5, 8, -8}), g = Full(kF64, shape, 2);
  const Tensor dgate(kF64, shape), dup(kF64, shape);
  Do(GatedForwardArgs{GatedKind::kClamped, gate, up, y});
  Do(GatedBackwardArgs{GatedKind::kClamped, gate, up, g, dgate, dup});
  const Tolerance near{0, 1e-14};
  CHECK_CLOSE(y,
              Of(kF64, shape,
                 {4 * gate_of(2), -6 * gate_of(-1), 8 * gate_of(7), 6 * gate_of(7), 8 * gate_of(-9),
                  -6 * gate_of(1)}),
              near);
  // Beyond a limit there is no gradient, at it there is.
  CHECK_CLOSE(
      dup, Of(kF64, shape, {2 * gate_of(2), 2 * gate_of(-1), 2 * gate_of(7), 2 * gate_of(7), 0, 0}),
      near);
  CHECK(dgate.at(3) == 0);
  CHECK(dgate.at(2) > 15);
  CHECK(dgate.at(4) != 0);
}

TEST_CASE("cross_entropy") {
  const Tensor logits = Of(kF64, {3, 2}, {7, 7, 0, std::log(3), 1e4, 0});
  const Tensor loss(kF64, {1}), count(kF64, {1}), lse(kF64, {3});
  Do(CrossEntropyForwardArgs{logits, Ints({3}, {0, 1, -100}), loss, count, lse, {}, {}});
  CHECK_CLOSE(loss, Full(kF64, {1}, std::log(2) + std::log(4.0 / 3)), kTight);
  CHECK(count.at(0) == 2);
  CHECK_CLOSE(lse, Of(kF64, {3}, {7 + std::log(2), std::log(4), 1e4}), kTight);
  const auto failure = [&](const std::vector<int32_t>& labels) {
    return FailureOf(
        [&] { Do(CrossEntropyForwardArgs{logits, Ints({3}, labels), loss, count, lse, {}, {}}); });
  };
  CHECK(failure({0, 2, 0}) ==
        "ERR_DATA: [cross_entropy] expected labels from 0 to 1, or -100, but received 2 at row 1");
  CHECK(failure({-100, -100, -100}) ==
        "ERR_DATA: [cross_entropy] expected at least one label that is not -100");
}

TEST_CASE("adamw at its first step moves by lr in the direction of the gradient") {
  Tensor p = Of(kF64, {2}, {1, 1}), m = Zeros(kF64, {2}), v = Zeros(kF64, {2});
  const Tensor g = Of(kF64, {2}, {0.5, -4});
  AdamWArgs args{{{p, g, m, v}}, 0.1, 0.9, 0.999, 0, 0.2, 1};
  Do(args);
  CHECK_CLOSE(p, Of(kF64, {2}, {0.98 - 0.1, 0.98 + 0.1}), (Tolerance{1e-12, 0}));
  CHECK_CLOSE(m, Of(kF64, {2}, {0.05, -0.4}), (Tolerance{1e-12, 0}));
  CHECK_CLOSE(v, Of(kF64, {2}, {0.00025, 0.016}), (Tolerance{1e-12, 0}));
  args.step = 2;  // m = 0.095, v = 0.00049975: the corrected ones are again 0.5 and 0.25
  Do(args);
  CHECK(p.at(0) == doctest::Approx(0.88 * 0.98 - 0.1).epsilon(1e-12));
}

TEST_CASE("global_norm and clip_by_norm") {
  Tensor a = Of(kF32, {2}, {3, 4}), b = Of(kF32, {1}, {12}), norm(kF32, {1});
  Do(GlobalNormArgs{{a, b}, norm});
  CHECK(norm.at(0) == 13);
  Do(ClipByNormArgs{{a, b}, norm, 20});
  CHECK(a.Values() == std::vector<double>{3, 4});
  Do(ClipByNormArgs{{a, b}, norm, 1.3f});
  CHECK(b.at(0) == doctest::Approx(1.2).epsilon(1e-6));
  norm.Set(0, std::numeric_limits<double>::infinity());
  Do(ClipByNormArgs{{a}, norm, 1});
  CHECK(std::isnan(a.at(0)));
}

TEST_CASE("unary values") {
  const std::vector<double> at = {-1, 0, 1, 2};
  const Tensor x = Of(kF64, {4}, at), y(kF64, {4});
  const auto values = [&](UnaryKind kind) {
    Do(UnaryArgs{kind, -3, x, y});
    return Tensor(y);
  };
  const double phi1 = 0.8413447460685429, phi2 = 0.9772498680518208;  // of the normal law
  CHECK_CLOSE(values(UnaryKind::kGelu), Of(kF64, {4}, {phi1 - 1, 0, phi1, 2 * phi2}), kTight);
  const double s1 = 1 / (1 + std::exp(-1)), s2 = 1 / (1 + std::exp(-2));
  CHECK_CLOSE(values(UnaryKind::kSilu), Of(kF64, {4}, {s1 - 1, 0, s1, 2 * s2}), kTight);
  CHECK(values(UnaryKind::kCopy).Values() == at);
  CHECK(values(UnaryKind::kScale).Values() == std::vector<double>{3, 0, -3, -6});
  CHECK(values(UnaryKind::kSquare).Values() == std::vector<double>{1, 0, 1, 4});
  CHECK(values(UnaryKind::kRelu).Values() == std::vector<double>{0, 0, 1, 2});
}

TEST_CASE("the small set") {
  const Tensor x = Of(kF32, {2, 3}, {1, 2, 3, 4, 5, 6});
  const Tensor row = Of(DType::kBF16, {3}, {1, 2, 4}), y(kF64, {2, 3});
  Do(BinaryArgs{BinaryKind::kDiv, x, row, y});
  CHECK(y.Values() == std::vector<double>{1, 1, 0.75, 4, 2.5, 1.5});
  Tensor rows(kF32, {2, 1}), columns(kF32, {3}), all(kF32, {});
  Do(ReduceSumArgs{x, rows});
  Do(ReduceSumArgs{x, columns});
  Do(ReduceSumArgs{x, all});
  CHECK(rows.Values() == std::vector<double>{6, 15});
  CHECK(columns.Values() == std::vector<double>{5, 7, 9});
  CHECK(all.at(0) == 21);
  const Tensor transposed(kF32, {3, 2}), product(kF32, {2, 2});
  Do(TransposeArgs{x, transposed, {1, 0}});
  CHECK(transposed.Values() == std::vector<double>{1, 4, 2, 5, 3, 6});
  const Tensor left(kF32, {2, 1}), right(kF32, {2, 2}), joined(kF32, {2, 3});
  Do(SplitColumnsArgs{x, {1, 2}, {left, right}});
  CHECK(left.Values() == std::vector<double>{1, 4});
  CHECK(right.Values() == std::vector<double>{2, 3, 5, 6});
  Do(JoinColumnsArgs{{{}, right}, {1, 2}, joined});
  CHECK(joined.Values() == std::vector<double>{0, 2, 3, 0, 5, 6});
  const Tensor taken(kF32, {2, 2}), each(kF32, {2, 1}), sums = Zeros(kF32, {2, 3});
  Do(TakeArgs{x, Ints({2}, {2, 0}), 1, taken});
  CHECK(taken.Values() == std::vector<double>{3, 1, 6, 4});
  Do(TakeArgs{x, Ints({2, 1}, {1, 2}), 1, each});
  CHECK(each.Values() == std::vector<double>{2, 6});
  Do(TakeBackwardArgs{taken, Ints({2}, {1, 1}), 1, sums});
  CHECK(sums.Values() == std::vector<double>{0, 4, 0, 0, 10, 0});
  const Tensor max(kF32, {2}), place(DType::kI32, {2}), log_sum(kF32, {2});
  Do(RowMaxArgs{Of(kF32, {2, 3}, {0, 2, 2, std::nan(""), 1, 5}), max, place, log_sum});
  CHECK(max.at(0) == 2);
  CHECK(place.Values() == std::vector<double>{1, 0});
  CHECK(std::fabs(log_sum.at(0) - std::log(2 + std::exp(-2.0))) < 1e-6);
  CHECK(std::isnan(max.at(1)));
  CHECK(std::isnan(log_sum.at(1)));
  for (const bool trans_b : {false, true}) {
    Do(MatmulArgs{x, trans_b ? x : transposed, product, false, trans_b});
    CHECK(product.Values() == std::vector<double>{14, 32, 32, 77});
  }
  Do(AccumulateArgs{x, y});
  CHECK(y.Values() == std::vector<double>{2, 3, 3.75, 8, 7.5, 7.5});
  Do(FillArgs{1.5f, y});
  CHECK(y.Values() == std::vector<double>(6, 1.5));
}

TEST_CASE("sums over nothing are 0") {
  const Tensor sum(kF32, {1, 3}), product = Tensor(kF32, {2, 2});
  Do(ReduceSumArgs{Tensor(kF32, {0, 3}), sum});
  Do(MatmulArgs{Tensor(kF32, {2, 0}), Tensor(kF32, {0, 2}), product, false, false});
  CHECK(sum.Values() == std::vector<double>(3, 0.0));
  CHECK(product.Values() == std::vector<double>(4, 0.0));
}

}  // namespace
}  // namespace lora::test
