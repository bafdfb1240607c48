// Tiles of attention_backward (attention_tasks.h explains rows). For each row tile, the scaled Qᵀ,
// Gᵀ and D = Σ g·y are packed once; each key tile then does
//   Pᵀ  = exp(K·Qᵀ − lse)
//   dSᵀ = Pᵀ ∘ (V·Gᵀ − D)
//   dV  += Pᵀ·G
//   dK  += dSᵀ·(scale·Q)
//   dQᵀ += Kᵀ·dSᵀ
// and dQ = scale·dQᵀ at the end. dK and dV are summed in scratch over the row tiles of one task.
// All five products run on tiles that stay in the first two levels of cache.
#if defined(LORA_CPU_ATTENTION_BACKWARD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_CPU_ATTENTION_BACKWARD_INL_H_
#undef LORA_CPU_ATTENTION_BACKWARD_INL_H_
#else
#define LORA_CPU_ATTENTION_BACKWARD_INL_H_
#endif

#include "backend/cpu/attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Turns scores into P and dp into dS. A masked pair gives exactly 0, whatever v and g are.
template <bool kMasked>
HWY_INLINE void ScoreGradients(const RowTile& t, int32_t from, size_t count, const float* lse,
                               const float* delta, float* scores, float* dp) {
  const F32 d;
  const hn::RebindToSigned<F32> di;
  for (size_t c = 0; c < t.padded(); c += hn::Lanes(d)) {
    const VF32 l = hn::LoadU(d, lse + c), dd = hn::LoadU(d, delta + c);
    const auto lo = hn::LoadU(di, t.lo + c), hi = hn::LoadU(di, t.hi + c);
    for (size_t j = 0; j < count; ++j) {
      float* pp = scores + j * kRowTile + c;
      float* pd = dp + j * kRowTile + c;
      VF32 p = Exp(d, hn::Sub(hn::LoadU(d, pp), l));
      VF32 ds = hn::Mul(p, hn::Sub(hn::LoadU(d, pd), dd));
      if constexpr (kMasked) {
        const auto key = hn::Set(di, from + static_cast<int32_t>(j));
        const auto seen = hn::RebindMask(d, hn::And(hn::Ge(key, lo), hn::Le(key, hi)));
        p = hn::IfThenElseZero(seen, p);
        ds = hn::IfThenElseZero(seen, ds);
      }
      hn::StoreU(p, d, pp);
      hn::StoreU(ds, d, pd);
    }
  }
}

