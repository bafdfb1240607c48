// The gradients of the gated delta rule, chunk by chunk from the last one on. S before each chunk
// is computed once more (gated_delta-inl.h).
#if defined(LORA_BACKEND_CPU_ATTENTION_GATED_DELTA_BACKWARD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_ATTENTION_GATED_DELTA_BACKWARD_INL_H_
#undef LORA_BACKEND_CPU_ATTENTION_GATED_DELTA_BACKWARD_INL_H_
#else
#define LORA_BACKEND_CPU_ATTENTION_GATED_DELTA_BACKWARD_INL_H_
#endif

#include <algorithm>
#include <cstring>

#include "backend/cpu/attention/gated_delta-inl.h"
#include "backend/cpu/attention/gated_delta.h"
#include "backend/cpu/attention/tile-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// With dS of the chunks behind, R = v − γ⊙(K·S) and dy scaled:
//   du = tril(D⊙Q·Kᵀ)ᵀ·dy + weight⊙(K·dS)
//   x  = du − tril(D⊙K·Kᵀ, −1)ᵀ·dR,  dR = dv = β⊙x,  dβ = Σ x⊙z    from the last row on
//   P  = D⊙tril(dy·uᵀ),  M = −D⊙tril(dR·uᵀ, −1)
//   dq = γ⊙(dy·Sᵀ) + P·K
//   dk = −γ⊙(dR·Sᵀ) + weight⊙(u·dSᵀ) + Pᵀ·Q + M·K + Mᵀ·K
//   dS ← γ_last·dS + Qᵀ·(γ⊙dy) − Kᵀ·(γ⊙dR)
// G has a gradient through every power of e in these, of which dg is the sum from a token on.
template <class T>
void BackwardChunk(const DeltaCall& c, const DeltaRow& row, const DeltaChunk& chunk, size_t head,
                   const float* state, bool behind, float* ds, const GatedDeltaBackwardArgs& args,
                   const DeltaScratch& s) {
  const DF d;
  DeltaGates gates;
  SolveChunk<T>(c, row, chunk, head, state, s, gates, s.d);
  const size_t n = chunk.n, pk = c.pk, pv = c.pv;
  const auto b = static_cast<int64_t>(row.b), h = static_cast<int64_t>(head);
  const auto token = [&](size_t i) { return static_cast<int64_t>(chunk.first + i); };
  double dsums[kChunk] = {};
  for (size_t i = 0; i < n; ++i) {
    RowToF32(args.dy.as<const T>() + static_cast<size_t>(c.o.AtValue(b, token(i), h)), c.dv,
             c.o.scale, s.dy + i * pv, pv);
  }

  // du, in `wide`.
  if (behind) {
    TileGemm(n, c.pv, c.dk, TileA<float>{s.k, pk, 1}, ds, pv, TileC{s.wide, pv, false});
    for (size_t i = 0; i < n; ++i) {
      ScaleRow(gates.weight[i], s.wide + i * pv, pv, s.wide + i * pv);
    }
  }
  ForBlocks(n, [&](size_t r, size_t count) HWY_ATTR {
    TileGemm(count, c.pv, n - r, TileA<float>{s.seen + r * kChunk + r, 1, kChunk}, s.dy + r * pv,
             pv, TileC{s.wide + r * pv, pv, behind});
  });
  // x, in its place, and dR.
  for (size_t r = (n - 1) / kSolveRows * kSolveRows;; r -= kSolveRows) {
    const size_t end = std::min(r + kSolveRows, n);
    if (end < n) {
      TileGemm(end - r, c.pv, n - end, TileA<float>{s.less + end * kChunk + r, 1, kChunk},
               s.dr + end * pv, pv, TileC{s.wide + r * pv, pv, true});
    }
    for (size_t i = end; i-- > r;) {
      const VF beta = hn::Set(d, gates.beta[i]);
      for (size_t at = 0; at < pv; at += kLanes) {
        VF x = hn::LoadU(d, s.wide + i * pv + at);
        for (size_t j = i + 1; j < end; ++j) {
          x = hn::MulAdd(hn::Set(d, s.less[j * kChunk + i]), hn::LoadU(d, s.dr + j * pv + at), x);
        }
        hn::StoreU(x, d, s.wide + i * pv + at);
        hn::StoreU(hn::Mul(beta, x), d, s.dr + i * pv + at);
      }
    }
    if (r == 0) break;
  }
  for (size_t i = 0; i < n; ++i) {
    args.dbeta.as<float>()[static_cast<size_t>(c.o.AtGate(b, token(i), h))] =
        DotRows(s.wide + i * pv, s.z + i * pv, pv);
    RowFromF32(s.dr + i * pv, c.dv, 1.0f,
               args.dv.as<T>() + static_cast<size_t>(c.o.AtValue(b, token(i), h)));
  }

  // P in `mixed`, then M; each with what D gets of it.
  TransposeTile(s.u, pv, n, pv, s.ut, kChunk);
  const auto mix = [&](const float* rows, const float* of_keys, bool below) HWY_ATTR {
    LowerProduct(n, c.dv, rows, pv, s.ut, s.mixed);
    for (size_t i = 0; i < n; ++i) {
      float* const line = s.mixed + i * kChunk;
      for (size_t j = 0; j < RoundUp(i + 1, kSolveRows); ++j) {
        const bool seen = below ? j < i : j <= i;
        line[j] = seen && j >= chunk.begins[i] ? line[j] * s.d[i * kChunk + j] : 0;
        const double product =
            static_cast<double>(line[j] * (j <= i ? of_keys[i * kChunk + j] : 0));
        dsums[i] += product;
        dsums[j] -= product;
      }
    }
  };
  // dst [n][pk] += L·B, or Lᵀ·B, where L is `mixed`.
  const auto add_lower = [&](const float* rows, float* dst) HWY_ATTR {
    ForBlocks(n, [&](size_t r, size_t count) HWY_ATTR {
      TileGemm(count, c.pk, r + count, TileA<float>{s.mixed + r * kChunk, kChunk, 1}, rows, pk,
               TileC{dst + r * pk, pk, true});
    });
  };
  const auto add_upper = [&](const float* rows, float* dst) HWY_ATTR {
    ForBlocks(n, [&](size_t r, size_t count) HWY_ATTR {
      TileGemm(count, c.pk, n - r, TileA<float>{s.mixed + r * kChunk + r, 1, kChunk}, rows + r * pk,
               pk, TileC{dst + r * pk, pk, true});
    });
  };
  mix(s.dy, s.qk, false);
  add_lower(s.k, s.dq);
  add_upper(s.q, s.dk);
  for (size_t i = 0; i < n; ++i) ScaleRow(-1.0f, s.dr + i * pv, pv, s.dr + i * pv);
  mix(s.dr, s.kk, true);
  add_lower(s.k, s.dk);
  add_upper(s.k, s.dk);

  // dst += factor·narrow, row by row, and what the factors, which are powers of e, get of it.
  const auto add_narrow = [&](const float* factors, const float* of, float* dst, auto gain)
                              HWY_ATTR {
                                for (size_t i = 0; i < n; ++i) {
                                  if (factors[i] == 0) continue;
                                  const float* const from = s.narrow + i * pk;
                                  gain(i, static_cast<double>(factors[i]) *
                                              static_cast<double>(DotRows(from, of + i * pk, pk)));
                                  AddRow(factors[i], from, pk, dst + i * pk);
                                }
                              };
  const auto to_own = [&](size_t i, double gradient) { dsums[i] += gradient; };
  if (behind) {
    TransposeTile(ds, pv, pk, pv, s.ds_t, pk);
    TileGemm(n, c.pk, c.dv, TileA<float>{s.u, pv, 1}, s.ds_t, pk, TileC{s.narrow, pk, false});
    add_narrow(gates.weight, s.k, s.dk, [&](size_t i, double gradient) {
      dsums[i] -= gradient;
      dsums[n - 1] += gradient;
    });
  }
  if (state != nullptr) {
    TransposeTile(state, pv, pk, pv, s.state_t, pk);
    TileGemm(n, c.pk, c.dv, TileA<float>{s.dy, pv, 1}, s.state_t, pk, TileC{s.narrow, pk, false});
    add_narrow(gates.decay, s.q, s.dq, to_own);
    TileGemm(n, c.pk, c.dv, TileA<float>{s.dr, pv, 1}, s.state_t, pk, TileC{s.narrow, pk, false});
    add_narrow(gates.decay, s.k, s.dk, to_own);
    if (behind && gates.last != 0) {
      dsums[n - 1] += static_cast<double>(gates.last) *
                      static_cast<double>(DotRows(state, ds, c.StateElements()));
    }
    // dS of the tokens before.
    std::fill(s.factors, s.factors + pv, behind ? gates.last : 0);
    for (size_t i = 0; i < n; ++i) {
      ScaleRow(gates.decay[i], s.dy + i * pv, pv, s.dy + i * pv);
      ScaleRow(gates.decay[i], s.dr + i * pv, pv, s.dr + i * pv);
    }
    TileGemm(c.dk, c.pv, n, TileA<float>{s.q, 1, pk}, s.dy, pv,
             TileC{ds, pv, behind, behind ? s.factors : nullptr});
    TileGemm(c.dk, c.pv, n, TileA<float>{s.k, 1, pk}, s.dr, pv, TileC{ds, pv, true});
  }

  double sum = 0;
  for (size_t i = n; i-- > 0;) {
    sum += dsums[i];
    // Before a text that begins in the chunk there is nothing for its decay to act on.
    if (!chunk.carried[i] && chunk.begins[i] == i) sum = 0;
    args.dg.as<float>()[static_cast<size_t>(c.o.AtGate(b, token(i), h))] = static_cast<float>(sum);
  }
}

