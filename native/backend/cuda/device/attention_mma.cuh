// Computes attention on tensor cores, for 16-bit operands.
//
//   y = softmax(scale·q·kᵀ)·v
//
// Online softmax reads the keys that a tile of rows sees in one pass. A block has 4 warps of 16
// rows each. q stays in registers (in shared memory for head dims above 128); cp.async loads k and
// v into one tile each: v during q·kᵀ, the next k during softmax and p·v. Rows of shared memory are
// chunks of 16 bytes, swizzled so that ldmatrix needs one pass per eight rows. Scores leave mma as
// f32 in the layout of its first operand: they become weights in registers, are summed in f32, and
// are rounded to 16 bits for p·v only.
#pragma once

#include "backend/cuda/device/attention.cuh"

namespace lora::device {

// Returns the byte offset of chunk `chunk` (8 elements) of `row` in a tile with
// rows of kD elements.
template <int kD>
LORA_DEVICE int SwizzledChunk(int row, int chunk) {
  return row * kD * 2 + ((chunk ^ (row & 7)) << 4);
}

// Copies one chunk of a row that has `left` elements from there on, or zeros where it has none.
// `aligned` copies arrive at the thread's CopyAsyncWait; `any` is an address in global memory that
// is a multiple of 16.
template <class T>
LORA_DEVICE void CopyChunk(unsigned char* target, const T* source, int left, const T* any) {
  CopyAsync<16>(target, left > 0 ? source : any, left > 0 ? 16 : 0);
}
template <class T>
LORA_DEVICE void LoadChunk(unsigned char* target, const T* source, int left) {
  Vec16 v{{0, 0, 0, 0}};
  LORA_UNROLL
  for (int j = 0; j < 8; ++j)
    if (j < left) v.words[j / 2] |= uint32_t{source[j].bits} << (j % 2 * 16);
  StoreShared16(target, v);
}

// tile[r] = source[r·pitch …] for r < count and columns below d, else zeros. With `aligned`, rows
// start at multiples of 16 bytes and d is a multiple of 8. One pointer walks along the rows,
// because ptxas would keep a pointer for every row in a register.
template <int kD, int kRows, int kThreads, class T>
LORA_DEVICE void CopyRows(unsigned char* tile, const T* source, int64_t pitch, int count, int d,
                          bool aligned, const T* any, int thread = ThreadIndex()) {
  constexpr int kChunks = kD / 8, kStep = kThreads / kChunks;
  static_assert(kThreads % kChunks == 0 && kRows % kStep == 0);
  const int chunk = thread % kChunks, left = d - chunk * 8;
  const T* at = source + thread / kChunks * pitch + chunk * 8;
  if (aligned) {
    LORA_UNROLL
    for (int r = thread / kChunks, i = 0; i < kRows / kStep; ++i, r += kStep) {
      CopyChunk(tile + SwizzledChunk<kD>(r, chunk), at, r < count ? left : 0, any);
      at += pitch * kStep;
    }
  } else {
    LORA_ROLL
    for (int r = thread / kChunks; r < kRows; r += kStep) {
      LoadChunk(tile + SwizzledChunk<kD>(r, chunk), at, r < count ? left : 0);
      at += pitch * kStep;
    }
  }
}
// Does the same for rows [first, first + count) of a (batch, kv head), which are
// stored query by query.
template <int kD, int kRows, int kThreads, class T>
LORA_DEVICE void CopyQueries(unsigned char* tile, const T* x, const AttentionShape& s, int b, int h,
                             int first, int count, bool aligned) {
  constexpr int kChunks = kD / 8, kStep = kThreads / kChunks;
  static_assert(kThreads % kChunks == 0 && kRows % kStep == 0);
  const int chunk = ThreadIndex() % kChunks, left = s.d - chunk * 8;
  const auto source = [&](int r) {
    return x + (r < count ? s.QueryOffset(b, h, first + r) + chunk * 8 : 0);
  };
  if (aligned) {
    LORA_UNROLL
    for (int r = ThreadIndex() / kChunks, i = 0; i < kRows / kStep; ++i, r += kStep)
      CopyChunk(tile + SwizzledChunk<kD>(r, chunk), source(r), r < count ? left : 0, x);
  } else {
    LORA_ROLL
    for (int r = ThreadIndex() / kChunks; r < kRows; r += kStep)
      LoadChunk(tile + SwizzledChunk<kD>(r, chunk), source(r), r < count ? left : 0);
  }
}

// Loads rows [row, row + 16) and columns [16·step, 16·step + 16) of a tile as the
// first operand of mma.
template <int kD>
LORA_DEVICE void LoadRowsOperand(uint32_t (&a)[4], const unsigned char* tile, int row, int step) {
  const int lane = LaneIndex();
  LoadMatrixX4(a, tile + SwizzledChunk<kD>(row + lane % 16, step * 2 + lane / 16));
}
// Loads the second operand of products over the columns: b[0] from rows [row, row + 8),
// b[1] from the next 8.
template <int kD>
LORA_DEVICE void LoadColumnsOperand(uint32_t (&b)[2][2], const unsigned char* tile, int row,
                                    int step) {
  const int lane = LaneIndex();
  uint32_t r[4];
  LoadMatrixX4(r,
               tile + SwizzledChunk<kD>(row + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2));
  b[0][0] = r[0];
  b[0][1] = r[1];
  b[1][0] = r[2];
  b[1][1] = r[3];
}
// Loads the second operand of products over the rows [row, row + 16): b[0] from columns [16·block,
// 16·block + 8), b[1] from the next 8.
template <int kD>
LORA_DEVICE void LoadSummedOperand(uint32_t (&b)[2][2], const unsigned char* tile, int row,
                                   int block) {
  const int lane = LaneIndex();
  uint32_t r[4];
  LoadMatrixX4Trans(r, tile + SwizzledChunk<kD>(row + lane % 16, block * 2 + lane / 16));
  b[0][0] = r[0];
  b[0][1] = r[1];
  b[1][0] = r[2];
  b[1][1] = r[3];
}

// Accumulators of 16 rows × 8·kBlocks columns: [n][0, 1] belong to row lane / 4, columns 8·n +
// 2·(lane % 4) and the next one; [n][2, 3] belong to row lane / 4 + 8.
template <int kBlocks>
LORA_DEVICE void SetZero(float (&acc)[kBlocks][4]) {
  LORA_UNROLL
  for (int n = 0; n < kBlocks; ++n) {
    LORA_UNROLL
    for (int i = 0; i < 4; ++i) acc[n][i] = 0;
  }
}

// acc += a · (rows [row, row + 8·kBlocks) of a tile)ᵀ, for one step of products of rows.
template <class T, int kD, int kBlocks>
LORA_DEVICE void AddDots(float (&acc)[kBlocks][4], const uint32_t (&a)[4],
                         const unsigned char* tile, int row, int step) {
  LORA_UNROLL
  for (int n = 0; n < kBlocks / 2; ++n) {
    uint32_t operand[2][2];
    LoadColumnsOperand<kD>(operand, tile, row + n * 16, step);
    MmaM16N8K16<T>(acc[2 * n], a, operand[0]);
    MmaM16N8K16<T>(acc[2 * n + 1], a, operand[1]);
  }
}
// acc += a · rows [row, row + 16) of a tile, for columns from 16·block on.
template <class T, int kD, int kBlocks>
LORA_DEVICE void AddRows(float (&acc)[kBlocks][4], const uint32_t (&a)[4],
                         const unsigned char* tile, int row, int block) {
  LORA_UNROLL
  for (int n = 0; n < kBlocks / 2; ++n) {
    uint32_t operand[2][2];
    LoadSummedOperand<kD>(operand, tile, row, block + n);
    MmaM16N8K16<T>(acc[2 * n], a, operand[0]);
    MmaM16N8K16<T>(acc[2 * n + 1], a, operand[1]);
  }
}

// Rounds columns [16·step, 16·step + 16) of accumulators to the first operand of the next mma.
template <class T, int kBlocks>
LORA_DEVICE void RoundOperand(uint32_t (&a)[4], const float (&acc)[kBlocks][4], int step) {
  a[0] = RoundPair<T>(acc[2 * step][0], acc[2 * step][1]);
  a[1] = RoundPair<T>(acc[2 * step][2], acc[2 * step][3]);
  a[2] = RoundPair<T>(acc[2 * step + 1][0], acc[2 * step + 1][1]);
  a[3] = RoundPair<T>(acc[2 * step + 1][2], acc[2 * step + 1][3]);
}

// One step of online softmax for the rows [row, row + 16) of a warp. Scores of the keys from `from`
// on become weights, and the sums so far are rescaled to the new maxima. `half` 0 and 1 of max and
// weight are rows lane / 4 and lane / 4 + 8; a lane's weight is that of its columns.
template <int kScores, int kColumns>
LORA_DEVICE void SoftmaxStep(float (&scores)[kScores][4], float (&sum)[kColumns][4],
                             float (&max)[2], float (&weight)[2], float scale, int from, bool all,
                             const int* lo, const int* hi, int row) {
  const int lane = LaneIndex();
  LORA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int r = row + half * 8 + lane / 4;
    const int row_lo = all ? 0 : lo[r], row_hi = all ? kNoKey : hi[r];
    float largest = -INFINITY;
    LORA_UNROLL
    for (int n = 0; n < kScores; ++n) {
      LORA_UNROLL
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        const int key = from + n * 8 + lane % 4 * 2 + i % 2;
        scores[n][i] *= scale;
        if (!all && (key < row_lo || key > row_hi)) scores[n][i] = -INFINITY;
        largest = Larger(largest, scores[n][i]);
      }
    }
    largest = Larger(max[half], WarpReduce<4>(largest, LargerFloat()));
    const float base = largest == -INFINITY ? 0.0f : largest;
    const float factor = Exp2(max[half] - base);
    max[half] = largest;
    weight[half] *= factor;
    LORA_UNROLL
    for (int n = 0; n < kScores; ++n) {
      LORA_UNROLL
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        scores[n][i] = Exp2(scores[n][i] - base);
        weight[half] += scores[n][i];
      }
    }
    LORA_UNROLL
    for (int n = 0; n < kColumns; ++n) {
      sum[n][2 * half] *= factor;
      sum[n][2 * half + 1] *= factor;
    }
  }
}

