// GPUs as devices of the library. Where no CUDA backend is built, backend/no_cuda/ stands in.
#pragma once

#include <memory>
#include <string>

#include "core/storage.h"

namespace lora::cuda {

// 'cuda', 'cuda:1' or whatever else Describe() calls a device. Throws ERR_DEVICE_UNAVAILABLE.
std::shared_ptr<Device> OpenDevice(const std::string& name);

}  // namespace lora::cuda
