// Blocks of attention_forward and attention_paged (attention_tasks.h explains rows). For each row
// tile, Qᵀ [d][row] is packed and scaled once and Oᵀ [d][row] is kept in scratch; for each key tile
// it then does
//   Sᵀ = K·Qᵀ
//   m' = max(m, max Sᵀ)
//   Pᵀ = 2^(Sᵀ − m')
//   α  = 2^(m − m')
//   l  ← α·l + Σ Pᵀ
//   Oᵀ ← α·Oᵀ + Vᵀ·Pᵀ
// where S and m are in units of ln 2, because a power of 2 takes fewer steps than one of e.
// k and v are packed once for the row tiles of a block; f32 ones are read in place. The online
// softmax is that of Milakov & Gimelshein 2018, the tiling that of Dao et al. 2022.
#if defined(LORA_BACKEND_CPU_ATTENTION_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_ATTENTION_ATTENTION_INL_H_
#undef LORA_BACKEND_CPU_ATTENTION_ATTENTION_INL_H_
#else
#define LORA_BACKEND_CPU_ATTENTION_ATTENTION_INL_H_
#endif

#include <limits>
#include <type_traits>

#include "backend/cpu/attention/attention_call.h"
#include "backend/cpu/attention/tile-inl.h"
#include "backend/cpu/simd/math-inl.h"
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

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

template <class T>
HWY_INLINE bool HasPairs(const AttentionShape& s) {
  return std::is_same_v<T, hwy::bfloat16_t> && s.d % 2 == 0;
}

// Whether products of tiles run on pairs of bf16, which is twice as fast where one instruction does
// it, and more in tile registers. Products of rows of q, k, v and g are exact as in f32; P and dS,
// which are computed in f32, are rounded to bf16 for the products that sum over keys or rows, as on
// a GPU (Dao et al. 2022). Scores of pairs are scaled after their maximum is found.
template <class T>
HWY_INLINE bool MultipliesPairs(const AttentionShape& s) {
  return (LORA_DOT_BF16 || kMultipliesTiles) && HasPairs<T>(s) && s.scale > 0;
}

// transposed [d / 2][kRowTile] ← the pairs of rows of q or g, by way of `tile` [kRowTile][padded].
template <class T>
HWY_INLINE void LoadPairs(const AttentionShape& s, const RowTile& t, const T* src, float* tile,
                          float* transposed) {
  const size_t stride = s.padded / 2;
  for (size_t r = 0; r < t.count; ++r) {
    auto* const row = reinterpret_cast<hwy::bfloat16_t*>(tile + r * stride);
    std::memcpy(row, src + t.offset[r], s.d * sizeof(hwy::bfloat16_t));
    std::memset(row + s.d, 0, (s.padded - s.d) * sizeof(hwy::bfloat16_t));
  }
  std::memset(tile + t.count * stride, 0, (t.padded() - t.count) * stride * sizeof(float));
  TransposeTile(tile, stride, t.padded(), stride, transposed, kRowTile);
}

