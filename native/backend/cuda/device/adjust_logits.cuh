// z ← (z > 0 ? z / factor : z · factor) + add for single logits, a thread per entry; and −∞ where
// the bit of a logit is 0, a thread per logit.
#pragma once

#include "backend/cuda/device/launch.h"
#include "backend/cuda/device/primitives.h"

namespace lora::device {

template <class T>
struct AdjustLogitsParams {
  static constexpr int kThreads = 128, kMinBlocks = 4;
  T* logits;  // [m, vocab]
  int64_t vocab, entries;
  const int32_t *rows, *ids;       // [entries]
  const float *factors, *addends;  // [entries]
};

template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(AdjustLogitsParams<T>::kThreads,
                                    AdjustLogitsParams<T>::kMinBlocks)
    AdjustLogits(const LORA_GRID_CONSTANT AdjustLogitsParams<T> p) {
  const int64_t i = int64_t{BlockX()} * AdjustLogitsParams<T>::kThreads + ThreadIndex();
  if (i >= p.entries || p.rows[i] < 0 || p.ids[i] < 0) return;
  T& logit = p.logits[p.rows[i] * p.vocab + p.ids[i]];
  const float z = ToFloat(logit), factor = p.factors[i];
  logit = FromFloat<T>((z > 0 ? z / factor : z * factor) + p.addends[i]);
}

template <class T>
struct MaskLogitsParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  T* logits;  // [m, vocab]
  int64_t vocab, words;
  const int32_t* bits;  // [m, words]
};

template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(MaskLogitsParams<T>::kThreads, MaskLogitsParams<T>::kMinBlocks)
    MaskLogits(const LORA_GRID_CONSTANT MaskLogitsParams<T> p) {
  const int64_t row = BlockX();
  const int64_t v = int64_t{BlockY()} * MaskLogitsParams<T>::kThreads + ThreadIndex();
  if (v >= p.vocab) return;
  const auto word = static_cast<uint32_t>(p.bits[row * p.words + v / 32]);
  if ((word >> (v % 32) & 1) == 0)
    p.logits[row * p.vocab + v] = FromFloat<T>(BitsToFloat(0xff800000u));
}

}  // namespace lora::device
