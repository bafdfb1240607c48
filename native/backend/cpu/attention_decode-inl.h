// Decode steps of attention: few rows, many keys (attention_tasks.h explains the tasks). Each key
// of a tile is read once for all rows:
//   S = scale·q·Kᵀ,  P = 2^(S − m'),  O ← α·O + P·V
// with S and m' in units of ln 2, with lanes along d for S and O, and along the keys for the
// softmax. What limits it is how many lines of memory are on their way: L2 has room for more of
// them than L1, so rows are fetched there, a tile ahead.
#if defined(LORA_BACKEND_CPU_ATTENTION_DECODE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_ATTENTION_DECODE_INL_H_
#undef LORA_BACKEND_CPU_ATTENTION_DECODE_INL_H_
#else
#define LORA_BACKEND_CPU_ATTENTION_DECODE_INL_H_
#endif

#include <cmath>
#include <limits>

#include "backend/cpu/attention-inl.h"
#include "backend/cpu/context.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// Fetches a cache line into L2.
HWY_INLINE void FetchToL2(const void* p) {
#if HWY_COMPILER_GCC || HWY_COMPILER_CLANG
  __builtin_prefetch(p, 0, 2);
#else
  hwy::Prefetch(static_cast<const char*>(p));
#endif
}

// Fetches `count` rows of k or v. Outside pages the rows of one kv head are far apart in memory,
// and each is too short for the hardware to predict the next one.
template <class T>
HWY_INLINE void FetchRows(const T* row, size_t count, size_t stride, size_t d) {
  constexpr size_t kLine = 64 / sizeof(T);
  for (size_t j = 0; j < count; ++j, row += stride) {
    for (size_t i = 0; i < d; i += kLine) FetchToL2(row + i);
  }
}

// 2·kLanes columns of a row, of which `count` are there, as f32. Those of bf16 are the even ones
// before the odd ones, because that takes no shuffle.
template <class T>
struct Columns {
  VF first, second;

  HWY_INLINE Columns(VF v0, VF v1) : first(v0), second(v1) {}
  HWY_INLINE Columns(const float* from, size_t count) {
    const DF df;
    const bool whole = count >= 2 * kLanes;
    const size_t beyond = count > kLanes ? count - kLanes : 0;
    first = whole ? hn::LoadU(df, from) : hn::LoadN(df, from, count);
    second = whole ? hn::LoadU(df, from + kLanes) : hn::LoadN(df, from + kLanes, beyond);
  }
  HWY_INLINE Columns(const hwy::bfloat16_t* from, size_t count) {
    const DF df;
    const DBF dh;
    const VU v =
        hn::BitCast(DU(), count >= 2 * kLanes ? hn::LoadU(dh, from) : hn::LoadN(dh, from, count));
    first = hn::BitCast(df, hn::ShiftLeft<16>(v));
    second = hn::BitCast(df, hn::And(v, hn::Set(DU(), 0xffff0000u)));
  }
  HWY_INLINE Columns InOrder() const {
    if constexpr (std::is_same_v<T, float>) return *this;
    const DF df;
    return {hn::InterleaveWholeLower(df, first, second),
            hn::InterleaveWholeUpper(df, first, second)};
  }
};

// Fetches 2·kLanes columns of a row.
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

// scores[r·kKeyTile + j] = q[r]·k[j], for rows of q in the order of Columns, with kSize or else
// `any_size` columns. Past `count`, up to the next multiple of 4, scores are written too. Meanwhile
// as many rows from `ahead` on are fetched.
template <size_t kRows, size_t kSize, class T>
HWY_NOINLINE void DotRows(size_t any_size, size_t q_stride, size_t count,
                          const float* HWY_RESTRICT q, const T* HWY_RESTRICT keys, const T* ahead,
                          size_t stride, float* HWY_RESTRICT scores) {
  constexpr size_t kKeys = 4;
  const DF df;
  const hn::FixedTag<float, 4> d4;
  const size_t d = kSize != 0 ? kSize : any_size;
  const T* key[kKeys];
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
        const Columns<T> k(key[n] + i, kSize != 0 ? 2 * kLanes : d - i);
        HWY_UNROLL(4)
        for (size_t r = 0; r < kRows; ++r) {
          const float* const at = q + r * q_stride + i;
          acc[r][n] = hn::MulAdd(k.first, hn::LoadU(df, at), acc[r][n]);
          acc[r][n] = hn::MulAdd(k.second, hn::LoadU(df, at + kLanes), acc[r][n]);
        }
      }
    }
    HWY_UNROLL(4)
    for (size_t r = 0; r < kRows; ++r) {
      const auto sums = SumsOf4(acc[r][0], acc[r][1], acc[r][2], acc[r][3]);
      hn::StoreU(sums, d4, scores + r * kKeyTile + j);
    }
    ahead += kKeys * stride;
    for (size_t n = 0; n < kKeys; ++n) key[n] += kKeys * stride;
  }
}

