// loraLinearForward, loraLinearBackward.
#include "node/api.h"
#include "node/op_call.h"

namespace lora::node {
namespace {

constexpr const char* kLabel = "lora_linear";

Dropout ParseDropout(Napi::Value value) {
  Dropout dropout;
  if (IsNone(value)) return dropout;
  const Napi::Object object = ParseObject(value, kLabel, "dropout");
  dropout.p = ParseFloat(object.Get("p"), kLabel, "p");
  dropout.seed = static_cast<uint64_t>(ParseInteger(object.Get("seed"), kLabel, "seed"));
  constexpr int64_t kMost = 0xffffffff;
  dropout.layer =
      static_cast<uint32_t>(ParseInteger(object.Get("layer"), kLabel, "layer", 0, kMost));
  dropout.forward =
      static_cast<uint32_t>(ParseInteger(object.Get("forward"), kLabel, "forward", 0, kMost));
  return dropout;
}

// Fills one branch, whose address is kept until the call has run. `used` as in OpCall::Weight.
void ParseBranch(OpCall& call, Napi::Value value, Direction direction, bool used,
                 LoraBranch& branch) {
  const Napi::Object object = ParseObject(value, kLabel, "branch");
  call.Weight(&branch.weight, object.Get("weight"), "weight", direction, used);
  // The gradient does not depend on the bias.
  if (direction == Direction::kForward) branch.bias = call.MaybeIn(object.Get("bias"), "bias");
  branch.a = call.MaybeIn(object.Get("a"), "a");
  branch.b = call.MaybeIn(object.Get("b"), "b");
  branch.scale = ParseFloat(object.Get("scale"), kLabel, "scale");
  branch.dropout = ParseDropout(object.Get("dropout"));
}

Napi::Value Forward(const Napi::CallbackInfo& info) {
  OpCall call(info, "lora_linear_forward", kLabel);
  LoraLinearForwardArgs args;
  const TensorView x = call.In(info[0], "x");
  const Napi::Array branches = ParseArray(info[1], kLabel, "branches");
  const bool keep_h = ParseBool(info[2], kLabel, "keepH");
  const uint32_t n = branches.Length();
  args.x = AsRows(x, kLabel, "x");
  args.branches.resize(n);
  args.y.resize(n);
  args.h.resize(n);
  const int64_t rows = args.x.dim(0);
  for (uint32_t i = 0; i < n; ++i) {
    LoraBranch& branch = args.branches[i];
    ParseBranch(call, branches.Get(i), Direction::kForward, true, branch);
    const int64_t out = branch.weight.rows;
    call.Out(&args.y[i], x.dtype, {rows, out}, WithLast(x.shape, out));
    if (!keep_h || !branch.a) continue;
    LORA_CHECK(branch.a.shape.rank() == 2, kLabel,
               "expected a of 2 dimensions (out, rank) but received shape ", branch.a.shape);
    call.Out(&args.h[i], DType::kF32, {rows, branch.a.dim(1)});
  }
  call.Run(args);

  Napi::Array y = Napi::Array::New(info.Env(), n), h = Napi::Array::New(info.Env(), n);
  for (uint32_t i = 0; i < n; ++i) {
    y.Set(i, call.ResultOf(args.y[i]));
    h.Set(i, call.ResultOf(args.h[i]));
  }
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("y", y);
  result.Set("h", h);
  return result;
}

Napi::Value Backward(const Napi::CallbackInfo& info) {
  OpCall call(info, "lora_linear_backward", kLabel);
  LoraLinearBackwardArgs args;
  args.x = AsRows(call.MaybeIn(info[0], "x"), kLabel, "x");
  const Napi::Array branches = ParseArray(info[1], kLabel, "branches");
  const Napi::Array g = ParseArray(info[2], kLabel, "g"), h = ParseArray(info[3], kLabel, "h");
  const bool want_dx = ParseBool(info[4], kLabel, "wantDx");
  const Napi::Array want_ab = ParseArray(info[5], kLabel, "wantAB");
  const uint32_t n = branches.Length();
  LORA_CHECK(n >= 1 && g.Length() == n && h.Length() == n && want_ab.Length() == n, kLabel,
             "expected one g, h and wantAB per branch");
  args.branches.resize(n);
  args.g.resize(n);
  args.h.resize(n);
  args.da.resize(n);
  args.db.resize(n);
  Shape lead;
  for (uint32_t i = 0; i < n; ++i) {
    LoraBranch& branch = args.branches[i];
    ParseBranch(call, branches.Get(i), Direction::kBackward, want_dx, branch);
    const TensorView gradient = call.In(g.Get(i), "g");
    if (i == 0) lead = gradient.shape;
    args.g[i] = AsRows(gradient, kLabel, "g");
    const bool wanted = ParseBool(want_ab.Get(i), kLabel, "wantAB");
    if (!wanted) continue;
    args.h[i] = call.MaybeIn(h.Get(i), "h");
    LORA_CHECK(branch.a && branch.b, kLabel,
               "expected a and b where their gradients are wanted but received none");
    call.Out(&args.da[i], DType::kF32, branch.a.shape);
    call.Out(&args.db[i], DType::kF32, branch.b.shape);
  }
  const int64_t in = args.branches[0].weight.cols;
  if (want_dx) call.Out(&args.dx, args.g[0].dtype, {args.g[0].dim(0), in}, WithLast(lead, in));
  call.Run(args);

  Napi::Array da = Napi::Array::New(info.Env(), n), db = Napi::Array::New(info.Env(), n);
  for (uint32_t i = 0; i < n; ++i) {
    da.Set(i, call.ResultOf(args.da[i]));
    db.Set(i, call.ResultOf(args.db[i]));
  }
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("dx", call.ResultOf(args.dx));
  result.Set("da", da);
  result.Set("db", db);
  return result;
}

}  // namespace

void RegisterLoraLinear(Napi::Env env, Napi::Object exports) {
  Export<Forward>(env, exports, "loraLinearForward");
  Export<Backward>(env, exports, "loraLinearBackward");
}

}  // namespace lora::node
