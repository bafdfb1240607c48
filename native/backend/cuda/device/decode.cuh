// Computes the linear layer for up to 16 rows of x. Reading W takes the time.
//
// y[m, o] = factor[o]·(Σ x[m]·W[o] + scale·Σ up[o]·h[m]) + bias[o], or with Σ up_m[o]·h[m]
// where row m has the up of its slot in a table
// All rows of x are computed at once, so that W is read once. A block owns 16 rows of W, and its 8
// warps take turns of 128 columns. W is loaded from memory straight into the fragments of mma.sync
// m16n8k16: a lane loads 16 bytes of its row. mma then sees the columns in another order than
// memory has them, so x is loaded in that order too: of 32 columns, lane q has columns q·8 + j·4 …
// in the j-th product. x is the second factor, with 8 rows to a tile. The warps' sums are added in
// order through shared memory.
// A W whose format has scales is read as it is stored, and expanded in registers to the elements
// of T that expand.cuh would write, so y has the bits of a W that was expanded before. Issuing
// instructions limits it, so turns of columns that are all there need no checks, what rows add to
// an address is computed once, and two codes are looked up at once.
// decode_blocks.cuh does so with GGUF's blocks, and decode_f32.cuh has the same for f32.
#pragma once

#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/expand.cuh"
#include "backend/cuda/device/launch.h"
#include "backend/cuda/device/reduce.cuh"
#include "core/maths/dtype.h"
#include "core/ops/delta_table.h"

namespace lora::device {

constexpr int kDecodeBranches = 16;

struct DecodeOutputs {
  const void* w;  // [n, k]
  int64_t n;
  const float* factor;     // or null
  const void* bias;        // or null
  const float* a;          // [n, rank], or null
  const float* h;          // [m, rank]
  void* y;                 // [m, n]
  const DeltaEntry* site;  // in the place of a: the entry of slot 0, or null; h is scaled then
  int64_t first_block;
  int rank;
  float scale;
  int bias_f32;
  DType w_dtype;  // in which w is stored, where x is f32
  uint8_t unused[3];
};

// What the slot of row m of x changes in a call with slots.
LORA_DEVICE DeltaEntry EntryOf(const DecodeOutputs& o, const int32_t* slots, int64_t sites, int m) {
  return slots[m] < 0 ? DeltaEntry() : o.site[slots[m] * sites];
}
LORA_DEVICE const float* UpOf(const DeltaEntry& entry) {
  return static_cast<const float*>(entry.up);
}

// The factor of output `row` of row m of x.
LORA_DEVICE float OutputFactor(const DecodeOutputs& o, const int32_t* slots, int64_t sites, int m,
                               int64_t row) {
  const float* const factor = o.site != nullptr ? EntryOf(o, slots, sites, m).factor : o.factor;
  return factor != nullptr ? factor[row] : 1.0f;
}
template <class T>
LORA_DEVICE float DecodeBias(const DecodeOutputs& o, int64_t row) {
  if (o.bias == nullptr) return 0.0f;
  return o.bias_f32 != 0 ? static_cast<const float*>(o.bias)[row]
                         : ToFloat(static_cast<const T*>(o.bias)[row]);
}

// The weights of a launch whose formats have scales, by branch. Their rows are whole eights.
template <bool kScaled>
struct DecodeWeights {};
template <>
struct DecodeWeights<true> {
  ScaledWeight scaled[kDecodeBranches];
};

template <class T, int kXTiles, bool kScaled>
struct DecodeParams : DecodeWeights<kScaled> {
  static constexpr int kThreads = 256, kMinBlocks = 2;
  static constexpr bool kWaits = true;
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kRows = 16;                     // of W, of a block
  static constexpr int kColumns = 128;                 // of W, of a warp at once
  static constexpr int kPitch = 20;                    // floats between the sums of two rows of x
  static constexpr int kSlice = kXTiles * 8 * kPitch;  // floats of one warp's sums
  static constexpr int kSumBytes = (kWarps + 1) * kSlice * 4;
  static constexpr int kSharedBytes = kSumBytes + (kScaled ? CodePairs::kBytes : 0);
  const T* x;
  int64_t k, sites;
  const int32_t* slots;  // [m], or null
  int m, branches;
  DecodeOutputs branch[kDecodeBranches];
};

// Loads 16 bytes at row[first …], with zeros from `count` on.
template <class T>
LORA_DEVICE Vec16 LoadTail16(const T* row, int64_t first, int64_t count) {
  constexpr int kPer = 16 / sizeof(T);
  if (first + kPer <= count && IsAligned16(row + first)) return LoadGlobal16(row + first);
  Vec16 v{{0, 0, 0, 0}};
  LORA_UNROLL
  for (int j = 0; j < kPer; ++j) {
    if (first + j >= count) continue;
    if constexpr (sizeof(T) == 4) {
      v.words[j] = FloatToBits(row[first + j]);
    } else {
      v.words[j / 2] |= uint32_t{row[first + j].bits} << (j % 2 * 16);
    }
  }
  return v;
}

// The rows of W of a lane, where elements are stored as they are.
template <class T>
struct PlainRows {
  const T* row[2];

