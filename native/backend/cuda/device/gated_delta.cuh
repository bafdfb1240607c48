// The gated delta rule, token by token (core/ops/gated_delta.h). A block has a head of v, or in
// backward a head of k with the heads of v that use it. Its threads take columns of S [dk, dv] in
// turn, which do not depend on one another; S lies in global memory, where a warp reads neighbors.
//
// Backward computes the states of 64 tokens once more from those that it keeps, one for every 64.
#pragma once

#include "backend/cuda/device/any_elements.cuh"
#include "backend/cuda/device/launch.h"
#include "backend/cuda/device/reduce.cuh"

namespace lora::device {

struct DeltaInput {
  AnyInput q, k, v;
  const float *g, *beta;
  const int32_t* key_begin;  // or null
  int64_t tokens, k_heads, v_heads, dk, dv;
  float scale, eps;

  LORA_DEVICE int64_t Key(int64_t b, int64_t t, int64_t head) const {
    return ((b * tokens + t) * k_heads + head) * dk;
  }
  LORA_DEVICE int64_t Gate(int64_t b, int64_t t, int64_t head) const {
    return (b * tokens + t) * v_heads + head;
  }
  LORA_DEVICE bool BeginsText(int64_t b, int64_t t) const {
    return t == 0 || (key_begin != nullptr && key_begin[b * tokens + t] >= t);
  }
};

struct DeltaParams {
  static constexpr int kThreads = 128, kMinBlocks = 4;
  static constexpr size_t kSharedBytes = kThreads / 32 * sizeof(float);
  DeltaInput in;
  AnyOutput y;
  float* states;                   // [slots or batch, v_heads, dk, dv]
  const int32_t *slots, *lengths;  // or null: the states of each row begin as zeros
};

struct DeltaBackwardParams {
  static constexpr int kThreads = DeltaParams::kThreads, kMinBlocks = 3;
  static constexpr size_t kSharedBytes = DeltaParams::kSharedBytes;
  static constexpr int kChunk = 64;
  DeltaInput in;
  AnyInput dy;
  AnyOutput dq, dk, dv;
  float *dg, *dbeta;
  // Of each block: states [chunks], of the tokens of a chunk [kChunk], dS; u, dz and dy [dv]; sums
  // of dq' and dk' [tokens, dk].
  float* memory;
  int64_t per_block;
};

// 1/√(Σ x² + eps) of n numbers from `at`. All threads must call.
LORA_DEVICE float NormFactor(const AnyInput& x, int64_t at, int64_t n, float eps, float* slots) {
  constexpr int kThreads = DeltaParams::kThreads;
  float square = 0.0f;
  for (int64_t i = ThreadIndex(); i < n; i += kThreads) {
    const float value = LoadElement(x, at + i);
    square = Fma(value, value, square);
  }
  square = BlockSum<kThreads>(square, slots) + eps;
  return square > 0.0f ? 1.0f / Sqrt(square) : 0.0f;
}

// A token of a head of v.
struct DeltaToken {
  int64_t key, gate;
  float of_q, of_k, decay, beta;  // decay: 0 where a text begins, which no S goes through
};
LORA_DEVICE DeltaToken TokenAt(const DeltaInput& in, int64_t b, int64_t t, int64_t head,
                               bool begins, float* slots) {
  DeltaToken token;
  token.key = in.Key(b, t, head / (in.v_heads / in.k_heads));
  token.gate = in.Gate(b, t, head);
  token.of_q = NormFactor(in.q, token.key, in.dk, in.eps, slots);
  token.of_k = NormFactor(in.k, token.key, in.dk, in.eps, slots);
  token.decay = begins ? 0.0f : Exp(in.g[token.gate]);
  token.beta = in.beta[token.gate];
  return token;
}

// z of a column, given the one of the S before.
LORA_DEVICE float ColumnZ(const DeltaInput& in, const DeltaToken& token, bool begins,
                          const float* before, int64_t j) {
  float seen = 0.0f;
  for (int64_t i = 0; i < in.dk && !begins; ++i)
    seen = Fma(LoadElement(in.k, token.key + i), before[i * in.dv + j], seen);
  return LoadElement(in.v, token.gate * in.dv + j) - token.decay * token.of_k * seen;
}

// S' of an element, given that of the S before.
LORA_DEVICE float Decayed(const DeltaToken& token, bool begins, float before) {
  return begins ? 0.0f : token.decay * before;
}

LORA_KERNEL void LORA_LAUNCH_BOUNDS(DeltaParams::kThreads, DeltaParams::kMinBlocks)
    GatedDelta(const LORA_GRID_CONSTANT DeltaParams p) {
  LORA_DYNAMIC_SHARED(shared);
  float* const slots = reinterpret_cast<float*>(shared);
  const DeltaInput& in = p.in;
  const int64_t b = BlockX() / in.v_heads, head = BlockX() % in.v_heads;
  const bool fresh = p.slots == nullptr || p.lengths[b] == in.tokens;
  const int64_t row = p.slots == nullptr ? b : p.slots[b];
  float* const state = p.states + (row * in.v_heads + head) * in.dk * in.dv;
  for (int64_t t = 0; t < in.tokens; ++t) {
    const bool begins = t == 0 ? fresh : in.BeginsText(b, t);
    const DeltaToken token = TokenAt(in, b, t, head, begins, slots);
    for (int64_t j = ThreadIndex(); j < in.dv; j += DeltaParams::kThreads) {
      const float u = token.beta * ColumnZ(in, token, begins, state, j);
      float y = 0.0f;
      for (int64_t i = 0; i < in.dk; ++i) {
        float& s = state[i * in.dv + j];
        const float before = begins ? 0.0f : s;
        s = Fma(token.of_k * LoadElement(in.k, token.key + i), u, Decayed(token, begins, before));
        y = Fma(LoadElement(in.q, token.key + i), s, y);
      }
      StoreElement(p.y, token.gate * in.dv + j, in.scale * token.of_q * y);
    }
  }
}

// to ← the S behind a token of which `from` is the S before.
LORA_DEVICE void AdvanceState(const DeltaInput& in, const DeltaToken& token, bool begins,
                              const float* from, float* to) {
  for (int64_t j = ThreadIndex(); j < in.dv; j += DeltaParams::kThreads) {
    const float u = token.beta * ColumnZ(in, token, begins, from, j);
    for (int64_t i = 0; i < in.dk; ++i) {
      const float before = begins ? 0.0f : from[i * in.dv + j];
      to[i * in.dv + j] =
          Fma(token.of_k * LoadElement(in.k, token.key + i), u, Decayed(token, begins, before));
    }
  }
}

// dx of a head ← factor·(g − n·(n·g)) with n = factor·x. All threads must call.
LORA_DEVICE void StoreNormedGradient(const AnyInput& x, int64_t at, int64_t n, float eps,
                                     const float* gradient, const AnyOutput& dx, float* slots) {
  constexpr int kThreads = DeltaParams::kThreads;
  const float factor = NormFactor(x, at, n, eps, slots);
  float along = 0.0f;
  for (int64_t i = ThreadIndex(); i < n; i += kThreads)
    along = Fma(factor * LoadElement(x, at + i), gradient[i], along);
  along = BlockSum<kThreads>(along, slots);
  for (int64_t i = ThreadIndex(); i < n; i += kThreads) {
    const float normed = factor * LoadElement(x, at + i);
    StoreElement(dx, at + i, factor * (gradient[i] - normed * along));
  }
}

LORA_KERNEL void LORA_LAUNCH_BOUNDS(DeltaBackwardParams::kThreads, DeltaBackwardParams::kMinBlocks)
    GatedDeltaBackward(const LORA_GRID_CONSTANT DeltaBackwardParams p) {
  LORA_DYNAMIC_SHARED(shared);
  constexpr int kThreads = DeltaBackwardParams::kThreads, kChunk = DeltaBackwardParams::kChunk;
  float* const slots = reinterpret_cast<float*>(shared);
  const DeltaInput& in = p.in;
  const int64_t b = BlockX() / in.k_heads, k_head = BlockX() % in.k_heads;
  const int64_t dk = in.dk, dv = in.dv, size = dk * dv, group = in.v_heads / in.k_heads;
  const int64_t chunks = (in.tokens + kChunk - 1) / kChunk;
  float* const kept = p.memory + BlockX() * p.per_block;  // before each chunk
  float* const before = kept + chunks * size;             // before each of its tokens
  float* const ds = before + kChunk * size;
  float* const u = ds + size;
  float *const dz = u + dv, *const dy = dz + dv;
  float *const dq_sums = dy + dv, *const dk_sums = dq_sums + in.tokens * dk;

  for (int64_t i = ThreadIndex(); i < 2 * in.tokens * dk; i += kThreads) dq_sums[i] = 0.0f;
  for (int64_t head = k_head * group; head < (k_head + 1) * group; ++head) {
    for (int64_t i = ThreadIndex(); i < size; i += kThreads) kept[i] = ds[i] = 0.0f;
    SyncThreads();
    for (int64_t chunk = 0; chunk + 1 < chunks; ++chunk) {
      float* const next = kept + (chunk + 1) * size;
      for (int64_t t = chunk * kChunk; t < (chunk + 1) * kChunk; ++t) {
        const bool begins = in.BeginsText(b, t);
        const DeltaToken token = TokenAt(in, b, t, head, begins, slots);
        AdvanceState(in, token, begins, t == chunk * kChunk ? kept + chunk * size : next, next);
      }
    }
    for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
      const int64_t first = chunk * kChunk;
      const int64_t end = first + kChunk < in.tokens ? first + kChunk : in.tokens;
      SyncThreads();
      for (int64_t i = ThreadIndex(); i < size; i += kThreads) before[i] = kept[chunk * size + i];
      SyncThreads();
      for (int64_t t = first; t + 1 < end; ++t) {
        const bool begins = in.BeginsText(b, t);
        const DeltaToken token = TokenAt(in, b, t, head, begins, slots);
        float* const from = before + (t - first) * size;
        AdvanceState(in, token, begins, from, from + size);
      }
      for (int64_t t = end - 1; t >= first; --t) {
        const bool begins = in.BeginsText(b, t);
        const DeltaToken token = TokenAt(in, b, t, head, begins, slots);
        const float* const s = before + (t - first) * size;
        float dbeta = 0.0f, dg = 0.0f;
        for (int64_t j = ThreadIndex(); j < dv; j += kThreads) {
          const float z = ColumnZ(in, token, begins, s, j);
          const float g = in.scale * LoadElement(p.dy, token.gate * dv + j);
          float du = 0.0f;
          for (int64_t i = 0; i < dk; ++i) {
            float& at = ds[i * dv + j];
            at = Fma(token.of_q * LoadElement(in.q, token.key + i), g, at);
            du = Fma(token.of_k * LoadElement(in.k, token.key + i), at, du);
          }
          u[j] = token.beta * z;
          dz[j] = token.beta * du;
          dy[j] = g;
          dbeta = Fma(du, z, dbeta);
          StoreElement(p.dv, token.gate * dv + j, dz[j]);
        }
        dbeta = BlockSum<kThreads>(dbeta, slots);
        SyncThreads();
        for (int64_t i = ThreadIndex(); i < dk; i += kThreads) {
          const float k = token.of_k * LoadElement(in.k, token.key + i);
          float of_q = 0.0f, of_k = 0.0f;
          for (int64_t j = 0; j < dv; ++j) {
            const float decayed = Decayed(token, begins, begins ? 0.0f : s[i * dv + j]);
            of_q = Fma(Fma(k, u[j], decayed), dy[j], of_q);
            of_k = Fma(ds[i * dv + j], u[j], of_k);
            of_k = Fma(-decayed, dz[j], of_k);
          }
          dq_sums[t * dk + i] += of_q;
          dk_sums[t * dk + i] += of_k;
        }
        SyncThreads();
        for (int64_t j = ThreadIndex(); j < dv; j += kThreads) {
          for (int64_t i = 0; i < dk; ++i) {
            float& at = ds[i * dv + j];
            const float k = token.of_k * LoadElement(in.k, token.key + i);
            const float gradient = Fma(-k, dz[j], at);
            const float decayed = Decayed(token, begins, begins ? 0.0f : s[i * dv + j]);
            dg = Fma(gradient, decayed, dg);
            at = begins ? 0.0f : token.decay * gradient;
          }
        }
        dg = BlockSum<kThreads>(dg, slots);
        if (ThreadIndex() == 0) {
          p.dg[token.gate] = dg;
          p.dbeta[token.gate] = dbeta;
        }
        SyncThreads();
      }
    }
  }
  for (int64_t t = 0; t < in.tokens; ++t) {
    const int64_t at = in.Key(b, t, k_head);
    StoreNormedGradient(in.q, at, dk, in.eps, dq_sums + t * dk, p.dq, slots);
    StoreNormedGradient(in.k, at, dk, in.eps, dk_sums + t * dk, p.dk, slots);
  }
}

}  // namespace lora::device
