// Multiplies bf16 pairs by Intel's matrix instructions (AMX), which only the target AVX3_SPR has
// (highway_targets.cc asks the CPU and the operating system). A tile register holds 16 rows of 64
// bytes; TDPBF16PS adds
//   C [16 rows][16 columns] += A [16 rows][16 pairs] · B [16 pairs][16 columns]
// in 16 cycles, the work of 512 f32 multiply-adds of 16 lanes. Rows of x are rows of A where they
// lie in memory, and a panel (pack.h) holds kVectors tiles B side by side.
//
// Four sums C of two A and two B need as many loads as multiplications, the least that 8 registers
// allow. Of split f32 (split-inl.h) what is loaded is multiplied more than once. A sum depends on
// the order of the pairs alone: not on the other rows, nor on the threads.
#if defined(LORA_BACKEND_CPU_SIMD_AMX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_SIMD_AMX_INL_H_
#undef LORA_BACKEND_CPU_SIMD_AMX_INL_H_
#else
#define LORA_BACKEND_CPU_SIMD_AMX_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "backend/cpu/simd/amx_registers-inl.h"
#include "backend/cpu/simd/operands.h"
#include "backend/cpu/simd/simd-inl.h"
#include "core/maths/ceil_div.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// Rows of memory whose lines are written next.
struct RowsToWrite {
  const std::byte* at = nullptr;
  size_t rows = 0, row_bytes = 0, stride_bytes = 0;
};

// What is multiplied: up to kAmxBlockRows rows of x and kAmxBlockColumns columns of a panel.
struct TileOperands {
  const uint32_t* x;
  size_t x_stride;
  const uint32_t* w;
  size_t w_stride;
  size_t elements;  // pairs of a row of x, and of a column of w
  // Memory of the next panel, or null. PrefetchedBy(elements) elements of it are fetched into the
  // L2 cache during the product.
  const uint32_t* ahead = nullptr;
  size_t parts = 0;  // of w, where x and w are split f32 (operands.h); 0 where they are bf16
  // Where the sums will be stored: a product of one whole tile of pairs or more fetches the lines.
  RowsToWrite writes = {};
};

// So many cache lines of the next panel are fetched with each tile of pairs. When 512 rows have
// been multiplied by a panel, the whole next one has been fetched.
constexpr size_t kAheadLines = 2, kLineElements = kCacheLine / sizeof(uint32_t);
constexpr size_t PrefetchedBy(size_t elements) {
  return elements / kAmxPairs * kAheadLines * kLineElements;
}

#if LORA_AMX

static_assert(kLanes == kAmxColumns && kPanelWidth % kAmxBlockColumns == 0);

// Fetches a tile into the L1 cache. Its rows are a cache line each.
HWY_INLINE void FetchTile(const uint32_t* at, size_t stride) {
  HWY_UNROLL(4)
  for (size_t i = 0; i < kAmxRows; i += 4, at += 4 * stride) {
    asm("" : "+r"(at));  // or GCC computes 16 addresses before the loop, and keeps them in memory
    _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(at + stride), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(at + 2 * stride), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(at + 3 * stride), _MM_HINT_T0);
  }
}

// Fetches the first rows, and takes them off. All at once would fill the buffers for lines that are
// on their way, and the tiles would wait.
LORA_AMX_ATTR HWY_INLINE void FetchToWrite(RowsToWrite& of, size_t rows) {
  for (size_t i = std::min(rows, of.rows); i != 0; --i, --of.rows, of.at += of.stride_bytes) {
    const size_t before = reinterpret_cast<uintptr_t>(of.at) % 64;  // bytes of the first line
    for (size_t at = 0; at < before + of.row_bytes; at += 64) __builtin_prefetch(of.at + at, 1);
  }
}

