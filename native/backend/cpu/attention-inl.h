// Tiles of attention_forward and attention_paged (attention_tasks.h explains rows). For each row
// tile, Qᵀ [d][row] is packed and scaled once and Oᵀ [d][row] is kept in scratch; each key tile
// then does
//   Sᵀ = K·Qᵀ
//   m' = max(m, max Sᵀ)
//   Pᵀ = 2^(Sᵀ − m')
//   α  = 2^(m − m')
//   l  ← α·l + Σ Pᵀ
//   Oᵀ ← α·Oᵀ + Vᵀ·Pᵀ
// where S and m are in units of ln 2, because a power of 2 takes fewer steps than one of e.
// k and v are read once per row tile; f32 ones are read in place. The online softmax is that of
// Milakov & Gimelshein 2018, the tiling that of Dao et al. 2022.
#if defined(LORA_CPU_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_CPU_ATTENTION_INL_H_
#undef LORA_CPU_ATTENTION_INL_H_
#else
#define LORA_CPU_ATTENTION_INL_H_
#endif

#include <cmath>
#include <limits>

#include "backend/cpu/attention_call.h"
#include "backend/cpu/tile-inl.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

// tile [kRowTile][padded] ← scale·rows of q, y or g; padding rows are zero.
template <class T>
HWY_INLINE void LoadRows(const AttentionShape& s, const RowTile& t, const T* src, float scale,
                         float* tile) {
  for (size_t r = 0; r < t.count; ++r) {
    RowToF32(src + t.offset[r], s.d, scale, tile + r * s.padded, s.padded);
  }
  std::memset(tile + t.count * s.padded, 0, (t.padded() - t.count) * s.padded * sizeof(float));
}

// Whether products run on pairs of bf16, which is twice as fast where one instruction does it.
// Products of rows of q, k, v and g are exact as in f32; P and dS, which are computed in f32, are
// rounded to bf16 for the products that sum over keys or rows, as on a GPU (Dao et al. 2022).
template <class T>
HWY_INLINE bool MultipliesPairs(const AttentionShape& s) {
  return LORA_DOT_BF16 && std::is_same_v<T, hwy::bfloat16_t> && s.d % 2 == 0;
}

// transposed [d / 2][kRowTile] ← the pairs of rows of q or g, by way of `tile` [kRowTile][padded].
template <class T>
HWY_INLINE void LoadPairs(const AttentionShape& s, const RowTile& t, const T* src, float* tile,
                          float* transposed) {
  const size_t stride = s.padded / 2;  // a multiple of 4
  std::memset(tile, 0, t.padded() * stride * sizeof(float));
  for (size_t r = 0; r < t.count; ++r) {
    std::memcpy(tile + r * stride, src + t.offset[r], s.d * sizeof(hwy::bfloat16_t));
  }
  TransposeTile(tile, stride, t.padded(), stride, transposed, kRowTile);
}

// products [count][kRowTile] ← scale·keys·rowsᵀ, for keys from `first` on and rows of LoadPairs.
template <class T>
HWY_INLINE void MultiplyPairs(const AttentionShape& s, const RowTile& t, const T* keys,
                              size_t first, size_t count, float scale, const float* rows,
                              float* products) {
  const auto* pairs =
      reinterpret_cast<const hwy::bfloat16_t*>(keys + s.KeyOffset(t.batch, t.head, first));
  TileGemm(count, t.padded(), s.d / 2, TileA<hwy::bfloat16_t>{pairs, s.key_stride(), 2, scale},
           reinterpret_cast<const uint32_t*>(rows), kRowTile, {products, kRowTile, false});
}

// Gives keys [from, from + count) of k or v as f32 rows, either in place or converted into `tile`.
struct KeyRows {
  const float* data;
  size_t stride;
};
HWY_INLINE KeyRows LoadKeys(const AttentionShape& s, const RowTile& t, const float* src,
                            size_t from, size_t count, bool whole_vectors, float* tile) {
  const float* first = src + s.KeyOffset(t.batch, t.head, from);
  if (!whole_vectors || s.d % hn::Lanes(F32()) == 0) return {first, s.key_stride()};
  for (size_t j = 0; j < count; ++j) {
    RowToF32(first + j * s.key_stride(), s.d, 1, tile + j * s.padded, s.padded);
  }
  return {tile, s.padded};
}
HWY_INLINE KeyRows LoadKeys(const AttentionShape& s, const RowTile& t, const hwy::bfloat16_t* src,
                            size_t from, size_t count, bool /*whole_vectors*/, float* tile) {
  const hwy::bfloat16_t* first = src + s.KeyOffset(t.batch, t.head, from);
  for (size_t j = 0; j < count; ++j) {
    RowToF32(first + j * s.key_stride(), s.d, 1, tile + j * s.padded, s.padded);
  }
  return {tile, s.padded};
}