// How many blocks of 2·kLanes columns are summed at a time: enough sums to hide the latency of a
// multiply-add, and no more than there are registers for.
template <size_t kRows, size_t kSize>
constexpr size_t BlocksOfValues() {
  constexpr size_t kMostSums = kRegisters - 8;
  size_t blocks = 1;
  while (4 * kRows * blocks <= kMostSums && 4 * kLanes * blocks <= kSize) blocks *= 2;
  return blocks;
}

// out [kRows][padded] += P·V, for rows of P that are kKeyTile apart, with kSize or else `any_size`
// columns. Meanwhile as many rows from `ahead` on are fetched.
template <size_t kRows, size_t kSize, class T>
HWY_NOINLINE void AddValues(size_t any_size, size_t padded, size_t count,
                            const float* HWY_RESTRICT p, const T* HWY_RESTRICT values,
                            const T* ahead, size_t stride, float* HWY_RESTRICT out) {
  constexpr size_t kBlocks = BlocksOfValues<kRows, kSize>(), kWidth = 2 * kLanes;
  const DF df;
  const size_t d = kSize != 0 ? kSize : any_size;
  for (size_t c = 0; c < d; c += kBlocks * kWidth) {
    VF acc[kRows][2 * kBlocks];
    ZeroAccumulators(acc);
    const T *row = values + c, *fetched = ahead + c;
    for (size_t j = 0; j < count; ++j, row += stride, fetched += stride) {
      VF weights[kRows];
      HWY_UNROLL(4)
      for (size_t r = 0; r < kRows; ++r) weights[r] = hn::Set(df, p[r * kKeyTile + j]);
      HWY_UNROLL(4)
      for (size_t b = 0; b < kBlocks; ++b) {
        FetchColumns(fetched + b * kWidth);
        const Columns<T> v(row + b * kWidth, kSize != 0 ? kWidth : d - c);
        HWY_UNROLL(4)
        for (size_t r = 0; r < kRows; ++r) {
          acc[r][2 * b] = hn::MulAdd(weights[r], v.first, acc[r][2 * b]);
          acc[r][2 * b + 1] = hn::MulAdd(weights[r], v.second, acc[r][2 * b + 1]);
        }
      }
    }
    HWY_UNROLL(4)
    for (size_t r = 0; r < kRows; ++r) {
      HWY_UNROLL(4)
      for (size_t b = 0; b < kBlocks; ++b) {
        const Columns<T> sums = Columns<T>(acc[r][2 * b], acc[r][2 * b + 1]).InOrder();
        float* const to = out + r * padded + c + b * kWidth;
        hn::StoreU(hn::Add(hn::LoadU(df, to), sums.first), df, to);
        if (c + b * kWidth + kLanes >= d) continue;  // a row may end there
        hn::StoreU(hn::Add(hn::LoadU(df, to + kLanes), sums.second), df, to + kLanes);
      }
    }
  }
}

// `count` values of a row, of which kWhole ones make a vector; the rest is zero.
template <bool kWhole>
HWY_INLINE VU LoadRowPairs(const uint16_t* row, size_t count) {
  const DU16 dh;
  const bool whole = kWhole || count >= 2 * kLanes;
  return hn::BitCast(DU(), whole ? hn::LoadU(dh, row) : hn::LoadN(dh, row, count));
}

