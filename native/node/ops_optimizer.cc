// AdamW with its guard, the global norm and clipping.
#include "node/api.h"
#include "node/op_call.h"

namespace lora::node {
namespace {

std::shared_ptr<Guard> GuardOf(const Napi::CallbackInfo& info, Napi::Value value, const char* op) {
  return EnvState::Get(info.Env())->Unwrap(value, Kind::kGuard, op, "guard").guard;
}

Napi::Value CreateGuard(const Napi::CallbackInfo& info) {
  auto shell = std::make_unique<Shell>();
  shell->kind = Kind::kGuard;
  shell->guard = std::make_shared<Guard>();
  return EnvState::Get(info.Env())->Wrap(std::move(shell));
}

Napi::Value CheckGuard(const Napi::CallbackInfo& info) {
  const FailurePtr failure = GuardOf(info, info[0], "guard")->failure();
  if (failure)
    throw MakeError(info.Env(), failure->code, failure->op, failure->message, failure->tag);
  return info.Env().Undefined();
}

Napi::Value ClearGuard(const Napi::CallbackInfo& info) {
  GuardOf(info, info[0], "guard")->Clear();
  return info.Env().Undefined();
}

Napi::Value AdamW(const Napi::CallbackInfo& info) {
  constexpr const char* kLabel = "adamw";
  OpCall call(info, "adamw", kLabel);
  AdamWArgs args;
  const Napi::Array segments = ParseArray(info[0], kLabel, "segments");
  for (uint32_t i = 0; i < segments.Length(); ++i) {
    const Napi::HandleScope scope(info.Env());
    const Napi::Object segment = ParseObject(segments.Get(i), kLabel, "segment");
    args.segments.push_back(
        {call.Update(segment.Get("param"), "param"), call.In(segment.Get("grad"), "grad"),
         call.Update(segment.Get("m"), "m"), call.Update(segment.Get("v"), "v")});
  }
  const Napi::Object options = ParseObject(info[1], kLabel, "options");
  const auto number = [&](const char* name) {
    return ParseNumber(options.Get(name), kLabel, name);
  };
  args.lr = number("lr");
  args.beta1 = number("beta1");
  args.beta2 = number("beta2");
  args.eps = number("eps");
  args.weight_decay = number("weightDecay");
  args.step = ParseInteger(options.Get("step"), kLabel, "step", 1);
  call.Guarded(GuardOf(info, info[2], kLabel));
  if (!args.segments.empty()) call.Run(args);
  return info.Env().Undefined();
}

Napi::Value GlobalNorm(const Napi::CallbackInfo& info) {
  OpCall call(info, "global_norm", "global_norm");
  GlobalNormArgs args;
  const Napi::Array tensors = ParseArray(info[0], "global_norm", "tensors");
  LORA_CHECK(tensors.Length() > 0, "global_norm", "expected at least one tensor but received none");
  for (uint32_t i = 0; i < tensors.Length(); ++i)
    args.tensors.push_back(call.In(tensors.Get(i), "tensor"));
  call.Out(&args.norm, DType::kF32, {1}, {});
  call.Run(args);
  return call.Result();
}

Napi::Value ClipByNorm(const Napi::CallbackInfo& info) {
  OpCall call(info, "clip_by_norm", "clip_by_norm");
  ClipByNormArgs args;
  const Napi::Array tensors = ParseArray(info[0], "clip_by_norm", "tensors");
  // The access is kInOut rather than kUpdate, because a gradient whose clipping failed must not
  // reach the optimizer as if it had been clipped.
  for (uint32_t i = 0; i < tensors.Length(); ++i)
    args.tensors.push_back(call.InOut(tensors.Get(i), "tensor"));
  args.norm = call.In(info[1], "norm");
  args.max_norm = ParseFloat(info[2], "clip_by_norm", "maxNorm");
  call.Run(args);
  return info.Env().Undefined();
}

}  // namespace

void RegisterOptimizer(Napi::Env env, Napi::Object exports) {
  Export<CreateGuard>(env, exports, "createGuard");
  Export<CheckGuard>(env, exports, "checkGuard");
  Export<ClearGuard>(env, exports, "clearGuard");
  Export<AdamW>(env, exports, "adamw");
  Export<GlobalNorm>(env, exports, "globalNorm");
  Export<ClipByNorm>(env, exports, "clipByNorm");
}

}  // namespace lora::node
