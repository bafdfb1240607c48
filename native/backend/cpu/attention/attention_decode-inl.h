// Decode steps of attention: few rows, many keys (attention_tasks.h explains the tasks). Each key
// of a tile is read once for all rows:
//   S = scale·q·Kᵀ,  P = 2^(S − m'),  O ← α·O + P·V
// with S and the running maximum m' in units of ln 2. The lanes of a vector are columns of d in the
// products, and keys in the softmax. The speed is limited by how many cache lines can be requested
// from memory at the same time. L2 allows more such requests than L1, so rows are prefetched into
// L2, one tile of keys ahead.
#if defined(LORA_BACKEND_CPU_ATTENTION_ATTENTION_DECODE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_ATTENTION_ATTENTION_DECODE_INL_H_
#undef LORA_BACKEND_CPU_ATTENTION_ATTENTION_DECODE_INL_H_
#else
#define LORA_BACKEND_CPU_ATTENTION_ATTENTION_DECODE_INL_H_
#endif

#include <cmath>
#include <limits>

#include "backend/cpu/attention/attention-inl.h"
#include "backend/cpu/attention/attention_operands-inl.h"
#include "backend/cpu/runtime/context.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// Prefetches a cache line into L2.
HWY_INLINE void FetchToL2(const void* p) {
#if HWY_COMPILER_GCC || HWY_COMPILER_CLANG
  __builtin_prefetch(p, 0, 2);
#else
  hwy::Prefetch(static_cast<const char*>(p));
#endif
}

// Prefetches `count` rows of k or v. Where k and v are not in pages, the rows of one kv head are
// far apart in memory, and each is too short for the hardware to predict where the next one lies.
template <class T>
HWY_INLINE void FetchRows(const T* row, size_t count, size_t stride, size_t d) {
  constexpr size_t kLine = 64 / sizeof(T);
  for (size_t j = 0; j < count; ++j, row += stride) {
    for (size_t i = 0; i < d; i += kLine) FetchToL2(row + i);
  }
}

// Prefetches 2·kLanes columns of a row.
template <class T>
HWY_INLINE void FetchColumns(const T* row) {
  constexpr size_t kLine = 64 / sizeof(T);
  HWY_UNROLL(2)
  for (size_t i = 0; i < 2 * kLanes; i += kLine) FetchToL2(row + i);
}

// Calls use(size) with the head dim as a constant where models have it, and with 0 elsewhere.
template <class Use>
HWY_INLINE void ForHeadSize(size_t d, const Use& use) {
  if (d == 64) return use(std::integral_constant<size_t, 64>());
  if (d == 128) return use(std::integral_constant<size_t, 128>());
  use(std::integral_constant<size_t, 0>());
}

