// The tile registers of AMX, which only the target AVX3_SPR has: whether kernels use them, their
// shapes, and what a thread that does so sets. amx-inl.h multiplies with them.
#if defined(LORA_BACKEND_CPU_SIMD_AMX_REGISTERS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_SIMD_AMX_REGISTERS_INL_H_
#undef LORA_BACKEND_CPU_SIMD_AMX_REGISTERS_INL_H_
#else
#define LORA_BACKEND_CPU_SIMD_AMX_REGISTERS_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "backend/cpu/simd/operands.h"
#include "hwy/highway.h"

// A function that uses tile registers has LORA_AMX_ATTR, which a lambda inside it would not have.
#undef LORA_AMX
#undef LORA_AMX_ATTR
#if LORA_EMULATE_TILES
#define LORA_AMX (HWY_TARGET == HWY_AVX3_DL)
#define LORA_AMX_ATTR
#else
#define LORA_AMX (HWY_ARCH_X86 && HWY_TARGET == HWY_AVX3_SPR)
#define LORA_AMX_ATTR __attribute__((target("amx-tile,amx-bf16,prfchw")))
#endif

#if LORA_AMX && LORA_EMULATE_TILES
#include "backend/cpu/simd/emulated_tiles.h"
#elif LORA_AMX
#include <immintrin.h>
#endif

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// Whether products of bf16 pairs and of split f32 use tile registers. Where they do not, what is
// declared for both is never called.
constexpr bool kMultipliesTiles = LORA_AMX;

#if LORA_AMX

// The shapes of the tile registers of one thread, from construction to destruction. The destructor
// lets the operating system skip the registers when it switches threads.
class TileRegisters {
 public:
  LORA_AMX_ATTR TileRegisters() = default;
  LORA_AMX_ATTR ~TileRegisters() {
    if (rows_ != 0) _tile_release();
  }
  TileRegisters(const TileRegisters&) = delete;

  // For a block of up to kAmxBlockRows rows: sums 0 to 3 (by rows, then columns), A in 4 and 5, B
  // in 6 and 7. The upper tiles hold the first kAmxRows rows, the lower ones the rest.
  LORA_AMX_ATTR void ConfigureBlock(size_t rows) {
    const size_t upper = rows < kAmxRows ? rows : kAmxRows, lower = rows - upper;
    // Without rows it would be no register, although nothing uses it.
    const size_t some = lower == 0 ? kAmxRows : lower;
    Configure({upper, upper, some, some, upper, some, kAmxPairs, kAmxPairs}, rows);
  }

  // For up to kAmxRows rows of a whole panel: sums 0 to 3, A in 4, and three registers for B.
  LORA_AMX_ATTR void ConfigureRow(size_t rows) {
    Configure({rows, rows, rows, rows, rows, kAmxPairs, kAmxPairs, kAmxPairs}, rows);
  }

  // For the 8 pairs of a group of values (block_tiles-inl.h): sums 0 to 3, A of two groups in 4 and
  // 5, B in 6 and 7.
  LORA_AMX_ATTR void ConfigureGroups(size_t rows) {
    constexpr size_t kPairs = kAmxPairs / 2;
    Configure({rows, rows, rows, rows, rows, rows, kPairs, kPairs}, rows,
              kPairs * sizeof(uint32_t));
  }

 private:
  LORA_AMX_ATTR void Configure(std::initializer_list<size_t> rows_of, size_t rows,
                               uint16_t bytes_of_a = 64) {
    if (rows == rows_) return;
    rows_ = rows;
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {};
    } shapes;
    shapes.row_bytes[4] = shapes.row_bytes[5] = bytes_of_a;
    std::copy(rows_of.begin(), rows_of.end(), shapes.rows);
    _tile_loadconfig(&shapes);
  }

  size_t rows_ = 0;  // of the last call; an object has one of the three layouts
};

// While it lives, a product of pairs reads and writes subnormal f32 as zeros, as tile instructions
// do.
template <bool kPairs>
class SubnormalsOfTiles {
 public:
#if !LORA_EMULATE_TILES
  SubnormalsOfTiles() {
    if (kPairs) _mm_setcsr(before_ | 0x8040u);
  }
  ~SubnormalsOfTiles() {
    if (kPairs) _mm_setcsr(before_);
  }

 private:
  const unsigned before_ = _mm_getcsr();
#else
  SubnormalsOfTiles() {}
#endif
};

#else

class TileRegisters {
 public:
  void ConfigureBlock(size_t) {}
  void ConfigureRow(size_t) {}
  void ConfigureGroups(size_t) {}
};
template <bool kPairs>
struct SubnormalsOfTiles {
  SubnormalsOfTiles() {}
};

#endif  // LORA_AMX

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