// Rounds the warp's accumulators, rows times low and high, into rows [row, row + 16) of a tile
// that only this warp uses, and copies them from there to to(r), in whole chunks where `aligned`.
// A null to(r) is no row.
template <int kD, class T, int kBlocks, class RowOf>
LORA_DEVICE void StoreRows(unsigned char* tile, const float (&acc)[kBlocks][4], float low,
                           float high, int row, int first_chunk, int d, bool aligned,
                           const RowOf& to) {
  const int lane = LaneIndex();
  SyncWarp();
  LORA_UNROLL
  for (int n = 0; n < kBlocks; ++n) {
    const int at = row + lane / 4;
    *reinterpret_cast<uint32_t*>(tile + SwizzledChunk<kD>(at, first_chunk + n) + lane % 4 * 4) =
        RoundPair<T>(acc[n][0] * low, acc[n][1] * low);
    *reinterpret_cast<uint32_t*>(tile + SwizzledChunk<kD>(at + 8, first_chunk + n) + lane % 4 * 4) =
        RoundPair<T>(acc[n][2] * high, acc[n][3] * high);
  }
  SyncWarp();
  constexpr int kStep = 32 / kBlocks;  // rows that a warp stores at a time
  LORA_UNROLL
  for (int i = 0; i < 16 / kStep; ++i) {
    const int r = row + i * kStep + lane / kBlocks, chunk = first_chunk + lane % kBlocks;
    const int c = chunk * 8;
    T* const target = to(r);
    if (target == nullptr || c >= d) continue;
    const Vec16 v = LoadShared16(tile + SwizzledChunk<kD>(r, chunk));
    if (aligned) {
      StoreGlobal16(target + c, v);
    } else {
      LORA_UNROLL
      for (int j = 0; j < 8; ++j)
        if (c + j < d) target[c + j] = T{static_cast<uint16_t>(v.words[j / 2] >> (j % 2 * 16))};
    }
  }
}