// scores[r·kKeyTile + j] = q[r]·k[j] for j < count, times `scale` if Kind::kScalesScores. A row has
// kSize columns, or `any_size` where kSize is 0. Four keys are multiplied at a time, so the scores
// from `count` up to the next multiple of 4 are overwritten with values that nothing may use. Each
// key that is read prefetches one row of those that begin at `ahead`.
template <class Kind, size_t kRows, size_t kSize>
HWY_NOINLINE void DotRows(size_t any_size, size_t q_stride, size_t count, float scale,
                          const typename Kind::Query* HWY_RESTRICT q,
                          const typename Kind::T* HWY_RESTRICT keys, const typename Kind::T* ahead,
                          size_t stride, float* HWY_RESTRICT scores) {
  constexpr size_t kKeys = 4;
  const hn::FixedTag<float, 4> d4;
  const size_t d = kSize != 0 ? kSize : any_size;
  const typename Kind::T* key[kKeys];
  for (size_t n = 0; n < kKeys; ++n) key[n] = keys + n * stride;
  for (size_t j = 0; j < count; j += kKeys) {
    if (HWY_UNLIKELY(count - j < kKeys)) {
      for (size_t n = 0; n < kKeys; ++n) key[n] = keys + std::min(j + n, count - 1) * stride;
    }
    VF acc[kRows][kKeys];
    ZeroAccumulators(acc);
    HWY_UNROLL(8)
    for (size_t i = 0; i < d; i += 2 * kLanes) {
      HWY_UNROLL(4)
      for (size_t n = 0; n < kKeys; ++n) {
        FetchColumns(ahead + n * stride + i);
        const auto k = Kind::template Load<(kSize != 0)>(key[n] + i, d - i);
        HWY_UNROLL(4)
        for (size_t r = 0; r < kRows; ++r) {
          acc[r][n] = Kind::Dot(q + r * q_stride + i, k, acc[r][n]);
        }
      }
    }
    HWY_UNROLL(4)
    for (size_t r = 0; r < kRows; ++r) {
      auto sums = SumsOf4(acc[r][0], acc[r][1], acc[r][2], acc[r][3]);
      if constexpr (Kind::kScalesScores) sums = hn::Mul(hn::Set(d4, scale), sums);
      hn::StoreU(sums, d4, scores + r * kKeyTile + j);
    }
    ahead += kKeys * stride;
    for (size_t n = 0; n < kKeys; ++n) key[n] += kKeys * stride;
  }
}

// How many blocks of 2·kLanes columns are summed at the same time. More independent sums hide more
// of the latency of a multiply-add, as long as all of them stay in registers.
template <size_t kRows, size_t kSize>
constexpr size_t BlocksOfValues() {
  constexpr size_t kMaxSums = kRegisters - 8;
  size_t blocks = 1;
  while (4 * kRows * blocks <= kMaxSums && 4 * kLanes * blocks <= kSize) blocks *= 2;
  return blocks;
}

// out [kRows][padded] += P [kRows][kKeyTile] · V, over the first `count` keys. A row of V has kSize
// columns, or `any_size` where kSize is 0. Each row of V that is read prefetches one row of those
// that begin at `ahead`.
template <class Kind, size_t kRows, size_t kSize>
HWY_NOINLINE void AddValues(size_t any_size, size_t padded, size_t count,
                            const typename Kind::Weight* HWY_RESTRICT p,
                            const typename Kind::T* HWY_RESTRICT values,
                            const typename Kind::T* ahead, size_t stride, float* HWY_RESTRICT out) {
  constexpr size_t kBlocks = BlocksOfValues<kRows, kSize>(), kWidth = 2 * kLanes;
  constexpr size_t kKeys = Kind::kKeys;
  const DF df;
  const size_t d = kSize != 0 ? kSize : any_size;
  for (size_t c = 0; c < d; c += kBlocks * kWidth) {
    VF acc[kRows][2 * kBlocks];
    ZeroAccumulators(acc);
    const typename Kind::T *row = values + c, *fetched = ahead + c;
    for (size_t j = 0; j < count; j += kKeys, row += kKeys * stride, fetched += kKeys * stride) {
      decltype(Kind::Broadcast(p)) weights[kRows];
      HWY_UNROLL(4)
      for (size_t r = 0; r < kRows; ++r) weights[r] = Kind::Broadcast(p + r * kKeyTile + j);
      HWY_UNROLL(4)
      for (size_t b = 0; b < kBlocks; ++b) {
        HWY_UNROLL(2)
        for (size_t n = 0; n < kKeys; ++n) FetchColumns(fetched + n * stride + b * kWidth);
        const auto v =
            Kind::template LoadValues<(kSize != 0)>(row + b * kWidth, stride, count - j, d - c);
        HWY_UNROLL(4)
        for (size_t r = 0; r < kRows; ++r) {
          acc[r][2 * b] = Kind::Add(weights[r], v.first, acc[r][2 * b]);
          acc[r][2 * b + 1] = Kind::Add(weights[r], v.second, acc[r][2 * b + 1]);
        }
      }
    }
    HWY_UNROLL(4)
    for (size_t r = 0; r < kRows; ++r) {
      HWY_UNROLL(4)
      for (size_t b = 0; b < kBlocks; ++b) {
        const Columns sums = Kind::InOrder(acc[r][2 * b], acc[r][2 * b + 1]);
        float* const to = out + r * padded + c + b * kWidth;
        hn::StoreU(hn::Add(hn::LoadU(df, to), sums.first), df, to);
        if (c + b * kWidth + kLanes >= d) continue;  // a row may end there
        hn::StoreU(hn::Add(hn::LoadU(df, to + kLanes), sums.second), df, to + kLanes);
      }
    }
  }
}

