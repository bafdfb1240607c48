#include "node/errors.h"

#include "node/env_state.h"

namespace lora::node {

Napi::Error MakeError(Napi::Env env, const std::string& code, const std::string& op,
                      const std::string& message, int64_t tag) {
  EnvState* state = EnvState::Get(env);
  if (state != nullptr && !state->error_factory.IsEmpty()) {
    const Napi::Value made = state->error_factory.Call(
        {Napi::String::New(env, code), Napi::String::New(env, op), Napi::String::New(env, message),
         Napi::Number::New(env, static_cast<double>(tag))});
    if (made.IsObject()) return Napi::Error(env, made);
  }
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", code);
  error.Set("op", op);
  return error;
}

Napi::Error MakeError(Napi::Env env, const Error& error) {
  EnvState* state = EnvState::Get(env);
  return MakeError(env, error.code(), error.op(), error.what(), state ? state->tag : 0);
}

Napi::Error MakeError(Napi::Env env, const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) {
    return MakeError(env, Error("ERR_OUT_OF_MEMORY", "native",
                                "[native] the system has no memory left for a small allocation"));
  }
  return MakeError(
      env, Error("ERR_ARGUMENT", "native", std::string("[native] failed: ") + error.what()));
}

}  // namespace lora::node
