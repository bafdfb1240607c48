// The layers of a Llama-family model.
#include "node/api.h"
#include "node/op_call.h"

namespace lora::node {
namespace {

Napi::Array List(Napi::Env env, std::initializer_list<Napi::Value> values) {
  Napi::Array list = Napi::Array::New(env, values.size());
  uint32_t i = 0;
  for (const Napi::Value& value : values) list.Set(i++, value);
  return list;
}

Napi::Value Embedding(const Napi::CallbackInfo& info) {
  OpCall call(info, "embedding", "embedding");
  EmbeddingArgs args;
  call.Weight(&args.weight, info[0], "weight", Direction::kForward);
  const TensorView ids = call.In(info[1], "ids");
  const int64_t n = ids.numel(), dim = args.weight.cols;
  args.ids = TensorView(ids.data, ids.dtype, {n});
  Shape seen = ids.shape;
  LORA_CHECK(seen.rank() < kMaxDims, "embedding", "expected ids of at most ", kMaxDims - 1,
             " dimensions but received shape ", seen);
  seen.push_back(dim);
  call.Out(&args.y, args.weight.dtype, {n, dim}, seen);
  call.Run(args);
  return call.Result();
}

Napi::Value RmsNormForward(const Napi::CallbackInfo& info) {
  OpCall call(info, "rms_norm_forward", "rms_norm");
  RmsNormForwardArgs args;
  const TensorView x = call.In(info[0], "x");
  args.x = AsRows(x, "rms_norm", "x");
  args.weight = call.In(info[1], "weight");
  args.eps = ParseFloat(info[2], "rms_norm", "eps");
  call.Out(&args.y, x.dtype, args.x.shape, x.shape);
  if (ParseBool(info[3], "rms_norm", "keepRstd"))
    call.Out(&args.rstd, DType::kF32, {args.x.dim(0)});
  call.Run(args);
  return List(info.Env(), {call.ResultOf(args.y), call.ResultOf(args.rstd)});
}

Napi::Value RmsNormBackward(const Napi::CallbackInfo& info) {
  OpCall call(info, "rms_norm_backward", "rms_norm");
  RmsNormBackwardArgs args;
  const TensorView x = call.In(info[0], "x");
  args.x = AsRows(x, "rms_norm", "x");
  args.weight = call.In(info[1], "weight");
  args.rstd = call.In(info[2], "rstd");
  args.g = AsRows(call.In(info[3], "g"), "rms_norm", "g");
  call.Out(&args.dx, x.dtype, args.x.shape, x.shape);
  call.Run(args);
  return call.Result();
}

Napi::Value Rope(const Napi::CallbackInfo& info) {
  OpCall call(info, "rope", "rope");
  RopeArgs args;
  args.x = call.In(info[0], "x");
  args.cos = call.In(info[1], "cos");
  args.sin = call.In(info[2], "sin");
  args.positions = call.MaybeIn(info[3], "positions");
  args.offset = ParseInteger(info[4], "rope", "offset");
  args.inverse = ParseBool(info[5], "rope", "inverse");
  call.Out(&args.y, args.x.dtype, args.x.shape);
  call.Run(args);
  return call.Result();
}

Napi::Value AttentionForward(const Napi::CallbackInfo& info) {
  constexpr const char* kLabel = "attention";
  OpCall call(info, "attention_forward", kLabel);
  AttentionForwardArgs args;
  args.q = call.In(info[0], "q");
  args.k = call.In(info[1], "k");
  args.v = call.In(info[2], "v");
  args.key_begin = call.MaybeIn(info[3], "keyBegin");
  const Napi::Object options = ParseObject(info[4], kLabel, "options");
  args.kv_length = ParseInteger(options.Get("kvLength"), kLabel, "kvLength");
  args.q_offset = ParseInteger(options.Get("qOffset"), kLabel, "qOffset");
  args.window = ParseInteger(options.Get("window"), kLabel, "window");
  args.scale = ParseFloat(options.Get("scale"), kLabel, "scale");
  call.Out(&args.y, args.q.dtype, args.q.shape);
  if (ParseBool(info[5], kLabel, "keepLse")) {
    LORA_CHECK(args.q.shape.rank() == 4, kLabel,
               "expected q of 4 dimensions (batch, queries, heads, "
               "head_dim) but received shape ",
               args.q.shape);
    call.Out(&args.lse, DType::kF32, {args.q.dim(0), args.q.dim(2), args.q.dim(1)});
  }
  call.Run(args);
  return List(info.Env(), {call.ResultOf(args.y), call.ResultOf(args.lse)});
}

Napi::Value AttentionBackward(const Napi::CallbackInfo& info) {
  constexpr const char* kLabel = "attention";
  OpCall call(info, "attention_backward", kLabel);
  AttentionBackwardArgs args;
  args.q = call.In(info[0], "q");
  args.k = call.In(info[1], "k");
  args.v = call.In(info[2], "v");
  args.key_begin = call.MaybeIn(info[3], "keyBegin");
  args.y = call.In(info[4], "y");
  args.lse = call.In(info[5], "lse");
  args.g = call.In(info[6], "g");
  const Napi::Object options = ParseObject(info[7], kLabel, "options");
  args.window = ParseInteger(options.Get("window"), kLabel, "window");
  args.scale = ParseFloat(options.Get("scale"), kLabel, "scale");
  call.Out(&args.dq, args.q.dtype, args.q.shape);
  call.Out(&args.dk, args.k.dtype, args.k.shape);
  call.Out(&args.dv, args.v.dtype, args.v.shape);
  call.Run(args);
  return List(info.Env(), {call.ResultOf(args.dq), call.ResultOf(args.dk), call.ResultOf(args.dv)});
}

Napi::Value CacheAppend(const Napi::CallbackInfo& info) {
  OpCall call(info, "cache_append", "cache_append");
  CacheAppendArgs args;
  args.src = call.In(info[0], "src");
  args.cache = call.InOut(info[1], "cache");
  args.offset = ParseInteger(info[2], "cache_append", "offset");
  call.Run(args);
  return info.Env().Undefined();
}

Napi::Value SwigluForward(const Napi::CallbackInfo& info) {
  OpCall call(info, "swiglu_forward", "swiglu");
  SwigluForwardArgs args;
  args.gate = call.In(info[0], "gate");
  args.up = call.In(info[1], "up");
  call.Out(&args.y, args.gate.dtype, args.gate.shape);
  call.Run(args);
  return call.Result();
}

Napi::Value SwigluBackward(const Napi::CallbackInfo& info) {
  OpCall call(info, "swiglu_backward", "swiglu");
  SwigluBackwardArgs args;
  args.gate = call.In(info[0], "gate");
  args.up = call.In(info[1], "up");
  args.g = call.In(info[2], "g");
  call.Out(&args.dgate, args.gate.dtype, args.gate.shape);
  call.Out(&args.dup, args.up.dtype, args.up.shape);
  call.Run(args);
  return List(info.Env(), {call.ResultOf(args.dgate), call.ResultOf(args.dup)});
}

}  // namespace

void RegisterModelOps(Napi::Env env, Napi::Object exports) {
  Export<Embedding>(env, exports, "embedding");
  Export<RmsNormForward>(env, exports, "rmsNormForward");
  Export<RmsNormBackward>(env, exports, "rmsNormBackward");
  Export<Rope>(env, exports, "rope");
  Export<AttentionForward>(env, exports, "attentionForward");
  Export<AttentionBackward>(env, exports, "attentionBackward");
  Export<CacheAppend>(env, exports, "cacheAppend");
  Export<SwigluForward>(env, exports, "swigluForward");
  Export<SwigluBackward>(env, exports, "swigluBackward");
}

}  // namespace lora::node
