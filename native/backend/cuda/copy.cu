#include "backend/cuda/copy.h"
#include "backend/cuda/device/copy.cuh"
#include "backend/cuda/launch.h"

namespace lora::cuda {
namespace {

template <class U>
void Copy(const char* op, const RowCopy& copy, Context& context) {
  using Params = device::CopyRowsParams<U>;
  const Params params{static_cast<const U*>(copy.src),
                      static_cast<U*>(copy.dst),
                      copy.src_pitch,
                      copy.dst_pitch,
                      copy.rows,
                      copy.run};
  Launch<device::CopyRows<U>>(op, context, Blocks(copy.rows * params.chunks(), Params::kThreads),
                              params);
}

}  // namespace

void CopyRows(const char* op, const RowCopy& copy, Context& context) {
  if (copy.size == 1) return Copy<uint8_t>(op, copy, context);
  if (copy.size == 2) return Copy<uint16_t>(op, copy, context);
  if (copy.size == 4) return Copy<uint32_t>(op, copy, context);
  Copy<uint64_t>(op, copy, context);
}

}  // namespace lora::cuda
