// Makes elements of products of a matrix whose format has scales (core/maths/weight_format.h): the
// only code on a GPU that knows the bits of such formats. A value is code·scale or q·scale in f32,
// and is rounded once more where T has 16 bits.
//
// Expand: y = W. A thread makes 8 consecutive values of the flattened matrix, so that a warp reads
// 128 bytes of codes and writes 512 of bf16.
//
// ExpandRows: y[i] = W[ids[i]]. A block makes one row.
#pragma once

#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/index.cuh"
#include "backend/cuda/device/launch.h"
#include "core/maths/weight_format.h"

namespace lora::device {

struct ScaledWeight {
  static constexpr int kSharedBytes = kCodes * sizeof(float);
  const uint8_t* values;  // int8, or codes of 4 bits
  const float* scales;
  int64_t per_scale;  // values that share one
  int64_t has_codes;  // of 64 bits, so that there is no padding
  float codes[kCodes];
};

// Returns the codes' values in shared memory, where lanes that read different ones need not wait
// for each other. All threads of a block call it.
LORA_DEVICE const float* LoadCodes(const ScaledWeight& w, unsigned char* shared) {
  float* const codes = reinterpret_cast<float*>(shared);
  if (ThreadIndex() < static_cast<int>(kCodes)) codes[ThreadIndex()] = w.codes[ThreadIndex()];
  SyncThreads();
  return codes;
}

// Where code j of eight lies in their word. The first code of a byte is in its high bits.
LORA_DEVICE int CodeShift(int j) { return (j * 4) ^ 4; }

// Eight values as they lie in memory: a byte for each, or eight codes in the first word.
LORA_DEVICE Vec8 LoadBits(const ScaledWeight& w, int64_t first, int64_t count) {
  Vec8 bits{{0, 0}};
  const bool whole = first + 8 <= count;
  if (w.has_codes != 0) {
    const uint8_t* const from = w.values + first / 2;
    if (whole && first % 2 == 0 && reinterpret_cast<uintptr_t>(from) % 4 == 0) {
      bits.words[0] = *reinterpret_cast<const uint32_t*>(from);
    } else {
      LORA_UNROLL
      for (int j = 0; j < 8; ++j) {
        if (first + j >= count) continue;
        const int64_t n = first + j;
        const uint32_t code = w.values[n / 2] >> (n % 2 == 0 ? 4 : 0) & 15u;
        bits.words[0] |= code << CodeShift(j);
      }
    }
  } else if (whole && reinterpret_cast<uintptr_t>(w.values + first) % 8 == 0) {
    bits = LoadGlobal8(w.values + first);
  } else {
    LORA_UNROLL
    for (int j = 0; j < 8; ++j)
      if (first + j < count) bits.words[j / 4] |= uint32_t{w.values[first + j]} << (j % 4 * 8);
  }
  return bits;
}

// Value j of these eight, before its scale.
LORA_DEVICE float Unscaled(const ScaledWeight& w, const float* codes, const Vec8& bits, int j) {
  if (w.has_codes != 0) return codes[bits.words[0] >> CodeShift(j) & 15u];
  return static_cast<float>(static_cast<int8_t>(bits.words[j / 4] >> (j % 4 * 8) & 0xffu));
}

// values[j] = W[first + j] of the flattened matrix, or 0 from `count` on.
LORA_DEVICE void LoadElements(float (&values)[8], const ScaledWeight& w, const float* codes,
                              int64_t first, int64_t count) {
  const Vec8 bits = LoadBits(w, first, count);
  auto [group, within] = Divide(first, w.per_scale);
  float scale = w.scales[group];
  LORA_UNROLL
  for (int j = 0; j < 8; ++j) {
    if (within == w.per_scale && first + j < count) {
      scale = w.scales[++group];
      within = 0;
    }
    ++within;
    values[j] = first + j < count ? Unscaled(w, codes, bits, j) * scale : 0.0f;
  }
}

// Eight neighbors along k in a row of whole eights, which share a scale.
struct Eight {
  Vec8 bits;
  float scale;
};

// Loads those from column k on, or zeros from `count` on. Nothing is computed with them yet, so
// that many loads may be in flight. Values are aligned to 4 bytes, as their scales are.
LORA_DEVICE Eight LoadEight(const ScaledWeight& w, int64_t row, int64_t k, int64_t count) {
  Eight eight{{{0, 0}}, 0.0f};
  if (k >= count) return eight;
  const int64_t at = row * count + k;
  if (w.has_codes != 0) {
    eight.bits.words[0] = *reinterpret_cast<const uint32_t*>(w.values + at / 2);
    eight.scale = w.scales[at / kBlockValues];
  } else {
    const auto* const words = reinterpret_cast<const uint32_t*>(w.values + at);
    eight.bits.words[0] = words[0];
    eight.bits.words[1] = words[1];
    eight.scale = w.scales[row];
  }
  return eight;
}

// Returns the values, of 16 bits.
template <class T>
LORA_DEVICE Vec16 ExpandEight(const ScaledWeight& w, const float* codes, const Eight& eight) {
  Vec16 v;
  LORA_UNROLL
  for (int j = 0; j < 4; ++j) {
    v.words[j] = RoundPair<T>(Unscaled(w, codes, eight.bits, 2 * j) * eight.scale,
                              Unscaled(w, codes, eight.bits, 2 * j + 1) * eight.scale);
  }
  return v;
}

template <class T>
struct ExpandParams {
  static constexpr int kThreads = 256, kMinBlocks = 4, kPerThread = 8;
  static constexpr int kSharedBytes = ScaledWeight::kSharedBytes;
  ScaledWeight weight;
  T* y;
  int64_t count;
};

template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(ExpandParams<T>::kThreads, ExpandParams<T>::kMinBlocks)
    Expand(const LORA_GRID_CONSTANT ExpandParams<T> p) {
  LORA_DYNAMIC_SHARED(shared);
  const float* const codes = LoadCodes(p.weight, shared);
  const int64_t first = GlobalIndex<ExpandParams<T>::kThreads>() * ExpandParams<T>::kPerThread;
  if (first >= p.count) return;
  float values[8];
  LoadElements(values, p.weight, codes, first, p.count);
  StoreElements(p.y, first, p.count, values);
}

template <class T>
struct ExpandRowsParams {
  static constexpr int kThreads = 128, kMinBlocks = 8, kPerThread = 8;
  static constexpr int kSharedBytes = ScaledWeight::kSharedBytes;
  ScaledWeight weight;  // [vocab, dim]
  const int32_t* ids;
  T* y;  // [n, dim]
  int64_t dim;
};

template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(ExpandRowsParams<T>::kThreads, ExpandRowsParams<T>::kMinBlocks)
    ExpandRows(const LORA_GRID_CONSTANT ExpandRowsParams<T> p) {
  using P = ExpandRowsParams<T>;
  LORA_DYNAMIC_SHARED(shared);
  const float* const codes = LoadCodes(p.weight, shared);
  const int64_t row = p.ids[BlockX()] * p.dim;
  for (int64_t i = ThreadIndex() * P::kPerThread; i < p.dim; i += P::kThreads * P::kPerThread) {
    float values[P::kPerThread];
    LoadElements(values, p.weight, codes, row + i, row + p.dim);
    StoreElements(p.y + BlockX() * p.dim, i, p.dim, values);
  }
}

}  // namespace lora::device
