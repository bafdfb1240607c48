#pragma once

#include "simt/queue.h"
#include "test/simt/self_test.h"

namespace lora::simt {

void LaunchSelfTest(device::SelfTest test, const uint32_t* in, uint32_t* out, Queue& queue);

}  // namespace lora::simt