// tile [⌈count / 2⌉][padded] ← pairs of neighbouring keys from `first` on.
template <class T>
HWY_INLINE const uint32_t* LoadKeyPairs(const AttentionShape& s, const RowTile& t, const T* src,
                                        size_t first, size_t count, float* tile) {
  const T* keys = src + s.KeyOffset(t.batch, t.head, first);
  auto* to = reinterpret_cast<uint32_t*>(tile);
  InterleaveRows(count, s.d, s.padded, [&](size_t j) { return keys + j * s.key_stride(); }, to);
  return to;
}

// Sets scores of keys that a row does not see to −inf; scores are [to − from][kRowTile], of the
// keys [from, to).
HWY_INLINE void MaskScores(const RowTile& t, int32_t from, int32_t to, float* scores) {
  const F32 d;
  const hn::RebindToSigned<F32> di;
  const VF32 minus_inf = hn::Neg(hn::Inf(d));
  const auto mask = [&](int32_t begin, int32_t end) HWY_ATTR {
    for (size_t c = 0; c < t.padded(); c += hn::Lanes(d)) {
      const auto lo = hn::LoadU(di, t.lo + c), hi = hn::LoadU(di, t.hi + c);
      for (int32_t j = begin; j < end; ++j) {
        const auto key = hn::Set(di, j);
        const auto seen = hn::And(hn::Ge(key, lo), hn::Le(key, hi));
        float* p = scores + static_cast<size_t>(j - from) * kRowTile + c;
        hn::StoreU(hn::IfThenElse(hn::RebindMask(d, seen), hn::LoadU(d, p), minus_inf), d, p);
      }
    }
  };
  const int32_t all_begin = std::clamp(t.all_begin, from, to);
  mask(from, all_begin);
  mask(std::clamp(t.all_end, all_begin, to), to);
}

// Calls step(kCount, j) for keys j to j + kCount − 1 of [0, count), kCount being a constant: 4, and
// less at the end.
template <class Step>
HWY_INLINE void ForEachFourKeys(size_t count, const Step& step) {
  size_t j = 0;
  for (; j + 4 <= count; j += 4) step(std::integral_constant<size_t, 4>(), j);
  switch (count - j) {
    case 3:
      return step(std::integral_constant<size_t, 3>(), j);
    case 2:
      return step(std::integral_constant<size_t, 2>(), j);
    case 1:
      return step(std::integral_constant<size_t, 1>(), j);
  }
}

// Stores the pairs of neighbouring keys from j on; what is missing to a whole pair is zero.
template <size_t kCount>
HWY_INLINE void StoreKeyPairs(const VF32 (&v)[kCount], size_t j, float* column) {
  const F32 d;
  const auto store = [&](VF32 low, VF32 high, size_t at) HWY_ATTR {
    hn::StoreU(hn::BitCast(d, PairsOf(low, high)), d, column + at / 2 * kRowTile);
  };
  if constexpr (kCount > 1) store(v[0], v[1], j);
  if constexpr (kCount > 3) store(v[2], v[3], j + 2);
  if constexpr (kCount % 2 == 1) store(v[kCount - 1], hn::Zero(d), j + kCount - 1);
}

