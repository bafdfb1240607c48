// Blocks of attention_backward (attention_tasks.h explains rows). For each row tile, the scaled Qᵀ,
// Gᵀ and D = Σ g·y are packed once; for each key tile it then does
//   Pᵀ  = exp(K·Qᵀ − lse), as a power of 2
//   dSᵀ = Pᵀ ∘ (V·Gᵀ − D)
//   dV  += Pᵀ·G
//   dK  += dSᵀ·(scale·Q)
//   dQᵀ += Kᵀ·dSᵀ
// and dQ = scale·dQᵀ at the end. dK and dV are summed in scratch over the row tiles of one task.
// All five products run on tiles that stay in the first two levels of cache.
#if defined(LORA_BACKEND_CPU_ATTENTION_ATTENTION_BACKWARD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_ATTENTION_ATTENTION_BACKWARD_INL_H_
#undef LORA_BACKEND_CPU_ATTENTION_ATTENTION_BACKWARD_INL_H_
#else
#define LORA_BACKEND_CPU_ATTENTION_ATTENTION_BACKWARD_INL_H_
#endif

#include <limits>

#include "backend/cpu/attention/attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// The columns [c, c + lanes) of what a tile of rows needs to turn scores into P and dp into dS. lse
// is in units of ln 2.
struct GradientColumns {
  VF lse, delta;
  VI lo, hi;
};

// Turns scores, times `scale`, into P and dp into dS. A masked key gives
// exactly 0, whatever v and g are. In f32 the results take the places of scores and dp. As bf16
// they go to p_rows and ds_rows [key][row], and dS to the place of dp in pairs of neighboring keys
// as well.
template <bool kMasked, bool kPairs>
HWY_INLINE void ScoreGradients(const RowTile& t, int32_t from, size_t count, float scale,
                               const BackwardScratch& w, const BackwardTileScratch& own) {
  const DF d;
  const VF scale_of_scores = hn::Set(d, scale);
  const DI di;
  for (size_t c = 0; c < t.padded(); c += kLanes) {
    const GradientColumns columns{hn::LoadU(d, own.lse + c), hn::LoadU(d, own.delta + c),
                                  hn::LoadU(di, t.lo + c), hn::LoadU(di, t.hi + c)};
    ForEachKeys<2>(count, [&](auto keys, size_t j) HWY_ATTR {
      constexpr size_t kCount = decltype(keys)::value;
      const size_t at = j * kRowTile + c;
      VF p[kCount], ds[kCount];
      HWY_UNROLL(4)
      for (size_t i = 0; i < kCount; ++i) {
        const VF score = hn::LoadU(d, w.p + at + i * kRowTile);
        p[i] = kPairs ? hn::MulSub(score, scale_of_scores, columns.lse)
                      : hn::Sub(hn::Mul(score, scale_of_scores), columns.lse);
      }
      Exp2Below127(p);
      HWY_UNROLL(4)
      for (size_t i = 0; i < kCount; ++i) {
        ds[i] = hn::Mul(p[i], hn::Sub(hn::LoadU(d, w.ds + at + i * kRowTile), columns.delta));
        if constexpr (kMasked) {
          const auto key = hn::Set(di, from + static_cast<int32_t>(j + i));
          const auto seen =
              hn::RebindMask(d, hn::And(hn::Ge(key, columns.lo), hn::Le(key, columns.hi)));
          p[i] = hn::IfThenElseZero(seen, p[i]);
          ds[i] = hn::IfThenElseZero(seen, ds[i]);
        }
        if constexpr (kPairs) {
          WriteVecFast(p[i], w.p_rows + at + i * kRowTile);
          WriteVecFast(ds[i], w.ds_rows + at + i * kRowTile);
        } else {
          hn::StoreU(p[i], d, w.p + at + i * kRowTile);
          hn::StoreU(ds[i], d, w.ds + at + i * kRowTile);
        }
      }
      if constexpr (kPairs)
        StoreKeyPairs(ds, j, w.ds + c, [](VU) {});  // the dp of that place has been read
    });
  }
}

template <bool kPairs>
HWY_INLINE void ScoreGradients(const RowTile& t, RowTile::Visible visible, int32_t from,
                               size_t count, float scale, const BackwardScratch& w,
                               const BackwardTileScratch& own) {
  if (visible == RowTile::Visible::kSome) {
    ScoreGradients<true, kPairs>(t, from, count, scale, w, own);
  } else {
    ScoreGradients<false, kPairs>(t, from, count, scale, w, own);
  }
}

