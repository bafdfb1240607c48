// Holds the reference's gradients of the layers of a model against central differences.
#include <utility>

#include "test/reference/reference.h"
#include "test/support/close.h"
#include "test/support/gradient.h"
#include "test/support/run.h"

namespace lora::test {
namespace {

TEST_CASE("rms_norm: dx is the gradient of y, and of the sum") {
  for (const auto& [shape, offset] : {std::pair{Shape{1, 1}, 0.0f},
                                      {Shape{3, 7}, 0.0f},
                                      {Shape{2, 16}, 0.0f},
                                      {Shape{2, 5}, 1.0f}}) {
    CAPTURE(Text(shape));
    CAPTURE(offset);
    const int64_t n = shape[0], d = shape[1];
    Tensor x = Normal(kF64, shape, 1), addend = Normal(kF64, shape, 4);
    const Tensor weight = Normal(kF64, {d}, 2), g = Normal(kF64, shape, 3);
    const Tensor y(kF64, shape), rstd(kF64, {n}), dx(kF64, shape);
    const auto loss = [&] {
      Run(kReference, RmsNormForwardArgs{x, {}, weight, 0.1f, {}, y, rstd, offset});
      return Project(y, g);
    };
    loss();
    Run(kReference, RmsNormBackwardArgs{x, weight, rstd, g, {}, dx, {}, 0.1f, {}, offset});
    CheckGradient("dx", x, dx, loss);

    const Tensor g_sum = Normal(kF64, shape, 5), sum(kF64, shape), d_addend(kF64, shape);
    const auto loss_of_both = [&] {
      Run(kReference, RmsNormForwardArgs{x, addend, weight, 0.1f, sum, y, rstd, offset});
      return Project(y, g) + Project(sum, g_sum);
    };
    loss_of_both();
    const Tensor again(kF64, shape);
    Run(kReference,
        RmsNormBackwardArgs{sum, weight, rstd, g, g_sum, dx, d_addend, 0.1f, again, offset});
    CHECK_IDENTICAL(again, y);
    CheckGradient("dx", x, dx, loss_of_both);
    CheckGradient("dAddend", addend, d_addend, loss_of_both);
  }
}

TEST_CASE("rope: turning back is the gradient") {
  Tensor q = Normal(kF64, {2, 3, 2, 6}, 1), k = Normal(kF64, {2, 3, 1, 6}, 5);
  const Tensor gq = Normal(kF64, q.shape(), 4), gk = Normal(kF64, k.shape(), 6);
  const Tensor yq(kF64, q.shape()), yk(kF64, k.shape()), dq(kF64, q.shape()), dk(kF64, k.shape());
  const Tensor positions = Ints({2, 3}, {8, 0, 3, 5, 5, 1});
  for (const int64_t pairs : {3, 1}) {
    const TensorView at = pairs == 3 ? TensorView() : positions.view();
    CAPTURE(pairs);
    const Tensor cosine = Uniform(kF64, {9, pairs}, 2), sine = Uniform(kF64, {9, pairs}, 3);
    const auto loss = [&] {
      Run(kReference, RopeArgs{q, k, cosine, sine, at, 4, false, yq, yk});
      return Project(yq, gq) + Project(yk, gk);
    };
    Run(kReference, RopeArgs{gq, gk, cosine, sine, at, 4, true, dq, dk});
    CheckGradient("dq", q, dq, loss);
    CheckGradient("dk", k, dk, loss);
  }
}

struct AttentionCase {
  const char* name;
  int64_t batch, length, heads, kv_heads, size, window;
  std::vector<int32_t> key_begin = {}, key_end = {};
  bool sinks = false;
};

TEST_CASE("attention: dq, dk and dv are the gradients of y") {
  const std::vector<AttentionCase> cases = {
      {"one key", 1, 1, 1, 1, 1, 0, {}},
      {"causal", 2, 5, 2, 2, 3, 0, {}},
      {"grouped-query", 1, 4, 6, 2, 3, 0, {}},
      {"window", 1, 7, 2, 1, 4, 3, {}},
      {"window of one", 1, 4, 1, 1, 3, 1, {}},
      {"packed sequences", 1, 6, 2, 1, 3, 0, {0, 0, 2, 2, 2, 5}},
      {"packed sequences and window", 2, 5, 4, 2, 2, 2, {0, 0, 0, 3, 3, 0, 1, 1, 1, 1}},
      {"rows that see nothing", 1, 4, 2, 2, 3, 0, {1, 1, 4, 2}},
      {"both directions", 1, 5, 4, 2, 3, 0, {}, {5, 5, 5, 5, 5}},
      {"both directions, packed, and window",
       1,
       6,
       2,
       1,
       3,
       2,
       {0, 0, 0, 0, 4, 4},
       {4, 4, 4, 4, 9, 9}},
      {"sinks", 2, 5, 4, 2, 3, 3, {}, {}, true},
      {"sinks and rows that see nothing", 1, 4, 2, 2, 3, 0, {1, 1, 4, 2}, {}, true},
  };
  for (const AttentionCase& c : cases) {
    CAPTURE(c.name);
    const Shape shape{c.batch, c.length, c.heads, c.size};
    const Shape kv_shape{c.batch, c.length, c.kv_heads, c.size};
    Tensor q = Normal(kF64, shape, 1), k = Normal(kF64, kv_shape, 2), v = Normal(kF64, kv_shape, 3);
    const Tensor g = Normal(kF64, shape, 4), y(kF64, shape);
    const Tensor lse(kF64, {c.batch, c.heads, c.length});
    const Tensor begin = c.key_begin.empty() ? Tensor() : Ints({c.batch, c.length}, c.key_begin);
    const Tensor end = c.key_end.empty() ? Tensor() : Ints({c.batch, c.length}, c.key_end);
    Tensor sinks = c.sinks ? Normal(kF64, {c.heads}, 5) : Tensor();
    const auto loss = [&] {
      Run(kReference, AttentionForwardArgs{q, k, v, begin, c.window, 0.7f, y, lse, end, sinks});
      return Project(y, g);
    };
    loss();
    if (c.sinks) {
      Tensor dsinks = Zeros(kF64, {c.heads});
      for (int64_t i = 0; i < y.numel(); ++i) {
        const int64_t h = i / c.size % c.heads, query = i / c.size / c.heads;
        const int64_t row = (query / c.length * c.heads + h) * c.length + query % c.length;
        const double share = std::exp(sinks.at(h) - lse.at(row));
        dsinks.Set(h, dsinks.at(h) - share * g.at(i) * y.at(i));
      }
      CheckGradient("dsinks", sinks, dsinks, loss);
      loss();
    }
    const Tensor dq(kF64, shape), dk(kF64, kv_shape), dv(kF64, kv_shape);
    Run(kReference,
        AttentionBackwardArgs{q, k, v, begin, y, lse, g, c.window, 0.7f, dq, dk, dv, end});
    CheckGradient("dq", q, dq, loss);
    CheckGradient("dk", k, dk, loss);
    CheckGradient("dv", v, dv, loss);
  }
}

TEST_CASE("gated: dgate and dup are the gradients of y, of every kind") {
  for (const GatedKind kind : EachKind<GatedKind>(kGatedKinds)) {
    CAPTURE(kGatedKinds[static_cast<size_t>(kind)]);
    Tensor gate = Normal(kF64, {3, 5}, 1, 2), up = Normal(kF64, {3, 5}, 2);
    const Tensor g = Normal(kF64, {3, 5}, 3), y(kF64, {3, 5});
    const Tensor dgate(kF64, {3, 5}), dup(kF64, {3, 5});
    const auto loss = [&] {
      Run(kReference, GatedForwardArgs{kind, gate, up, y});
      return Project(y, g);
    };
    const Tensor again(kF64, {3, 5});
    Run(kReference, GatedBackwardArgs{kind, gate, up, g, dgate, dup, again});
    loss();
    CHECK_IDENTICAL(again, y);
    CheckGradient("dgate", gate, dgate, loss);
    CheckGradient("dup", up, dup, loss);
  }
}

}  // namespace
}  // namespace lora::test