// The same by pairs, for rows of q that are 2·padded apart, and times `scale`: 4 keys at a time,
// whose sums are found together. Past `count`, up to the next multiple of 4, scores are written
// too. Meanwhile as many rows from `ahead` on are fetched.
template <size_t kRows, size_t kSize>
HWY_NOINLINE void DotRowPairs(size_t any_size, size_t padded, size_t count, float scale,
                              const uint16_t* HWY_RESTRICT q, const uint16_t* HWY_RESTRICT keys,
                              const uint16_t* ahead, size_t stride, float* HWY_RESTRICT scores) {
  constexpr size_t kKeys = 4, kWidth = 2 * kLanes;
  const hn::FixedTag<float, 4> d4;
  const size_t d = kSize != 0 ? kSize : any_size;
  const uint16_t* key[kKeys];
  for (size_t n = 0; n < kKeys; ++n) key[n] = keys + n * stride;
  for (size_t j = 0; j < count; j += kKeys) {
    if (HWY_UNLIKELY(count - j < kKeys)) {
      for (size_t n = 0; n < kKeys; ++n) key[n] = keys + std::min(j + n, count - 1) * stride;
    }
    VF acc[kRows][kKeys];
    ZeroAccumulators(acc);
    HWY_UNROLL(8)
    for (size_t i = 0; i < d; i += kWidth) {
      VU kv[kKeys];
      HWY_UNROLL(4)
      for (size_t n = 0; n < kKeys; ++n) {
        kv[n] = LoadRowPairs<(kSize != 0)>(key[n] + i, d - i);
        FetchToL2(ahead + n * stride + i);
      }
      HWY_UNROLL(4)
      for (size_t r = 0; r < kRows; ++r) {
        const VU qv = LoadRowPairs<true>(q + r * 2 * padded + i, kWidth);
        HWY_UNROLL(4)
        for (size_t n = 0; n < kKeys; ++n) acc[r][n] = MulAddElements<true>(qv, kv[n], acc[r][n]);
      }
    }
    HWY_UNROLL(4)
    for (size_t r = 0; r < kRows; ++r) {
      const auto sums = SumsOf4(acc[r][0], acc[r][1], acc[r][2], acc[r][3]);
      hn::StoreU(hn::Mul(hn::Set(d4, scale), sums), d4, scores + r * kKeyTile + j);
    }
    ahead += kKeys * stride;
    for (size_t n = 0; n < kKeys; ++n) key[n] += kKeys * stride;
  }
}

// out [kRows][padded] += P·V by pairs of keys, for P in bf16 with rows that are kKeyTile apart.
// Meanwhile as many rows from `ahead` on are fetched.
template <size_t kRows, size_t kSize>
HWY_NOINLINE void AddValuePairs(size_t any_size, size_t padded, size_t count,
                                const uint16_t* HWY_RESTRICT p, const uint16_t* HWY_RESTRICT values,
                                const uint16_t* ahead, size_t stride, float* HWY_RESTRICT out) {
  constexpr size_t kBlocks = BlocksOfValues<kRows, kSize>(), kWidth = 2 * kLanes;
  const DF df;
  const DU du;
  const DU16 dh;
  const auto* pairs = reinterpret_cast<const uint32_t*>(p);
  const size_t d = kSize != 0 ? kSize : any_size;
  for (size_t c = 0; c < d; c += kBlocks * kWidth) {
    VF acc[kRows][2 * kBlocks];
    ZeroAccumulators(acc);
    const uint16_t *row = values + c, *fetched = ahead + c;
    for (size_t j = 0; j < count; j += 2, row += 2 * stride, fetched += 2 * stride) {
      VU weights[kRows];
      HWY_UNROLL(4)
      for (size_t r = 0; r < kRows; ++r) weights[r] = hn::Set(du, pairs[(r * kKeyTile + j) / 2]);
      HWY_UNROLL(4)
      for (size_t b = 0; b < kBlocks; ++b) {
        const size_t at = b * kWidth;
        const auto load = [&](const uint16_t* from) HWY_ATTR {
          return hn::BitCast(dh, LoadRowPairs<(kSize != 0)>(from + at, d - c));
        };
        const RowPairs v(load(row), j + 1 < count ? load(row + stride) : hn::Zero(dh));
        FetchToL2(fetched + at);
        FetchToL2(fetched + stride + at);
        HWY_UNROLL(4)
        for (size_t r = 0; r < kRows; ++r) {
          acc[r][2 * b] = MulAddElements<true>(weights[r], v.lower, acc[r][2 * b]);
          acc[r][2 * b + 1] = MulAddElements<true>(weights[r], v.upper, acc[r][2 * b + 1]);
        }
      }
    }
    HWY_UNROLL(4)
    for (size_t r = 0; r < kRows; ++r) {
      HWY_UNROLL(4)
      for (size_t b = 0; b < kBlocks; ++b) {
        HWY_ALIGN float sums[kWidth];
        StoreColumns(acc[r][2 * b], acc[r][2 * b + 1], sums);
        float* const to = out + r * padded + c + b * kWidth;
        const size_t columns = std::min(kWidth, d - c - b * kWidth);
        for (size_t i = 0; i < columns; i += kLanes) {
          hn::StoreU(hn::Add(hn::LoadU(df, to + i), hn::Load(df, sums + i)), df, to + i);
        }
      }
    }
  }
}

