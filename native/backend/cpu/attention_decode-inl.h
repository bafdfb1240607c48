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

// scores[r·kKeyTile + j] = q[r]·k[j] for kRows rows. Lanes run along d, and each key is read once.
template <size_t kRows, class T>
HWY_NOINLINE void DotRows(size_t used, size_t padded, size_t count, const float* HWY_RESTRICT q,
                          const T* HWY_RESTRICT keys, size_t stride, float* HWY_RESTRICT scores) {
  const F32 d;
  const size_t lanes = hn::Lanes(d);
  for (size_t j = 0; j < count; ++j) {
    const T* HWY_RESTRICT key = keys + j * stride;
    VF32 acc[kRows];
    HWY_UNROLL(4)
    for (size_t r = 0; r < kRows; ++r) acc[r] = hn::Zero(d);
    for (size_t i = 0; i < used; i += lanes) {
      const VF32 kv = LoadAct(d, key + i);
      HWY_UNROLL(4)
      for (size_t r = 0; r < kRows; ++r) {
        acc[r] = hn::MulAdd(kv, hn::LoadU(d, q + r * padded + i), acc[r]);
      }
    }
    HWY_UNROLL(4)
    for (size_t r = 0; r < kRows; ++r) scores[r * kKeyTile + j] = hn::ReduceSum(d, acc[r]);
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

// Calls use(data, stride) with keys [from, from + count) of k or v: where they lie, if their rows
// are whole vectors, or else as f32 in `tile`.
template <class T, class Use>
HWY_INLINE void WithKeys(const AttentionShape& s, const RowTile& t, const T* src, size_t from,
                         size_t count, float* tile, const Use& use) {
  if (s.d % hn::Lanes(F32()) == 0) {
    use(src + s.KeyOffset(t.batch, t.head, from), s.key_stride());
  } else {
    const KeyRows rows = LoadKeys(s, t, src, from, count, true, tile);
    use(rows.data, rows.stride);
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

// Fetches `count` rows of k or v. Outside pages the rows of one kv head are far apart in memory,
// and each is too short for the hardware to predict the next one.
template <class T>
HWY_INLINE void FetchRows(const T* row, size_t count, size_t stride, size_t d) {
  constexpr size_t kLine = 64 / sizeof(T);
  for (size_t j = 0; j < count; ++j, row += stride) {
    for (size_t i = 0; i < d; i += kLine) FetchToL2(row + i);
  }
}

// The values of bf16 as the kernels of pairs read them. There are none of f32.
HWY_INLINE const uint16_t* Halves(const hwy::bfloat16_t* p) {
  return reinterpret_cast<const uint16_t*>(p);
}
HWY_INLINE const uint16_t* Halves(const float*) { return nullptr; }

// Computes what keys [chunk_begin, chunk_end) contribute to a tile of at most kDecodeRows rows. If
// there is a head next_head, the caller goes on with its keys of the same chunk.
template <class T>
HWY_INLINE void DecodeChunk(const AttentionCall& args, const AttentionShape& s, const RowTile& t,
                            int32_t chunk_begin, int32_t chunk_end, size_t next_head,
                            float* scratch, DecodePartial out) {
  const F32 d;
  const size_t lanes = hn::Lanes(d);
  const size_t used = RoundUp(s.d, lanes);  // columns of a padded row that are read
  float* q = scratch;
  float* keys = q + kDecodeRows * s.padded;
  float* scores = keys + kKeyTile * s.padded;
  const bool pairs = LORA_DOT_BF16 && HasPairs<T>(s);
  auto* const rounded = reinterpret_cast<uint16_t*>(scores + kDecodeRows * kKeyTile);  // P
  auto* const q_pairs = reinterpret_cast<uint16_t*>(q);
  for (size_t r = 0; r < t.count; ++r) {
    const T* from = args.q.as<const T>() + t.offset[r];
    if (pairs) {
      uint16_t* to = q_pairs + r * 2 * s.padded;
      std::memcpy(to, from, s.d * sizeof(T));
      std::fill(to + s.d, to + 2 * s.padded, uint16_t{0});
    } else {
      RowToF32(from, s.d, s.scale, q + r * s.padded, s.padded);
    }
    out.max[r] = -std::numeric_limits<float>::infinity();
    out.sum[r] = 0;
  }
  std::memset(out.out, 0, t.count * s.padded * sizeof(float));
  const int32_t begin = std::max(t.begin, chunk_begin), end = std::min(t.end, chunk_end);
  const auto tile_end = [&t, end](int32_t from) { return std::min(end, t.TileEnd(from)); };
  const T* const k_src = args.k.as<const T>();
  const T* const v_src = args.v.as<const T>();
  const auto fetch = [&s](const T* rows, size_t count) {
    FetchRows(rows, count, s.key_stride(), s.d);
  };
  if (begin < end) {
    const size_t offset = s.KeyOffset(t.batch, t.head, static_cast<size_t>(begin));
    const size_t count = static_cast<size_t>(tile_end(begin) - begin);
    fetch(k_src + offset, count);
    fetch(v_src + offset, count);
  }
  for (int32_t from = begin, to; from < end; from = to) {
    to = tile_end(from);
    const bool seen_whole = t.Sees(from, to) == RowTile::Visible::kAll;
    const size_t first = static_cast<size_t>(from), count = static_cast<size_t>(to - from);
    const T* const k_tile = k_src + s.KeyOffset(t.batch, t.head, first);
    const T* const v_tile = v_src + s.KeyOffset(t.batch, t.head, first);
    // The tile that follows: of this head, or else of the next one. After the last one, this again.
    const bool next_head_follows = to == end && next_head < s.kv_heads;
    const size_t ahead_head = next_head_follows ? next_head : t.head;
    const int32_t ahead_from = to < end ? to : next_head_follows ? begin : from;
    const size_t ahead = s.KeyOffset(t.batch, ahead_head, static_cast<size_t>(ahead_from));
    if (pairs) {
      ForRowBlocks(t.count, [&](auto n, size_t r) {
        DotRowPairs<n()>(s.d, s.padded, count, s.scale, q_pairs + r * 2 * s.padded, Halves(k_tile),
                         Halves(k_src + ahead), s.key_stride(), scores + r * kKeyTile);
      });
    } else {
      fetch(k_src + ahead, count);
      WithKeys(s, t, k_src, first, count, keys, [&](const auto* k, size_t stride) {
        ForRowBlocks(t.count, [&](auto n, size_t r) {
          DotRows<n()>(used, s.padded, count, q + r * s.padded, k, stride, scores + r * kKeyTile);
        });
      });
    }
    for (size_t r = 0; r < t.count; ++r) {
      float* sr = scores + r * kKeyTile;
      for (int32_t j = from; !seen_whole && j < to; ++j) {
        if (j < t.lo[r] || j > t.hi[r]) sr[j - from] = -std::numeric_limits<float>::infinity();
      }
      auto* const p = reinterpret_cast<hwy::bfloat16_t*>(rounded + r * kKeyTile);
      const float factor =
          OnlineSoftmaxRow(count, sr, pairs ? p : nullptr, out.max + r, out.sum + r);
      if (factor == 1) continue;
      float* o = out.out + r * s.padded;
      for (size_t i = 0; i < used; i += lanes) {
        hn::StoreU(hn::Mul(hn::LoadU(d, o + i), hn::Set(d, factor)), d, o + i);
      }
    }
    if (pairs) {
      ForRowBlocks(t.count, [&](auto n, size_t r) {
        AddValuePairs<n()>(s.d, s.padded, count, rounded + r * kKeyTile, Halves(v_tile),
                           Halves(v_src + ahead), s.key_stride(), out.out + r * s.padded);
      });
      continue;
    }
    fetch(v_src + ahead, count);
    WithKeys(s, t, v_src, first, count, keys, [&](const auto* v, size_t stride) {
      TileGemm(t.count, s.d, count, TileA<float>{scores, kKeyTile, 1}, v, stride,
               {out.out, s.padded, true});
    });
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
