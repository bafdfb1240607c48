// What each file of native/node adds to the add-on's exports.
#pragma once

#include <napi.h>

namespace lora::node {

void RegisterDevices(Napi::Env env, Napi::Object exports);
void RegisterTensors(Napi::Env env, Napi::Object exports);
void RegisterWeights(Napi::Env env, Napi::Object exports);
void RegisterLoraLinear(Napi::Env env, Napi::Object exports);
void RegisterModelOps(Napi::Env env, Napi::Object exports);
void RegisterLosses(Napi::Env env, Napi::Object exports);
void RegisterOptimizer(Napi::Env env, Napi::Object exports);
void RegisterTapeOps(Napi::Env env, Napi::Object exports);
void RegisterRandomOps(Napi::Env env, Napi::Object exports);

}  // namespace lora::node