template <class T>
HWY_INLINE void BackwardTile(const AttentionBackwardArgs& args, const AttentionShape& s,
                             const RowTile& t, float* scratch, float* dk, float* dv) {
  const F32 d;
  const size_t lanes = hn::Lanes(d), rows = t.padded();
  const BackwardTileScratch w(s, scratch);
  const bool pairs = MultipliesPairs<T>(s);
  if (pairs) {
    LoadPairs(s, t, args.q.as<const T>(), w.q, w.q_t);
    LoadPairs(s, t, args.g.as<const T>(), w.g, w.g_t);
  }
  LoadRows(s, t, args.q.as<const T>(), s.scale, w.q);
  LoadRows(s, t, args.g.as<const T>(), 1, w.g);
  if (!pairs) {
    TransposeTile(w.q, s.padded, rows, s.padded, w.q_t, kRowTile);
    TransposeTile(w.g, s.padded, rows, s.padded, w.g_t, kRowTile);
  }
  for (size_t r = 0; r < rows; ++r) {
    w.lse[r] = 0;
    w.delta[r] = 0;
    if (r >= t.count) continue;
    // A row that saw no key has lse = −inf. Every key is masked for it, so 0 serves instead.
    const float lse = args.lse.as<const float>()[s.LseOffset(t.batch, t.head, t.first + r)];
    w.lse[r] = lse == -std::numeric_limits<float>::infinity() ? 0.0f : lse;
    const T* y = args.y.as<const T>() + s.QueryOffset(t.batch, t.head, t.first + r);
    const float* g = w.g + r * s.padded;
    VF32 sum = hn::Zero(d);
    size_t i = 0;
    for (; i + lanes <= s.d; i += lanes) {
      sum = hn::MulAdd(hn::LoadU(d, g + i), LoadAct(d, y + i), sum);
    }
    if (i < s.d) sum = hn::MulAdd(hn::LoadU(d, g + i), LoadActN(d, y + i, s.d - i), sum);
    w.delta[r] = hn::ReduceSum(d, sum);
  }
  std::memset(w.dq_t, 0, s.padded * kRowTile * sizeof(float));
  for (int32_t from = t.begin; from < t.end; from += static_cast<int32_t>(kKeyTile)) {
    const int32_t to = std::min(t.end, from + static_cast<int32_t>(kKeyTile));
    const RowTile::Visible visible = t.Sees(from, to);
    if (visible == RowTile::Visible::kNone) continue;
    const size_t first = static_cast<size_t>(from), count = static_cast<size_t>(to - from);
    const KeyRows k = LoadKeys(s, t, args.k.as<const T>(), first, count, false, w.keys);
    if (pairs) {
      MultiplyPairs(s, t, args.k.as<const T>(), first, count, s.scale, w.q_t, w.p);
      MultiplyPairs(s, t, args.v.as<const T>(), first, count, 1, w.g_t, w.ds);
    } else {
      const KeyRows v = LoadKeys(s, t, args.v.as<const T>(), first, count, false, w.values);
      TileGemm(count, rows, s.d, TileA<float>{k.data, k.stride, 1}, w.q_t, kRowTile, w.p, kRowTile,
               false);
      TileGemm(count, rows, s.d, TileA<float>{v.data, v.stride, 1}, w.g_t, kRowTile, w.ds, kRowTile,
               false);
    }
    if (visible == RowTile::Visible::kSome) {
      ScoreGradients<true>(t, from, count, w.lse, w.delta, w.p, w.ds);
    } else {
      ScoreGradients<false>(t, from, count, w.lse, w.delta, w.p, w.ds);
    }
    TileGemm(count, s.d, t.count, TileA<float>{w.p, kRowTile, 1}, w.g, s.padded,
             dv + first * s.padded, s.padded, true);
    TileGemm(count, s.d, t.count, TileA<float>{w.ds, kRowTile, 1}, w.q, s.padded,
             dk + first * s.padded, s.padded, true);
    TileGemm(s.d, rows, count, TileA<float>{k.data, 1, k.stride}, w.ds, kRowTile, w.dq_t, kRowTile,
             true);
  }
  TransposeTile(w.dq_t, kRowTile, s.padded, rows, w.q, s.padded);
  for (size_t r = 0; r < t.count; ++r) {
    RowFromF32(w.q + r * s.padded, s.d, s.scale,
               args.dq.as<T>() + s.QueryOffset(t.batch, t.head, t.first + r));
  }
}

// Writes dk and dv of keys [begin, end) from `splits` pairs of sums that are `stride` floats apart;
// the first pair is overwritten.
template <class T>
HWY_INLINE void StoreKeyGradients(const AttentionBackwardArgs& args, const AttentionShape& s,
                                  size_t batch, size_t head, size_t begin, size_t end, float* sums,
                                  size_t stride, size_t splits) {
  const F32 d;
  T* const outputs[2] = {args.dk.as<T>(), args.dv.as<T>()};
  for (size_t which = 0; which < 2; ++which) {
    for (size_t j = begin; j < end; ++j) {
      float* row = sums + which * s.capacity * s.padded + j * s.padded;
      for (size_t split = 1; split < splits; ++split) {
        for (size_t i = 0; i < s.padded; i += hn::Lanes(d)) {
          const VF32 term = hn::LoadU(d, row + split * stride + i);
          hn::StoreU(hn::Add(hn::LoadU(d, row + i), term), d, row + i);
        }
      }
      RowFromF32(row, s.d, 1, outputs[which] + s.KeyOffset(batch, head, j));
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace lora::cpu
HWY_AFTER_NAMESPACE();

#endif  // toggle
