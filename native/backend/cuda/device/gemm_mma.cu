// The forms of gemm_mma.cuh that are built.
#include "backend/cuda/device/gemm_mma.cuh"

namespace lora::device {

#define LORA_GEMM(T, Tile)                                                                \
  template LaunchError LaunchGemmMma<T, Tile, false>(const GemmParams<T, Tile>&, Stream); \
  template LaunchError LaunchGemmMma<T, Tile, true>(const GemmParams<T, Tile>&, Stream);
LORA_GEMM(BF16, GemmTile128)
LORA_GEMM(BF16, GemmTile64)
LORA_GEMM(F16, GemmTile128)
LORA_GEMM(F16, GemmTile64)
#undef LORA_GEMM

}  // namespace lora::device
