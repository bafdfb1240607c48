// openFile, fileView, closeFile.
#pragma once

#include <napi.h>

namespace lora::node {

void RegisterMappedFile(Napi::Env env, Napi::Object exports);

}  // namespace lora::node