// Stores accumulators as f32, times one factor, to rows to(r), columns from first_column on.
template <int kBlocks, class RowOf>
LORA_DEVICE void StoreSums(const float (&acc)[kBlocks][4], float factor, int row, int first_column,
                           int d, const RowOf& to) {
  LORA_UNROLL
  for (int half = 0; half < 2; ++half) {
    float* const target = to(row + half * 8 + LaneIndex() / 4);
    if (target == nullptr) continue;
    LORA_UNROLL
    for (int n = 0; n < kBlocks; ++n) {
      const int c = first_column + n * 8 + LaneIndex() % 4 * 2;
      if (c < d) target[c] = acc[n][2 * half] * factor;
      if (c + 1 < d) target[c + 1] = acc[n][2 * half + 1] * factor;
    }
  }
}

template <class T, int kD, class Shape = AttentionShape>
struct AttentionMmaParams {
  static constexpr int kThreads = 128, kMinBlocks = kD == 64 ? 3 : 2;
  static constexpr int kRows = 64, kKeys = kD == 256 ? 32 : 64;
  static constexpr int kSharedBytes = (kRows + 2 * kKeys) * kD * 2 + 2 * kRows * 4;
  Shape s;
  AttentionParts parts;
  const T *q, *k, *v;
  T* y;
  float* lse;    // or null
  bool aligned;  // q, k, v and y at multiples of 16 bytes, d one of 8
};

