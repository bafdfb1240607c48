// With u = B·v of x = [B | C | v], or u = x, and z[t] = bias + Σ weight[:, k − 1 − j]·u[t − j]:
//   y = C·z, dC = g·z and dz = g·C,  or  y = silu(z) and dz = g·silu'(z)
//   du[t]      = Σ weight[:, k − 1 − j]·dz[t + j], of which dB = du·v and dv = du·B
//   dweight[j] = Σ dz[t]·u[t − (k − 1) + j],  dbias = Σ dz
//
// A thread takes 8 neighboring channels of a token, and finds the rows above in cache. dz goes
// through memory in f32. The gradients of weight and bias are sums over blocks of rows, which a
// second launch adds up in their order.
#pragma once

#include "backend/cuda/device/any_elements.cuh"
#include "backend/cuda/device/index.cuh"
#include "backend/cuda/device/kinds.cuh"
#include "backend/cuda/device/launch.h"
#include "core/ops/states.h"

namespace lora::device {

struct ConvInput {
  static constexpr int kPerThread = 8;
  AnyInput x, weight, bias;  // bias may have no data
  int64_t rows, s, c;        // rows: of all sequences
  int taps;
  ShortConvKind kind;

  LORA_DEVICE bool gated() const { return kind == ShortConvKind::kGated; }
  LORA_DEVICE int64_t groups() const { return (c + kPerThread - 1) / kPerThread; }
  // Loads channels [channel, channel + 8) of part `part` of a row of x.
  LORA_DEVICE void Part(float (&values)[kPerThread], int64_t row, int part, int64_t channel) const {
    const int64_t at = (gated() ? 3 * row + part : row) * c;
    LoadElements(values, x, at + channel, at + c);
  }
  LORA_DEVICE void U(float (&u)[kPerThread], int64_t row, int64_t channel) const {
    Part(u, row, 0, channel);
    if (!gated()) return;
    float v[kPerThread];
    Part(v, row, 2, channel);
    LORA_UNROLL
    for (int i = 0; i < kPerThread; ++i) u[i] *= v[i];
  }
  LORA_DEVICE void Tap(float (&w)[kPerThread], int tap, int64_t channel) const {
    LORA_UNROLL
    for (int i = 0; i < kPerThread; ++i)
      w[i] = channel + i < c ? LoadElement(weight, (channel + i) * taps + tap) : 0.0f;
  }
  // z of a row at position t of its sequence, whose taps before `first` do not exist. Those before
  // `in_x` lie in the rows of `state`, of which the first is that of tap 0.
  LORA_DEVICE void Z(float (&z)[kPerThread], int64_t row, int64_t channel, int first, int in_x,
                     const float* state) const {
    if (bias.data == nullptr) {
      LORA_UNROLL
      for (int i = 0; i < kPerThread; ++i) z[i] = 0.0f;
    } else {
      LoadElements(z, bias, channel, c);
    }
    for (int j = first; j < taps; ++j) {
      float u[kPerThread], w[kPerThread];
      if (j < in_x) {
        LoadElements(u, state, j * c + channel, (j + 1) * c);
      } else {
        U(u, row - (taps - 1 - j), channel);
      }
      Tap(w, j, channel);
      LORA_UNROLL
      for (int i = 0; i < kPerThread; ++i) z[i] = Fma(w[i], u[i], z[i]);
    }
  }
  // y of z, in its place.
  LORA_DEVICE void Y(float (&z)[kPerThread], int64_t row, int64_t channel) const {
    float factor[kPerThread];
    if (gated()) Part(factor, row, 1, channel);
    LORA_UNROLL
    for (int i = 0; i < kPerThread; ++i) {
      if (gated()) {
        z[i] *= factor[i];
      } else {
        const auto gate = gated::Silu::At(z[i]);
        z[i] = gate.z * gate.s;
      }
    }
  }
  // The first tap of position t that exists where the text begins at `begin`.
  LORA_DEVICE int FirstTap(int64_t t, int64_t begin) const {
    const int64_t first = (begin < 0 ? 0 : begin) - t + taps - 1;
    return first < 0 ? 0 : first > taps ? taps : static_cast<int>(first);
  }
};

struct ShortConvParams {
  static constexpr int kThreads = 256, kMinBlocks = 2;
  ConvInput in;
  AnyOutput y;
  const int32_t* key_begin;  // or null
  const float* pool;         // or null: all tokens are in x
  const int32_t *slots, *lengths;
};

LORA_KERNEL void LORA_LAUNCH_BOUNDS(ShortConvParams::kThreads, ShortConvParams::kMinBlocks)
    ShortConv(const LORA_GRID_CONSTANT ShortConvParams p) {
  constexpr int kPerThread = ConvInput::kPerThread;
  const auto [row, group] = Divide(GlobalIndex<ShortConvParams::kThreads>(), p.in.groups());
  if (row >= p.in.rows) return;
  const int64_t channel = group * kPerThread;
  const auto [b, t] = Divide(row, p.in.s);
  int first, in_x;
  const float* state = nullptr;
  if (p.pool == nullptr) {
    first = in_x = p.in.FirstTap(t, p.key_begin ? p.key_begin[row] : 0);
  } else {
    const int kept = p.in.taps - 1;
    first = p.in.FirstTap(p.lengths[b] - p.in.s + t, 0);
    in_x = t < kept ? kept - static_cast<int>(t) : 0;
    in_x = in_x < first ? first : in_x;
    state = p.pool + (int64_t{p.slots[b]} * kept + t) * p.in.c;
  }
  float z[kPerThread];
  p.in.Z(z, row, channel, first, in_x, state);
  p.in.Y(z, row, channel);
  StoreElements(p.y, row * p.in.c + channel, (row + 1) * p.in.c, z);
}

struct KeepStatesParams {
  static constexpr int kThreads = 256, kMinBlocks = 2;
  ConvInput in;
  float* pool;
  const int32_t *slots, *lengths;
  int64_t batch;
};

// A thread takes 8 channels of a state, whose rows rise, so that one moves before it is written.
LORA_KERNEL void LORA_LAUNCH_BOUNDS(KeepStatesParams::kThreads, KeepStatesParams::kMinBlocks)
    KeepStates(const LORA_GRID_CONSTANT KeepStatesParams p) {
  constexpr int kPerThread = ConvInput::kPerThread;
  const auto [b, group] = Divide(GlobalIndex<KeepStatesParams::kThreads>(), p.in.groups());
  if (b >= p.batch) return;
  const int64_t channel = group * kPerThread, c = p.in.c, s = p.in.s;
  const int kept = p.in.taps - 1;
  float* const state = p.pool + int64_t{p.slots[b]} * kept * c;
  for (int i = 0; i < kept; ++i) {
    float u[kPerThread];
    if (p.lengths[b] - kept + i < 0) {
      LORA_UNROLL
      for (int j = 0; j < kPerThread; ++j) u[j] = 0.0f;
    } else if (i + s < kept) {
      LoadElements(u, static_cast<const float*>(state), (i + s) * c + channel, (i + s + 1) * c);
    } else {
      p.in.U(u, (b + 1) * s - kept + i, channel);
    }
    StoreElements(state, i * c + channel, (i + 1) * c, u);
  }
}

struct ShortConvGradientParams {
  static constexpr int kThreads = 256, kMinBlocks = 2;
  ConvInput in;
  AnyInput g;
  const int32_t* key_begin;  // or null
  AnyOutput dx;              // may have no data
  float* dz;                 // [rows, c]
};

// dz, and dC of a gated convolution.
LORA_KERNEL void LORA_LAUNCH_BOUNDS(ShortConvGradientParams::kThreads,
                                    ShortConvGradientParams::kMinBlocks)
    ShortConvGradient(const LORA_GRID_CONSTANT ShortConvGradientParams p) {
  constexpr int kPerThread = ConvInput::kPerThread;
  const auto [row, group] = Divide(GlobalIndex<ShortConvGradientParams::kThreads>(), p.in.groups());
  if (row >= p.in.rows) return;
  const int64_t channel = group * kPerThread, c = p.in.c, t = row % p.in.s;
  float z[kPerThread], g[kPerThread], factor[kPerThread];
  const int first = p.in.FirstTap(t, p.key_begin ? p.key_begin[row] : 0);
  p.in.Z(z, row, channel, first, first, nullptr);
  LoadElements(g, p.g, row * c + channel, (row + 1) * c);
  if (p.in.gated()) {
    p.in.Part(factor, row, 1, channel);
    LORA_UNROLL
    for (int i = 0; i < kPerThread; ++i) {
      z[i] *= g[i];
      g[i] *= factor[i];
    }
    if (p.dx.data) StoreElements(p.dx, (3 * row + 1) * c + channel, (3 * row + 2) * c, z);
  } else {
    LORA_UNROLL
    for (int i = 0; i < kPerThread; ++i) {
      const auto gate = gated::Silu::At(z[i]);
      g[i] *= gate.s * gate.slope;
    }
  }
  StoreElements(p.dz, row * c + channel, (row + 1) * c, g);
}

// dx from dz, but for dC.
LORA_KERNEL void LORA_LAUNCH_BOUNDS(ShortConvGradientParams::kThreads,
                                    ShortConvGradientParams::kMinBlocks)
    ShortConvInputGradient(const LORA_GRID_CONSTANT ShortConvGradientParams p) {
  constexpr int kPerThread = ConvInput::kPerThread;
  const auto [row, group] = Divide(GlobalIndex<ShortConvGradientParams::kThreads>(), p.in.groups());
  if (row >= p.in.rows) return;
  const int64_t channel = group * kPerThread, c = p.in.c, t = row % p.in.s;
  float du[kPerThread];
  LORA_UNROLL
  for (int i = 0; i < kPerThread; ++i) du[i] = 0.0f;
  for (int j = 0; j < p.in.taps && t + j < p.in.s; ++j) {
    if (p.key_begin && p.key_begin[row + j] > t) continue;
    float dz[kPerThread], w[kPerThread];
    LoadElements(dz, static_cast<const float*>(p.dz), (row + j) * c + channel, (row + j + 1) * c);
    p.in.Tap(w, p.in.taps - 1 - j, channel);
    LORA_UNROLL
    for (int i = 0; i < kPerThread; ++i) du[i] = Fma(w[i], dz[i], du[i]);
  }
  if (!p.in.gated()) {
    StoreElements(p.dx, row * c + channel, (row + 1) * c, du);
    return;
  }
  float of_b[kPerThread], of_v[kPerThread];
  p.in.Part(of_v, row, 0, channel);
  p.in.Part(of_b, row, 2, channel);
  LORA_UNROLL
  for (int i = 0; i < kPerThread; ++i) {
    of_b[i] *= du[i];
    of_v[i] *= du[i];
  }
  StoreElements(p.dx, 3 * row * c + channel, (3 * row + 1) * c, of_b);
  StoreElements(p.dx, (3 * row + 2) * c + channel, (3 * row + 3) * c, of_v);
}

struct ShortConvWeightParams {
  static constexpr int kThreads = 128, kMinBlocks = 3;
  static constexpr int kRows = 256;  // of a block
  ConvInput in;
  const int32_t* key_begin;  // or null
  const float* dz;
  int64_t blocks;          // of rows
  float* sums;             // [blocks, taps + 1, c]: of each tap, and of dz
  float *dweight, *dbias;  // or null
};

LORA_KERNEL void LORA_LAUNCH_BOUNDS(ShortConvWeightParams::kThreads,
                                    ShortConvWeightParams::kMinBlocks)
    ShortConvWeightSums(const LORA_GRID_CONSTANT ShortConvWeightParams p) {
  const auto [block, channel] = Divide(GlobalIndex<ShortConvWeightParams::kThreads>(), p.in.c);
  if (block >= p.blocks) return;
  float sums[kMaxTaps + 1];
  LORA_UNROLL
  for (int j = 0; j <= kMaxTaps; ++j) sums[j] = 0.0f;
  const int64_t begin = block * ShortConvWeightParams::kRows;
  int64_t end = begin + ShortConvWeightParams::kRows;
  if (end > p.in.rows) end = p.in.rows;
  for (int64_t row = begin; row < end; ++row) {
    const float dz = p.dz[row * p.in.c + channel];
    const int first = p.in.FirstTap(row % p.in.s, p.key_begin ? p.key_begin[row] : 0);
    sums[kMaxTaps] += dz;
    LORA_UNROLL
    for (int j = 0; j < kMaxTaps; ++j) {
      if (j < first || j >= p.in.taps) continue;
      const int64_t from = row - (p.in.taps - 1 - j);
      const float u = p.in.gated() ? LoadElement(p.in.x, 3 * from * p.in.c + channel) *
                                         LoadElement(p.in.x, (3 * from + 2) * p.in.c + channel)
                                   : LoadElement(p.in.x, from * p.in.c + channel);
      sums[j] = Fma(dz, u, sums[j]);
    }
  }
  float* const to = p.sums + block * (p.in.taps + 1) * p.in.c + channel;
  LORA_UNROLL
  for (int j = 0; j < kMaxTaps; ++j)
    if (j < p.in.taps) to[j * p.in.c] = sums[j];
  to[p.in.taps * p.in.c] = sums[kMaxTaps];
}

LORA_KERNEL void LORA_LAUNCH_BOUNDS(ShortConvWeightParams::kThreads,
                                    ShortConvWeightParams::kMinBlocks)
    ShortConvWeightGradient(const LORA_GRID_CONSTANT ShortConvWeightParams p) {
  const auto [tap, channel] = Divide(GlobalIndex<ShortConvWeightParams::kThreads>(), p.in.c);
  if (tap > p.in.taps) return;
  float sum = 0.0f;
  for (int64_t block = 0; block < p.blocks; ++block)
    sum += p.sums[(block * (p.in.taps + 1) + tap) * p.in.c + channel];
  if (tap == p.in.taps) {
    if (p.dbias) p.dbias[channel] = sum;
  } else if (p.dweight) {
    p.dweight[channel * p.in.taps + tap] = sum;
  }
}

}  // namespace lora::device
