// Opens GPUs as devices of the library. backend/no_cuda/ defines this where no
// CUDA backend is built.
#pragma once

#include <memory>
#include <string>

#include "core/runtime/storage.h"

namespace lora::cuda {

// Opens 'cuda', 'cuda:1' or any other id that Describe() gives. Throws ERR_DEVICE_UNAVAILABLE.
std::shared_ptr<Device> OpenDevice(const std::string& name);

}  // namespace lora::cuda
