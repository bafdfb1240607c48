#include "test/simt/self_test_kernels.h"

#include "test/simt/self_test.cuh"

namespace lora::simt {

void LaunchSelfTest(device::SelfTest test, const uint32_t* in, uint32_t* out, Queue& queue) {
  device::LaunchSelfTest(test, in, out, &queue);
}

}  // namespace lora::simt