// A block owns a tile of rows of one (batch, kv head) and one part of its keys.
template <class T, int kD, class Shape = AttentionShape>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(128, (AttentionMmaParams<T, kD, Shape>::kMinBlocks))
    AttentionMma(const LORA_GRID_CONSTANT AttentionMmaParams<T, kD, Shape> p) {
  using P = AttentionMmaParams<T, kD, Shape>;
  constexpr int kRows = P::kRows, kKeys = P::kKeys, kThreads = P::kThreads;
  constexpr int kSteps = kD / 16;                        // of products over the head dim
  constexpr bool kKeepQ = kD <= 128;                     // in registers
  constexpr int kScores = kKeys / 8, kColumns = kD / 8;  // blocks of accumulators
  LORA_DYNAMIC_SHARED(shared);
  unsigned char* const q = shared;
  unsigned char* const k = q + kRows * kD * 2;
  unsigned char* const v = k + kKeys * kD * 2;
  int* const lo = reinterpret_cast<int*>(v + kKeys * kD * 2);
  int* const hi = lo + kRows;

  const Shape& s = p.s;
  const int tiles = (s.rows + kRows - 1) / kRows;
  const int split = BlockX() % p.parts.splits, block = BlockX() / p.parts.splits;
  // The last rows see most keys, so these blocks start first.
  const int first = (tiles - 1 - block % tiles) * kRows, pair = block / tiles;
  const int b = pair / s.kv_heads, h = pair % s.kv_heads, count = Least(kRows, s.rows - first);
  const int lane = LaneIndex(), warp_row = WarpIndex() * 16;
  const bool busy = warp_row < count;

  const TileSight sight = LookAt<kRows>(s, b, first, count, lo, hi);
  int begin = sight.begin, end = sight.end;
  TakePart<kKeys>(p.parts.splits, split, begin, end);
  const auto keys = s.TilesOf(b, h);
  const auto copy_keys = [&](unsigned char* tile, const T* source, int from) {
    CopyRows<kD, kKeys, kThreads>(tile, source + keys.Offset(from), keys.pitch, end - from, s.d,
                                  p.aligned, source);
  };
  CopyQueries<kD, kRows, kThreads>(q, p.q, s, b, h, first, count, p.aligned);
  if (begin < end) copy_keys(k, p.k, begin);
  CopyAsyncCommit();
  CopyAsyncWait<0>();
  SyncThreads();

  uint32_t q_operand[kKeepQ ? kSteps : 1][4];
  if constexpr (kKeepQ) {
    LORA_UNROLL
    for (int step = 0; step < kSteps; ++step)
      LoadRowsOperand<kD>(q_operand[step], q, warp_row, step);
  }
  // The two rows of this lane are `half` 0 and 1.
  float max[2], weight[2];
  LORA_UNROLL
  for (int half = 0; half < 2; ++half) {
    max[half] = -INFINITY;
    weight[half] = 0;
  }
  float sum[kColumns][4];
  SetZero(sum);

  for (int from = begin; from < end; from += kKeys) {
    // k has arrived, and all threads have finished with the last v.
    copy_keys(v, p.v, from);
    CopyAsyncCommit();
    float scores[kScores][4];
    if (busy) {
      SetZero(scores);
      if constexpr (kKeepQ) {
        LORA_UNROLL
        for (int step = 0; step < kSteps; ++step)
          AddDots<T, kD>(scores, q_operand[step], k, 0, step);
      } else {
        LORA_ROLL
        for (int step = 0; step < kSteps; ++step) {
          LoadRowsOperand<kD>(q_operand[0], q, warp_row, step);
          AddDots<T, kD>(scores, q_operand[0], k, 0, step);
        }
      }
    }
    CopyAsyncWait<0>();
    SyncThreads();
    // v has arrived, and all threads have finished with k.
    if (from + kKeys < end) copy_keys(k, p.k, from + kKeys);
    CopyAsyncCommit();
    if (busy) {
      SoftmaxStep(scores, sum, max, weight, s.scale_log2, from, sight.All(from, from + kKeys), lo,
                  hi, warp_row);
      LORA_UNROLL
      for (int step = 0; step < kKeys / 16; ++step) {
        uint32_t weights[4];
        RoundOperand<T>(weights, scores, step);
        AddRows<T, kD>(sum, weights, v, step * 16, 0);
      }
    }
    CopyAsyncWait<0>();
    SyncThreads();
  }

  if (!busy) return;
  LORA_UNROLL
  for (int half = 0; half < 2; ++half) weight[half] = WarpReduce<4>(weight[half], Sum());
  const auto row_of = [&](int half) { return warp_row + half * 8 + lane / 4; };
  if (p.parts.sums != nullptr) {
    const int64_t rows = int64_t{s.batch} * s.kv_heads * s.rows;
    const int64_t at = split * rows + int64_t{pair} * s.rows + first;
    StoreSums(sum, 1.0f, warp_row, 0, s.d, [&](int r) {
      return r < count ? p.parts.sums + (at + r) * s.d : static_cast<float*>(nullptr);
    });
    LORA_UNROLL
    for (int half = 0; half < 2; ++half) {
      if (lane % 4 != 0 || row_of(half) >= count) continue;
      p.parts.max[at + row_of(half)] = max[half];
      p.parts.weight[at + row_of(half)] = weight[half];
    }
    return;
  }
  float inverse[2];
  LORA_UNROLL
  for (int half = 0; half < 2; ++half) {
    inverse[half] = weight[half] == 0 ? 0.0f : 1 / weight[half];
    if (p.lse && lane % 4 == 0 && row_of(half) < count)
      p.lse[s.LseOffset(b, h, first + row_of(half))] =
          weight[half] == 0 ? -INFINITY : max[half] * kLn2 + Log(weight[half]);
  }
  StoreRows<kD, T>(q, sum, inverse[0], inverse[1], warp_row, 0, s.d, p.aligned, [&](int r) {
    return r < count ? p.y + s.QueryOffset(b, h, first + r) : static_cast<T*>(nullptr);
  });
}

}  // namespace lora::device
