// The GEMM's forms, compiled for the emulator, behind functions that uninstrumented tests can call.
#include "test/simt/gemm_mma_kernels.h"

#include "backend/cuda/device/gemm_mma.cu"

namespace lora::simt {
namespace {

template <class T, class Tile>
void Call(const GemmCall& c, Queue& queue) {
  const device::GemmParams<T, Tile> params{static_cast<const T*>(c.x),
                                           static_cast<const T*>(c.w),
                                           static_cast<T*>(c.y),
                                           c.m,
                                           c.n,
                                           c.k,
                                           c.x_pitch,
                                           c.w_pitch,
                                           c.y_pitch};
  if (c.w_by_rows) {
    device::LaunchGemmMma<T, Tile, true>(params, &queue);
  } else {
    device::LaunchGemmMma<T, Tile, false>(params, &queue);
  }
}

}  // namespace

void LaunchGemm(const GemmCall& c, Queue& queue) {
  if (c.bf16) {
    c.large_tile ? Call<device::BF16, device::GemmTile128>(c, queue)
                 : Call<device::BF16, device::GemmTile64>(c, queue);
  } else {
    c.large_tile ? Call<device::F16, device::GemmTile128>(c, queue)
                 : Call<device::F16, device::GemmTile64>(c, queue);
  }
}

}  // namespace lora::simt