  LORA_DEVICE Vec16 LoadTail(int half, int group, int64_t count) const {
    return LoadTail16(row[half], group * 32, count);
  }
  LORA_DEVICE void Advance(int columns) {
    LORA_UNROLL
    for (int half = 0; half < 2; ++half) row[half] += columns;
  }
};

// Adds to acc the products of a warp: of 16 rows of W, and of turns of columns of W and x. Rows
// start at the first column of the lane, which has 8 of each group of 32.
template <class T, int kXTiles>
struct DecodeTurns {
  using P = DecodeParams<T, kXTiles, false>;
  static constexpr int kGroups = P::kColumns / 32, kTurn = P::kWarps * P::kColumns;
  float (&acc)[kXTiles][4];
  const T* x[kXTiles];
  int64_t count;  // columns from there on
  int whole;      // turns that need no checks: all 128 columns are there, and aligned

  LORA_DEVICE void AddGroup(const Vec16 (&ws)[2], const Vec16 (&xs)[kXTiles]) {
    LORA_UNROLL
    for (int j = 0; j < 2; ++j) {
      const uint32_t a[4] = {ws[0].words[2 * j], ws[1].words[2 * j], ws[0].words[2 * j + 1],
                             ws[1].words[2 * j + 1]};
      LORA_UNROLL
      for (int i = 0; i < kXTiles; ++i) {
        const uint32_t b[2] = {xs[i].words[2 * j], xs[i].words[2 * j + 1]};
        MmaM16N8K16<T>(acc[i], a, b);
      }
    }
  }
  // x of so many groups from the first one on, and of the next turn after the last.
  template <int kCount>
  LORA_DEVICE void LoadX(Vec16 (&xs)[kCount][kXTiles], int first = 0) {
    LORA_UNROLL
    for (int n = 0; n < kCount; ++n) {
      LORA_UNROLL
      for (int i = 0; i < kXTiles; ++i) xs[n][i] = LoadGlobal16(x[i] + (first + n) * 32);
    }
    if (first + kCount < kGroups) return;
    LORA_UNROLL
    for (int i = 0; i < kXTiles; ++i) x[i] += kTurn;
  }

  LORA_DEVICE void Add(PlainRows<T> w) {
    LORA_ROLL
    for (int turn = 0; turn < whole; ++turn) {
      Vec16 ws[kGroups][2], xs[kGroups][kXTiles];
      LORA_UNROLL
      for (int n = 0; n < kGroups; ++n) {
        LORA_UNROLL
        for (int half = 0; half < 2; ++half) ws[n][half] = LoadGlobalStream16(w.row[half] + n * 32);
      }
      w.Advance(kTurn);
      LoadX(xs);
      LORA_UNROLL
      for (int n = 0; n < kGroups; ++n) AddGroup(ws[n], xs[n]);
    }
    AddTail(w, [&](int half, int n, int64_t rest) { return w.LoadTail(half, n, rest); });
  }

  // Where W is stored in eights that Turn loads and expands with what prepare() returns, once the
  // first ones are on their way. The eights of a turn are loaded while those of the one before it
  // are expanded.
  template <class Turn, class Rows, class Prepare>
  LORA_DEVICE void AddPacked(Rows w, const Prepare& prepare) {
    constexpr int kXGroups = kGroups / kXTiles;  // of which x is in registers at once
    Turn loaded{};
    if (whole > 0) {
      LORA_UNROLL
      for (int n = 0; n < kGroups; ++n) loaded.Load(w, n);
    }
    const auto table = prepare();
    LORA_ROLL
    for (int turn = 0; turn < whole; ++turn) {
      Vec16 xs[kXGroups][kXTiles];
      w.Advance(kTurn);
      LORA_UNROLL
      for (int n = 0; n < kGroups; ++n) {
        if (n % kXGroups == 0) LoadX(xs, n);
        Vec16 ws[2];
        LORA_UNROLL
        for (int half = 0; half < 2; ++half)
          ws[half] = loaded.template Expand<T>(w, table, half, n);
        if (turn + 1 < whole) loaded.Load(w, n);
        AddGroup(ws, xs[n % kXGroups]);
      }
    }
    AddTail(w, [&](int half, int n, int64_t rest) {
      if (n * 32 >= rest) return Vec16{{0, 0, 0, 0}};
      return w.template ExpandOne<T>(table, half, n);
    });
  }