// D = Σ g·y of a row.
template <class T>
HWY_INLINE float DotOfRows(const T* g, const T* y, size_t n) {
  const DF d;
  VF sum = hn::Zero(d);
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) sum = hn::MulAdd(ReadVec(g + i), ReadVec(y + i), sum);
  if (i < n) sum = hn::MulAdd(ReadPart(g + i, n - i), ReadPart(y + i, n - i), sum);
  return hn::ReduceSum(d, sum);
}

// Packs the rows of q or g: rows_t is [d][kRowTile], and `rows` [row][padded] scaled. In pairs,
// rows_t has those of columns, and `rows` those of neighboring rows, unscaled.
template <class T>
HWY_INLINE void PackRows(const AttentionShape& s, const RowTile& t, const T* src, bool pairs,
                         float scale, float* rows, float* rows_t) {
  if (pairs) {
    LoadPairs(s, t, src, rows, rows_t);
    InterleaveRows(
        t.count, s.d, s.padded, [&](size_t r) { return src + t.offset[r]; },
        reinterpret_cast<uint32_t*>(rows));
  } else {
    LoadRows(s, t, src, scale, rows);
    TransposeTile(rows, s.padded, t.padded(), s.padded, rows_t, kRowTile);
  }
}

// dk, dv and dqᵀ += the products of P and dS with rows of g, q and k.
HWY_INLINE void AddGradients(const AttentionShape& s, const RowTile& t, const KeyRows& k,
                             size_t count, const BackwardScratch& w, const BackwardTileScratch& own,
                             float* dk, float* dv) {
  TileGemm(count, s.d, t.count, TileA<float>{w.p, kRowTile, 1}, own.g, s.padded,
           {dv, s.padded, true});
  TileGemm(count, s.d, t.count, TileA<float>{w.ds, kRowTile, 1}, own.q, s.padded,
           {dk, s.padded, true});
  TileGemm(s.d, t.padded(), count, TileA<float>{k.data, 1, k.stride}, w.ds, kRowTile,
           {own.dq_t, kRowTile, true});
}

// The same in pairs, with those of the transposed keys.
HWY_INLINE void AddGradientPairs(const AttentionShape& s, const RowTile& t,
                                 const TileA<uint32_t>& k, size_t count, const BackwardScratch& w,
                                 const BackwardTileScratch& own, float* dk, float* dv) {
  const auto as_pairs = [](const float* p) { return reinterpret_cast<const uint32_t*>(p); };
  const auto as_rows = [](const uint16_t* p) {
    return TileA<hwy::bfloat16_t>{reinterpret_cast<const hwy::bfloat16_t*>(p), kRowTile, 2};
  };
  const size_t row_pairs = CeilDiv(t.count, size_t{2}), key_pairs = CeilDiv(count, size_t{2});
  TileGemm(count, s.d, row_pairs, as_rows(w.p_rows), as_pairs(own.g), s.padded,
           {dv, s.padded, true});
  TileGemm(count, s.d, row_pairs, as_rows(w.ds_rows), as_pairs(own.q), s.padded,
           {dk, s.padded, true});
  TileGemm(s.d, t.padded(), key_pairs, k, as_pairs(w.ds), kRowTile, {own.dq_t, kRowTile, true});
}

template <class T>
HWY_INLINE void BeginRows(const AttentionBackwardArgs& args, const AttentionShape& s,
                          const RowTile& t, const BackwardTileScratch& own) {
  const bool pairs = MultipliesPairs<T>(s);
  PackRows(s, t, args.q.as<const T>(), pairs, s.scale, own.q, own.q_t);
  PackRows(s, t, args.g.as<const T>(), pairs, 1, own.g, own.g_t);
  for (size_t r = 0; r < t.padded(); ++r) {
    own.lse[r] = 0;
    own.delta[r] = 0;
    if (r >= t.count) continue;
    // A row that saw no key has lse = −inf. Every key is masked for it, so 0 serves instead.
    const float lse = args.lse.as<const float>()[t.lse_offset[r]];
    own.lse[r] = lse == -std::numeric_limits<float>::infinity() ? 0.0f : kLog2E * lse;
    const size_t at = t.offset[r];
    own.delta[r] = DotOfRows(args.g.as<const T>() + at, args.y.as<const T>() + at, s.d);
  }
  std::memset(own.dq_t, 0, s.padded * kRowTile * sizeof(float));
}