// Calls use(n, row) for blocks of n rows, which is at most 4 and a constant.
template <class Use>
HWY_INLINE void ForRowBlocks(size_t rows, const Use& use) {
  size_t row = 0;
  for (; row + 4 <= rows; row += 4) use(std::integral_constant<size_t, 4>(), row);
  if (row < rows) ForCount<3>(rows - row, [&](auto n) HWY_ATTR { use(n, row); });
}

// Does a step of the online softmax of each row over scores[0, count), which are in units of ln 2.
// Calls store(row, key, p) with the values of P for kLanes keys from `key` on. `factors` are what
// the sums of earlier steps must be multiplied by, because the maximum has grown.
template <class Store>
HWY_INLINE void OnlineSoftmaxRows(size_t rows, size_t count, float* scores,
                                  const DecodePartial& sums, float* factors, const Store& store) {
  const DF d;
  const VF minus_inf = hn::Neg(hn::Inf(d));
  const size_t whole = RoundUp(count, kLanes);  // kKeyTile is a multiple of lanes
  HWY_ALIGN float maxima[kMaxLanes], bases[kMaxLanes];
  std::fill(maxima, maxima + kMaxLanes, -std::numeric_limits<float>::infinity());
  for (size_t r = 0; r < rows; ++r) {
    float* const row = scores + r * kKeyTile;
    for (size_t j = count; j < whole; ++j) row[j] = -std::numeric_limits<float>::infinity();
    VF m = minus_inf;
    for (size_t j = 0; j < whole; j += kLanes) m = hn::Max(m, hn::LoadU(d, row + j));
    maxima[r] = hn::ReduceMax(d, m);
  }
  for (size_t r = 0; r < rows; r += kLanes) {
    const VF old_max = hn::LoadU(d, sums.max + r);
    const VF max = hn::Max(old_max, hn::Load(d, maxima + r));
    // For a row that has seen no key yet, the base 0 gives 2^(−inf − 0) = 0 where −inf would give
    // NaN.
    const VF base = hn::IfThenElse(hn::Eq(max, minus_inf), hn::Zero(d), max);
    hn::StoreU(max, d, sums.max + r);
    hn::Store(base, d, bases + r);
    hn::StoreU(Exp2Below127(hn::Sub(old_max, base)), d, factors + r);
  }
  for (size_t r = 0; r < rows; ++r) {
    const float* const row = scores + r * kKeyTile;
    const VF base = hn::Set(d, bases[r]);
    VF total = hn::Zero(d);
    const auto step = [&](auto vectors, size_t from) HWY_ATTR {
      constexpr size_t kCount = decltype(vectors)::value;
      VF p[kCount];
      HWY_UNROLL(4)
      for (size_t i = 0; i < kCount; ++i)
        p[i] = hn::Sub(hn::LoadU(d, row + from + i * kLanes), base);
      Exp2Below127(p);
      HWY_UNROLL(4)
      for (size_t i = 0; i < kCount; ++i) {
        total = hn::Add(total, p[i]);
        store(r, from + i * kLanes, p[i]);
      }
    };
    size_t j = 0;
    for (; j + 4 * kLanes <= whole; j += 4 * kLanes) step(std::integral_constant<size_t, 4>(), j);
    for (; j < whole; j += kLanes) step(std::integral_constant<size_t, 1>(), j);
    sums.sum[r] = sums.sum[r] * factors[r] + hn::ReduceSum(d, total);
  }
}

