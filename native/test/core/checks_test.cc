#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "core/error.h"
#include "core/ops/ops.h"
#include "core/ops/shapes.h"

namespace lora {
namespace {

TensorView F32(Shape shape) { return {nullptr, DType::kF32, shape}; }
TensorView BF16(Shape shape) { return {nullptr, DType::kBF16, shape}; }
TensorView F64(Shape shape) { return {nullptr, DType::kF64, shape}; }
TensorView I32(Shape shape) { return {nullptr, DType::kI32, shape}; }
TensorView I8(Shape shape) { return {nullptr, DType::kI8, shape}; }

char some_memory;
PackedView Packed(int64_t rows, int64_t cols, DType dtype = DType::kF32) {
  return {&some_memory, dtype, rows, cols};
}

// Returns the sentence of the ERR_ARGUMENT that Check throws, or "" when it throws none.
template <class Args>
std::string Complaint(const Args& args) {
  try {
    Check(args);
    return "";
  } catch (const Error& error) {
    CHECK(error.code() == "ERR_ARGUMENT");
    CHECK(std::string(error.what()).starts_with("[" + error.op() + "] expected "));
    return error.what();
  }
}

// Each test has a valid call of every op, and the sentences when one thing about it is wrong.
template <class Args>
void Rejects(const Args& good, const std::function<void(Args&)>& spoil,
             const std::string& sentence) {
  Args args = good;
  spoil(args);
  CHECK(Complaint(args) == sentence);
}

// Each tensor of a valid call is refused in another dtype, and with one dimension more.
template <class Args>
void RefusesOthers(const Args& good) {
  CHECK(Complaint(good) == "");
  struct Spoil {
    int which;
    bool dtype;
    int& seen;
    bool& spoilt;
    void operator()(TensorView& view, Access) const {
      if (seen++ != which || !view) return;
      spoilt = true;
      if (dtype) {
        view.dtype = view.dtype == DType::kI8 ? DType::kI32 : DType::kI8;
      } else {
        view.shape.push_back(2);
      }
    }
    void operator()(PackedView&) const {}
    void operator()(DeltaTableView&) const {}
  };
  for (const bool dtype : {true, false}) {
    int count = 1;
    for (int which = 0; which < count; ++which) {
      Args args = good;
      int seen = 0;
      bool spoilt = false;
      ForEachOperand(args, Spoil{which, dtype, seen, spoilt});
      count = seen;
      CAPTURE(which);
      CAPTURE(dtype);
      if (spoilt) CHECK(Complaint(args) != "");
    }
  }
}

LoraLinearForwardArgs Linear() {
  LoraLinearForwardArgs args;
  args.x = F32({5, 4096});
  args.branches = {{Packed(32, 4096), F32({32}), F32({32, 16}), F32({16, 4096}), 2.0f, {}}};
  args.y = {F32({5, 32})};
  args.h = {F32({5, 16})};
  return args;
}

LoraLinearBackwardArgs LinearBackward() {
  LoraLinearBackwardArgs args;
  args.x = F32({5, 8});
  args.branches = {{Packed(6, 8), {}, F32({6, 2}), F32({2, 8}), 1, {}}};
  args.g = {F32({5, 6})};
  args.h = {F32({5, 2})};
  args.dx = F32({5, 8});
  args.d_up = {F32({6, 2})};
  args.d_down = {F32({2, 8})};
  return args;
}

AttentionForwardArgs Attention() {
  AttentionForwardArgs args;
  args.q = BF16({2, 3, 4, 8});
  args.k = args.v = BF16({2, 3, 2, 8});
  args.y = args.q;
  args.lse = F32({2, 4, 3});
  return args;
}

}  // namespace

TEST_CASE("lora_linear: forward") {
  using Args = LoraLinearForwardArgs;
  const Args good = Linear();
  RefusesOthers(good);
  Rejects<Args>(
      good, [](Args& a) { a.branches[0].down = F32({4096, 16}); },
      "[lora_linear] expected down of shape [16, 4096] (rank, in) but received [4096, 16]");
  Rejects<Args>(
      good, [](Args& a) { a.branches[0].up = F32({31, 16}); },
      "[lora_linear] expected up of shape [32, 16] (out, rank) but received [31, 16]");
  Rejects<Args>(
      good, [](Args& a) { a.branches[0].down = {}; },
      "[lora_linear] expected up and down together but received up alone");
  Rejects<Args>(
      good, [](Args& a) { a.branches[0].up = BF16({32, 16}); },
      "[lora_linear] expected up of dtype f32 but received bf16");
  Rejects<Args>(
      good, [](Args& a) { a.x = F32({5, 4095}); },
      "[lora_linear] expected x with a last dimension of 4096 (the columns of weight) but "
      "received one of 4095");
  Rejects<Args>(
      good, [](Args& a) { a.x = BF16({5, 4096}); },
      "[lora_linear] expected x of dtype f32 (that of weight) but received bf16");
  Rejects<Args>(
      good, [](Args& a) { a.x = I32({5, 4096}); },
      "[lora_linear] expected x of dtype f32 or bf16 or f16 but received i32");
  Rejects<Args>(
      good, [](Args& a) { a.branches[0].bias = F32({16}); },
      "[lora_linear] expected bias of shape [32] (out) but received [16]");
  Rejects<Args>(
      good, [](Args& a) { a.branches[0].weight = {}; },
      "[lora_linear] expected weight but received none");
  Rejects<Args>(
      good, [](Args& a) { a.branches[0].dropout.p = 1; },
      "[lora_linear] expected dropout p in [0, 1) but received 1");
  Rejects<Args>(
      good, [](Args& a) { a.branches[0].scale = std::nanf(""); },
      "[lora_linear] expected scale to be finite but received nan");
  Rejects<Args>(
      good, [](Args& a) { a.branches[0].up = F32({32, 0}); },
      "[lora_linear] expected a rank of at least 1 but received up of shape [32, 0]");
  Rejects<Args>(
      good, [](Args& a) { a.branches[0].factor = F32({16}); },
      "[lora_linear] expected factor of shape [32] (out) but received [16]");
  Rejects<Args>(
      good, [](Args& a) { a.branches[0].factor = BF16({32}); },
      "[lora_linear] expected factor of dtype f32 but received bf16");
  Rejects<Args>(
      good, [](Args& a) { a.branches.clear(); },
      "[lora_linear] expected at least one branch but received none");
  Args plain = good;
  plain.branches[0].up = plain.branches[0].down = plain.branches[0].bias = plain.h[0] = {};
  RefusesOthers(plain);
  Args empty = good;
  empty.x = F32({0, 4096});
  empty.y = {F32({0, 32})};
  empty.h = {F32({0, 16})};
  RefusesOthers(empty);
}

TEST_CASE("double stands in for f32 and for the activation, for the reference's own tests") {
  LoraLinearForwardArgs args = Linear();
  args.x = F64({5, 4096});
  args.branches[0] = {
      Packed(32, 4096, DType::kF64), F64({32}), F64({32, 16}), F64({16, 4096}), 2, {}};
  args.y = {F64({5, 32})};
  args.h = {F64({5, 16})};
  RefusesOthers(args);
}

TEST_CASE("lora_linear: backward") {
  using Args = LoraLinearBackwardArgs;
  const Args good = LinearBackward();
  RefusesOthers(good);
  Rejects<Args>(good, [](Args& a) { a.x = {}; }, "[lora_linear] expected x but received none");
  Rejects<Args>(good, [](Args& a) { a.h[0] = {}; }, "[lora_linear] expected h but received none");
  Rejects<Args>(
      good, [](Args& a) { a.g[0] = F32({5, 7}); },
      "[lora_linear] expected g of shape [5, 6] (rows, out) but received [5, 7]");
  Rejects<Args>(
      good, [](Args& a) { a.x = BF16({5, 8}); },
      "[lora_linear] expected x of dtype f32 (that of g) but received bf16");
  Rejects<Args>(
      good, [](Args& a) { a.dx = BF16({5, 8}); },
      "[lora_linear] expected dx of dtype f32 (that of g) but received bf16");
  Rejects<Args>(
      good, [](Args& a) { a.branches[0].factor = F32({6}); },
      "[lora_linear] expected no factor in backward, whose g is multiplied by it");
  Args only_dx = good;
  only_dx.x = only_dx.h[0] = only_dx.d_up[0] = only_dx.d_down[0] = {};
  RefusesOthers(only_dx);
  Args first = only_dx, rest = good;
  first.kept_u = rest.u = {F32({5, 2})};
  rest.dx = {};
  RefusesOthers(first);
  RefusesOthers(rest);
  Rejects<Args>(
      first, [](Args& a) { a.kept_u[0] = F32({5, 3}); },
      "[lora_linear] expected u of shape [5, 2] (rows, rank) but received [5, 3]");
  Rejects<Args>(
      rest, [](Args& a) { a.u[0] = BF16({5, 2}); },
      "[lora_linear] expected u of dtype f32 but received bf16");
  Rejects<Args>(
      rest, [](Args& a) { a.u.push_back(a.u[0]); },
      "[lora_linear] expected 1 u (one per branch) but received 2");
  Rejects<Args>(
      first, [](Args& a) { a.kept_u.push_back(a.kept_u[0]); },
      "[lora_linear] expected 1 kept_u (one per branch) but received 2");
  for (const auto& again : {+[](Args& a) { a.dx = F32({5, 8}); }, +[](Args& a) { a.kept_u = a.u; }})
    Rejects<Args>(rest, again,
                  "[lora_linear] expected no u in a call that computes it: one for dx, or one that "
                  "keeps it");
  Rejects<Args>(
      first, [](Args& a) { a.branches[0].up = a.branches[0].down = {}; },
      "[lora_linear] expected no u without up and down");
}

TEST_CASE("attention") {
  using Args = AttentionForwardArgs;
  const Args good = Attention();
  RefusesOthers(good);
  Rejects<Args>(
      good, [](Args& a) { a.k = a.v = BF16({2, 3, 3, 8}); },
      "[attention] expected q heads to be a multiple of kv heads but received 4 and 3");
  Rejects<Args>(
      good, [](Args& a) { a.k = a.v = BF16({2, 10, 2, 8}); },
      "[attention] expected k of 3 keys (the queries of q) but received 10");
  Rejects<Args>(
      good, [](Args& a) { a.v = BF16({2, 9, 2, 8}); },
      "[attention] expected v of shape [2, 3, 2, 8] (that of k) but received [2, 9, 2, 8]");
  Rejects<Args>(
      good, [](Args& a) { a.window = -1; },
      "[attention] expected window to be 0 (none) or more but received -1");
  Rejects<Args>(
      good, [](Args& a) { a.key_begin = F32({2, 3}); },
      "[attention] expected keyBegin of dtype i32 but received f32");
  Rejects<Args>(
      good, [](Args& a) { a.key_end = I32({3, 2}); },
      "[attention] expected keyEnd of shape [2, 3] (batch, queries) but received [3, 2]");
  Rejects<Args>(
      good, [](Args& a) { a.sinks = F32({2}); },
      "[attention] expected sinks of shape [4] (heads of q) but received [2]");
  Rejects<Args>(
      good, [](Args& a) { a.sinks = BF16({4}); },
      "[attention] expected sinks of dtype f32 but received bf16");
  Rejects<Args>(
      good, [](Args& a) { a.q = F32({3, 8}); },
      "[attention] expected q of 4 dimensions (batch, queries, heads, head_dim) but received "
      "shape [3, 8]");
}

TEST_CASE("gradients of attention") {
  const TensorView q = BF16({2, 3, 4, 8}), k = BF16({2, 3, 2, 8});
  AttentionBackwardArgs good;
  good.q = good.y = good.g = good.dq = q;
  good.k = good.v = good.dk = good.dv = k;
  good.key_begin = I32({2, 3});
  good.lse = F32({2, 4, 3});
  good.scale = 1;
  RefusesOthers(good);
}

TEST_CASE("quantize and unpack") {
  QuantizeArgs codes;  // two rows of 96 values are three groups of 64
  codes.src = BF16({2, 96});
  codes.values = I8({96});
  codes.magnitudes = F32({3});
  RefusesOthers(codes);
  QuantizeArgs rows = codes;
  rows.format = WeightFormat::kI8Rows;
  rows.values = I8({2, 96});
  rows.magnitudes = F32({2});
  RefusesOthers(rows);
  UnpackArgs unpack;
  unpack.src = Packed(10, 4);
  unpack.dst = F32({10, 4});
  RefusesOthers(unpack);
}

TEST_CASE("gradients of unary ops, and norms of lists") {
  UnaryBackwardArgs unary{UnaryKind::kGelu, 1, F32({2}), F32({2}), F32({2})};
  RefusesOthers(unary);
  GlobalNormArgs norm{{F32({2}), F32({3, 4})}, F32({})};
  Rejects<GlobalNormArgs>(
      norm, [](auto& a) { a.tensors[1] = BF16({3, 4}); },
      "[global_norm] expected tensor of dtype f32 but received bf16");
  Rejects<GlobalNormArgs>(
      norm, [](auto& a) { a.norm = F32({2}); },
      "[global_norm] expected norm of one element but received shape [2]");
}

TEST_CASE("gated delta rules") {
  GatedDeltaForwardArgs forward;
  forward.q = forward.k = BF16({2, 5, 2, 4});
  forward.v = forward.y = BF16({2, 5, 6, 3});
  forward.g = forward.beta = F32({2, 5, 6});
  forward.key_begin = I32({2, 5});
  RefusesOthers(forward);
  Rejects<GatedDeltaForwardArgs>(
      forward, [](auto& a) { a.k = BF16({2, 5, 2, 3}); },
      "[gated_delta] expected k of shape [2, 5, 2, 4] (that of q) but received [2, 5, 2, 3]");
  Rejects<GatedDeltaForwardArgs>(
      forward, [](auto& a) { a.v = a.y = BF16({2, 4, 6, 3}); },
      "[gated_delta] expected v of shape [2, 5, 6, 3] (batch, sequence, heads, head_dim) but "
      "received [2, 4, 6, 3]");
  Rejects<GatedDeltaForwardArgs>(
      forward,
      [](auto& a) {
        a.v = a.y = BF16({2, 5, 5, 3});
        a.g = a.beta = F32({2, 5, 5});
      },
      "[gated_delta] expected v heads to be a multiple of k heads but received 5 and 2");
  Rejects<GatedDeltaForwardArgs>(
      forward, [](auto& a) { a.beta = F32({2, 5, 2}); },
      "[gated_delta] expected beta of shape [2, 5, 6] (batch, sequence, v_heads) but received [2, "
      "5, 2]");
  Rejects<GatedDeltaForwardArgs>(
      forward, [](auto& a) { a.eps = -1; },
      "[gated_delta] expected eps of 0 or more but received -1");
  Rejects<GatedDeltaForwardArgs>(
      forward, [](auto& a) { a.scale = INFINITY; },
      "[gated_delta] expected scale to be finite but received inf");
  Rejects<GatedDeltaForwardArgs>(
      forward, [](auto& a) { a.key_begin = I32({5}); },
      "[gated_delta] expected keyBegin of shape [2, 5] (batch, sequence) but received [5]");
  const auto& f = forward;
  RefusesOthers(GatedDeltaBackwardArgs{f.q, f.k, f.v, f.g, f.beta, f.key_begin, f.y, 1, 0, f.q, f.k,
                                       f.v, f.g, f.beta});
  const GatedDeltaAppendArgs append{f.q,
                                    f.k,
                                    f.v,
                                    f.g,
                                    f.beta,
                                    F32({3, 6, 4, 3}),
                                    I32({2}),
                                    I32({2}),
                                    1,
                                    0,
                                    AttentionPhase::kPrefill,
                                    f.y};
  RefusesOthers(append);
  Rejects<GatedDeltaAppendArgs>(
      append, [](auto& a) { a.pool = F32({3, 6, 3, 4}); },
      "[gated_delta_append] expected pool of shape [3, 6, 4, 3] (slots, v_heads, dk, dv) but "
      "received [3, 6, 3, 4]");
  Rejects<GatedDeltaAppendArgs>(
      append, [](auto& a) { a.lengths = I32({3}); },
      "[gated_delta_append] expected lengths of shape [2] (batch) but received [3]");
  Rejects<GatedDeltaAppendArgs>(
      append, [](auto& a) { a.phase = AttentionPhase::kDecode; },
      "[gated_delta_append] expected q of one token per sequence in phase \"decode\" but received "
      "shape [2, 5, 2, 4]");
}

TEST_CASE("the layers of a model") {
  CHECK(Complaint(EmbeddingArgs{Packed(10, 4), I32({3}), F32({3, 4})}) == "");
  CHECK(Complaint(EmbeddingArgs{Packed(10, 4), F32({3}), F32({3, 4})}) ==
        "[embedding] expected ids of dtype i32 but received f32");
  const EmbeddingArgs rows{Packed(10, 4), I32({3}), F32({3, 4})};
  Rejects<EmbeddingArgs>(
      rows, [](auto& a) { a.y = BF16({3, 4}); },
      "[embedding] expected y of dtype f32 (that of weight) but received bf16");
  Rejects<EmbeddingArgs>(
      rows, [](auto& a) { a.y = F32({3, 5}); },
      "[embedding] expected y of shape [3, 4] (ids, dim) but received [3, 5]");
  const DropoutArgs dropout{BF16({3, 4}), {}, BF16({3, 4})};
  RefusesOthers(dropout);
  Rejects<DropoutArgs>(
      dropout, [](auto& a) { a.x = a.y = I32({3, 4}); },
      "[dropout] expected x of dtype f32 or bf16 or f16 but received i32");
  Rejects<DropoutArgs>(
      dropout, [](auto& a) { a.x = a.y = F32({12}); },
      "[dropout] expected x of 2 dimensions (rows, columns) but received shape [12]");
  Rejects<DropoutArgs>(
      dropout, [](auto& a) { a.y = F32({3, 4}); },
      "[dropout] expected y of dtype bf16 (that of x) but received f32");
  const EmbeddingBackwardArgs scatter{F32({3, 4}), I32({3}), F32({10, 4})};
  RefusesOthers(scatter);
  Rejects<EmbeddingBackwardArgs>(
      scatter, [](auto& a) { a.ids = F32({3}); },
      "[embedding] expected ids of dtype i32 but received f32");
  Rejects<EmbeddingBackwardArgs>(
      scatter, [](auto& a) { a.dw = BF16({10, 4}); },
      "[embedding] expected dw of dtype f32 but received bf16");
  Rejects<EmbeddingBackwardArgs>(
      scatter, [](auto& a) { a.g = F32({2, 4}); },
      "[embedding] expected g of shape [3, 4] (ids, dim) but received [2, 4]");

  RmsNormForwardArgs norm{BF16({3, 4}), {}, F32({4}), 1e-5f, {}, BF16({3, 4}), F32({3})};
  RefusesOthers(norm);
  norm.x = F32({3, 4});
  RefusesOthers(norm);
  Rejects<RmsNormForwardArgs>(
      norm,
      [](auto& a) {
        a.x = BF16({3, 4});
        a.y = F32({3, 4});
      },
      "[rms_norm] expected x of dtype f32 (that of y) but received bf16");
  Rejects<RmsNormForwardArgs>(
      norm, [](auto& a) { a.y = BF16({3, 5}); },
      "[rms_norm] expected y of shape [3, 4] (that of x) but received [3, 5]");
  RmsNormForwardArgs added = norm;
  added.addend = BF16({3, 4});
  added.sum = F32({3, 4});
  RefusesOthers(added);
  Rejects<RmsNormForwardArgs>(
      added, [](auto& a) { a.addend = BF16({3, 5}); },
      "[rms_norm] expected addend of shape [3, 4] (that of x) but received [3, 5]");
  Rejects<RmsNormForwardArgs>(
      added, [](auto& a) { a.addend = F32({3, 4}); },
      "[rms_norm] expected addend of dtype bf16 (that of y) but received f32");
  Rejects<RmsNormForwardArgs>(
      added, [](auto& a) { a.sum = BF16({3, 4}); },
      "[rms_norm] expected sum of dtype f32 (that of x) but received bf16");
  Rejects<RmsNormForwardArgs>(
      added, [](auto& a) { a.sum = {}; }, "[rms_norm] expected sum but received none");
  Rejects<RmsNormForwardArgs>(
      added, [](auto& a) { a.addend = {}; },
      "[rms_norm] expected addend with sum but received none");
  RmsNormBackwardArgs pull{F32({3, 4}), F32({4}), F32({3}), BF16({3, 4}), {}, F32({3, 4}), {}};
  RefusesOthers(pull);
  pull.g_sum = F32({3, 4});
  pull.d_addend = pull.y = BF16({3, 4});
  RefusesOthers(pull);
  Rejects<RmsNormBackwardArgs>(
      pull, [](auto& a) { a.y = F32({3, 4}); },
      "[rms_norm] expected y of dtype bf16 (that of g) but received f32");
  Rejects<RmsNormBackwardArgs>(
      pull, [](auto& a) { a.eps = -1; }, "[rms_norm] expected eps of 0 or more but received -1");
  Rejects<RmsNormBackwardArgs>(
      pull, [](auto& a) { a.g_sum = BF16({3, 4}); },
      "[rms_norm] expected gSum of dtype f32 (that of x) but received bf16");
  Rejects<RmsNormBackwardArgs>(
      pull, [](auto& a) { a.d_addend = F32({3, 4}); },
      "[rms_norm] expected dAddend of dtype bf16 (that of g) but received f32");
  Rejects<RmsNormBackwardArgs>(
      pull,
      [](auto& a) {
        a.g = F32({3, 4});
        a.weight = BF16({4});
      },
      "[rms_norm] expected weight of dtype f32 (that of g) but received bf16");
  Rejects<RmsNormBackwardArgs>(
      pull, [](auto& a) { a.dx = BF16({3, 4}); },
      "[rms_norm] expected dx of dtype f32 (that of x) but received bf16");
  Rejects<RmsNormForwardArgs>(
      norm, [](auto& a) { a.weight = F32({3}); },
      "[rms_norm] expected weight of shape [4] (dim) but received [3]");
  Rejects<RmsNormForwardArgs>(
      norm, [](auto& a) { a.eps = -1; }, "[rms_norm] expected eps of 0 or more but received -1");

  RopeArgs rope;
  rope.q = rope.rotated_q = F32({1, 3, 2, 8});
  rope.cos = rope.sin = F32({16, 4});
  rope.offset = 13;
  RefusesOthers(rope);
  Rejects<RopeArgs>(
      rope, [](auto& a) { a.offset = 14; },
      "[rope] expected offset + sequence to be at most 16 (the positions of the table) "
      "but received 14 + 3");
  Rejects<RopeArgs>(
      rope, [](auto& a) { a.q = F32({1, 3, 2, 7}); },
      "[rope] expected an even head_dim but received q of shape [1, 3, 2, 7]");
  Rejects<RopeArgs>(
      rope, [](auto& a) { a.cos = a.sin = F32({16, 5}); },
      "[rope] expected cos of at most 4 columns (half of head_dim) but received shape [16, 5]");
  Rejects<RopeArgs>(
      rope, [](auto& a) { a.sin = F32({16, 3}); },
      "[rope] expected sin of shape [16, 4] (that of cos) but received [16, 3]");
  rope.k = rope.rotated_k = F32({1, 3, 1, 8});
  RefusesOthers(rope);
  Rejects<RopeArgs>(
      rope, [](auto& a) { a.k = F32({1, 3, 1, 6}); },
      "[rope] expected k of shape [1, 3, 1, 8] (batch, sequence, heads, head_dim) but received "
      "[1, 3, 1, 6]");
  Rejects<RopeArgs>(
      rope, [](auto& a) { a.k = BF16({1, 3, 1, 8}); },
      "[rope] expected k of dtype f32 (that of q) but received bf16");
  Rejects<RopeArgs>(
      rope, [](auto& a) { a.rotated_k = {}; }, "[rope] expected rotatedK but received none");
  Rejects<RopeArgs>(
      rope, [](auto& a) { a.k = {}; }, "[rope] expected k with rotatedK but received none");

  RefusesOthers(GatedForwardArgs{GatedKind::kSilu, F32({2}), F32({2}), F32({2})});
  GatedBackwardArgs gradients{GatedKind::kSilu, F32({2}), F32({2}), F32({2}), F32({2}), F32({2})};
  RefusesOthers(gradients);
  gradients.y = F32({2});
  RefusesOthers(gradients);
  Rejects<GatedBackwardArgs>(
      gradients, [](auto& a) { a.y = BF16({2}); },
      "[gated] expected y of dtype f32 (that of gate) but received bf16");
  CHECK(Complaint(GatedForwardArgs{GatedKind::kSilu, F32({2}), BF16({2}), F32({2})}) ==
        "[gated] expected up of dtype f32 (that of gate) but received bf16");
  // f16 is for inference.
  const TensorView half(nullptr, DType::kF16, {2});
  RefusesOthers(GatedForwardArgs{GatedKind::kSilu, half, half, half});
  CHECK(ActivationOf(GatedForwardArgs{GatedKind::kSilu, half, half, half}) == DType::kF16);
  CHECK(Complaint(GatedBackwardArgs{GatedKind::kSilu, half, half, half, half, half}) ==
        "[gated] expected gate of dtype f32 or bf16 but received f16");
}

TEST_CASE("short convolutions") {
  ShortConvForwardArgs forward;
  forward.kind = ShortConvKind::kGated;
  forward.x = BF16({2, 5, 12});
  forward.weight = BF16({4, 3});
  forward.bias = BF16({4});
  forward.key_begin = I32({2, 5});
  forward.y = BF16({2, 5, 4});
  RefusesOthers(forward);
  Rejects<ShortConvForwardArgs>(
      forward, [](auto& a) { a.kind = ShortConvKind::kSilu; },
      "[short_conv] expected x of shape [2, 5, 4] (batch, sequence, the channels of weight) but "
      "received [2, 5, 12]");
  Rejects<ShortConvForwardArgs>(
      forward, [](auto& a) { a.x = BF16({2, 5, 4}); },
      "[short_conv] expected x of shape [2, 5, 12] (batch, sequence, 3 times the channels of "
      "weight) but received [2, 5, 4]");
  Rejects<ShortConvForwardArgs>(
      forward, [](auto& a) { a.weight = BF16({4, 9}); },
      "[short_conv] expected weight of 1 to 8 taps but received shape [4, 9]");
  Rejects<ShortConvForwardArgs>(
      forward, [](auto& a) { a.weight = BF16({4, 0}); },
      "[short_conv] expected weight of 1 to 8 taps but received shape [4, 0]");

  ShortConvBackwardArgs backward;
  backward.kind = ShortConvKind::kSilu;
  backward.x = backward.g = backward.dx = BF16({2, 5, 4});
  backward.weight = BF16({4, 3});
  backward.key_begin = I32({2, 5});
  backward.dweight = F32({4, 3});
  backward.dbias = F32({4});
  RefusesOthers(backward);

  ShortConvAppendArgs append;
  append.kind = ShortConvKind::kSilu;
  append.x = append.y = BF16({2, 5, 4});
  append.weight = BF16({4, 3});
  append.pool = F32({7, 2, 4});
  append.slots = append.lengths = I32({2});
  RefusesOthers(append);
  Rejects<ShortConvAppendArgs>(
      append, [](auto& a) { a.pool = F32({7, 3, 4}); },
      "[short_conv_append] expected pool of shape [7, 2, 4] (slots, taps - 1, channels) but "
      "received [7, 3, 4]");
}

TEST_CASE("keys and values in pages") {
  PageAppendArgs append;
  append.q = append.y = F32({2, 3, 12, 8});
  append.k = append.v = F32({2, 3, 4, 8});
  append.cos = append.sin = F32({320, 4});
  append.k_pool = append.v_pool = F32({9, 4, 64, 8});
  append.page_table = I32({2, 5});
  append.lengths = I32({2});
  RefusesOthers(append);
  Rejects<PageAppendArgs>(
      append, [](auto& a) { a.k_pool = F32({9, 64, 4, 8}); },
      "[page_append] expected kPool of shape [9, 4, 64, 8] (pages, kv_heads, 64, head_dim) but "
      "received [9, 64, 4, 8]");
  Rejects<PageAppendArgs>(
      append, [](auto& a) { a.k_pool = BF16({9, 4, 64, 8}); },
      "[page_append] expected kPool of dtype f32 (that of q) but received bf16");
  Rejects<PageAppendArgs>(
      append, [](auto& a) { a.v_pool = F32({8, 4, 64, 8}); },
      "[page_append] expected vPool of shape [9, 4, 64, 8] (that of kPool) but received "
      "[8, 4, 64, 8]");
  Rejects<PageAppendArgs>(
      append, [](auto& a) { a.k = F32({2, 2, 4, 8}); },
      "[page_append] expected k of shape [2, 3, 4, 8] (batch, sequence, kv_heads, head_dim) but "
      "received [2, 2, 4, 8]");
  Rejects<PageAppendArgs>(
      append, [](auto& a) { a.q = I32({2, 3, 12, 8}); },
      "[page_append] expected q of dtype f32 or bf16 or f16 but received i32");
  Rejects<PageAppendArgs>(
      append, [](auto& a) { a.cos = a.sin = F32({319, 4}); },
      "[page_append] expected cos of at least 320 positions (64 per column of pageTable) but "
      "received shape [319, 4]");
  Rejects<PageAppendArgs>(
      append, [](auto& a) { a.page_table = I32({3, 5}); },
      "[page_append] expected pageTable of shape [2, 5] (batch, pages) but received [3, 5]");
  Rejects<PageAppendArgs>(
      append, [](auto& a) { a.page_table = I32({2, 33554432}); },
      "[page_append] expected pageTable of at most 33554431 columns but received shape "
      "[2, 33554432]");
  Rejects<PageAppendArgs>(
      append, [](auto& a) { a.lengths = F32({2}); },
      "[page_append] expected lengths of dtype i32 but received f32");
  append.table_start = I32({2});
  RefusesOthers(append);
  Rejects<PageAppendArgs>(
      append, [](auto& a) { a.table_start = I32({3}); },
      "[page_append] expected tableStart of shape [2] (batch) but received [3]");
  RefusesOthers(PositionsArgs{I32({2}), 3, I32({2, 3})});

  AttentionPagedArgs paged;
  paged.q = paged.y = BF16({2, 1, 12, 8});
  paged.k_pool = paged.v_pool = BF16({9, 4, 64, 8});
  paged.page_table = I32({2, 5});
  paged.lengths = I32({2});
  paged.phase = AttentionPhase::kDecode;
  RefusesOthers(paged);
  CHECK(ActivationOf(paged) == DType::kBF16);
  Rejects<AttentionPagedArgs>(
      paged, [](auto& a) { a.q = a.y = BF16({2, 3, 12, 8}); },
      "[attention_paged] expected q of one query per sequence in phase \"decode\" but received "
      "shape [2, 3, 12, 8]");
  Rejects<AttentionPagedArgs>(
      paged, [](auto& a) { a.q = a.y = BF16({2, 1, 10, 8}); },
      "[attention_paged] expected q heads to be a multiple of kv heads but received 10 and 4");
  Rejects<AttentionPagedArgs>(
      paged, [](auto& a) { a.v_pool = BF16({8, 4, 64, 8}); },
      "[attention_paged] expected vPool of shape [9, 4, 64, 8] (that of kPool) but received "
      "[8, 4, 64, 8]");
  Rejects<AttentionPagedArgs>(
      paged, [](auto& a) { a.lengths = I32({3}); },
      "[attention_paged] expected lengths of shape [2] (batch) but received [3]");
  Rejects<AttentionPagedArgs>(
      paged, [](auto& a) { a.sinks = F32({4}); },
      "[attention_paged] expected sinks of shape [12] (heads of q) but received [4]");
  Rejects<AttentionPagedArgs>(
      paged, [](auto& a) { a.scale = std::numeric_limits<float>::infinity(); },
      "[attention_paged] expected scale to be finite but received inf");
}

TEST_CASE("pack: scales come with int8 rows, and with nothing else") {
  const TensorView rows{nullptr, DType::kI8, {3, 4}};
  const PackArgs good{rows, &some_memory, F32({3}), WeightFormat::kI8Rows, 3, 4};
  RefusesOthers(good);
  const PackArgs plain{F32({3, 4}), &some_memory, {}, WeightFormat::kF32, 3, 4};
  RefusesOthers(plain);
  Rejects<PackArgs>(
      good, [](auto& a) { a.scales = {}; }, "[pack] expected scales but received none");
  Rejects<PackArgs>(
      good, [](auto& a) { a.scales = F32({4}); },
      "[pack] expected scales of shape [3] (out) but received [4]");
  Rejects<PackArgs>(
      good, [](auto& a) { a.src = BF16({3, 4}); },
      "[pack] expected weight of dtype i8 (int8) but received bf16");
  Rejects<PackArgs>(
      good, [](auto& a) { a.cols = 5; },
      "[pack] expected weight of shape [3, 5] (out, in) but received [3, 4]");
  Rejects<PackArgs>(
      plain, [](auto& a) { a.scales = F32({3}); },
      "[pack] expected no scales with a weight in f32");
}

TEST_CASE("pack: codes come as bytes, with a scale for each block of the flattened matrix") {
  const TensorView bytes{nullptr, DType::kI8, {53}};
  const PackArgs good{bytes, &some_memory, F32({2}), WeightFormat::kNF4, 3, 35};
  RefusesOthers(good);
  Rejects<PackArgs>(
      good, [](auto& a) { a.rows = 4; },
      "[pack] expected weight of shape [70] (bytes of codes) but received [53]");
  Rejects<PackArgs>(
      good, [](auto& a) { a.scales = F32({3}); },
      "[pack] expected scales of shape [2] (blocks of 64 values) but received [3]");
  Rejects<PackArgs>(
      good, [](auto& a) { a.scales = {}; }, "[pack] expected scales but received none");
}

TEST_CASE("pack: rows are whole blocks, which hold their scales") {
  const TensorView bytes{nullptr, DType::kI8, {3 * 2 * 18}};
  const PackArgs good{bytes, &some_memory, {}, WeightFormat::kQ4_0, 3, 64};
  RefusesOthers(good);
  Rejects<PackArgs>(
      good, [](auto& a) { a.cols = 65; },
      "[pack] expected rows of whole blocks of 32 values (q4_0) but received a weight of shape "
      "[3, 65]");
  Rejects<PackArgs>(
      good, [](auto& a) { a.format = WeightFormat::kQ4_K; },
      "[pack] expected rows of whole blocks of 256 values (q4_k) but received a weight of shape "
      "[3, 64]");
  Rejects<PackArgs>(
      good, [](auto& a) { a.rows = 4; },
      "[pack] expected weight of shape [144] (bytes of blocks) but received [108]");
  Rejects<PackArgs>(
      good, [](auto& a) { a.scales = F32({3}); },
      "[pack] expected no scales with a weight in q4_0");
  Rejects<PackArgs>(
      good, [](auto& a) { a.src = F32({108}); },
      "[pack] expected weight of dtype i8 (q4_0) but received f32");
}

TEST_CASE("losses and sampling") {
  const CrossEntropyForwardArgs loss{F32({3, 9}), I32({3}), F32({}), F32({1}), {}, {}, {}};
  RefusesOthers(loss);
  Rejects<CrossEntropyForwardArgs>(
      loss, [](auto& a) { a.labels = I32({4}); },
      "[cross_entropy] expected labels of shape [3] (one per row) but received [4]");
  const CrossEntropyBackwardArgs back{F32({3, 9}), I32({3}), F32({3}), F32({1}), F32({3, 9})};
  RefusesOthers(back);
  Rejects<CrossEntropyBackwardArgs>(
      back, [](auto& a) { a.g = F32({2}); },
      "[cross_entropy] expected g of shape [3] (one per row, or one for all) but received [2]");
  Rejects<CrossEntropyBackwardArgs>(
      back, [](auto& a) { a.g = I32({1}); },
      "[cross_entropy] expected g of dtype f32 but received i32");
  CrossEntropyBackwardArgs of_rows = back;
  of_rows.g = F32({3});
  Check(of_rows);
  Rejects<CrossEntropyForwardArgs>(
      loss, [](auto& a) { a.losses = F32({9}); },
      "[cross_entropy] expected losses of shape [3] (rows) but received [9]");
  LinearCrossEntropyArgs fused{F32({3, 4}), Packed(9, 4), I32({3}), F32({1}), F32({1}), {}, {}, {}};
  RefusesOthers(fused);
  Rejects<LinearCrossEntropyArgs>(
      fused, [](auto& a) { a.weight = {}; },
      "[linear_cross_entropy] expected weight but received none");
  Rejects<LinearCrossEntropyArgs>(
      fused, [](auto& a) { a.entropies = I32({3}); },
      "[linear_cross_entropy] expected entropies of dtype f32 but received i32");
  Rejects<LinearCrossEntropyArgs>(
      fused, [](auto& a) { a.d_hidden = F32({3, 5}); },
      "[linear_cross_entropy] expected d_hidden of shape [3, 4] (rows, dim) but received [3, 5]");
  Rejects<LinearCrossEntropyArgs>(
      fused, [](auto& a) { a.cap = -30; },
      "[linear_cross_entropy] expected cap to be a number that is not negative but received -30");

  SampleArgs sample;
  sample.logits = F32({2, 9});
  sample.reals = F32({2, 3});
  sample.wholes = I32({2, 4});
  sample.ids = I32({2});
  RefusesOthers(sample);
  Rejects<SampleArgs>(
      sample, [](auto& a) { a.logits = F32({2, 0}); },
      "[sample] expected logits of at least one token but received [2, 0]");
  Rejects<SampleArgs>(
      sample, [](auto& a) { a.reals = F32({2, 2}); },
      "[sample] expected reals of shape [2, 3] (rows, temperature topP minP) but received [2, 2]");
  Rejects<SampleArgs>(
      sample, [](auto& a) { a.wholes = F32({2, 4}); },
      "[sample] expected wholes of dtype i32 but received f32");
  Rejects<SampleArgs>(
      sample, [](auto& a) { a.wholes = I32({1, 4}); },
      "[sample] expected wholes of shape [2, 4] (rows, topK step seed seed) but received [1, 4]");

  const AdjustLogitsArgs adjust{F32({2, 9}), I32({3}), I32({3}), F32({3}), F32({3})};
  RefusesOthers(adjust);
  Rejects<AdjustLogitsArgs>(
      adjust, [](auto& a) { a.ids = I32({2}); },
      "[adjust_logits] expected ids of shape [3] (entries) but received [2]");
  Rejects<AdjustLogitsArgs>(
      adjust, [](auto& a) { a.rows = F32({3}); },
      "[adjust_logits] expected rows of dtype i32 but received f32");
  Rejects<AdjustLogitsArgs>(
      adjust, [](auto& a) { a.addends = F32({4}); },
      "[adjust_logits] expected addends of shape [3] (entries) but received [4]");
  const MaskLogitsArgs mask{F32({2, 33}), I32({2, 2})};
  RefusesOthers(mask);
  Rejects<MaskLogitsArgs>(
      mask, [](auto& a) { a.bits = I32({2, 1}); },
      "[mask_logits] expected bits of shape [2, 2] (rows, words of 32 tokens) but received [2, 1]");
  const LogProbsArgs log_probs{F32({2, 9}), I32({2}), 9, F32({2, 10}), I32({2, 10})};
  RefusesOthers(log_probs);
  Rejects<LogProbsArgs>(
      log_probs, [](auto& a) { a.n = 10; },
      "[log_probs] expected n from 0 to 9 (vocab) but received 10");
  Rejects<LogProbsArgs>(
      log_probs, [](auto& a) { a.ids = I32({3}); },
      "[log_probs] expected ids of shape [2] (rows) but received [3]");
}

TEST_CASE("the optimizer") {
  AdamWArgs adamw;
  adamw.segments = {{F32({4}), F32({2, 2}), F32({4}), F32({4})}};
  adamw.beta1 = 0.9;
  adamw.beta2 = 0.999;
  RefusesOthers(adamw);
  Rejects<AdamWArgs>(
      adamw, [](auto& a) { a.segments[0].grad = F32({5}); },
      "[adamw] expected grad of 4 elements (those of param) but received 5");
  Rejects<AdamWArgs>(
      adamw, [](auto& a) { a.lr = -1; }, "[adamw] expected lr of 0 or more but received -1");
  Rejects<AdamWArgs>(
      adamw, [](auto& a) { a.beta2 = 1; }, "[adamw] expected beta2 in [0, 1) but received 1");
  Rejects<AdamWArgs>(
      adamw, [](auto& a) { a.eps = std::numeric_limits<double>::quiet_NaN(); },
      "[adamw] expected eps of 0 or more but received nan");
  Rejects<AdamWArgs>(
      adamw, [](auto& a) { a.step = 0; }, "[adamw] expected step of 1 or more but received 0");
  Rejects<AdamWArgs>(
      adamw, [](auto& a) { a.segments[0].param = BF16({4}); },
      "[adamw] expected the rounding of a param of bf16 but received none");
  Rejects<AdamWArgs>(
      adamw, [](auto& a) { a.segments[0].param = I32({4}); },
      "[adamw] expected param of dtype f32 or bf16 but received i32");
  adamw.segments[0].param = BF16({4});
  adamw.segments[0].rounding.step = 1;
  RefusesOthers(adamw);
  AdamW8bitArgs small;
  small.segments = {{F32({300}), F32({300}), I32({128}), I32({128}), F32({2}), F32({2})}};
  RefusesOthers(small);
  Rejects<AdamW8bitArgs>(
      small, [](auto& a) { a.segments[0].grad = F32({3}); },
      "[adamw8bit] expected grad of 300 elements (those of param) but received 3");
  Rejects<AdamW8bitArgs>(
      small, [](auto& a) { a.segments[0].v_codes = I32({75}); },
      "[adamw8bit] expected vCodes of 128 elements (64 for each 256 of param) but received 75");
  Rejects<AdamW8bitArgs>(
      small, [](auto& a) { a.segments[0].m_codes = F32({128}); },
      "[adamw8bit] expected mCodes of dtype i32 but received f32");
  Rejects<AdamW8bitArgs>(
      small, [](auto& a) { a.segments[0].m_scales = F32({1}); },
      "[adamw8bit] expected mScales of 2 elements (one for each 256 of param) but received 1");
  Rejects<AdamW8bitArgs>(
      small, [](auto& a) { a.beta1 = 1; }, "[adamw8bit] expected beta1 in [0, 1) but received 1");
  SgdArgs sgd;
  sgd.segments = {{F32({4}), F32({4}), F32({4})}, {F32({2}), F32({2}), F32({2})}};
  sgd.momentum = 0.9;
  RefusesOthers(sgd);
  Rejects<SgdArgs>(
      sgd, [](auto& a) { a.segments[1].velocity = F32({3}); },
      "[sgd] expected velocity of 2 elements (those of param) but received 3");
  Rejects<SgdArgs>(
      sgd, [](auto& a) { a.segments[1].velocity = {}; },
      "[sgd] expected a velocity of every parameter, or of none");
  Rejects<SgdArgs>(
      sgd, [](auto& a) { a.segments[0].velocity = a.segments[1].velocity = {}; },
      "[sgd] expected a velocity, since momentum is 0.9");
  Rejects<SgdArgs>(
      sgd, [](auto& a) { a.momentum = 1; }, "[sgd] expected momentum in [0, 1) but received 1");
  LionArgs lion;
  lion.segments = {{F32({4}), F32({4}), F32({4})}};
  RefusesOthers(lion);
  Rejects<LionArgs>(
      lion, [](auto& a) { a.segments[0].m = I32({4}); },
      "[lion] expected m of dtype f32 but received i32");
  Rejects<LionArgs>(
      lion, [](auto& a) { a.beta1 = -1; }, "[lion] expected beta1 in [0, 1) but received -1");
  CHECK(Complaint(ClipByNormArgs{{F32({4})}, F32({1}), std::nanf("")}) ==
        "[clip_by_norm] expected maxNorm of 0 or more but received nan");
}

TEST_CASE("the tape's small set") {
  CHECK(Complaint(BinaryArgs{BinaryKind::kAdd, F32({2, 1}), BF16({3}), F32({2, 3})}) == "");
  CHECK(Complaint(BinaryArgs{BinaryKind::kMul, F32({2, 2}), F32({3}), F32({2, 3})}) ==
        "[mul] expected shapes that broadcast but received [2, 2] and [3]");
  CHECK(Complaint(UnaryArgs{UnaryKind::kCopy, 1, I32({2}), F32({2})}) == "");
  for (const float cap : {0.0f, INFINITY})
    CHECK(Complaint(UnaryArgs{UnaryKind::kSoftcap, cap, F32({2}), F32({2})})
              .starts_with("[softcap] expected alpha to be a finite number other than 0 but"));
  CHECK(Complaint(UnaryArgs{UnaryKind::kGelu, 1, I32({2}), F32({2})}) ==
        "[gelu] expected x of dtype f32 or bf16 or f16 but received i32");
  CHECK(Complaint(ReduceSumArgs{F32({2, 3}), F32({1, 3})}) == "");
  CHECK(Complaint(ReduceSumArgs{F32({2, 3}), F32({})}) == "");
  CHECK(Complaint(ReduceSumArgs{F32({2, 3}), F32({2})}) ==
        "[sum] expected a result shape that broadcasts to [2, 3] but received [2]");
  CHECK(Complaint(AccumulateArgs{F32({3}), F32({2})}) ==
        "[accumulate] expected x of shape [2] (that of y) but received [3]");
  RefusesOthers(TransposeArgs{F32({2, 3}), F32({3, 2}), {1, 0}});
  CHECK(Complaint(TransposeArgs{F32({2, 3}), F32({3, 2}), {1, 1}}) ==
        "[transpose] expected each dimension of 0 to 1 once but received 1");
  const TensorView bytes{nullptr, DType::kI8, {2, 3}}, turned{nullptr, DType::kI8, {3, 2}};
  CHECK(Complaint(TransposeArgs{bytes, turned, {1, 0}}) ==
        "[transpose] expected x of dtype f32, bf16, f16 or i32 but received i8");
  CHECK(Complaint(TransposeArgs{F32({2, 3}), F32({3, 2}), {0}}) ==
        "[transpose] expected a permutation of 2 dimensions but received 1");
  const SplitColumnsArgs split{F32({2, 7}), {4, 3}, {F32({2, 4}), F32({2, 3})}};
  RefusesOthers(split);
  Rejects<SplitColumnsArgs>(
      split, [](auto& a) { a.sizes = {4, 2}; },
      "[split_columns] expected sizes of 7 columns in all (the last dimension of x) but received "
      "6");
  Rejects<SplitColumnsArgs>(
      split, [](auto& a) { a.sizes = {1, 1, 1, 1, 1, 1, 1, 0, 0}; },
      "[split_columns] expected sizes of 1 to 8 parts but received 9");
  Rejects<SplitColumnsArgs>(
      split, [](auto& a) { a.parts.pop_back(); },
      "[split_columns] expected 2 parts (one per size) but received 1");
  SplitColumnsArgs one = split;
  one.parts[0] = {};
  CHECK(Complaint(one) == "");
  const JoinColumnsArgs join{{F32({2, 4}), F32({2, 3})}, {4, 3}, F32({2, 7})};
  RefusesOthers(join);
  Rejects<JoinColumnsArgs>(
      join, [](auto& a) { a.parts = {{}, {}}; },
      "[join_columns] expected a part but received none");
  Rejects<JoinColumnsArgs>(
      join, [](auto& a) { a.sizes = {}; },
      "[join_columns] expected sizes of 1 to 8 parts but received 0");
  Rejects<JoinColumnsArgs>(
      join, [](auto& a) { a.parts[1] = F32({3, 3}); },
      "[join_columns] expected part of shape [2, 3] (rows, size) but received [3, 3]");
  Rejects<JoinColumnsArgs>(
      join, [](auto& a) { a.parts[1] = BF16({2, 3}); },
      "[join_columns] expected part of dtype f32 (that of the first) but received bf16");
  JoinColumnsArgs part = join;
  part.parts[0] = {};
  CHECK(Complaint(part) == "");
  RefusesOthers(TakeArgs{F32({2, 5, 3}), I32({2, 4, 3}), 1, F32({2, 4, 3})});
  const TakeArgs take{BF16({2, 5, 3}), I32({4}), 1, BF16({2, 4, 3})};
  CHECK(Complaint(take) == "");
  Rejects<TakeArgs>(
      take, [](auto& a) { a.dim = 3; },
      "[take] expected dim to be one of the 3 dimensions of x but received 3");
  Rejects<TakeArgs>(
      take, [](auto& a) { a.index = I32({2, 4, 2}); },
      "[take] expected an index of one dimension, or one like x [2, 5, 3] but for dimension 1, but "
      "received [2, 4, 2]");
  Rejects<TakeArgs>(
      take, [](auto& a) { a.y = BF16({2, 5, 3}); },
      "[take] expected y of shape [2, 4, 3] (of index) but received [2, 5, 3]");
  RefusesOthers(TakeBackwardArgs{F32({2, 4, 3}), I32({2, 4, 3}), 1, F32({2, 5, 3})});
  Rejects<TakeBackwardArgs>(
      {F32({2, 4, 3}), I32({4}), 1, F32({2, 5, 3})}, [](auto& a) { a.g = F32({2, 5, 3}); },
      "[take] expected g of shape [2, 4, 3] (of index) but received [2, 5, 3]");
  const RowMaxArgs row_max{F32({2, 5}), F32({2}), I32({2}), F32({2})};
  RefusesOthers(row_max);
  CHECK(Complaint(RowMaxArgs{BF16({2, 5}), {}, {}, {}}) == "");
  Rejects<RowMaxArgs>(
      row_max, [](auto& a) { a.x = F32({2, 0}); },
      "[row_max] expected rows of 1 to 2147483647 elements but received x of shape [2, 0]");
  RefusesOthers(MatmulArgs{F32({4, 2, 3}), F32({5, 3}), F32({4, 2, 5}), false, true});
  CHECK(Complaint(MatmulArgs{F32({2, 3}), F32({5, 3}), F32({2, 3}), false, false}) ==
        "[matmul] expected b with an inner dimension of 3 (that of a [2, 3]) but received [5, 3]");
  RandomArgs random;
  random.y = BF16({2});
  random.kind = RandomKind::kUniform;
  CHECK(Complaint(random) == "[random] expected y of dtype f32 but received bf16");
}

TEST_CASE("shapes of results") {
  CHECK(BroadcastShapes("add", {}, {2, 0}) == Shape{2, 0});
  CHECK(BroadcastShapes("add", {1}, {0}) == Shape{0});
  CHECK(BroadcastShapes("add", {4, 1, 3}, {2, 1}) == Shape{4, 2, 3});
  CHECK(MatmulShape({1, 2, 3}, {6, 3, 4}, false, false) == Shape{6, 2, 4});
  CHECK(MatmulShape({3, 2}, {4, 3}, true, true) == Shape{2, 4});
  CHECK(TransposedShape({2, 3, 4}, {2, 0, 1}) == Shape{4, 2, 3});
}

}  // namespace lora