// A block has two tiles of rows if kTall, and two of columns if kWide, else one. If kFetches, the
// next tiles are fetched meanwhile, since the CPU loads the 16 lines of a tile one after the other.
// After the last ones that is whatever follows, and nothing reads it.
template <bool kTall, bool kWide, bool kFetches = true>
LORA_AMX_ATTR HWY_INLINE void AddTiles(const uint32_t* x, size_t x_stride, const uint32_t* w,
                                       size_t w_stride) {
  const size_t x_bytes = x_stride * sizeof(uint32_t), w_bytes = w_stride * sizeof(uint32_t);
  const uint32_t *const next_x = x + kAmxPairs, *const next_w = w + kAmxPairs * w_stride;
  _tile_loadd(6, w, w_bytes);
  if constexpr (kFetches) FetchTile(next_w, w_stride);
  _tile_loadd(4, x, x_bytes);
  _tile_dpbf16ps(0, 4, 6);
  if constexpr (kFetches) FetchTile(next_x, x_stride);
  if constexpr (kWide) {
    _tile_loadd(7, w + kAmxColumns, w_bytes);
    _tile_dpbf16ps(1, 4, 7);
    if constexpr (kFetches) FetchTile(next_w + kAmxColumns, w_stride);
  }
  if constexpr (kTall) {
    _tile_loadd(5, x + kAmxRows * x_stride, x_bytes);
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (kFetches) FetchTile(next_x + kAmxRows * x_stride, x_stride);
    if constexpr (kWide) _tile_dpbf16ps(3, 5, 7);
  }
}

template <bool kTall>
LORA_AMX_ATTR HWY_INLINE void LoadPartOfX(const uint32_t* x, size_t stride) {
  const size_t bytes = stride * sizeof(uint32_t);
  _tile_loadd(4, x, bytes);
  if constexpr (kTall) _tile_loadd(5, x + kAmxRows * stride, bytes);
}
template <bool kTall>
HWY_INLINE void FetchPartOfX(const uint32_t* x, size_t stride) {
  FetchTile(x, stride);
  if constexpr (kTall) FetchTile(x + kAmxRows * stride, stride);
}
template <bool kWide>
LORA_AMX_ATTR HWY_INLINE void LoadPartOfW(const uint32_t* w, size_t stride) {
  const size_t bytes = stride * sizeof(uint32_t);
  _tile_loadd(6, w, bytes);
  if constexpr (kWide) _tile_loadd(7, w + kAmxColumns, bytes);
}
template <bool kWide>
HWY_INLINE void FetchPartOfW(const uint32_t* w, size_t stride) {
  FetchTile(w, stride);
  if constexpr (kWide) FetchTile(w + kAmxColumns, stride);
}
template <bool kTall, bool kWide>
LORA_AMX_ATTR HWY_INLINE void MultiplyParts() {
  _tile_dpbf16ps(0, 4, 6);
  if constexpr (kWide) _tile_dpbf16ps(1, 4, 7);
  if constexpr (kTall) {
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (kWide) _tile_dpbf16ps(3, 5, 7);
  }
}

// The same step of split f32, whose W has kPartsOfW parts: Σ xᵢ·wⱼ over i + j < kParts, where each
// product shares an operand with the one before it. The order is the same for every number of
// parts, so that a part of zeros gives the bits of none.
template <bool kTall, bool kWide, size_t kPartsOfW>
LORA_AMX_ATTR HWY_INLINE void AddSplitTiles(const uint32_t* x, size_t x_stride, const uint32_t* w,
                                            size_t w_stride) {
  static_assert(kParts == 3);
  constexpr size_t kPart = kAmxPairs;
  const size_t w_part = kAmxPairs * w_stride;
  const uint32_t *const next_x = x + kParts * kPart, *const next_w = w + kPartsOfW * w_part;
  if constexpr (kPartsOfW == 3) {
    LoadPartOfW<kWide>(w + 2 * w_part, w_stride);
    LoadPartOfX<kTall>(x, x_stride);
    MultiplyParts<kTall, kWide>();
    FetchPartOfW<kWide>(next_w + 2 * w_part, w_stride);
  }
  if constexpr (kPartsOfW >= 2) {
    LoadPartOfW<kWide>(w + w_part, w_stride);
    if constexpr (kPartsOfW == 2) LoadPartOfX<kTall>(x, x_stride);
    MultiplyParts<kTall, kWide>();
    FetchPartOfW<kWide>(next_w + w_part, w_stride);
    LoadPartOfX<kTall>(x + kPart, x_stride);
    MultiplyParts<kTall, kWide>();
    LoadPartOfW<kWide>(w, w_stride);
  } else {
    LoadPartOfW<kWide>(w, w_stride);
    LoadPartOfX<kTall>(x + kPart, x_stride);
  }
  MultiplyParts<kTall, kWide>();
  FetchPartOfW<kWide>(next_w, w_stride);
  FetchPartOfX<kTall>(next_x + kPart, x_stride);
  LoadPartOfX<kTall>(x + 2 * kPart, x_stride);
  MultiplyParts<kTall, kWide>();
  FetchPartOfX<kTall>(next_x + 2 * kPart, x_stride);
  LoadPartOfX<kTall>(x, x_stride);
  MultiplyParts<kTall, kWide>();
  FetchPartOfX<kTall>(next_x, x_stride);
}

