// Decode steps of attention: few rows, many keys (attention_tasks.h explains the tasks). Each key
// of a tile is read once for all rows:
//   S = scale·q·Kᵀ,  P = exp(S − m'),  O ← α·O + P·V
// with lanes along d for S and O, and along the keys for the softmax. What limits it is how many
// lines of memory are on their way: L2 has room for more of them than L1, so rows are fetched
// there, a tile ahead.
#if defined(LORA_CPU_ATTENTION_DECODE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_CPU_ATTENTION_DECODE_INL_H_
#undef LORA_CPU_ATTENTION_DECODE_INL_H_
#else
#define LORA_CPU_ATTENTION_DECODE_INL_H_
#endif

#include <cmath>
#include <limits>

#include "backend/cpu/attention-inl.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu {
namespace HWY_NAMESPACE {

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

// scores[r·kKeyTile + j] = q[r]·k[j], for rows of q in the order of Columns. Past `count`, up to
// the next multiple of 4, scores are written too. Meanwhile as many rows from `ahead` on are
// fetched.
template <size_t kRows, class T>
HWY_NOINLINE void DotRows(size_t d, size_t q_stride, size_t count, const float* HWY_RESTRICT q,
                          const T* HWY_RESTRICT keys, const T* ahead, size_t stride,
                          float* HWY_RESTRICT scores) {
  constexpr size_t kKeys = 4;
  const DF df;
  const hn::FixedTag<float, 4> d4;
  for (size_t j = 0; j < count; j += kKeys) {
    const T* key[kKeys];
    for (size_t n = 0; n < kKeys; ++n) key[n] = keys + std::min(j + n, count - 1) * stride;
    VF acc[kRows][kKeys];
    ZeroAccumulators(acc);
    for (size_t i = 0; i < d; i += 2 * kLanes) {
      HWY_UNROLL(4)
      for (size_t n = 0; n < kKeys; ++n) {
        FetchColumns(ahead + (j + n) * stride + i);
        const Columns<T> k(key[n] + i, d - i);
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
  }
}

// out [kRows][padded] += P·V, for rows of P that are kKeyTile apart. Meanwhile as many rows from
// `ahead` on are fetched.
template <size_t kRows, class T>
HWY_NOINLINE void AddValues(size_t d, size_t padded, size_t count, const float* HWY_RESTRICT p,
                            const T* HWY_RESTRICT values, const T* ahead, size_t stride,
                            float* HWY_RESTRICT out) {
  const DF df;
  for (size_t c = 0; c < d; c += 2 * kLanes) {
    VF acc[kRows][2];
    ZeroAccumulators(acc);
    for (size_t j = 0; j < count; ++j) {
      FetchColumns(ahead + j * stride + c);
      const Columns<T> v(values + j * stride + c, d - c);
      HWY_UNROLL(4)
      for (size_t r = 0; r < kRows; ++r) {
        const VF weight = hn::Set(df, p[r * kKeyTile + j]);
        acc[r][0] = hn::MulAdd(weight, v.first, acc[r][0]);
        acc[r][1] = hn::MulAdd(weight, v.second, acc[r][1]);
      }
    }
    HWY_UNROLL(4)
    for (size_t r = 0; r < kRows; ++r) {
      const Columns<T> sums = Columns<T>(acc[r][0], acc[r][1]).InOrder();
      float* const to = out + r * padded + c;
      hn::StoreU(hn::Add(hn::LoadU(df, to), sums.first), df, to);
      if (c + kLanes >= d) continue;  // a row may end there
      hn::StoreU(hn::Add(hn::LoadU(df, to + kLanes), sums.second), df, to + kLanes);
    }
  }
}

// The same by pairs, for rows of q that are 2·padded apart, and times `scale`: 4 keys at a time,
// whose sums are found together. Past `count`, up to the next multiple of 4, scores are written
// too. Meanwhile as many rows from `ahead` on are fetched.
template <size_t kRows>
HWY_NOINLINE void DotRowPairs(size_t d, size_t padded, size_t count, float scale,
                              const uint16_t* HWY_RESTRICT q, const uint16_t* HWY_RESTRICT keys,
                              const uint16_t* ahead, size_t stride, float* HWY_RESTRICT scores) {
  constexpr size_t kKeys = 4, kValues = 2 * kLanes;
  const DU du;
  const hn::Repartition<uint16_t, DU> dh;
  const hn::FixedTag<float, 4> d4;
  for (size_t j = 0; j < count; j += kKeys) {
    const uint16_t* key[kKeys];
    for (size_t n = 0; n < kKeys; ++n) key[n] = keys + std::min(j + n, count - 1) * stride;
    VF acc[kRows][kKeys];
    ZeroAccumulators(acc);
    for (size_t i = 0; i < d; i += kValues) {
      VU kv[kKeys];
      HWY_UNROLL(4)
      for (size_t n = 0; n < kKeys; ++n) {
        kv[n] = hn::BitCast(
            du, d - i >= kValues ? hn::LoadU(dh, key[n] + i) : hn::LoadN(dh, key[n] + i, d - i));
        FetchToL2(ahead + (j + n) * stride + i);
      }
      HWY_UNROLL(4)
      for (size_t r = 0; r < kRows; ++r) {
        const VU qv = hn::BitCast(du, hn::LoadU(dh, q + r * 2 * padded + i));
        HWY_UNROLL(4)
        for (size_t n = 0; n < kKeys; ++n) acc[r][n] = MulAddElements<true>(qv, kv[n], acc[r][n]);
      }
    }
    HWY_UNROLL(4)
    for (size_t r = 0; r < kRows; ++r) {
      const auto sums = SumsOf4(acc[r][0], acc[r][1], acc[r][2], acc[r][3]);
      hn::StoreU(hn::Mul(hn::Set(d4, scale), sums), d4, scores + r * kKeyTile + j);
    }
  }
}

// out [kRows][padded] += P·V by pairs of keys, for P in bf16 with rows that are kKeyTile apart.
// Meanwhile as many rows from `ahead` on are fetched.
template <size_t kRows>
HWY_NOINLINE void AddValuePairs(size_t d, size_t padded, size_t count,
                                const uint16_t* HWY_RESTRICT p, const uint16_t* HWY_RESTRICT values,
                                const uint16_t* ahead, size_t stride, float* HWY_RESTRICT out) {
  constexpr size_t kWidth = 2 * kLanes;
  const DF df;
  const DU du;
  const hn::Repartition<uint16_t, DU> dh;
  const auto* pairs = reinterpret_cast<const uint32_t*>(p);
  for (size_t c = 0; c < d; c += kWidth) {
    const size_t columns = std::min(kWidth, d - c);
    const auto load = [&](size_t j) HWY_ATTR {
      const uint16_t* from = values + j * stride + c;
      return columns == kWidth ? hn::LoadU(dh, from) : hn::LoadN(dh, from, columns);
    };
    VF acc[kRows][2];
    ZeroAccumulators(acc);
    for (size_t j = 0; j < count; j += 2) {
      const RowPairs v(load(j), j + 1 < count ? load(j + 1) : hn::Zero(dh));
      FetchToL2(ahead + j * stride + c);
      FetchToL2(ahead + (j + 1) * stride + c);
      HWY_UNROLL(4)
      for (size_t r = 0; r < kRows; ++r) {
        const VU pv = hn::Set(du, pairs[r * kKeyTile / 2 + j / 2]);
        acc[r][0] = MulAddElements<true>(pv, v.lower, acc[r][0]);
        acc[r][1] = MulAddElements<true>(pv, v.upper, acc[r][1]);
      }
    }
    HWY_UNROLL(4)
    for (size_t r = 0; r < kRows; ++r) {
      HWY_ALIGN float sums[kWidth];
      StoreColumns(acc[r][0], acc[r][1], sums);
      float* to = out + r * padded + c;
      for (size_t i = 0; i < columns; i += kLanes) {
        hn::StoreU(hn::Add(hn::LoadU(df, to + i), hn::Load(df, sums + i)), df, to + i);
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
  switch (rows - row) {
    case 3:
      return use(std::integral_constant<size_t, 3>(), row);
    case 2:
      return use(std::integral_constant<size_t, 2>(), row);
    case 1:
      return use(std::integral_constant<size_t, 1>(), row);
    default:
      return;
  }
}

// Does one row's softmax step over scores[0, count), with lanes along the keys; entries outside
// [lo, hi] are −inf. P replaces the scores or, rounded, is written to `rounded`. Returns the factor
// that rescales what was summed before.
HWY_INLINE float OnlineSoftmaxRow(size_t count, float* scores, hwy::bfloat16_t* rounded, float* max,
                                  float* sum) {
  const F32 d;
  const size_t lanes = hn::Lanes(d);
  const VF32 minus_inf = hn::Neg(hn::Inf(d));
  const size_t whole = RoundUp(count, lanes);  // kKeyTile is a multiple of lanes
  for (size_t j = count; j < whole; ++j) scores[j] = -std::numeric_limits<float>::infinity();
  VF32 m = minus_inf;
  for (size_t j = 0; j < whole; j += lanes) m = hn::Max(m, hn::LoadU(d, scores + j));
  const float new_max = std::max(*max, hn::ReduceMax(d, m));
  const float base = new_max == -std::numeric_limits<float>::infinity() ? 0.0f : new_max;
  VF32 total = hn::Zero(d);
  for (size_t j = 0; j < whole; j += lanes) {
    const VF32 p = Exp(d, hn::Sub(hn::LoadU(d, scores + j), hn::Set(d, base)));
    if (rounded) {
      StoreAct(d, p, rounded + j);
    } else {
      hn::StoreU(p, d, scores + j);
    }
    total = hn::Add(total, p);
  }
  const float factor = std::exp(*max - base);
  *sum = *sum * factor + hn::ReduceSum(d, total);
  *max = new_max;
  return factor;
}

// ---- the products of a chunk, by what they are computed in -------------------------------------

// q of at most kDecodeRows rows, in scratch, and the sums of their outputs [rows][padded].
struct DecodeRows {
  const AttentionShape& s;
  const RowTile& t;
  float *q, *out;
};

// f32, or bf16 that is widened in registers.
template <class Element>
struct DecodeF32 : DecodeRows {
  using T = Element;
  static constexpr bool kRounds = false;  // P, which takes the place of the scores

  size_t q_stride() const { return RoundUp(s.d, 2 * kLanes); }
  void LoadQuery(const T* from) const {
    const DF df;
    const VF scale = hn::Set(df, s.scale);
    for (size_t r = 0; r < t.count; ++r) {
      for (size_t i = 0; i < s.d; i += 2 * kLanes) {
        const Columns<T> row(from + t.offset[r] + i, s.d - i);
        float* const to = q + r * q_stride() + i;
        hn::StoreU(hn::Mul(scale, row.first), df, to);
        hn::StoreU(hn::Mul(scale, row.second), df, to + kLanes);
      }
    }
  }
  void Dot(const T* k, const T* ahead, size_t count, float* scores) const {
    ForRowBlocks(t.count, [&](auto n, size_t r) {
      DotRows<n()>(s.d, q_stride(), count, q + r * q_stride(), k, ahead, s.key_stride(),
                   scores + r * kKeyTile);
    });
  }
  void Add(const T* v, const T* ahead, size_t count, const float* p) const {
    ForRowBlocks(t.count, [&](auto n, size_t r) {
      AddValues<n()>(s.d, s.padded, count, p + r * kKeyTile, v, ahead, s.key_stride(),
                     out + r * s.padded);
    });
  }
};

// bf16 where one instruction multiplies pairs. P is rounded to bf16, and follows the scores.
struct DecodePairs : DecodeRows {
  using T = hwy::bfloat16_t;
  static constexpr bool kRounds = true;

  void LoadQuery(const T* from) const {
    auto* const pairs = reinterpret_cast<T*>(q);
    for (size_t r = 0; r < t.count; ++r) {
      T* const row = pairs + r * 2 * s.padded;
      std::memcpy(row, from + t.offset[r], s.d * sizeof(T));
      std::memset(row + s.d, 0, (2 * s.padded - s.d) * sizeof(T));
    }
  }
  void Dot(const T* k, const T* ahead, size_t count, float* scores) const {
    const auto* const pairs = reinterpret_cast<const uint16_t*>(q);
    ForRowBlocks(t.count, [&](auto n, size_t r) {
      DotRowPairs<n()>(s.d, s.padded, count, s.scale, pairs + r * 2 * s.padded, Bits(k),
                       Bits(ahead), s.key_stride(), scores + r * kKeyTile);
    });
  }
  void Add(const T* v, const T* ahead, size_t count, const float* p) const {
    const auto* const rounded = reinterpret_cast<const uint16_t*>(p + kDecodeRows * kKeyTile);
    ForRowBlocks(t.count, [&](auto n, size_t r) {
      AddValuePairs<n()>(s.d, s.padded, count, rounded + r * kKeyTile, Bits(v), Bits(ahead),
                         s.key_stride(), out + r * s.padded);
    });
  }
};

// Computes what keys [chunk_begin, chunk_end) contribute to a tile of at most kDecodeRows rows. If
// there is a head next_head, the caller goes on with its keys of the same chunk. The first tile of
// keys is fetched already where the caller comes from another head.
template <class Products>
HWY_INLINE void DecodeChunk(const AttentionCall& args, const AttentionShape& s, const RowTile& t,
                            int32_t chunk_begin, int32_t chunk_end, bool fetched, size_t next_head,
                            float* scratch, DecodePartial out) {
  using T = typename Products::T;
  const F32 d;
  const size_t lanes = hn::Lanes(d);
  const Products products{{s, t, scratch, out.out}};
  float* const scores = scratch + DecodeQueryFloats(s);
  auto* const rounded = reinterpret_cast<hwy::bfloat16_t*>(scores + kDecodeRows * kKeyTile);
  products.LoadQuery(args.q.as<const T>());
  for (size_t r = 0; r < t.count; ++r) {
    out.max[r] = -std::numeric_limits<float>::infinity();
    out.sum[r] = 0;
  }
  std::memset(out.out, 0, t.count * s.padded * sizeof(float));
  const int32_t begin = std::max(t.begin, chunk_begin), end = std::min(t.end, chunk_end);
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
    const bool seen_whole = t.Sees(from, to) == RowTile::Visible::kAll;
    const size_t count = static_cast<size_t>(to - from);
    const size_t here = s.KeyOffset(t.batch, t.head, static_cast<size_t>(from));
    // The tile that follows: of this head, or else of the next one. After the last one, this again.
    const bool next_head_follows = to == end && next_head < s.kv_heads;
    const size_t ahead_head = next_head_follows ? next_head : t.head;
    const int32_t ahead_from = to < end ? to : next_head_follows ? begin : from;
    const size_t ahead = s.KeyOffset(t.batch, ahead_head, static_cast<size_t>(ahead_from));
    products.Dot(k_src + here, k_src + ahead, count, scores);
    for (size_t r = 0; r < t.count; ++r) {
      float* const row = scores + r * kKeyTile;
      for (int32_t j = from; !seen_whole && j < to; ++j) {
        if (j < t.lo[r] || j > t.hi[r]) row[j - from] = -std::numeric_limits<float>::infinity();
      }
      hwy::bfloat16_t* const p = Products::kRounds ? rounded + r * kKeyTile : nullptr;
      const float factor = OnlineSoftmaxRow(count, row, p, out.max + r, out.sum + r);
      if (factor == 1) continue;
      float* const o = out.out + r * s.padded;
      for (size_t i = 0; i < s.padded; i += lanes) {
        hn::StoreU(hn::Mul(hn::LoadU(d, o + i), hn::Set(d, factor)), d, o + i);
      }
    }
    products.Add(v_src + here, v_src + ahead, count, scores);
  }
}

// Writes y and lse of a tile from the partial results of its chunks, which are
// `stride` floats apart.
template <class T>
HWY_INLINE void CombineChunks(const AttentionCall& args, const AttentionShape& s, const RowTile& t,
                              float* partials, size_t stride, size_t chunks) {
  const F32 d;
  const size_t lanes = hn::Lanes(d);
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
      const float factor = std::exp(part.max[r] - base);
      sum += factor * part.sum[r];
      const float* p = part.out + r * s.padded;
      for (size_t i = 0; i < s.d; i += lanes) {
        const VF32 term = hn::Mul(hn::Set(d, factor), hn::LoadU(d, p + i));
        hn::StoreU(c == 0 ? term : hn::Add(term, hn::LoadU(d, o + i)), d, o + i);
      }
    }
    RowFromF32(o, s.d, sum == 0 ? 0.0f : 1 / sum, args.y.as<T>() + t.offset[r]);
    if (args.lse) {
      args.lse.as<float>()[t.lse_offset[r]] =
          sum == 0 ? -std::numeric_limits<float>::infinity() : base + std::log(sum);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace lora::cpu
HWY_AFTER_NAMESPACE();

#endif  // toggle
