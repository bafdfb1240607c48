// reads(), which asks about frozen matrices, and release(), which drops a reference of any kind.
#include "node/api.h"
#include "node/env_state.h"
#include "node/errors.h"
#include "node/parse.h"

namespace lora::node {
namespace {

// reads(device, format, activation dtype)
Napi::Value Reads(const Napi::CallbackInfo& info) {
  EnvState& state = *EnvState::Get(info.Env());
  const auto device = state.Unwrap(info[0], Kind::kDevice, "pack", "device").device;
  const WeightFormat format = ParseFormat(info[1], "pack");
  const bool reads = device->backend().reads(format, ParseDType(info[2], "pack"));
  return Napi::Boolean::New(info.Env(), reads);
}

Napi::Value Release(const Napi::CallbackInfo& info) {
  EnvState& state = *EnvState::Get(info.Env());
  Shell* shell = state.Find(info[0]);
  const bool releasable =
      shell != nullptr && (shell->kind == Kind::kWeight || shell->kind == Kind::kTable ||
                           shell->kind == Kind::kProgram);
  if (!releasable) shell = &state.Unwrap(info[0], Kind::kTensor, "release", "reference");
  state.Release(*shell);
  return info.Env().Undefined();
}

}  // namespace

void RegisterWeights(Napi::Env env, Napi::Object exports) {
  Export<Reads>(env, exports, "reads");
  Export<Release>(env, exports, "release");
}

}  // namespace lora::node
