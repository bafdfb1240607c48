// The tape's small set.
#include "core/ops/shapes.h"
#include "node/api.h"
#include "node/op_call.h"

namespace lora::node {
namespace {

const char* LabelOf(BinaryKind kind) {
  constexpr const char* kNames[] = {"add", "sub", "mul", "div"};
  return kNames[static_cast<size_t>(kind)];
}

const char* LabelOf(UnaryKind kind) {
  constexpr const char* kNames[] = {"copy", "scale", "square", "relu", "gelu", "silu"};
  return kNames[static_cast<size_t>(kind)];
}

Napi::Value Binary(const Napi::CallbackInfo& info) {
  const BinaryKind kind = ParseBinaryKind(info[0]);
  OpCall call(info, "binary", LabelOf(kind));
  BinaryArgs args{kind, call.In(info[1], "a"), call.In(info[2], "b"), {}};
  call.Out(&args.y, ParseDType(info[3], call.label()),
           BroadcastShapes(call.label(), args.a.shape, args.b.shape));
  call.Run(args);
  return call.Result();
}

Napi::Value Unary(const Napi::CallbackInfo& info) {
  const UnaryKind kind = ParseUnaryKind(info[0]);
  OpCall call(info, "unary", LabelOf(kind));
  UnaryArgs args{kind, ParseFloat(info[1], call.label(), "alpha"), call.In(info[2], "x"), {}};
  call.Out(&args.y, ParseDType(info[3], call.label()), args.x.shape);
  call.Run(args);
  return call.Result();
}

Napi::Value UnaryBackward(const Napi::CallbackInfo& info) {
  const UnaryKind kind = ParseUnaryKind(info[0]);
  OpCall call(info, "unary_backward", LabelOf(kind));
  UnaryBackwardArgs args{kind,
                         ParseFloat(info[1], call.label(), "alpha"),
                         call.In(info[2], "x"),
                         call.In(info[3], "g"),
                         {}};
  call.Out(&args.dx, args.x.dtype, args.x.shape);
  call.Run(args);
  return call.Result();
}

Napi::Value ReduceSum(const Napi::CallbackInfo& info) {
  OpCall call(info, "reduce_sum", "sum");
  ReduceSumArgs args{call.In(info[0], "x"), {}};
  call.Out(&args.y, ParseDType(info[2], "sum"), ParseShape(info[1], "sum"));
  call.Run(args);
  return call.Result();
}

Napi::Value Accumulate(const Napi::CallbackInfo& info) {
  OpCall call(info, "accumulate", "accumulate");
  AccumulateArgs args{call.In(info[0], "x"), call.InOut(info[1], "y")};
  call.Run(args);
  return info.Env().Undefined();
}

Napi::Value Fill(const Napi::CallbackInfo& info) {
  OpCall call(info, "fill", "fill");
  LORA_CHECK(info[1].IsNumber(), "fill", "expected value to be a number");
  // Any value is a fair one to fill with, NaN included.
  FillArgs args{info[1].As<Napi::Number>().FloatValue(), call.Overwrite(info[0], "y")};
  call.Run(args);
  return info.Env().Undefined();
}

Napi::Value Transpose(const Napi::CallbackInfo& info) {
  OpCall call(info, "transpose", "transpose");
  TransposeArgs args{call.In(info[0], "x"), {}, {}};
  const Napi::Array perm = ParseArray(info[1], "transpose", "perm");
  for (uint32_t i = 0; i < perm.Length(); ++i)
    args.perm.push_back(
        static_cast<int>(ParseInteger(perm.Get(i), "transpose", "perm", 0, kMaxDims)));
  call.Out(&args.y, args.x.dtype, TransposedShape(args.x.shape, args.perm));
  call.Run(args);
  return call.Result();
}

Napi::Value Matmul(const Napi::CallbackInfo& info) {
  OpCall call(info, "matmul", "matmul");
  MatmulArgs args{call.In(info[0], "a"),
                  call.In(info[1], "b"),
                  {},
                  ParseBool(info[2], "matmul", "transA"),
                  ParseBool(info[3], "matmul", "transB")};
  call.Out(&args.y, ParseDType(info[4], "matmul"),
           MatmulShape(args.a.shape, args.b.shape, args.trans_a, args.trans_b));
  call.Run(args);
  return call.Result();
}

}  // namespace

void RegisterTapeOps(Napi::Env env, Napi::Object exports) {
  Export<Binary>(env, exports, "binary");
  Export<Unary>(env, exports, "unary");
  Export<UnaryBackward>(env, exports, "unaryBackward");
  Export<ReduceSum>(env, exports, "reduceSum");
  Export<Accumulate>(env, exports, "accumulate");
  Export<Fill>(env, exports, "fill");
  Export<Transpose>(env, exports, "transpose");
  Export<Matmul>(env, exports, "matmul");
}

}  // namespace lora::node
