// Losses, and sampling from logits.
#include "node/api.h"
#include "node/op_call.h"

namespace lora::node {
namespace {

TensorView Flat(const TensorView& view) {
  return TensorView(view.data, view.dtype, {view.numel()});
}

Napi::Value CrossEntropyForward(const Napi::CallbackInfo& info) {
  constexpr const char* kLabel = "cross_entropy";
  OpCall call(info, "cross_entropy_forward", kLabel);
  CrossEntropyForwardArgs args;
  args.logits = AsRows(call.In(info[0], "logits"), kLabel, "logits");
  args.labels = Flat(call.In(info[1], "labels"));
  call.Out(&args.loss, DType::kF32, {1}, {});
  call.Out(&args.count, DType::kF32, {1}, {});
  if (ParseBool(info[2], kLabel, "keepLse")) call.Out(&args.lse, DType::kF32, {args.logits.dim(0)});
  call.Run(args);
  Napi::Array result = Napi::Array::New(info.Env(), 3);
  result.Set(0u, call.ResultOf(args.loss));
  result.Set(1u, call.ResultOf(args.count));
  result.Set(2u, call.ResultOf(args.lse));
  return result;
}

Napi::Value CrossEntropyBackward(const Napi::CallbackInfo& info) {
  constexpr const char* kLabel = "cross_entropy";
  OpCall call(info, "cross_entropy_backward", kLabel);
  CrossEntropyBackwardArgs args;
  const TensorView logits = call.In(info[0], "logits");
  args.logits = AsRows(logits, kLabel, "logits");
  args.labels = Flat(call.In(info[1], "labels"));
  args.lse = call.In(info[2], "lse");
  args.g = Flat(call.In(info[3], "g"));
  call.Out(&args.dlogits, logits.dtype, args.logits.shape, logits.shape);
  call.Run(args);
  return call.Result();
}

Napi::Value LinearCrossEntropy(const Napi::CallbackInfo& info) {
  constexpr const char* kLabel = "linear_cross_entropy";
  OpCall call(info, "linear_cross_entropy", kLabel);
  LinearCrossEntropyArgs args;
  const TensorView hidden = call.In(info[0], "hidden");
  args.hidden = AsRows(hidden, kLabel, "hidden");
  call.Weight(&args.weight, info[1], "weight", Direction::kForward);
  args.labels = Flat(call.In(info[2], "labels"));
  call.Out(&args.loss, DType::kF32, {1}, {});
  call.Out(&args.count, DType::kF32, {1}, {});
  if (ParseBool(info[3], kLabel, "wantGrad")) {
    call.Weight(&args.weight_bwd, info[1], "weight", Direction::kBackward);
    call.Out(&args.d_hidden, DType::kF32, args.hidden.shape, hidden.shape);
  }
  call.Run(args);
  Napi::Array result = Napi::Array::New(info.Env(), 3);
  result.Set(0u, call.ResultOf(args.loss));
  result.Set(1u, call.ResultOf(args.count));
  result.Set(2u, call.ResultOf(args.d_hidden));
  return result;
}

Napi::Value Sample(const Napi::CallbackInfo& info) {
  constexpr const char* kLabel = "sample";
  OpCall call(info, "sample", kLabel);
  SampleArgs args;
  args.logits = call.In(info[0], "logits");
  const Napi::Object options = ParseObject(info[1], kLabel, "options");
  args.temperature = ParseFloat(options.Get("temperature"), kLabel, "temperature");
  args.top_k = ParseInteger(options.Get("topK"), kLabel, "topK");
  args.top_p = ParseFloat(options.Get("topP"), kLabel, "topP");
  args.seed = static_cast<uint64_t>(ParseInteger(options.Get("seed"), kLabel, "seed"));
  args.step =
      static_cast<uint32_t>(ParseInteger(options.Get("step"), kLabel, "step", 0, 0xffffffff));
  call.Out(&args.ids, DType::kI32, {args.logits.shape.rank() > 0 ? args.logits.dim(0) : 0});
  call.Run(args);
  return call.Result();
}

}  // namespace

void RegisterLosses(Napi::Env env, Napi::Object exports) {
  Export<CrossEntropyForward>(env, exports, "crossEntropyForward");
  Export<CrossEntropyBackward>(env, exports, "crossEntropyBackward");
  Export<LinearCrossEntropy>(env, exports, "linearCrossEntropy");
  Export<Sample>(env, exports, "sample");
}

}  // namespace lora::node