  // The turns that are left, with load(half, group, rest) for what W has there.
  template <class Rows, class Load>
  LORA_DEVICE void AddTail(Rows& w, const Load& load) {
    for (int64_t rest = count - int64_t{whole} * kTurn; rest + LaneIndex() % 4 * 8 > 0;
         rest -= kTurn) {
      LORA_ROLL
      for (int n = 0; n < kGroups; ++n) {
        const Vec16 ws[2] = {load(0, n, rest), load(1, n, rest)};
        Vec16 xs[kXTiles];
        LORA_UNROLL
        for (int i = 0; i < kXTiles; ++i) xs[i] = LoadTail16(x[i], n * 32, rest);
        AddGroup(ws, xs);
      }
      w.Advance(kTurn);
      LORA_UNROLL
      for (int i = 0; i < kXTiles; ++i) x[i] += kTurn;
    }
  }
};

// Computes the rows of a block. add(turns, number, rows, first) adds the products of branch
// `number` with rows of W from the lane's first column on.
template <class T, int kXTiles, bool kScaled, class Add>
LORA_DEVICE void DecodeRows(const DecodeParams<T, kXTiles, kScaled>& p, unsigned char* shared,
                            const Add& add) {
  using P = DecodeParams<T, kXTiles, kScaled>;
  float* sums = reinterpret_cast<float*>(shared);  // [warps, 8·kXTiles, kPitch]
  int number = 0;
  while (number + 1 < p.branches && BlockX() >= p.branch[number + 1].first_block) ++number;
  const DecodeOutputs& o = p.branch[number];
  const int64_t row0 = (BlockX() - o.first_block) * P::kRows;
  const int lane = LaneIndex(), g = lane / 4, q = lane % 4;

  // Rows after the last one read the last row, and are not stored.
  int64_t rows[2];
  LORA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int64_t row = row0 + half * 8 + g;
    rows[half] = row < o.n ? row : o.n - 1;
  }
  // Each warp computes the low-rank part of two rows, with a lane for a rank. What it needs of up
  // is loaded before W, so that it has arrived by the end.
  const int64_t low_row = row0 + WarpIndex() * 2;
  const auto load_a = [&](int half, int j) {
    return low_row + half < o.n && j < o.rank ? o.a[(low_row + half) * o.rank + j] : 0.0f;
  };
  float a_first[2] = {0.0f, 0.0f};
  if (o.a != nullptr) {
    a_first[0] = load_a(0, lane);
    a_first[1] = load_a(1, lane);
  }
  const int of_x = ThreadIndex() / P::kRows, of_w = ThreadIndex() % P::kRows;
  const bool mine = of_x < p.m && row0 + of_w < o.n;
  const float output_factor = mine ? OutputFactor(o, p.slots, p.sites, of_x, row0 + of_w) : 1.0f;
  const float bias = mine ? DecodeBias<T>(o, row0 + of_w) : 0.0f;
  const bool aligned = p.k % 8 == 0 && IsAligned16(o.w) && IsAligned16(p.x);

  float acc[kXTiles][4];
  LORA_UNROLL
  for (int i = 0; i < kXTiles; ++i) {
    LORA_UNROLL
    for (int c = 0; c < 4; ++c) acc[i][c] = 0.0f;
  }
  const int64_t first = WarpIndex() * P::kColumns + q * 8;
  using Turns = DecodeTurns<T, kXTiles>;
  const int64_t last =
      p.k - int64_t{WarpIndex() + 1} * P::kColumns;  // the first column of a whole turn
  Turns turns{
      acc, {}, p.k - first, aligned && last >= 0 ? static_cast<int>(last / Turns::kTurn) + 1 : 0};
  LORA_UNROLL
  for (int i = 0; i < kXTiles; ++i) {
    const int row = i * 8 + g;
    turns.x[i] = p.x + (row < p.m ? row : p.m - 1) * p.k + first;
  }
  add(turns, number, rows, first);

