#include "backend/cuda/device/gemm_fma.cuh"
#include "backend/cuda/device/gemm_mma.cuh"
#include "test/simt/tuning.h"

namespace lora::simt {
namespace {

using namespace device;  // NOLINT: the code below is kernel code

template <class Tile>
Tuning OfGemm(const char* kernel, int stages) {
  return {kernel,   Tile::kThreads, Tile::kMinBlocks, Tile::kM,
          Tile::kN, Tile::kK,       stages,           Tile::kSharedBytes};
}
LORA_KERNEL void TileOrderKernel(GemmProduct product, int* out) {
  const GemmPlace place = PlaceOf<GemmTile64>(product);
  if (ThreadIndex() != 0) return;
  out[2 * BlockX()] = place.m0;
  out[2 * BlockX() + 1] = place.n0;
}

}  // namespace

std::vector<Tuning> GemmTunings() {
  return {OfGemm<GemmTile128>("gemm_mma", GemmTile128::kStages),
          OfGemm<GemmTile64>("gemm_mma", GemmTile64::kStages), OfGemm<FmaTile128>("gemm_fma", 2),
          OfGemm<FmaTile64>("gemm_fma", 2)};
}

std::vector<std::pair<int, int>> TileOrder(int tiles_m, int tiles_n) {
  GemmProduct product{};
  product.out.m = tiles_m * GemmTile64::kM - 1;
  product.out.n = tiles_n * GemmTile64::kN - 1;
  const auto blocks = static_cast<unsigned>(tiles_m * tiles_n);
  Buffer out(blocks * 8, "out");
  const Result result =
      Launch(Options(), TileOrderKernel, {blocks}, {32}, 0, product, out.as<int>());
  if (!result.reports.empty()) return {};
  std::vector<int> places(2 * blocks);
  out.Download(places.data());
  std::vector<std::pair<int, int>> order;
  for (size_t i = 0; i < blocks; ++i)
    order.emplace_back(places[2 * i] / GemmTile64::kM, places[2 * i + 1] / GemmTile64::kN);
  return order;
}

}  // namespace lora::simt