// dx of a head ← the gradient of x/√(Σ x² + eps), given that of the quotient.
template <class T>
HWY_INLINE void StoreNormedGradient(const DeltaCall& c, const float* normed, float factor,
                                    float* gradient, T* dx) {
  AddRow(-DotRows(normed, gradient, c.pk), normed, c.pk, gradient);
  RowFromF32(gradient, c.dk, factor, dx);
}

template <class T>
void BackwardDelta(const DeltaCall& c, const DeltaRow& row, const GatedDeltaBackwardArgs& args,
                   const DeltaScratch& s) {
  DeltaChunk chunk;
  DeltaGates gates;
  const size_t chunks = c.Chunks();
  const auto states_behind = [&](size_t index, size_t of_group) {
    return s.states + (index * c.group + of_group) * c.StateElements();
  };
  for (size_t index = 0; index + 1 < chunks; ++index) {
    LoadChunk<T>(c, row, index * kChunk, s, chunk);
    for (size_t of_group = 0; of_group < c.group; ++of_group) {
      float* const state = states_behind(index, of_group);
      const float* const before =
          index > 0 && chunk.live ? states_behind(index - 1, of_group) : nullptr;
      SolveChunk<T>(c, row, chunk, row.head * c.group + of_group, before, s, gates, nullptr);
      if (before) {
        std::memcpy(state, before, c.StateElements() * sizeof(float));
      } else {
        std::memset(state, 0, c.StateElements() * sizeof(float));
      }
      AdvanceState(c, chunk, gates, s, state);
    }
  }
  std::memset(s.ds, 0, c.group * c.StateElements() * sizeof(float));
  bool behind = false;  // whether the next chunk sees S
  for (size_t index = chunks; index-- > 0;) {
    LoadChunk<T>(c, row, index * kChunk, s, chunk);
    std::memset(s.dq, 0, kChunk * c.pk * sizeof(float));
    std::memset(s.dk, 0, kChunk * c.pk * sizeof(float));
    for (size_t of_group = 0; of_group < c.group; ++of_group) {
      const float* const state = chunk.live ? states_behind(index - 1, of_group) : nullptr;
      BackwardChunk<T>(c, row, chunk, row.head * c.group + of_group, state, behind,
                       s.ds + of_group * c.StateElements(), args, s);
    }
    behind = chunk.live;
    for (size_t i = 0; i < chunk.n; ++i) {
      const auto at = static_cast<size_t>(c.o.AtKey(static_cast<int64_t>(row.b),
                                                    static_cast<int64_t>(chunk.first + i),
                                                    static_cast<int64_t>(row.head)));
      StoreNormedGradient(c, s.q + i * c.pk, chunk.normed_q[i], s.dq + i * c.pk,
                          args.dq.as<T>() + at);
      StoreNormedGradient(c, s.k + i * c.pk, chunk.normed_k[i], s.dk + i * c.pk,
                          args.dk.as<T>() + at);
    }
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
