// Declares what each file of native/node adds to the add-on's exports.
#pragma once

#include <napi.h>

namespace lora::node {

void RegisterDevices(Napi::Env env, Napi::Object exports);
void RegisterTensors(Napi::Env env, Napi::Object exports);
void RegisterWeights(Napi::Env env, Napi::Object exports);
void RegisterFaults(Napi::Env env, Napi::Object exports);
void RegisterDeltaTables(Napi::Env env, Napi::Object exports);
void RegisterGuards(Napi::Env env, Napi::Object exports);
void RegisterPrograms(Napi::Env env, Napi::Object exports);
void RegisterFileLocks(Napi::Env env, Napi::Object exports);
void RegisterOps(Napi::Env env, Napi::Object exports);

}  // namespace lora::node
