// Makes JavaScript errors of native ones. Every exported function is registered through Export, so
// that no C++ exception ever leaves it.
#pragma once

#include <napi.h>

#include <new>
#include <string>

#include "core/error.h"

namespace lora::node {

// Returns the error object of the factory given to setErrorFactory (before that a plain Error with
// `code` and `op`). `tag` is that of the call that failed.
Napi::Error MakeError(Napi::Env env, const std::string& code, const std::string& op,
                      const std::string& message, int64_t tag);
// Returns the same with the tag of the call that runs now.
Napi::Error MakeError(Napi::Env env, const Error& error);
// Does it for what only the system threw: "out of memory in native code" and the like.
Napi::Error MakeError(Napi::Env env, const std::exception& error);

template <auto Function>
Napi::Value Guarded(const Napi::CallbackInfo& info) {
  try {
    try {
      return Function(info);
    } catch (const Error& error) {
      throw MakeError(info.Env(), error);
    } catch (const Napi::Error&) {
      throw;
    } catch (const std::exception& error) {
      throw MakeError(info.Env(), error);
    }
  } catch (const Napi::Error& error) {
    // Not by node-addon-api, which throws again, and so ends the process, where this fails: in a
    // worker that is being terminated. There nobody is left to tell.
    napi_throw(info.Env(), error.Value());
    return {};
  }
}

// Export<OpenFile>(env, exports, "openFile") where Napi::Value OpenFile(const Napi::CallbackInfo&)
// may throw lora::Error.
template <auto Function>
void Export(Napi::Env env, Napi::Object exports, const char* name) {
  exports.Set(name, Napi::Function::New<Guarded<Function>>(env, name));
}

}  // namespace lora::node