// Turns scores into P, updates the running max and sum, and sets alpha to 2^(old max − new max).
// P is f32 [count][kRowTile], or pairs of neighbouring keys [⌈count / 2⌉][kRowTile]. A key is added
// to one of four sums by its place in the tile, so that keys that a row does not see change no
// bits.
template <bool kPairs>
HWY_INLINE void OnlineSoftmax(size_t padded_rows, size_t count, float* scores, float* max,
                              float* sum, float* alpha) {
  const F32 d;
  const VF32 minus_inf = hn::Neg(hn::Inf(d));
  for (size_t c = 0; c < padded_rows; c += hn::Lanes(d)) {
    float* column = scores + c;
    VF32 m0 = hn::LoadU(d, max + c), m1 = m0;
    const VF32 old_max = m0;
    size_t j = 0;
    for (; j + 2 <= count; j += 2) {
      m0 = hn::Max(m0, hn::LoadU(d, column + j * kRowTile));
      m1 = hn::Max(m1, hn::LoadU(d, column + (j + 1) * kRowTile));
    }
    if (j < count) m0 = hn::Max(m0, hn::LoadU(d, column + j * kRowTile));
    const VF32 new_max = hn::Max(m0, m1);
    // For a row that has seen no key yet, the base 0 gives 2^(−inf − 0) = 0 where
    // −inf would give NaN.
    const VF32 base = hn::IfThenElse(hn::Eq(new_max, minus_inf), hn::Zero(d), new_max);
    const VF32 factor = Exp2Below127(d, hn::Sub(old_max, base));
    VF32 s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
    ForEachFourKeys(count, [&](auto keys, size_t from) HWY_ATTR {
      constexpr size_t kCount = decltype(keys)::value;
      VF32 p[kCount];
      HWY_UNROLL(4)
      for (size_t i = 0; i < kCount; ++i) {
        p[i] = hn::Sub(hn::LoadU(d, column + (from + i) * kRowTile), base);
      }
      Exp2Below127(d, p);
      s0 = hn::Add(s0, p[0]);
      if constexpr (kCount > 1) s1 = hn::Add(s1, p[1]);
      if constexpr (kCount > 2) s2 = hn::Add(s2, p[2]);
      if constexpr (kCount > 3) s3 = hn::Add(s3, p[3]);
      if constexpr (kPairs) {
        StoreKeyPairs(p, from, column);  // the scores of that place have been read
      } else {
        HWY_UNROLL(4)
        for (size_t i = 0; i < kCount; ++i) hn::StoreU(p[i], d, column + (from + i) * kRowTile);
      }
    });
    const VF32 total = hn::Add(hn::Add(s0, s1), hn::Add(s2, s3));
    hn::StoreU(new_max, d, max + c);
    hn::StoreU(hn::MulAdd(hn::LoadU(d, sum + c), factor, total), d, sum + c);
    hn::StoreU(factor, d, alpha + c);
  }
}

template <class T>
HWY_INLINE void ForwardTile(const AttentionCall& args, const AttentionShape& s, const RowTile& t,
                            float* scratch) {
  const F32 d;
  const size_t lanes = hn::Lanes(d), rows = t.padded();
  const ForwardTileScratch w(s, scratch);
  const bool pairs = MultipliesPairs<T>(s);
  const float scale = s.scale * kLog2E;
  if (pairs) {
    LoadPairs(s, t, args.q.as<const T>(), w.q, w.q_t);
  } else {
    LoadRows(s, t, args.q.as<const T>(), scale, w.q);
    TransposeTile(w.q, s.padded, rows, s.padded, w.q_t, kRowTile);
  }
  std::memset(w.out_t, 0, s.padded * kRowTile * sizeof(float));
  for (size_t c = 0; c < rows; c += lanes) {
    hn::StoreU(hn::Neg(hn::Inf(d)), d, w.max + c);
    hn::StoreU(hn::Zero(d), d, w.sum + c);
  }
  for (int32_t from = t.first_tile(), to; from < t.end; from = to) {
    to = t.TileEnd(from);
    const RowTile::Visible visible = t.Sees(from, to);
    if (visible == RowTile::Visible::kNone) continue;
    const size_t first = static_cast<size_t>(from), count = static_cast<size_t>(to - from);
    if (pairs) {
      MultiplyPairs(s, t, args.k.as<const T>(), first, count, scale, w.q_t, w.scores);
    } else {
      const KeyRows k = LoadKeys(s, t, args.k.as<const T>(), first, count, false, w.keys);
      TileGemm(count, rows, s.d, TileA<float>{k.data, k.stride, 1}, w.q_t, kRowTile,
               {w.scores, kRowTile, false});
    }
    if (visible == RowTile::Visible::kSome) MaskScores(t, from, to, w.scores);
    if (pairs) {
      OnlineSoftmax<true>(rows, count, w.scores, w.max, w.sum, w.alpha);
    } else {
      OnlineSoftmax<false>(rows, count, w.scores, w.max, w.sum, w.alpha);
    }
    if (pairs) {
      const uint32_t* v = LoadKeyPairs(s, t, args.v.as<const T>(), first, count, w.values);
      TileGemm(s.d, rows, CeilDiv(count, size_t{2}), TileA<uint32_t>{v, 1, s.padded},
               reinterpret_cast<const uint32_t*>(w.scores), kRowTile,
               {w.out_t, kRowTile, true, w.alpha});
    } else {
      const KeyRows v = LoadKeys(s, t, args.v.as<const T>(), first, count, false, w.values);
      TileGemm(s.d, rows, count, TileA<float>{v.data, 1, v.stride}, w.scores, kRowTile,
               {w.out_t, kRowTile, true, w.alpha});
    }
  }
  TransposeTile(w.out_t, kRowTile, s.padded, rows, w.q, s.padded);
  for (size_t r = 0; r < t.count; ++r) {
    const float sum = w.sum[r];
    RowFromF32(w.q + r * s.padded, s.d, sum == 0 ? 0.0f : 1 / sum, args.y.as<T>() + t.offset[r]);
    if (args.lse) {
      args.lse.as<float>()[t.lse_offset[r]] =
          sum == 0 ? -std::numeric_limits<float>::infinity() : kLn2 * w.max[r] + std::log(sum);
    }
  }
}