// products [count][kRowTile] ← keys·rowsᵀ, for keys from `first` on and rows of LoadPairs.
template <class T>
HWY_INLINE void MultiplyPairs(const AttentionShape& s, const RowTile& t, const T* keys,
                              size_t first, size_t count, const float* rows, float* products) {
  const auto* pairs =
      reinterpret_cast<const hwy::bfloat16_t*>(keys + s.KeyOffset(t.batch, t.head, first));
  TileGemm(count, t.padded(), s.d / 2, TileA<hwy::bfloat16_t>{pairs, s.key_stride(), 2},
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
  if (!whole_vectors || s.d % kLanes == 0) return {first, s.key_stride()};
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

// The transposed keys [d][⌈count / 2⌉] in pairs of neighboring ones, from `first` on. Both tiles
// have the size of one of keys. Tile registers need the pairs of a row side by side.
template <class T>
HWY_INLINE TileA<uint32_t> LoadKeyPairs(const AttentionShape& s, const RowTile& t, const T* src,
                                        size_t first, size_t count, float* tile,
                                        float* transposed) {
  const T* keys = src + s.KeyOffset(t.batch, t.head, first);
  auto* const pairs = reinterpret_cast<uint32_t*>(tile);
  const auto interleave = [&](size_t from) {
    const auto row = [&](size_t j) { return keys + (from + j) * s.key_stride(); };
    InterleaveRows(count - from, s.d, s.padded, row, pairs);
  };
  if constexpr (!kMultipliesTiles) {
    interleave(0);
    return {pairs, 1, s.padded};
  } else {
    constexpr size_t kStride = kKeyTile / 2, kBlock = 2 * kAmxPairs;
    auto* const rows = reinterpret_cast<uint32_t*>(transposed);
    size_t j = 0;
    for (; s.d % 8 == 0 && j + kBlock <= count; j += kBlock) {
      const auto* const block = reinterpret_cast<const uint16_t*>(keys + j * s.key_stride());
      TransposeRowPairs(block, s.key_stride(), s.d, rows + j / 2, kStride);
    }
    if (j < count) {
      interleave(j);
      TransposeElements(pairs, s.padded, CeilDiv(count - j, size_t{2}), s.d, rows + j / 2, kStride);
    }
    return {rows, kStride, 1};
  }
}

// Sets scores of keys that a row does not see to −inf; scores are [to − from][kRowTile], of the
// keys [from, to).
HWY_INLINE void MaskScores(const RowTile& t, int32_t from, int32_t to, float* scores) {
  const DF d;
  const DI di;
  const VF minus_inf = hn::Neg(hn::Inf(d));
  const auto mask = [&](int32_t begin, int32_t end) HWY_ATTR {
    for (size_t c = 0; c < t.padded(); c += kLanes) {
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

// Calls step(kCount, j) for keys j to j + kCount − 1 of [0, count), kCount being a constant: kStep,
// and less at the end.
template <size_t kStep, class Step>
HWY_INLINE void ForEachKeys(size_t count, const Step& step) {
  size_t j = 0;
  for (; j + kStep <= count; j += kStep) step(std::integral_constant<size_t, kStep>(), j);
  if (j < count) ForCount<kStep - 1>(count - j, [&](auto n) HWY_ATTR { step(n, j); });
}

// Stores the pairs of neighboring keys from j on, and calls use(pairs) for each vector of them;
// what is missing to a whole pair is zero.
template <size_t kCount, class Use>
HWY_INLINE void StoreKeyPairs(const VF (&v)[kCount], size_t j, float* column, const Use& use) {
  const DF d;
  const auto store = [&](VF low, VF high, size_t at) HWY_ATTR {
    const VU pairs = PairsOfFast(low, high);
    hn::StoreU(hn::BitCast(d, pairs), d, column + at / 2 * kRowTile);
    use(pairs);
  };
  if constexpr (kCount > 1) store(v[0], v[1], j);
  if constexpr (kCount > 3) store(v[2], v[3], j + 2);
  if constexpr (kCount % 2 == 1) store(v[kCount - 1], hn::Zero(d), j + kCount - 1);
}

// Turns scores into P, updates the running max and sum, and sets alpha to 2^(old max − new max).
// Scores of pairs are multiplied by the scale first.
// P is f32 [count][kRowTile], or pairs of neighboring keys [⌈count / 2⌉][kRowTile], of which
// `weights` is the running sum: an output that is divided by it is a mean of V with weights that
// add up to 1, whatever P was rounded to. A key is added to one of four sums by its place in the
// tile, so that keys that a row does not see change no bits.
template <bool kPairs>
HWY_INLINE void OnlineSoftmax(size_t padded_rows, size_t count, float scale, float* scores,
                              float* max, float* sum, float* weights, float* alpha) {
  const DF d;
  const VF scale_of_scores = hn::Set(d, scale);
  const VF minus_inf = hn::Neg(hn::Inf(d));
  for (size_t c = 0; c < padded_rows; c += kLanes) {
    float* column = scores + c;
    const VF old_max = hn::LoadU(d, max + c);
    VF m0 = kPairs ? minus_inf : old_max, m1 = m0;
    size_t j = 0;
    for (; j + 2 <= count; j += 2) {
      m0 = hn::Max(m0, hn::LoadU(d, column + j * kRowTile));
      m1 = hn::Max(m1, hn::LoadU(d, column + (j + 1) * kRowTile));
    }
    if (j < count) m0 = hn::Max(m0, hn::LoadU(d, column + j * kRowTile));
    m0 = hn::Max(m0, m1);
    const VF new_max = kPairs ? hn::Max(old_max, hn::Mul(m0, scale_of_scores)) : m0;
    // For a row that has seen no key yet, the base 0 gives 2^(−inf − 0) = 0 where
    // −inf would give NaN.
    const VF base = hn::IfThenElse(hn::Eq(new_max, minus_inf), hn::Zero(d), new_max);
    const VF factor = Exp2Below127(hn::Sub(old_max, base));
    VF s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0, of_pairs = s0;
    ForEachKeys<4>(count, [&](auto keys, size_t from) HWY_ATTR {
      constexpr size_t kCount = decltype(keys)::value;
      VF p[kCount];
      HWY_UNROLL(4)
      for (size_t i = 0; i < kCount; ++i) {
        const VF score = hn::LoadU(d, column + (from + i) * kRowTile);
        p[i] = kPairs ? hn::MulSub(score, scale_of_scores, base) : hn::Sub(score, base);
      }
      Exp2Below127(p);
      s0 = hn::Add(s0, p[0]);
      if constexpr (kCount > 1) s1 = hn::Add(s1, p[1]);
      if constexpr (kCount > 2) s2 = hn::Add(s2, p[2]);
      if constexpr (kCount > 3) s3 = hn::Add(s3, p[3]);
      if constexpr (kPairs) {
        const VU ones = hn::Set(DU(), 0x3f803f80u);
        // The scores of that place have been read.
        StoreKeyPairs(p, from, column, [&](VU pairs) HWY_ATTR {
          of_pairs = MulAddElements<true>(pairs, ones, of_pairs);
        });
      } else {
        HWY_UNROLL(4)
        for (size_t i = 0; i < kCount; ++i) hn::StoreU(p[i], d, column + (from + i) * kRowTile);
      }
    });
    const VF total = hn::Add(hn::Add(s0, s1), hn::Add(s2, s3));
    hn::StoreU(new_max, d, max + c);
    hn::StoreU(hn::MulAdd(hn::LoadU(d, sum + c), factor, total), d, sum + c);
    if constexpr (kPairs) {
      hn::StoreU(hn::MulAdd(hn::LoadU(d, weights + c), factor, of_pairs), d, weights + c);
    }
    hn::StoreU(factor, d, alpha + c);
  }
}

// Turns the maxima into lse, and the weights, which may be the sums, into the factors of the rows
// of the output: −inf and 0 for a row that saw no key.
HWY_INLINE void FinishSums(size_t padded_rows, float* max, const float* sum, float* weights) {
  const DF d;
  for (size_t c = 0; c < padded_rows; c += kLanes) {
    const VF s = hn::LoadU(d, sum + c);
    const auto none = hn::Eq(s, hn::Zero(d));
    const VF log = hn::IfThenElse(hn::IsNaN(s), s, hn::Log(d, s));
    const VF lse = hn::MulAdd(hn::LoadU(d, max + c), hn::Set(d, kLn2), log);
    hn::StoreU(hn::IfThenElse(none, hn::Neg(hn::Inf(d)), lse), d, max + c);
    const VF weight = hn::LoadU(d, weights + c);
    hn::StoreU(hn::IfThenZeroElse(none, hn::Div(hn::Set(d, 1.0f), weight)), d, weights + c);
  }
}

// For each tile of keys [from, keys_end) that a block may see, calls load(from, keys_end), and then
// use(i, from, to, visible) for each of its tiles of rows that sees some of the keys [from, to).
template <class Load, class Use>
HWY_INLINE void ForEachKeyTile(const RowBlock& block, const Load& load, const Use& use) {
  for (int32_t from = block.begin(), keys_end; from < block.end(); from = keys_end) {
    keys_end = std::min(block.end(), from + static_cast<int32_t>(kKeyTile));
    load(from, keys_end);
    for (size_t i = 0; i < block.size(); ++i) {
      const int32_t to = std::min(block[i].end, keys_end);
      if (to <= from) continue;
      const RowTile::Visible visible = block[i].Sees(from, to);
      if (visible != RowTile::Visible::kNone) use(i, from, to, visible);
    }
  }
}

template <class T>
HWY_INLINE void BeginRows(const AttentionCall& args, const AttentionShape& s, const RowTile& t,
                          float* rows, const ForwardTileScratch& w) {
  const DF d;
  if (MultipliesPairs<T>(s)) {
    LoadPairs(s, t, args.q.as<const T>(), rows, w.q_t);
  } else {
    LoadRows(s, t, args.q.as<const T>(), s.scale * kLog2E, rows);
    TransposeTile(rows, s.padded, t.padded(), s.padded, w.q_t, kRowTile);
  }
  std::memset(w.out_t, 0, s.padded * kRowTile * sizeof(float));
  for (size_t c = 0; c < t.padded(); c += kLanes) {
    hn::StoreU(hn::Neg(hn::Inf(d)), d, w.max + c);
    hn::StoreU(hn::Zero(d), d, w.sum + c);
    hn::StoreU(hn::Zero(d), d, w.weights + c);
  }
}

// Adds the sinks of rows, in units of ln 2, to their sums, and puts what the output must be
// multiplied by, because the maximum may have grown, in the place of the sinks.
HWY_INLINE void AddSinks(size_t padded_rows, const ForwardTileScratch& w, float* sinks) {
  const DF d;
  const VF minus_inf = hn::Neg(hn::Inf(d));
  for (size_t c = 0; c < padded_rows; c += kLanes) {
    const VF sink = hn::LoadU(d, sinks + c), old_max = hn::LoadU(d, w.max + c);
    const VF max = hn::Max(old_max, sink);
    const VF base = hn::IfThenElse(hn::Eq(max, minus_inf), hn::Zero(d), max);
    const VF factor = Exp2Below127(hn::Sub(old_max, base));
    const VF own = Exp2Below127(hn::Sub(sink, base));
    hn::StoreU(max, d, w.max + c);
    hn::StoreU(hn::MulAdd(hn::LoadU(d, w.sum + c), factor, own), d, w.sum + c);
    hn::StoreU(hn::MulAdd(hn::LoadU(d, w.weights + c), factor, own), d, w.weights + c);
    hn::StoreU(factor, d, sinks + c);
  }
}

template <class T>
HWY_INLINE void FinishRows(const AttentionCall& args, const AttentionShape& s, const RowTile& t,
                           float* rows, const ForwardTileScratch& w) {
  TransposeTile(w.out_t, kRowTile, s.padded, t.padded(), rows, s.padded);
  float* const factors = MultipliesPairs<T>(s) ? w.weights : w.sum;
  if (args.sinks) {
    std::fill(w.alpha, w.alpha + t.padded(), -std::numeric_limits<float>::infinity());
    for (size_t r = 0; r < t.count; ++r) {
      w.alpha[r] = kLog2E * args.sinks.as<const float>()[t.QueryHead(s, r)];
    }
    AddSinks(t.padded(), w, w.alpha);
  }
  FinishSums(t.padded(), w.max, w.sum, factors);
  for (size_t r = 0; r < t.count; ++r) {
    const float factor = args.sinks ? w.alpha[r] * factors[r] : factors[r];
    RowFromF32(rows + r * s.padded, s.d, factor, args.y.as<T>() + t.offset[r]);
  }
  if (!args.lse) return;
  for (size_t r = 0; r < t.count; ++r) args.lse.as<float>()[t.lse_offset[r]] = w.max[r];
}

template <class T>
HWY_INLINE void ForwardBlock(const AttentionCall& args, const AttentionShape& s,
                             const RowBlock& block, float* scratch) {
  const ForwardScratch w(s, scratch);
  const bool pairs = MultipliesPairs<T>(s);
  const float scale = s.scale * kLog2E;
  for (size_t i = 0; i < block.size(); ++i) {
    BeginRows<T>(args, s, block[i], w.rows, ForwardTileScratch(s, w, i));
  }
  KeyRows k{}, v{};
  TileA<uint32_t> v_pairs{};
  const auto load = [&](int32_t from, int32_t end) HWY_ATTR {
    const size_t first = static_cast<size_t>(from), count = static_cast<size_t>(end - from);
    if (pairs) {
      v_pairs =
          LoadKeyPairs(s, block[0], args.v.as<const T>(), first, count, w.values, w.transposed);
    } else {
      k = LoadKeys(s, block[0], args.k.as<const T>(), first, count, false, w.keys);
      v = LoadKeys(s, block[0], args.v.as<const T>(), first, count, false, w.values);
    }
  };
  const auto add = [&](size_t i, int32_t from, int32_t to, RowTile::Visible visible) HWY_ATTR {
    const RowTile& t = block[i];
    const ForwardTileScratch own(s, w, i);
    const size_t first = static_cast<size_t>(from), count = static_cast<size_t>(to - from);
    const size_t rows = t.padded();
    if (pairs) {
      MultiplyPairs(s, t, args.k.as<const T>(), first, count, own.q_t, w.scores);
    } else {
      TileGemm(count, rows, s.d, TileA<float>{k.data, k.stride, 1}, own.q_t, kRowTile,
               {w.scores, kRowTile, false});
    }
    if (visible == RowTile::Visible::kSome) MaskScores(t, from, to, w.scores);
    const TileC out = {own.out_t, kRowTile, true, own.alpha};
    if (pairs) {
      OnlineSoftmax<true>(rows, count, scale, w.scores, own.max, own.sum, own.weights, own.alpha);
      TileGemm(s.d, rows, CeilDiv(count, size_t{2}), v_pairs,
               reinterpret_cast<const uint32_t*>(w.scores), kRowTile, out);
    } else {
      OnlineSoftmax<false>(rows, count, scale, w.scores, own.max, own.sum, own.weights, own.alpha);
      TileGemm(s.d, rows, count, TileA<float>{v.data, 1, v.stride}, w.scores, kRowTile, out);
    }
  };
  ForEachKeyTile(block, load, add);
  for (size_t i = 0; i < block.size(); ++i) {
    FinishRows<T>(args, s, block[i], w.rows, ForwardTileScratch(s, w, i));
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
