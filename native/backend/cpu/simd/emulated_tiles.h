// The tile instructions of AMX in software, under the names of their intrinsics. Builds with
// sanitizers use them (LORA_EMULATE_TILES): the kernels of amx-inl.h are tested on every CPU with
// AVX3_DL then, and a tile that reads or writes beyond its operand is found. What the CPU
// would refuse ends the process. Source: Intel, Software Developer's Manual, volume 2.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "core/maths/dtype.h"

namespace lora::cpu::emulated {

struct TileRegister {
  size_t rows = 0, bytes = 0;  // of a row
  alignas(64) uint8_t data[16][64] = {};
};

inline thread_local TileRegister tiles[8];

inline void Require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "emulated tiles: %s\n", what);
  __builtin_trap();
}

inline TileRegister& Tile(size_t i) {
  Require(tiles[i].rows != 0 && tiles[i].bytes != 0, "a register that is not configured");
  return tiles[i];
}

inline void Configure(const void* shapes) {
  uint8_t bytes[64];
  std::memcpy(bytes, shapes, sizeof bytes);
  Require(bytes[0] == 1, "the palette is not 1");
  for (size_t i = 0; i < 8; ++i) {
    tiles[i] = TileRegister();
    uint16_t row_bytes = 0;
    std::memcpy(&row_bytes, bytes + 16 + 2 * i, sizeof row_bytes);
    tiles[i].bytes = row_bytes;
    tiles[i].rows = bytes[48 + i];
    Require(tiles[i].bytes <= 64 && tiles[i].rows <= 16, "a register of more than 16 × 64 bytes");
  }
}

inline void Release() {
  for (TileRegister& tile : tiles) tile = TileRegister();
}

inline void Zero(size_t i) { std::memset(Tile(i).data, 0, sizeof(TileRegister::data)); }

inline void Load(size_t i, const void* from, size_t stride) {
  Zero(i);
  for (size_t row = 0; row < tiles[i].rows; ++row) {
    std::memcpy(tiles[i].data[row], static_cast<const uint8_t*>(from) + row * stride,
                tiles[i].bytes);
  }
}

inline void Store(size_t i, void* to, size_t stride) {
  const TileRegister& tile = Tile(i);
  for (size_t row = 0; row < tile.rows; ++row) {
    std::memcpy(static_cast<uint8_t*>(to) + row * stride, tile.data[row], tile.bytes);
  }
}

// The products of the first and of the second halves of the pairs are summed apart.
inline void MultiplyBF16(size_t sums, size_t a, size_t b) {
  TileRegister &c = Tile(sums), &x = Tile(a), &w = Tile(b);
  Require(c.rows == x.rows && c.bytes == w.bytes && x.bytes == 4 * w.rows, "shapes do not match");
  const size_t columns = c.bytes / 4;
  for (size_t row = 0; row < c.rows; ++row) {
    float products[2][16] = {};
    for (size_t pair = 0; pair < w.rows; ++pair) {
      uint16_t of_x[2], of_w[16][2];
      std::memcpy(of_x, x.data[row] + 4 * pair, sizeof of_x);
      std::memcpy(of_w, w.data[pair], w.bytes);
      for (size_t half = 0; half < 2; ++half) {
        for (size_t j = 0; j < columns; ++j) {
          products[half][j] += F32FromBF16(of_x[half]) * F32FromBF16(of_w[j][half]);
        }
      }
    }
    float sum[16];
    std::memcpy(sum, c.data[row], c.bytes);
    for (size_t j = 0; j < columns; ++j) sum[j] += products[0][j] + products[1][j];
    std::memcpy(c.data[row], sum, c.bytes);
  }
}

}  // namespace lora::cpu::emulated

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig(shapes) lora::cpu::emulated::Configure(shapes)
#define _tile_release() lora::cpu::emulated::Release()
#define _tile_zero(i) lora::cpu::emulated::Zero(i)
#define _tile_loadd(i, from, stride) lora::cpu::emulated::Load(i, from, stride)
#define _tile_stored(i, to, stride) lora::cpu::emulated::Store(i, to, stride)
#define _tile_dpbf16ps(sums, a, b) lora::cpu::emulated::MultiplyBF16(sums, a, b)
