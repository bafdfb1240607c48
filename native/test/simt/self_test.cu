// The self-test's kernels for nvcc: every primitive is assembled, none is only parsed.
#include "test/simt/self_test.cuh"

namespace lora::device {
int LaunchSelfTestOnDevice(SelfTest test, const uint32_t* in, uint32_t* out, void* stream);
int LaunchSelfTestOnDevice(SelfTest test, const uint32_t* in, uint32_t* out, void* stream) {
  return static_cast<int>(LaunchSelfTest(test, in, out, static_cast<Stream>(stream)));
}
}  // namespace lora::device