// to [kAmxPairs][kColumns] ← the first `count` < kAmxPairs rows of pairs of w, then zeros.
template <size_t kColumns>
HWY_INLINE void CopyPairs(const uint32_t* w, size_t w_stride, size_t count, uint32_t* to) {
  const DU du;
  for (size_t i = 0; i < kAmxPairs; ++i) {
    for (size_t j = 0; j < kColumns; j += kLanes) {
      const VU v = i < count ? hn::LoadU(du, w + i * w_stride + j) : hn::Zero(du);
      hn::Store(v, du, to + i * kColumns + j);
    }
  }
  HWY_FENCE;  // the compiler does not know that tile instructions read memory, or write it
}

// The last `rest` < kAmxPairs pairs of x and w, padded with zeros to whole tiles.
template <size_t kRows, size_t kColumns>
struct PaddedPairs {
  alignas(64) uint32_t x[kRows * kAmxPairs], w[kAmxPairs * kColumns];
  PaddedPairs(const TileOperands& of, size_t first, size_t rows) {
    const DU du;
    const size_t rest = of.elements - first;
    for (size_t i = 0; i < rows; ++i) {
      hn::Store(hn::LoadN(du, of.x + i * of.x_stride + first, rest), du, x + i * kAmxPairs);
    }
    CopyPairs<kColumns>(of.w + first * of.w_stride, of.w_stride, rest, w);
  }
};

// Adds a step of whole tiles to the sums in registers. kPartsOfW is 0 where x and w are not split.
template <bool kTall, bool kWide, size_t kPartsOfW>
LORA_AMX_ATTR HWY_INLINE void AddStep(const uint32_t* x, size_t x_stride, const uint32_t* w,
                                      size_t w_stride) {
  if constexpr (kPartsOfW == 0) {
    AddTiles<kTall, kWide>(x, x_stride, w, w_stride);
  } else {
    AddSplitTiles<kTall, kWide, kPartsOfW>(x, x_stride, w, w_stride);
  }
}

