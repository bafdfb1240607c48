// Exports locks of files, which other processes heed (core/runtime/platform/platform.h).
#include "core/error.h"
#include "core/runtime/platform/platform.h"
#include "node/api.h"
#include "node/env_state.h"
#include "node/errors.h"
#include "node/parse.h"

namespace lora::node {
namespace {

Napi::Value LockFile(const Napi::CallbackInfo& info) {
  const char* op = "lockFile";
  const std::string path = ParseString(info[0], op, "path");
  auto lock = std::make_shared<platform::FileLock>();
  std::string problem;
  if (lock->Try(path, problem))
    return EnvState::Get(info.Env())->Wrap({.kind = Kind::kLock, .lock = std::move(lock)});
  // Tag 0: this is not the op that was called last.
  if (!problem.empty())
    throw MakeError(info.Env(), "ERR_FILE", "", "cannot lock " + path + ": " + problem, 0);
  return info.Env().Null();
}

Napi::Value UnlockFile(const Napi::CallbackInfo& info) {
  EnvState::Get(info.Env())->Unwrap(info[0], Kind::kLock, "unlockFile", "lock").lock.reset();
  return info.Env().Undefined();
}

}  // namespace

void RegisterFileLocks(Napi::Env env, Napi::Object exports) {
  Export<LockFile>(env, exports, "lockFile");
  Export<UnlockFile>(env, exports, "unlockFile");
}

}  // namespace lora::node