// ---- decode: few rows, many keys ---------------------------------------------------------------

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

// The same for any number of rows.
template <class T>
HWY_INLINE void DotTile(size_t rows, size_t used, size_t padded, size_t count, const float* q,
                        const T* keys, size_t stride, float* scores) {
  for (size_t r = 0; r < rows;) {
    const size_t block = std::min<size_t>(4, rows - r);
    const float* qr = q + r * padded;
    float* sr = scores + r * kKeyTile;
    switch (block) {
      case 4:
        DotRows<4>(used, padded, count, qr, keys, stride, sr);
        break;
      case 3:
        DotRows<3>(used, padded, count, qr, keys, stride, sr);
        break;
      case 2:
        DotRows<2>(used, padded, count, qr, keys, stride, sr);
        break;
      default:
        DotRows<1>(used, padded, count, qr, keys, stride, sr);
        break;
    }
    r += block;
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
// [lo, hi] are −inf. Returns the factor that rescales what was summed before.
HWY_INLINE float OnlineSoftmaxRow(size_t count, float* scores, float* max, float* sum) {
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
    hn::StoreU(p, d, scores + j);
    total = hn::Add(total, p);
  }
  const float factor = std::exp(*max - base);
  *sum = *sum * factor + hn::ReduceSum(d, total);
  *max = new_max;
  return factor;
}

// Prefetches keys of one tile by software: outside pages the rows of one kv head are far apart in
// memory, and each is too short for the hardware prefetcher to predict the next one.
template <class T>
HWY_INLINE void PrefetchKeys(const AttentionShape& s, size_t batch, size_t head, const T* src,
                             int32_t from, int32_t to) {
  constexpr size_t kLine = 64 / sizeof(T);
  if (from >= to) return;
  const T* row = src + s.KeyOffset(batch, head, static_cast<size_t>(from));
  for (int32_t j = from; j < to; ++j, row += s.key_stride()) {
    for (size_t i = 0; i < s.d; i += kLine) hwy::Prefetch(row + i);
  }
}

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
  for (size_t r = 0; r < t.count; ++r) {
    RowToF32(args.q.as<const T>() + t.offset[r], s.d, s.scale, q + r * s.padded, s.padded);
    out.max[r] = -std::numeric_limits<float>::infinity();
    out.sum[r] = 0;
  }
  std::memset(out.out, 0, t.count * s.padded * sizeof(float));
  const int32_t begin = std::max(t.begin, chunk_begin), end = std::min(t.end, chunk_end);
  const auto tile_end = [&t, end](int32_t from) { return std::min(end, t.TileEnd(from)); };
  const T* const k_src = args.k.as<const T>();
  const T* const v_src = args.v.as<const T>();
  PrefetchKeys(s, t.batch, t.head, k_src, begin, tile_end(begin));
  for (int32_t from = begin, to; from < end; from = to) {
    to = tile_end(from);
    PrefetchKeys(s, t.batch, t.head, v_src, from, to);
    const bool seen_whole = t.Sees(from, to) == RowTile::Visible::kAll;
    const size_t first = static_cast<size_t>(from), count = static_cast<size_t>(to - from);
    WithKeys(s, t, k_src, first, count, keys, [&](const auto* k, size_t stride) {
      DotTile(t.count, used, s.padded, count, q, k, stride, scores);
    });
    for (size_t r = 0; r < t.count; ++r) {
      float* sr = scores + r * kKeyTile;
      for (int32_t j = from; !seen_whole && j < to; ++j) {
        if (j < t.lo[r] || j > t.hi[r]) sr[j - from] = -std::numeric_limits<float>::infinity();
      }
      const float factor = OnlineSoftmaxRow(count, sr, out.max + r, out.sum + r);
      if (factor == 1) continue;
      float* o = out.out + r * s.padded;
      for (size_t i = 0; i < used; i += lanes) {
        hn::StoreU(hn::Mul(hn::LoadU(d, o + i), hn::Set(d, factor)), d, o + i);
      }
    }
    if (to < end) {
      PrefetchKeys(s, t.batch, t.head, k_src, to, tile_end(to));
    } else if (next_head < s.kv_heads) {
      PrefetchKeys(s, t.batch, next_head, k_src, begin, tile_end(begin));
    }
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