// Adds the products of all pairs to the sums in registers.
template <bool kTall, bool kWide, size_t kPartsOfW>
LORA_AMX_ATTR HWY_INLINE void AddProductsOf(const TileOperands& of, size_t rows) {
  constexpr size_t kStepOfX = kPartsOfW == 0 ? 1 : kParts;
  constexpr size_t kStepOfW = std::max<size_t>(1, kPartsOfW);
  const uint32_t *x = of.x, *w = of.w, *ahead = of.ahead;
  RowsToWrite writes = of.writes;
  const size_t writes_of_step = CeilDiv(writes.rows, std::max<size_t>(1, of.elements / kAmxPairs));
  size_t e = 0;
  for (; e + kAmxPairs <= of.elements; e += kAmxPairs) {
    AddStep<kTall, kWide, kPartsOfW>(x, of.x_stride, w, of.w_stride);
    x += kStepOfX * kAmxPairs;
    w += kStepOfW * kAmxPairs * of.w_stride;
    FetchToWrite(writes, writes_of_step);
    if (ahead) {
      for (size_t line = 0; line < kAheadLines; ++line, ahead += kLineElements) {
        _mm_prefetch(reinterpret_cast<const char*>(ahead), _MM_HINT_T1);
      }
    }
  }
  if (e == of.elements) return;
  constexpr size_t kRows = kTall ? kAmxBlockRows : kAmxRows;
  constexpr size_t kColumns = kWide ? kAmxBlockColumns : kAmxColumns;
  if constexpr (kPartsOfW == 0) {
    const PaddedPairs<kRows, kColumns> rest(of, e, rows);
    AddTiles<kTall, kWide>(rest.x, kAmxPairs, rest.w, kColumns);
  } else if constexpr (kPartsOfW == 1) {
    // Rows of split x, and parts that are made of W, have whole tiles. The step fetches what
    // follows the copy.
    alignas(64) uint32_t rest[2 * kAmxPairs * kColumns];
    CopyPairs<kColumns>(w, of.w_stride, of.elements - e, rest);
    AddSplitTiles<kTall, kWide, 1>(x, of.x_stride, rest, kColumns);
  } else {
    AddSplitTiles<kTall, kWide, kPartsOfW>(x, of.x_stride, w, of.w_stride);
  }
}

template <bool kTall, bool kWide>
LORA_AMX_ATTR HWY_INLINE void AddProducts(const TileOperands& of, size_t rows) {
  switch (of.parts) {
    case 0:
      return AddProductsOf<kTall, kWide, 0>(of, rows);
    case 1:
      return AddProductsOf<kTall, kWide, 1>(of, rows);
    case 2:
      return AddProductsOf<kTall, kWide, 2>(of, rows);
    default:
      return AddProductsOf<kTall, kWide, kParts>(of, rows);
  }
}

template <bool kTall, bool kWide>
LORA_AMX_ATTR HWY_INLINE void ZeroTiles() {
  _tile_zero(0);
  if constexpr (kWide) _tile_zero(1);
  if constexpr (kTall) {
    _tile_zero(2);
    if constexpr (kWide) _tile_zero(3);
  }
}
template <bool kTall, bool kWide>
LORA_AMX_ATTR HWY_INLINE void LoadTiles(const float* sums, size_t ld) {
  const size_t bytes = ld * sizeof(float);
  _tile_loadd(0, sums, bytes);
  if constexpr (kWide) _tile_loadd(1, sums + kAmxColumns, bytes);
  if constexpr (kTall) {
    _tile_loadd(2, sums + kAmxRows * ld, bytes);
    if constexpr (kWide) _tile_loadd(3, sums + kAmxRows * ld + kAmxColumns, bytes);
  }
}
template <bool kTall, bool kWide>
LORA_AMX_ATTR HWY_INLINE void StoreTiles(float* sums, size_t ld) {
  const size_t bytes = ld * sizeof(float);
  _tile_stored(0, sums, bytes);
  if constexpr (kWide) _tile_stored(1, sums + kAmxColumns, bytes);
  if constexpr (kTall) {
    _tile_stored(2, sums + kAmxRows * ld, bytes);
    if constexpr (kWide) _tile_stored(3, sums + kAmxRows * ld + kAmxColumns, bytes);
  }
}

// to [rows][kAmxColumns, or kAmxBlockColumns if kWide] ← from (or zero) + main.x · main.w +
// extra.x · extra.w, where `rows` are those that the registers are configured for.
template <bool kTall, bool kWide>
LORA_AMX_ATTR HWY_NOINLINE void MultiplyTilesOf(const TileOperands& main, const TileOperands& extra,
                                                size_t rows, const float* from, size_t ld_from,
                                                float* to, size_t ld_to) {
  HWY_FENCE;
  if (from) {
    LoadTiles<kTall, kWide>(from, ld_from);
  } else {
    ZeroTiles<kTall, kWide>();
  }
  AddProducts<kTall, kWide>(main, rows);
  if (extra.elements != 0) AddProducts<kTall, kWide>(extra, rows);
  StoreTiles<kTall, kWide>(to, ld_to);
  HWY_FENCE;
}

