// Computes attention of few rows (a decode step has `group` of them) on tensor cores. Reading k and
// v once takes the time.
//
// A block has all rows of one (batch, kv head) and one part of its keys. Its 4 warps take 16 keys
// each in turn and have tiles, softmax and sums of their own, so that nothing in the loop waits for
// another warp. v is copied during q·kᵀ, and the next k during p·v. At the end the block adds the
// sums of its warps in order.
#pragma once

#include "backend/cuda/device/attention_mma.cuh"

namespace lora::device {

template <class T, int kD, class Shape = AttentionShape>
struct AttentionDecodeParams {
  static constexpr int kThreads = 128, kMinBlocks = kD == 64 ? 5 : kD == 128 ? 3 : 2;
  static constexpr int kRows = 16, kKeys = 64;
  static constexpr int kWarpBytes = 2 * 16 * kD * 2;  // tiles of k and v; at the end, f32 sums
  static constexpr int kSharedBytes =
      kRows * kD * 2 + 4 * kWarpBytes + 2 * 4 * kRows * 4 + 2 * kRows * 4;
  Shape s;
  AttentionParts parts;
  const T *q, *k, *v;
  T* y;
  float* lse;    // or null
  bool aligned;  // q, k and v at multiples of 16 bytes, d one of 8
};

template <class T, int kD, class Shape = AttentionShape>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(128, (AttentionDecodeParams<T, kD, Shape>::kMinBlocks))
    AttentionDecode(const LORA_GRID_CONSTANT AttentionDecodeParams<T, kD, Shape> p) {
  using P = AttentionDecodeParams<T, kD, Shape>;
  constexpr int kRows = P::kRows, kKeys = P::kKeys, kSteps = kD / 16, kColumns = kD / 8;
  constexpr bool kKeepQ = kD <= 128;
  LORA_DYNAMIC_SHARED(shared);
  unsigned char* const q = shared;
  unsigned char* const tiles = q + kRows * kD * 2;
  float* const maxima = reinterpret_cast<float*>(tiles + 4 * P::kWarpBytes);  // [warp][row]
  float* const totals = maxima + 4 * kRows;
  int* const lo = reinterpret_cast<int*>(totals + 4 * kRows);
  int* const hi = lo + kRows;

  const Shape& s = p.s;
  const int split = BlockX() % p.parts.splits, pair = BlockX() / p.parts.splits;
  const int b = pair / s.kv_heads, h = pair % s.kv_heads, count = s.rows;
  const int lane = LaneIndex(), warp = WarpIndex();
  unsigned char* const k = tiles + warp * P::kWarpBytes;
  unsigned char* const v = k + 16 * kD * 2;

  const TileSight sight = LookAt<kRows>(s, b, 0, count, lo, hi);
  int begin = sight.begin, end = sight.end;
  TakePart<kKeys>(p.parts.splits, split, begin, end);
  const auto keys = s.TilesOf(b, h);
  const auto copy_keys = [&](unsigned char* tile, const T* source, int from) {
    CopyRows<kD, 16, 32>(tile, source + keys.Offset(from), keys.pitch, end - from, s.d, p.aligned,
                         source, lane);
  };
  CopyQueries<kD, kRows, P::kThreads>(q, p.q, s, b, h, 0, count, p.aligned);
  const int warp_begin = begin < end ? begin + warp * 16 : end;
  if (warp_begin < end) copy_keys(k, p.k, warp_begin);
  CopyAsyncCommit();
  CopyAsyncWait<0>();
  SyncThreads();

  uint32_t q_operand[kKeepQ ? kSteps : 1][4];
  if constexpr (kKeepQ) {
    LORA_UNROLL
    for (int step = 0; step < kSteps; ++step) LoadRowsOperand<kD>(q_operand[step], q, 0, step);
  }
  float max[2] = {-INFINITY, -INFINITY}, weight[2] = {0, 0}, sum[kColumns][4];
  SetZero(sum);
  for (int from = warp_begin; from < end; from += kKeys) {
    copy_keys(v, p.v, from);
    CopyAsyncCommit();
    float scores[2][4];
    SetZero(scores);
    if constexpr (kKeepQ) {
      LORA_UNROLL
      for (int step = 0; step < kSteps; ++step) AddDots<T, kD>(scores, q_operand[step], k, 0, step);
    } else {
      LORA_ROLL
      for (int step = 0; step < kSteps; ++step) {
        LoadRowsOperand<kD>(q_operand[0], q, 0, step);
        AddDots<T, kD>(scores, q_operand[0], k, 0, step);
      }
    }
    CopyAsyncWait<0>();
    SyncWarp();
    // v has arrived, and all lanes have finished with k.
    if (from + kKeys < end) copy_keys(k, p.k, from + kKeys);
    CopyAsyncCommit();
    SoftmaxStep(scores, sum, max, weight, s.scale_log2, from, sight.All(from, from + 16), lo, hi,
                0);
    uint32_t weights[4];
    RoundOperand<T>(weights, scores, 0);
    AddRows<T, kD>(sum, weights, v, 0, 0);
    CopyAsyncWait<0>();
    SyncWarp();
  }

  // The sums [row][column] replace the tiles. Blocks of 8 columns are swizzled like chunks.
  const auto place = [](int r, int block) { return r * kD + ((block ^ (r & 7)) << 3); };
  float* const own = reinterpret_cast<float*>(k);
  LORA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int r = half * 8 + lane / 4;
    LORA_UNROLL
    for (int n = 0; n < kColumns; ++n) {
      own[place(r, n) + lane % 4 * 2] = sum[n][2 * half];
      own[place(r, n) + lane % 4 * 2 + 1] = sum[n][2 * half + 1];
    }
    weight[half] = WarpReduce<4>(weight[half], Sum());
    if (lane % 4 == 0) {
      maxima[warp * kRows + r] = max[half];
      totals[warp * kRows + r] = weight[half];
    }
  }
  SyncThreads();
  for (int i = ThreadIndex(); i < count * kColumns; i += P::kThreads) {
    const int r = i / kColumns, block = i % kColumns;
    float largest = -INFINITY, total = 0, values[8];
    LORA_UNROLL
    for (int w = 0; w < 4; ++w) largest = Larger(largest, maxima[w * kRows + r]);
    const float base = largest == -INFINITY ? 0.0f : largest;
    LORA_UNROLL
    for (int j = 0; j < 8; ++j) values[j] = 0;
    LORA_UNROLL
    for (int w = 0; w < 4; ++w) {
      const float factor = Exp2(maxima[w * kRows + r] - base);
      total += factor * totals[w * kRows + r];
      const float* const from =
          reinterpret_cast<const float*>(tiles + w * P::kWarpBytes) + place(r, block);
      LORA_UNROLL
      for (int v4 = 0; v4 < 2; ++v4) {
        const Vec16 raw = LoadShared16(from + v4 * 4);
        LORA_UNROLL
        for (int j = 0; j < 4; ++j) values[v4 * 4 + j] += factor * BitsToFloat(raw.words[j]);
      }
    }
    if (p.parts.sums != nullptr) {
      const int64_t rows = int64_t{s.batch} * s.kv_heads * s.rows;
      const int64_t at = split * rows + int64_t{pair} * s.rows + r;
      StoreElements(p.parts.sums + at * s.d, block * 8, s.d, values);
      if (block == 0) {
        p.parts.max[at] = largest;
        p.parts.weight[at] = total;
      }
    } else {
      const RowEnd row_end = EndOfRow(s, p.parts, h, r, largest, total);
      LORA_UNROLL
      for (int j = 0; j < 8; ++j) values[j] *= row_end.inverse;
      StoreElements(p.y + s.QueryOffset(b, h, r), block * 8, s.d, values);
      if (p.lse && block == 0) p.lse[s.LseOffset(b, h, r)] = row_end.Lse();
    }
  }
  if (p.parts.sums != nullptr) FinishRows(p, shared, pair, 0, count);
}

}  // namespace lora::device
