// What the ops of the gated delta rule share on the CPU. A task is a row of the batch and a head of
// k, with the `group` heads of v that use it, because they share the products of q and k.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cpu/attention/attention_tasks.h"
#include "backend/cpu/runtime/arena.h"
#include "core/maths/ceil_div.h"
#include "core/ops/gated_delta.h"

namespace lora::cpu {

constexpr size_t kChunk = static_cast<size_t>(kDeltaChunk);

struct DeltaCall {
  DeltaOperands o;
  size_t tokens, group, dk, dv;
  size_t pk, pv;  // dk and dv, rounded up to kMaxLanes

  explicit DeltaCall(const DeltaOperands& operands)
      : o(operands),
        tokens(static_cast<size_t>(o.tokens)),
        group(static_cast<size_t>(o.group)),
        dk(static_cast<size_t>(o.dk)),
        dv(static_cast<size_t>(o.dv)),
        pk(RoundUp(dk, kMaxLanes)),
        pv(RoundUp(dv, kMaxLanes)) {}

  size_t StateElements() const { return pk * pv; }
  size_t Chunks() const { return CeilDiv(tokens, kChunk); }
  size_t Tasks() const { return static_cast<size_t>(o.batch * o.k_heads); }
};

// The tokens of one task: a row of the batch, its texts and where its chunks are cut.
struct DeltaRow {
  size_t b = 0, head = 0;           // head of k
  const int32_t* begins = nullptr;  // by token: the first one of its text
  int32_t begin = 0;                // the same of all tokens where begins is null; −1: in the pool
  int64_t position = 0;  // of the first token, from which multiples of kChunk are counted

  int32_t Begin(size_t t) const { return begins ? begins[t] : begin; }
  size_t End(size_t first, size_t tokens) const {
    const size_t at = static_cast<size_t>(position) + first;
    const size_t end = (at / kChunk + 1) * kChunk - static_cast<size_t>(position);
    return end < tokens ? end : tokens;
  }
};

// Memory of a thread. Tiles of tokens are [kChunk][pk], [kChunk][pv] or [kChunk][kChunk].
struct DeltaScratch {
  float *k, *q, *kt, *kk, *qk;  // k', q', k'ᵀ, K·Kᵀ, Q·Kᵀ
  float *less, *seen;           // −D⊙K·Kᵀ below the diagonal, D⊙Q·Kᵀ up to it
  float *z, *u, *wide;          // as in core/ops/gated_delta.h; results of products
  float* factors;               // [pv]
  float* states;                // [group][pk][pv], in backward of each chunk

  // Of backward.
  float *d, *ut, *dy, *dr, *narrow, *dq, *dk, *mixed;
  float *state_t, *ds_t, *ds;

  DeltaScratch(Arena& arena, const DeltaCall& c, bool backward) {
    const auto keys = [&] { return arena.Take<float>(kChunk * c.pk); };
    const auto values = [&] { return arena.Take<float>(kChunk * c.pv); };
    const auto square = [&] { return arena.Take<float>(kChunk * kChunk); };
    k = keys(), q = keys(), kt = keys();
    kk = square(), qk = square(), less = square(), seen = square();
    z = values(), u = values(), wide = values();
    factors = arena.Take<float>(c.pv);
    const size_t count = backward ? (c.Chunks() > 0 ? c.Chunks() - 1 : 0) * c.group : c.group;
    states = arena.Take<float>(count * c.StateElements());
    if (!backward) return;
    d = square(), mixed = square();
    ut = values(), dy = values(), dr = values();
    narrow = keys(), dq = keys(), dk = keys();
    state_t = arena.Take<float>(c.StateElements());
    ds_t = arena.Take<float>(c.StateElements());
    ds = arena.Take<float>(c.group * c.StateElements());
  }
};

}  // namespace lora::cpu