// ---- chunks ------------------------------------------------------------------------------------

// The products of a chunk for at most kDecodeRows rows. `out` is the sums of their outputs
// [rows][padded].
template <class Kind>
struct DecodeProducts {
  using T = typename Kind::T;

  const AttentionShape& s;
  const RowTile& t;
  const DecodeScratch& scratch;
  float* out;

  auto* query() const { return reinterpret_cast<typename Kind::Query*>(scratch.q); }
  size_t q_stride() const { return Kind::QueryStride(s); }
  void LoadQuery(const T* from) const {
    for (size_t r = 0; r < t.count; ++r) {
      Kind::StoreQuery(s, from + t.offset[r], query() + r * q_stride());
    }
  }
  // Computes the scores [rows][kKeyTile] of a tile of keys, in units of ln 2.
  void Dot(const T* k, const T* ahead, size_t count) const {
    ForHeadSize(s.d, [&](auto size) {
      ForRowBlocks(t.count, [&](auto n, size_t r) {
        DotRows<Kind, n(), size()>(s.d, q_stride(), count, s.scale * kLog2E,
                                   query() + r * q_stride(), k, ahead, s.key_stride(),
                                   scratch.scores + r * kKeyTile);
      });
    });
  }
  HWY_INLINE void StoreP(size_t r, size_t j, VF p) const {
    WriteVecFast(p, Kind::Weights(scratch) + r * kKeyTile + j);
  }
  // Adds P·V to the sums.
  void Add(const T* v, const T* ahead, size_t count) const {
    ForHeadSize(s.d, [&](auto size) {
      ForRowBlocks(t.count, [&](auto n, size_t r) {
        AddValues<Kind, n(), size()>(s.d, s.padded, count, Kind::Weights(scratch) + r * kKeyTile, v,
                                     ahead, s.key_stride(), out + r * s.padded);
      });
    });
  }
};

// Computes what the keys of a unit contribute to its rows. `fetched` says that the unit before
// this one has prefetched the first tile of keys. `next` is the offset of the first key of the
// unit after this one, to be prefetched during the last tile, or null.
template <class Kind>
HWY_INLINE void DecodeChunk(const AttentionCall& args, const RowTile& t, const DecodeUnit& unit,
                            bool fetched, const size_t* next, const DecodeScratch& scratch) {
  using T = typename Kind::T;
  const AttentionShape& s = args.shape;
  const DF d;
  const DecodePartial& out = unit.out;
  const DecodeProducts<Kind> products{s, t, scratch, out.out};
  products.LoadQuery(args.q.as<const T>());
  std::fill(out.max, out.max + kMaxLanes, -std::numeric_limits<float>::infinity());
  std::fill(out.sum, out.sum + kMaxLanes, 0.0f);
  std::memset(out.out, 0, t.count * s.padded * sizeof(float));
  const int32_t begin = std::max(t.begin, unit.begin), end = std::min(t.end, unit.end);
  const auto tile_end = [&t, end](int32_t from) { return std::min(end, t.TileEnd(from)); };
  const T* const k_src = args.k.as<const T>();
  const T* const v_src = args.v.as<const T>();
  if (!fetched && begin < end) {
    const size_t offset = s.KeyOffset(t.batch, t.head, static_cast<size_t>(begin));
    const size_t count = static_cast<size_t>(tile_end(begin) - begin);
    FetchRows(k_src + offset, count, s.key_stride(), s.d);
    FetchRows(v_src + offset, count, s.key_stride(), s.d);
  }
  for (int32_t from = begin, to; from < end; from = to) {
    to = tile_end(from);
    const size_t count = static_cast<size_t>(to - from);
    const size_t here = s.KeyOffset(t.batch, t.head, static_cast<size_t>(from));
    // The tile to prefetch: the next one, or this one again where none follows.
    const size_t ahead = to < end ? s.KeyOffset(t.batch, t.head, static_cast<size_t>(to))
                         : next   ? *next
                                  : here;
    products.Dot(k_src + here, k_src + ahead, count);
    if (t.Sees(from, to) != RowTile::Visible::kAll) {
      for (size_t r = 0; r < t.count; ++r) {
        float* const row = scratch.scores + r * kKeyTile;
        for (int32_t j = from; j < to; ++j) {
          if (j < t.lo[r] || j > t.hi[r]) row[j - from] = -std::numeric_limits<float>::infinity();
        }
      }
    }
    HWY_ALIGN float factors[kMaxLanes];
    OnlineSoftmaxRows(t.count, count, scratch.scores, out, factors,
                      [&](size_t r, size_t j, VF p) HWY_ATTR { products.StoreP(r, j, p); });
    for (size_t r = 0; r < t.count; ++r) {
      if (factors[r] == 1) continue;
      float* const o = out.out + r * s.padded;
      const VF factor = hn::Set(d, factors[r]);
      for (size_t i = 0; i < s.padded; i += kLanes) {
        hn::StoreU(hn::Mul(hn::LoadU(d, o + i), factor), d, o + i);
      }
    }
    products.Add(v_src + here, v_src + ahead, count);
  }
}

