// Defines the add-on. lib/native/binding.ts describes its exports.
#include "core/runtime/platform/platform.h"
#include "node/api.h"
#include "node/env_state.h"
#include "node/mapped_file.h"

namespace {

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  using namespace lora::node;
  lora::platform::KeepLoaded();
  EnvState::Install(env);
  RegisterDevices(env, exports);
#ifdef LORA_FAULTS
  RegisterFaults(env, exports);
#endif
  RegisterTensors(env, exports);
  RegisterWeights(env, exports);
  RegisterDeltaTables(env, exports);
  RegisterGuards(env, exports);
  RegisterPrograms(env, exports);
  RegisterOps(env, exports);
  RegisterMappedFile(env, exports);
  RegisterFileLocks(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(lora_native, Init)
