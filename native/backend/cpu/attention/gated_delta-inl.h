// The gated delta rule for up to 64 tokens at once, which begin at a multiple of 64 positions. With
// S of the tokens before, G the sums of g, Dᵢⱼ = e^(Gᵢ − Gⱼ) and γᵢ = e^Gᵢ:
//   z = v − γ⊙(K·S) − tril(D⊙K·Kᵀ, −1)·u,  u = β⊙z       a triangular system, row by row
//   y = scale·(γ⊙(Q·S) + tril(D⊙Q·Kᵀ)·u)
//   S ← γ_last·S + Kᵀ·(e^(G_last − G)⊙u)
// D is 0 where j lies in an earlier text than i, and γ is 0 where the text of i begins in the
// chunk. Sums of g are f64, because their differences matter: those of strong decay are large.
//
// All sums of a product run over the tokens in their order, and a zero ends where it begins, so
// that the bits of a token do not depend on how many tokens follow in its chunk.
#if defined(LORA_BACKEND_CPU_ATTENTION_GATED_DELTA_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_ATTENTION_GATED_DELTA_INL_H_
#undef LORA_BACKEND_CPU_ATTENTION_GATED_DELTA_INL_H_
#else
#define LORA_BACKEND_CPU_ATTENTION_GATED_DELTA_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstring>

#include "backend/cpu/attention/gated_delta.h"
#include "backend/cpu/attention/tile-inl.h"
#include "backend/cpu/simd/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// ---- rows of whole vectors ---------------------------------------------------------------------

HWY_INLINE void ScaleRow(float factor, const float* src, size_t n, float* dst) {
  const DF d;
  const VF f = hn::Set(d, factor);
  for (size_t i = 0; i < n; i += kLanes) hn::StoreU(hn::Mul(f, hn::LoadU(d, src + i)), d, dst + i);
}
HWY_INLINE void AddRow(float factor, const float* src, size_t n, float* dst) {
  const DF d;
  const VF f = hn::Set(d, factor);
  for (size_t i = 0; i < n; i += kLanes) {
    hn::StoreU(hn::MulAdd(f, hn::LoadU(d, src + i), hn::LoadU(d, dst + i)), d, dst + i);
  }
}
HWY_INLINE float DotRows(const float* a, const float* b, size_t n) {
  const DF d;
  VF sum = hn::Zero(d);
  for (size_t i = 0; i < n; i += kLanes) {
    sum = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), sum);
  }
  return hn::ReduceSum(d, sum);
}

// dst [padded] ← x/√(Σ x² + eps). Returns the factor.
template <class T>
HWY_INLINE float LoadNormed(const T* x, size_t n, float eps, float* dst, size_t padded) {
  RowToF32(x, n, 1.0f, dst, padded);
  const float square = DotRows(dst, dst, padded) + eps;
  const float factor = square > 0 ? 1 / std::sqrt(square) : 0;
  ScaleRow(factor, dst, padded, dst);
  return factor;
}

constexpr size_t kSolveRows = 16;

// Calls f(first, count) for the rows of a chunk, which are the diagonal blocks of its triangles.
template <class F>
HWY_INLINE void ForBlocks(size_t n, const F& f) {
  for (size_t r = 0; r < n; r += kSolveRows) f(r, std::min(kSolveRows, n - r));
}

// ---- what the tokens of a chunk have in common -------------------------------------------------

// The tokens of a chunk.
struct DeltaChunk {
  size_t first, n;
  bool live;                                 // whether the first token's text began before it
  size_t begins[kChunk];                     // by token: the first one of the chunk that it sees
  bool carried[kChunk];                      // whether it sees S
  float normed_q[kChunk], normed_k[kChunk];  // factors of LoadNormed
};

// What each head of v computes with.
struct DeltaGates {
  double sums[kChunk];   // G
  float decay[kChunk];   // γ, 0 where a token does not see S
  float weight[kChunk];  // e^(G_last − G), 0 where the last token does not see it
  float beta[kChunk];
  float last;  // γ of the last token
};

// dst [n][n] up to the diagonal's blocks ← x [n][ldx]·yt [depth][kChunk].
HWY_INLINE void LowerProduct(size_t n, size_t depth, const float* x, size_t ldx, const float* yt,
                             float* dst) {
  ForBlocks(n, [&](size_t r, size_t count) HWY_ATTR {
    TileGemm(count, r + count, depth, TileA<float>{x + r * ldx, ldx, 1}, yt, kChunk,
             TileC{dst + r * kChunk, kChunk, false});
  });
}

