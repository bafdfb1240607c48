#include "test/simt/bank_kernels.h"

#include "backend/cuda/device/launch.h"

namespace lora::simt {
namespace {

using namespace device;  // NOLINT: the code below is kernel code

constexpr int kBytes = 16 * 1024;

LORA_KERNEL void StridedReadsKernel(int bytes, int stride, bool some, uint32_t* out) {
  LORA_DYNAMIC_SHARED(raw);
  uint32_t* const words = reinterpret_cast<uint32_t*>(raw);
  for (int i = ThreadIndex(); i < kBytes / 4; i += BlockThreads()) words[i] = 1;
  SyncThreads();
  uint32_t sum = 0;
  for (int turn = 0; turn < 2; ++turn) {
    if (some && LaneIndex() % 4 == 3) continue;
    const unsigned char* const from = raw + (LaneIndex() * stride + turn * 128) % kBytes;
    switch (bytes) {
      case 2:
        sum += *reinterpret_cast<const uint16_t*>(from);
        break;
      case 4:
        sum += *reinterpret_cast<const uint32_t*>(from);
        break;
      case 8:
        sum += static_cast<uint32_t>(*reinterpret_cast<const uint64_t*>(from));
        break;
      default:
        sum += LoadShared16(from).words[0];
        break;
    }
  }
  out[ThreadIndex()] = sum;
}

}  // namespace

Result StridedReads(const Options& options, int bytes, int stride, bool some, uint32_t* out) {
  return Launch(options, StridedReadsKernel, {}, {64}, kBytes, bytes, stride, some, out);
}

}  // namespace lora::simt
