// Exports by which tests make a call fail. Published add-ons lack them (LORA_FAULTS in CMake).
#include "node/api.h"
#include "node/env_state.h"
#include "node/op_call.h"
#include "node/parse.h"

namespace lora::node {
namespace {

Napi::Value InjectFailure(const Napi::CallbackInfo& info) {
  EnvState::Get(info.Env())
      ->InjectFailure(ParseString(info[0], "native", "op"),
                      ParseString(info[1], "native", "message"));
  return info.Env().Undefined();
}

Napi::Value InjectOutOfMemory(const Napi::CallbackInfo& info) {
  EnvState::Get(info.Env())->InjectOutOfMemory(ParseInteger(info[0], "native", "nth"));
  return info.Env().Undefined();
}

}  // namespace

void RegisterFaults(Napi::Env env, Napi::Object exports) {
  Export<InjectFailure>(env, exports, "injectFailure");
  Export<InjectOutOfMemory>(env, exports, "injectOutOfMemory");
}

}  // namespace lora::node
