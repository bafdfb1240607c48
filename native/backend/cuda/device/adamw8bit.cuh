// AdamW on dequantized moments, which are then quantized (core/ops/optimizer.h). One launch updates
// many parameters. A warp takes a block of 256 elements, 8 consecutive ones in each lane: it reads
// 10 bytes per element of p, g and the codes and writes 6, with p of bf16 8 and 4. The values of
// all codes are in shared memory, where each CUDA block computes them first.
#pragma once

#include "backend/cuda/device/reduce.cuh"
#include "backend/cuda/device/step.cuh"
#include "core/maths/dynamic_code.h"

namespace lora::device {

template <bool kRounded>
struct AdamW8bitParams {
  static constexpr int kThreads = 256, kMinBlocks = 2, kPerBlock = 8192;
  static constexpr size_t kSharedBytes = 512 * sizeof(float);
  enum { kParam, kGrad, kMCodes, kVCodes, kMScales, kVScales };
  SegmentList<StepSegment<6, kRounded>, kRounded ? 48 : 60> list;
  DynamicTree m_tree, v_tree;
  AdamWRule rule;
};
static_assert(sizeof(AdamW8bitParams<false>) <= 4096 && sizeof(AdamW8bitParams<true>) <= 4096 &&
              sizeof(DynamicTree) % 8 == 0);

// x[j] = scale·value of code j of the lane's 8.
LORA_DEVICE void Dequantize(float (&x)[8], const float* values, const uint32_t* codes,
                            float scale) {
  const uint32_t words[2] = {codes[0], codes[1]};
  LORA_UNROLL
  for (int j = 0; j < 8; ++j) x[j] = values[words[j / 4] >> (8 * (j % 4)) & 255] * scale;
}

// Writes the codes of the lane's 8 numbers and returns the scale of the warp's 256. Bits of
// magnitudes are in the order of their values, and those of NaN are above those of infinity.
LORA_DEVICE float Quantize(const float (&x)[8], const DynamicTree& tree, uint32_t* codes) {
  uint32_t bits = 0;
  LORA_UNROLL
  for (int j = 0; j < 8; ++j) bits = Max()(bits, FloatToBits(x[j]) & 0x7fffffffu);
  bits = WarpMax(bits);
  const bool finite = bits < 0x7f800000u;
  const float scale = BitsToFloat(finite ? bits : 0x7fc00000u);
  uint32_t words[2] = {0, 0};
  if (finite && bits > 0) {
    LORA_UNROLL
    for (int j = 0; j < 8; ++j) words[j / 4] |= DynamicCode(tree, x[j] / scale) << (8 * (j % 4));
  }
  codes[0] = words[0];
  codes[1] = words[1];
  return scale;
}

template <bool kRounded>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(AdamW8bitParams<kRounded>::kThreads,
                                    AdamW8bitParams<kRounded>::kMinBlocks)
    AdamW8bit(const LORA_GRID_CONSTANT AdamW8bitParams<kRounded> params) {
  using P = AdamW8bitParams<kRounded>;
  LORA_DYNAMIC_SHARED(shared);
  float* const m_values = reinterpret_cast<float*>(shared);
  float* const v_values = m_values + 256;
  const uint32_t code = static_cast<uint32_t>(ThreadIndex());
  m_values[code] = DynamicValue(params.m_tree, code);
  v_values[code] = DynamicValue(params.v_tree, code);
  SyncThreads();
  const Piece piece = PieceOf<P::kPerBlock>(params.list, static_cast<uint32_t>(BlockX()));
  const auto& segment = params.list.segments[piece.index];
  for (int64_t begin = piece.begin + WarpIndex() * kDynamicBlock; begin < piece.end;
       begin += P::kThreads / 32 * kDynamicBlock) {
    const int64_t block = begin / kDynamicBlock, i = begin + LaneIndex() * 8;
    uint32_t* const m_codes = reinterpret_cast<uint32_t*>(segment.data[P::kMCodes]) + i / 4;
    uint32_t* const v_codes = reinterpret_cast<uint32_t*>(segment.data[P::kVCodes]) + i / 4;
    float p[8], g[8], m[8], v[8];
    LoadParam(p, segment, i);
    LoadElements(g, segment.data[P::kGrad], i, segment.count);
    Dequantize(m, m_values, m_codes, segment.data[P::kMScales][block]);
    Dequantize(v, v_values, v_codes, segment.data[P::kVScales][block]);
    LORA_UNROLL
    for (int j = 0; j < 8; ++j) {
      float e[] = {p[j], g[j], m[j], v[j]};
      params.rule(e);
      const bool inside = i + j < segment.count;
      p[j] = e[kStepParam];
      m[j] = inside ? e[kStepState] : 0;
      v[j] = inside ? e[kStepState + 1] : 0;
    }
    StoreParam(segment, i, p);
    SyncWarp();  // every lane has read the block's scales
    const float m_scale = Quantize(m, params.m_tree, m_codes);
    const float v_scale = Quantize(v, params.v_tree, v_codes);
    if (LaneIndex() == 0) {
      segment.data[P::kMScales][block] = m_scale;
      segment.data[P::kVScales][block] = v_scale;
    }
  }
}

}  // namespace lora::device