  LORA_UNROLL
  for (int i = 0; i < kXTiles; ++i) {
    LORA_UNROLL
    for (int c = 0; c < 4; ++c) {
      sums[WarpIndex() * P::kSlice + (i * 8 + 2 * q + c % 2) * P::kPitch + g + c / 2 * 8] =
          acc[i][c];
    }
  }
  // The launch before this one has written h, so reading h must wait for it.
  GridDependencyWait();
  float* low_sums = sums + P::kWarps * P::kSlice;
  if (o.a != nullptr) {
    // Four rows of x side by side, so that their sums overlap.
    constexpr int kSide = 4;
    LORA_ROLL
    for (int m0 = 0; m0 < p.m; m0 += kSide) {
      float low[kSide][2];
      LORA_UNROLL
      for (int m = 0; m < kSide; ++m) low[m][0] = low[m][1] = 0.0f;
      LORA_ROLL
      for (int j = lane; j < o.rank; j += 32) {
        const float a0 = j == lane ? a_first[0] : load_a(0, j);
        const float a1 = j == lane ? a_first[1] : load_a(1, j);
        LORA_UNROLL
        for (int m = 0; m < kSide; ++m) {
          if (m0 + m >= p.m) continue;
          const float h = o.h[int64_t{m0 + m} * o.rank + j];
          low[m][0] = Fma(a0, h, low[m][0]);
          low[m][1] = Fma(a1, h, low[m][1]);
        }
      }
      LORA_UNROLL
      for (int m = 0; m < kSide; ++m) {
        if (m0 + m >= p.m) continue;
        LORA_UNROLL
        for (int half = 0; half < 2; ++half) {
          const float sum = WarpSum(low[m][half]);
          if (lane == m * 2 + half)
            low_sums[(m0 + m) * P::kPitch + WarpIndex() * 2 + half] = o.scale * sum;
        }
      }
    }
  } else if (o.site != nullptr) {
    for (int m = 0; m < p.m; ++m) {
      const DeltaEntry entry = EntryOf(o, p.slots, p.sites, m);
      float low[2] = {0.0f, 0.0f};
      for (int j = lane; j < entry.rank; j += 32) {
        const float h = o.h[int64_t{m} * o.rank + j];
        LORA_UNROLL
        for (int half = 0; half < 2; ++half) {
          if (low_row + half < o.n)
            low[half] = Fma(UpOf(entry)[(low_row + half) * entry.rank + j], h, low[half]);
        }
      }
      LORA_UNROLL
      for (int half = 0; half < 2; ++half) {
        const float sum = WarpSum(low[half]);
        if (lane == half) low_sums[m * P::kPitch + WarpIndex() * 2 + half] = sum;
      }
    }
  }
  SyncThreads();
  if (!mine) return;
  float sum = o.a != nullptr || o.site != nullptr ? low_sums[of_x * P::kPitch + of_w] : 0.0f;
  LORA_UNROLL
  for (int warp = 0; warp < P::kWarps; ++warp)
    sum += sums[warp * P::kSlice + of_x * P::kPitch + of_w];
  const T rounded = FromFloat<T>(sum * output_factor + bias);
  static_cast<T*>(o.y)[of_x * o.n + row0 + of_w] = rounded;
}

template <class T, int kXTiles, bool kScaled>
LORA_KERNEL void LORA_LAUNCH_BOUNDS((DecodeParams<T, kXTiles, kScaled>::kThreads),
                                    (DecodeParams<T, kXTiles, kScaled>::kMinBlocks))
    Decode(const LORA_GRID_CONSTANT DecodeParams<T, kXTiles, kScaled> p) {
  LORA_DYNAMIC_SHARED(shared);
  DecodeRows(p, shared, [&](auto& turns, int number, const int64_t(&rows)[2], int64_t first) {
    if constexpr (kScaled) {
      const ScaledWeight& scaled = p.scaled[number];
      const auto add = [&]<bool kHasCodes>() {
        ScaledRows<kHasCodes> w;
        LORA_UNROLL
        for (int half = 0; half < 2; ++half) w.Start(scaled, half, rows[half], first, p.k);
        turns.template AddPacked<ScaledTurn<kHasCodes>>(w, [&] {
          CodePairs pairs{};
          if constexpr (kHasCodes)
            pairs = LoadPairs(shared + DecodeParams<T, kXTiles, kScaled>::kSumBytes,
                              [&](int code) { return scaled.codes[code]; });
          return pairs;
        });
      };
      scaled.has_codes != 0 ? add.template operator()<true>() : add.template operator()<false>();
    } else {
      const T* const w = static_cast<const T*>(p.branch[number].w) + first;
      turns.Add(PlainRows<T>{{w + rows[0] * p.k, w + rows[1] * p.k}});
    }
  });
}

}  // namespace lora::device
