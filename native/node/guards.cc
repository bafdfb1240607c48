// Exports guards, which remember that an update was skipped (core/runtime/status.h).
#include "node/api.h"
#include "node/env_state.h"
#include "node/errors.h"

namespace lora::node {
namespace {

std::shared_ptr<Guard> GuardOf(const Napi::CallbackInfo& info) {
  return EnvState::Get(info.Env())->Unwrap(info[0], Kind::kGuard, "guard", "guard").guard;
}

Napi::Value CreateGuard(const Napi::CallbackInfo& info) {
  return EnvState::Get(info.Env())
      ->Wrap({.kind = Kind::kGuard, .guard = std::make_shared<Guard>()});
}

Napi::Value CheckGuard(const Napi::CallbackInfo& info) {
  const FailurePtr failure = GuardOf(info)->failure();
  if (failure)
    throw MakeError(info.Env(), failure->code, failure->op, failure->message, failure->tag);
  return info.Env().Undefined();
}

Napi::Value ClearGuard(const Napi::CallbackInfo& info) {
  GuardOf(info)->Clear();
  return info.Env().Undefined();
}

}  // namespace

void RegisterGuards(Napi::Env env, Napi::Object exports) {
  Export<CreateGuard>(env, exports, "createGuard");
  Export<CheckGuard>(env, exports, "checkGuard");
  Export<ClearGuard>(env, exports, "clearGuard");
}

}  // namespace lora::node