template <class T>
void LoadChunk(const DeltaCall& c, const DeltaRow& row, size_t first, const DeltaScratch& s,
               DeltaChunk& chunk) {
  chunk.first = first;
  chunk.n = row.End(first, c.tokens) - first;
  const auto start = static_cast<int32_t>(first);
  chunk.live = row.Begin(first) < start;
  for (size_t i = 0; i < chunk.n; ++i) {
    const int32_t begin = row.Begin(first + i);
    chunk.carried[i] = begin < start;
    chunk.begins[i] = begin < start ? 0 : static_cast<size_t>(begin - start);
    const auto at =
        static_cast<size_t>(c.o.AtKey(static_cast<int64_t>(row.b), static_cast<int64_t>(first + i),
                                      static_cast<int64_t>(row.head)));
    chunk.normed_q[i] = LoadNormed(c.o.q.as<const T>() + at, c.dk, c.o.eps, s.q + i * c.pk, c.pk);
    chunk.normed_k[i] = LoadNormed(c.o.k.as<const T>() + at, c.dk, c.o.eps, s.k + i * c.pk, c.pk);
  }
  TransposeTile(s.k, c.pk, chunk.n, c.dk, s.kt, kChunk);  // what lies behind is masked
  LowerProduct(chunk.n, c.dk, s.k, c.pk, s.kt, s.kk);
  LowerProduct(chunk.n, c.dk, s.q, c.pk, s.kt, s.qk);
}

// Makes less, seen and, where it is kept, D of a head.
HWY_INLINE void DecayProducts(const DeltaChunk& chunk, const DeltaGates& gates,
                              const DeltaScratch& s, float* decays) {
  const DF d;
  const DI di;
  HWY_ALIGN float differences[kChunk];
  for (size_t i = 0; i < chunk.n; ++i) {
    const size_t end = RoundUp(i + 1, kSolveRows);
    for (size_t j = 0; j <= i; ++j) {
      differences[j] = static_cast<float>(gates.sums[i] - gates.sums[j]);
    }
    for (size_t j = i + 1; j < end; ++j) differences[j] = 0;
    const VI from = hn::Set(di, static_cast<int32_t>(chunk.begins[i]));
    const VI own = hn::Set(di, static_cast<int32_t>(i));
    for (size_t j = 0; j < end; j += kLanes) {
      const VI column = hn::Iota(di, static_cast<int32_t>(j));
      const auto up_to = hn::RebindMask(d, hn::And(hn::Ge(column, from), hn::Le(column, own)));
      const auto below = hn::RebindMask(d, hn::And(hn::Ge(column, from), hn::Lt(column, own)));
      const VF decay = Exp(hn::Load(d, differences + j));
      const size_t at = i * kChunk + j;
      hn::StoreU(hn::IfThenElseZero(below, hn::Neg(hn::Mul(decay, hn::LoadU(d, s.kk + at)))), d,
                 s.less + at);
      hn::StoreU(hn::IfThenElseZero(up_to, hn::Mul(decay, hn::LoadU(d, s.qk + at))), d,
                 s.seen + at);
      if (decays) hn::StoreU(hn::IfThenElseZero(up_to, decay), d, decays + at);
    }
  }
}