template <class T>
HWY_INLINE void FinishRows(const AttentionBackwardArgs& args, const AttentionShape& s,
                           const RowTile& t, const BackwardTileScratch& own) {
  TransposeTile(own.dq_t, kRowTile, s.padded, t.padded(), own.q, s.padded);
  for (size_t r = 0; r < t.count; ++r) {
    RowFromF32(own.q + r * s.padded, s.d, s.scale, args.dq.as<T>() + t.offset[r]);
  }
}

template <class T>
HWY_INLINE void BackwardBlock(const AttentionBackwardArgs& args, const AttentionShape& s,
                              const RowBlock& block, float* scratch, float* dk, float* dv) {
  const BackwardScratch w(s, scratch);
  const bool pairs = MultipliesPairs<T>(s);
  for (size_t i = 0; i < block.size(); ++i) {
    BeginRows<T>(args, s, block[i], BackwardTileScratch(s, w, i));
  }
  KeyRows k{}, v{};
  TileA<uint32_t> k_pairs{};
  const auto load = [&](int32_t from, int32_t end) HWY_ATTR {
    const size_t first = static_cast<size_t>(from), count = static_cast<size_t>(end - from);
    if (pairs) {
      k_pairs = LoadKeyPairs(s, block[0], args.k.as<const T>(), first, count, w.values, w.keys);
    } else {
      k = LoadKeys(s, block[0], args.k.as<const T>(), first, count, false, w.keys);
      v = LoadKeys(s, block[0], args.v.as<const T>(), first, count, false, w.values);
    }
  };
  const auto add = [&](size_t i, int32_t from, int32_t to, RowTile::Visible visible) HWY_ATTR {
    const RowTile& t = block[i];
    const BackwardTileScratch own(s, w, i);
    const size_t first = static_cast<size_t>(from), count = static_cast<size_t>(to - from);
    float *const to_dk = dk + first * s.padded, *const to_dv = dv + first * s.padded;
    if (pairs) {
      MultiplyPairs(s, t, args.k.as<const T>(), first, count, own.q_t, w.p);
      MultiplyPairs(s, t, args.v.as<const T>(), first, count, own.g_t, w.ds);
      ScoreGradients<true>(t, visible, from, count, s.scale * kLog2E, w, own);
      AddGradientPairs(s, t, k_pairs, count, w, own, to_dk, to_dv);
    } else {
      TileGemm(count, t.padded(), s.d, TileA<float>{k.data, k.stride, 1}, own.q_t, kRowTile,
               {w.p, kRowTile, false});
      TileGemm(count, t.padded(), s.d, TileA<float>{v.data, v.stride, 1}, own.g_t, kRowTile,
               {w.ds, kRowTile, false});
      ScoreGradients<false>(t, visible, from, count, kLog2E, w, own);
      AddGradients(s, t, k, count, w, own, to_dk, to_dv);
    }
  };
  ForEachKeyTile(block, load, add);
  for (size_t i = 0; i < block.size(); ++i) {
    FinishRows<T>(args, s, block[i], BackwardTileScratch(s, w, i));
  }
}

// Writes dk and dv of keys [begin, end) from `splits` pairs of sums that are `stride` floats apart;
// the first pair is overwritten. Sums of pairs are of unscaled rows of q.
template <class T>
HWY_INLINE void StoreKeyGradients(const AttentionBackwardArgs& args, const AttentionShape& s,
                                  size_t batch, size_t head, size_t begin, size_t end, float* sums,
                                  size_t stride, size_t splits) {
  const DF d;
  T* const outputs[2] = {args.dk.as<T>(), args.dv.as<T>()};
  const float scales[2] = {MultipliesPairs<T>(s) ? s.scale : 1, 1};
  for (size_t which = 0; which < 2; ++which) {
    for (size_t j = begin; j < end; ++j) {
      float* row = sums + which * s.queries * s.padded + j * s.padded;
      for (size_t split = 1; split < splits; ++split) {
        for (size_t i = 0; i < s.padded; i += kLanes) {
          const VF term = hn::LoadU(d, row + split * stride + i);
          hn::StoreU(hn::Add(hn::LoadU(d, row + i), term), d, row + i);
        }
      }
      RowFromF32(row, s.d, scales[which], outputs[which] + s.KeyOffset(batch, head, j));
    }
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