template <bool kWide = true>
HWY_INLINE void MultiplyTiles(const TileOperands& main, const TileOperands& extra, size_t rows,
                              const float* from, size_t ld_from, float* to, size_t ld_to) {
  if (rows > kAmxRows) {
    MultiplyTilesOf<true, kWide>(main, extra, rows, from, ld_from, to, ld_to);
  } else {
    MultiplyTilesOf<false, kWide>(main, extra, rows, from, ld_from, to, ld_to);
  }
}

// Fetches a quarter of a tile's pairs of a panel, because more at once would be too many.
HWY_INLINE void FetchQuarter(const uint32_t* at) {
  if (!at) return;
  for (size_t i = 0; i < kAmxPairs * kPanelWidth / 4; i += kLineElements) {
    _mm_prefetch(reinterpret_cast<const char*>(at + i), _MM_HINT_T0);
  }
}

LORA_AMX_ATTR HWY_INLINE void AddRowTiles(const uint32_t* x, size_t x_stride, const uint32_t* w,
                                          const uint32_t* ahead) {
  constexpr size_t kBytes = kPanelWidth * sizeof(uint32_t);
  constexpr size_t kQuarter = kAmxPairs * kPanelWidth / 4;
  static_assert(kPanelWidth == 4 * kAmxColumns);
  _tile_loadd(4, x, x_stride * sizeof(uint32_t));
  _tile_loadd(5, w, kBytes);
  FetchQuarter(ahead);
  _tile_dpbf16ps(0, 4, 5);
  _tile_loadd(6, w + kAmxColumns, kBytes);
  FetchQuarter(ahead ? ahead + kQuarter : nullptr);
  _tile_dpbf16ps(1, 4, 6);
  _tile_loadd(7, w + 2 * kAmxColumns, kBytes);
  FetchQuarter(ahead ? ahead + 2 * kQuarter : nullptr);
  _tile_dpbf16ps(2, 4, 7);
  _tile_loadd(5, w + 3 * kAmxColumns, kBytes);
  FetchQuarter(ahead ? ahead + 3 * kQuarter : nullptr);
  _tile_dpbf16ps(3, 4, 5);
}

// sums [rows][kPanelWidth] += x · panel, where `rows` are those that ConfigureRow was called with.
// Meanwhile as many bytes as the panel has are fetched from `ahead` on, unless it is null.
LORA_AMX_ATTR HWY_NOINLINE inline void AddRowProducts(const TileOperands& of, size_t rows,
                                                      float* sums) {
  constexpr size_t kBytes = kPanelWidth * sizeof(float);
  HWY_FENCE;
  _tile_loadd(0, sums, kBytes);
  _tile_loadd(1, sums + kAmxColumns, kBytes);
  _tile_loadd(2, sums + 2 * kAmxColumns, kBytes);
  _tile_loadd(3, sums + 3 * kAmxColumns, kBytes);
  size_t e = 0;
  for (; e + kAmxPairs <= of.elements; e += kAmxPairs) {
    AddRowTiles(of.x + e, of.x_stride, of.w + e * kPanelWidth,
                of.ahead ? of.ahead + e * kPanelWidth : nullptr);
  }
  if (e != of.elements) {
    const PaddedPairs<kAmxRows, kPanelWidth> rest(of, e, rows);
    AddRowTiles(rest.x, kAmxPairs, rest.w, nullptr);
  }
  _tile_stored(0, sums, kBytes);
  _tile_stored(1, sums + kAmxColumns, kBytes);
  _tile_stored(2, sums + 2 * kAmxColumns, kBytes);
  _tile_stored(3, sums + 3 * kAmxColumns, kBytes);
  HWY_FENCE;
}

#else

template <bool kWide = true>
void MultiplyTiles(const TileOperands& main, const TileOperands& extra, size_t rows,
                   const float* from, size_t ld_from, float* to, size_t ld_to);
void AddRowProducts(const TileOperands& of, size_t rows, float* sums);

#endif  // LORA_AMX

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