// z and u of a head of v, given S, which is null where no token sees it.
template <class T>
void SolveChunk(const DeltaCall& c, const DeltaRow& row, const DeltaChunk& chunk, size_t head,
                const float* state, const DeltaScratch& s, DeltaGates& gates, float* decays) {
  const auto b = static_cast<int64_t>(row.b), h = static_cast<int64_t>(head);
  double sum = 0;
  for (size_t i = 0; i < chunk.n; ++i) {
    const auto t = static_cast<int64_t>(chunk.first + i);
    const auto at = static_cast<size_t>(c.o.AtGate(b, t, h));
    gates.sums[i] = sum += static_cast<double>(c.o.g.as<const float>()[at]);
    gates.beta[i] = c.o.beta.as<const float>()[at];
    RowToF32(c.o.v.as<const T>() + static_cast<size_t>(c.o.AtValue(b, t, h)), c.dv, 1.0f,
             s.z + i * c.pv, c.pv);
  }
  gates.last = 0;
  for (size_t i = 0; i < chunk.n; ++i) {
    const bool seen = i >= chunk.begins[chunk.n - 1];
    gates.decay[i] = chunk.carried[i] ? static_cast<float>(std::exp(gates.sums[i])) : 0;
    gates.last = gates.decay[i];
    gates.weight[i] = seen ? static_cast<float>(std::exp(sum - gates.sums[i])) : 0;
  }
  DecayProducts(chunk, gates, s, decays);
  if (state != nullptr) {
    TileGemm(chunk.n, c.pv, c.dk, TileA<float>{s.k, c.pk, 1}, state, c.pv,
             TileC{s.wide, c.pv, false});
    for (size_t i = 0; i < chunk.n; ++i) {
      if (chunk.carried[i]) AddRow(-gates.decay[i], s.wide + i * c.pv, c.pv, s.z + i * c.pv);
    }
  }
  const DF d;
  ForBlocks(chunk.n, [&](size_t r, size_t count) HWY_ATTR {
    if (r > 0) {
      TileGemm(count, c.pv, r, TileA<float>{s.less + r * kChunk, kChunk, 1}, s.u, c.pv,
               TileC{s.z + r * c.pv, c.pv, true});
    }
    for (size_t i = r; i < r + count; ++i) {
      const VF beta = hn::Set(d, gates.beta[i]);
      for (size_t at = 0; at < c.pv; at += kLanes) {
        VF z = hn::LoadU(d, s.z + i * c.pv + at);
        for (size_t j = r; j < i; ++j) {
          z = hn::MulAdd(hn::Set(d, s.less[i * kChunk + j]), hn::LoadU(d, s.u + j * c.pv + at), z);
        }
        hn::StoreU(z, d, s.z + i * c.pv + at);
        hn::StoreU(hn::Mul(beta, z), d, s.u + i * c.pv + at);
      }
    }
  });
}

// S ← γ_last·S + Kᵀ·(weight⊙u), where S is zeros before unless a token of the chunk sees it.
HWY_INLINE void AdvanceState(const DeltaCall& c, const DeltaChunk& chunk, const DeltaGates& gates,
                             const DeltaScratch& s, float* state) {
  for (size_t i = 0; i < chunk.n; ++i) {
    ScaleRow(gates.weight[i], s.u + i * c.pv, c.pv, s.wide + i * c.pv);
  }
  const bool carried = chunk.carried[chunk.n - 1];
  std::fill(s.factors, s.factors + c.pv, gates.last);
  TileGemm(c.dk, c.pv, chunk.n, TileA<float>{s.k, 1, c.pk}, s.wide, c.pv,
           TileC{state, c.pv, carried, carried ? s.factors : nullptr});
}

// ---- forward -----------------------------------------------------------------------------------

// y of the tokens of a row, and S of its heads behind them in s.states, which holds S before.
template <class T>
void ForwardDelta(const DeltaCall& c, const DeltaRow& row, const TensorView& y,
                  const DeltaScratch& s) {
  DeltaChunk chunk;
  DeltaGates gates;
  for (size_t first = 0; first < c.tokens; first += chunk.n) {
    LoadChunk<T>(c, row, first, s, chunk);
    for (size_t of_group = 0; of_group < c.group; ++of_group) {
      const size_t head = row.head * c.group + of_group;
      float* const state = s.states + of_group * c.StateElements();
      SolveChunk<T>(c, row, chunk, head, chunk.live ? state : nullptr, s, gates, nullptr);
      if (chunk.live) {
        TileGemm(chunk.n, c.pv, c.dk, TileA<float>{s.q, c.pk, 1}, state, c.pv,
                 TileC{s.wide, c.pv, false});
        for (size_t i = 0; i < chunk.n; ++i) {
          float* const at = s.wide + i * c.pv;
          if (chunk.carried[i]) {
            ScaleRow(gates.decay[i], at, c.pv, at);
          } else {
            std::memset(at, 0, c.pv * sizeof(float));
          }
        }
      }
      ForBlocks(chunk.n, [&](size_t r, size_t count) HWY_ATTR {
        TileGemm(count, c.pv, r + count, TileA<float>{s.seen + r * kChunk, kChunk, 1}, s.u, c.pv,
                 TileC{s.wide + r * c.pv, c.pv, chunk.live});
      });
      for (size_t i = 0; i < chunk.n; ++i) {
        const auto at = static_cast<size_t>(c.o.AtValue(static_cast<int64_t>(row.b),
                                                        static_cast<int64_t>(first + i),
                                                        static_cast<int64_t>(head)));
        RowFromF32(s.wide + i * c.pv, c.dv, c.o.scale, y.as<T>() + at);
      }
      AdvanceState(c, chunk, gates, s, state);
    }
  }
}