template <class Kind>
HWY_INLINE void DecodeRange(const AttentionCall& args, const DecodeUnits& units, Range range,
                            const DecodeScratch& scratch) {
  const AttentionShape& s = args.shape;
  for (size_t i = range.begin; i < range.end; ++i) {
    const DecodeUnit unit = units.At(i);
    const size_t first = unit.tile * kDecodeRows;
    const RowTile t(s, unit.batch, unit.head, first, std::min(kDecodeRows, s.rows - first));
    const bool more = i + 1 < range.end;
    const size_t next = more ? units.FirstKey(units.At(i + 1)) : 0;
    DecodeChunk<Kind>(args, t, unit, i > range.begin, more ? &next : nullptr, scratch);
  }
}

// Writes y and lse of a tile from the partial results of its chunks, which are `stride` floats
// apart.
template <class T>
HWY_INLINE void CombineChunks(const AttentionCall& args, const AttentionShape& s, const RowTile& t,
                              float* partials, size_t stride, size_t chunks) {
  const DF d;
  const DecodePartial total(s, partials);  // the first chunk becomes the total
  for (size_t r = 0; r < t.count; ++r) {
    float sink = -std::numeric_limits<float>::infinity();
    if (args.sinks) sink = kLog2E * args.sinks.as<const float>()[t.QueryHead(s, r)];
    float max = sink;
    for (size_t c = 0; c < chunks; ++c) {
      max = std::max(max, DecodePartial(s, partials + c * stride).max[r]);
    }
    const float base = max == -std::numeric_limits<float>::infinity() ? 0.0f : max;
    float* o = total.out + r * s.padded;
    float sum = std::exp2(sink - base);
    for (size_t c = 0; c < chunks; ++c) {
      const DecodePartial part(s, partials + c * stride);
      const float factor = std::exp2(part.max[r] - base);
      sum += factor * part.sum[r];
      const float* p = part.out + r * s.padded;
      for (size_t i = 0; i < s.d; i += kLanes) {
        const VF term = hn::Mul(hn::Set(d, factor), hn::LoadU(d, p + i));
        hn::StoreU(c == 0 ? term : hn::Add(term, hn::LoadU(d, o + i)), d, o + i);
      }
    }
    RowFromF32(o, s.d, sum == 0 ? 0.0f : 1 / sum, args.y.as<T>() + t.offset[r]);
    if (args.lse) {
      args.lse.as<float>()[t.lse_offset[r]] =
          sum == 0 ? -std::numeric_limits<float>::infinity() : base * kLn2 + std::log(sum);
    }
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