HWY_INLINE const uint16_t* Bits(const hwy::bfloat16_t* p) {
  return reinterpret_cast<const uint16_t*>(p);
}

// Calls use(n, row) for blocks of n rows, which is at most 4 and a constant.
template <class Use>
HWY_INLINE void ForRowBlocks(size_t rows, const Use& use) {
  size_t row = 0;
  for (; row + 4 <= rows; row += 4) use(std::integral_constant<size_t, 4>(), row);
  if (row < rows) ForCount<3>(rows - row, [&](auto n) HWY_ATTR { use(n, row); });
}

// Does a step of the online softmax of each row over scores[0, count), in units of ln 2, with lanes
// along the keys. P goes to store(row, key, lanes). The factors rescale what was summed before.
template <class Store>
HWY_INLINE void OnlineSoftmaxRows(size_t rows, size_t count, float* scores,
                                  const DecodePartial& sums, float* factors, const Store& store) {
  const DF d;
  const VF minus_inf = hn::Neg(hn::Inf(d));
  const size_t whole = RoundUp(count, kLanes);  // kKeyTile is a multiple of lanes
  HWY_ALIGN float maxima[kMostLanes], bases[kMostLanes];
  std::fill(maxima, maxima + kMostLanes, -std::numeric_limits<float>::infinity());
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

// ---- the products of a chunk, by what they are computed in -------------------------------------

// At most kDecodeRows rows, and the sums of their outputs [rows][padded]. Dot computes the scores
// [rows][kKeyTile] of a tile of keys, in units of ln 2, and Add adds P·V to the sums; meanwhile as
// many rows from `ahead` on are fetched.
struct DecodeRows {
  const AttentionShape& s;
  const RowTile& t;
  const DecodeScratch& scratch;
  float* out;
};

// f32, or bf16 that is widened in registers.
template <class Element>
struct DecodeF32 : DecodeRows {
  using T = Element;

  size_t q_stride() const { return RoundUp(s.d, 2 * kLanes); }
  void LoadQuery(const T* from) const {
    const DF df;
    const VF scale = hn::Set(df, s.scale * kLog2E);
    for (size_t r = 0; r < t.count; ++r) {
      for (size_t i = 0; i < s.d; i += 2 * kLanes) {
        const Columns<T> row(from + t.offset[r] + i, s.d - i);
        float* const to = scratch.q + r * q_stride() + i;
        hn::StoreU(hn::Mul(scale, row.first), df, to);
        hn::StoreU(hn::Mul(scale, row.second), df, to + kLanes);
      }
    }
  }
  void Dot(const T* k, const T* ahead, size_t count) const {
    ForHeadSize(s.d, [&](auto size) {
      ForRowBlocks(t.count, [&](auto n, size_t r) {
        DotRows<n(), size()>(s.d, q_stride(), count, scratch.q + r * q_stride(), k, ahead,
                             s.key_stride(), scratch.scores + r * kKeyTile);
      });
    });
  }
  // P takes the place of the scores.
  HWY_INLINE void StoreP(size_t r, size_t j, VF p) const {
    hn::StoreU(p, DF(), scratch.scores + r * kKeyTile + j);
  }
  void Add(const T* v, const T* ahead, size_t count) const {
    ForHeadSize(s.d, [&](auto size) {
      ForRowBlocks(t.count, [&](auto n, size_t r) {
        AddValues<n(), size()>(s.d, s.padded, count, scratch.scores + r * kKeyTile, v, ahead,
                               s.key_stride(), out + r * s.padded);
      });
    });
  }
};

// bf16 where one instruction multiplies pairs. P is rounded to bf16.
struct DecodePairs : DecodeRows {
  using T = hwy::bfloat16_t;

  T* p() const { return reinterpret_cast<T*>(scratch.p); }
  void LoadQuery(const T* from) const {
    auto* const pairs = reinterpret_cast<T*>(scratch.q);
    for (size_t r = 0; r < t.count; ++r) {
      T* const row = pairs + r * 2 * s.padded;
      std::memcpy(row, from + t.offset[r], s.d * sizeof(T));
      std::memset(row + s.d, 0, (2 * s.padded - s.d) * sizeof(T));
    }
  }
  void Dot(const T* k, const T* ahead, size_t count) const {
    const auto* const pairs = reinterpret_cast<const uint16_t*>(scratch.q);
    ForHeadSize(s.d, [&](auto size) {
      ForRowBlocks(t.count, [&](auto n, size_t r) {
        DotRowPairs<n(), size()>(s.d, s.padded, count, s.scale * kLog2E, pairs + r * 2 * s.padded,
                                 Bits(k), Bits(ahead), s.key_stride(),
                                 scratch.scores + r * kKeyTile);
      });
    });
  }
  HWY_INLINE void StoreP(size_t r, size_t j, VF v) const {
    WriteVecFast(v, p() + r * kKeyTile + j);
  }
  void Add(const T* v, const T* ahead, size_t count) const {
    ForHeadSize(s.d, [&](auto size) {
      ForRowBlocks(t.count, [&](auto n, size_t r) {
        AddValuePairs<n(), size()>(s.d, s.padded, count, Bits(p()) + r * kKeyTile, Bits(v),
                                   Bits(ahead), s.key_stride(), out + r * s.padded);
      });
    });
  }
};

// Computes what the keys of a unit contribute to its rows. The first tile of keys is `fetched`
// already where the caller comes from another unit; those at `next` follow, or none if it is null.
template <class Products>
HWY_INLINE void DecodeChunk(const AttentionCall& args, const RowTile& t, const DecodeUnit& unit,
                            bool fetched, const size_t* next, const DecodeScratch& scratch) {
  using T = typename Products::T;
  const AttentionShape& s = args.shape;
  const DF d;
  const DecodePartial& out = unit.out;
  const Products products{{s, t, scratch, out.out}};
  products.LoadQuery(args.q.as<const T>());
  std::fill(out.max, out.max + kMostLanes, -std::numeric_limits<float>::infinity());
  std::fill(out.sum, out.sum + kMostLanes, 0.0f);
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
    // The tile that follows, or this one again.
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
    HWY_ALIGN float factors[kMostLanes];
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

template <class Products>
HWY_INLINE void DecodeRange(const AttentionCall& args, const DecodeUnits& units, Range range,
                            const DecodeScratch& scratch) {
  const AttentionShape& s = args.shape;
  for (size_t i = range.begin; i < range.end; ++i) {
    const DecodeUnit unit = units.At(i);
    const size_t first = unit.tile * kDecodeRows;
    const RowTile t(s, unit.batch, unit.head, first, std::min(kDecodeRows, s.rows - first));
    const bool more = i + 1 < range.end;
    const size_t next = more ? units.FirstKey(units.At(i + 1)) : 0;
    DecodeChunk<Products>(args, t, unit, i > range.begin, more ? &next : nullptr, scratch);
  }
}

// Writes y and lse of a tile from the partial results of its chunks, which are
// `stride` floats apart.
template <class T>
HWY_INLINE void CombineChunks(const AttentionCall& args, const AttentionShape& s, const RowTile& t,
                              float* partials, size_t stride, size_t chunks) {
  const DF d;
  const DecodePartial total(s, partials);  // the first chunk becomes the total
  for (size_t r = 0; r < t.count; ++r) {
    float max = total.max[r];
    for (size_t c = 1; c < chunks; ++c) {
      max = std::max(max, DecodePartial(s, partials + c * stride).max[r]);
    }
    const float base = max == -std::numeric_limits<float>::infinity() ? 0.0f : max;
    float* o = total.out + r * s.padded;
    float sum = 0;
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