// ---- one token ---------------------------------------------------------------------------------

// One token of a head of v: S [dk][dv] is read once and written once, kVecs vectors of columns
// after the other. k and q are normalized.
template <size_t kVecs>
HWY_INLINE void StepColumns(size_t dk, size_t dv, const float* k, const float* q, float decay,
                            float beta, bool fresh, const float* v, float* state, float* y) {
  const DF d;
  VF z[kVecs], sum[kVecs];
  HWY_UNROLL(4)
  for (size_t j = 0; j < kVecs; ++j) z[j] = sum[j] = hn::Zero(d);
  if (!fresh) {
    for (size_t i = 0; i < dk; ++i) {
      const VF by = hn::Set(d, k[i]);
      HWY_UNROLL(4)
      for (size_t j = 0; j < kVecs; ++j) {
        z[j] = hn::MulAdd(by, hn::LoadU(d, state + i * dv + j * kLanes), z[j]);
      }
    }
  }
  const VF decays = hn::Set(d, decay), betas = hn::Set(d, beta);
  HWY_UNROLL(4)
  for (size_t j = 0; j < kVecs; ++j) {
    z[j] = hn::Mul(betas, hn::NegMulAdd(decays, z[j], hn::LoadU(d, v + j * kLanes)));
  }
  for (size_t i = 0; i < dk; ++i) {
    const VF of_k = hn::Set(d, k[i]), of_q = hn::Set(d, q[i]);
    HWY_UNROLL(4)
    for (size_t j = 0; j < kVecs; ++j) {
      float* const at = state + i * dv + j * kLanes;
      VF s = hn::Mul(of_k, z[j]);
      if (!fresh) s = hn::MulAdd(decays, hn::LoadU(d, at), s);
      hn::StoreU(s, d, at);
      sum[j] = hn::MulAdd(of_q, s, sum[j]);
    }
  }
  HWY_UNROLL(4)
  for (size_t j = 0; j < kVecs; ++j) hn::StoreU(sum[j], d, y + j * kLanes);
}

// Columns that are no whole vector.
HWY_INLINE void StepColumn(size_t dk, size_t dv, const float* k, const float* q, float decay,
                           float beta, bool fresh, const float* v, float* state, float* y) {
  float z = 0, sum = 0;
  for (size_t i = 0; i < dk && !fresh; ++i) z += k[i] * state[i * dv];
  z = beta * (*v - decay * z);
  for (size_t i = 0; i < dk; ++i) {
    float& s = state[i * dv];
    s = k[i] * z + (fresh ? 0.0f : decay * s);
    sum += q[i] * s;
  }
  *y = sum;
}

// `memory` holds 2·pk + 2·pv floats.
template <class T>
void StepDelta(const DeltaCall& c, size_t b, size_t head, bool fresh, float* state,
               const TensorView& y, float* memory) {
  float *const q = memory, *const k = q + c.pk, *const v = k + c.pk, *const out = v + c.pv;
  const auto row = static_cast<int64_t>(b), h = static_cast<int64_t>(head);
  const auto key = static_cast<size_t>(c.o.AtKey(row, 0, h / c.o.group));
  const auto value = static_cast<size_t>(c.o.AtValue(row, 0, h));
  const auto gate = static_cast<size_t>(c.o.AtGate(row, 0, h));
  LoadNormed(c.o.q.as<const T>() + key, c.dk, c.o.eps, q, c.pk);
  LoadNormed(c.o.k.as<const T>() + key, c.dk, c.o.eps, k, c.pk);
  RowToF32(c.o.v.as<const T>() + value, c.dv, 1.0f, v, c.pv);
  const float decay = std::exp(c.o.g.as<const float>()[gate]);
  const float beta = c.o.beta.as<const float>()[gate];
  size_t at = 0;
  for (; at + 4 * kLanes <= c.dv; at += 4 * kLanes) {
    StepColumns<4>(c.dk, c.dv, k, q, decay, beta, fresh, v + at, state + at, out + at);
  }
  for (; at + kLanes <= c.dv; at += kLanes) {
    StepColumns<1>(c.dk, c.dv, k, q, decay, beta, fresh, v + at, state + at, out + at);
  }
  for (; at < c.dv; ++at) {
    StepColumn(c.dk, c.dv, k, q, decay, beta, fresh, v + at, state + at, out + at);
  }
  RowFromF32(out, c.dv, c.o.scale, y.as<T>() + value);
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
