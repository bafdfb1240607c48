// The arguments of every op, one plain struct each. A backend fills a table of these (backend.h).
// Shapes are checked by the Check functions of checks.h, which every caller runs before it
// enqueues. "act" is the activation dtype of a call: f32 or bf16 (f64 in the reference backend's
// tests). Outputs are written whole, never accumulated into, unless said otherwise. A dimension may
// be 0.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor_view.h"

namespace lora {

// ---- frozen matrices -------------------------------------------------------------------------

// dst ← the backend's layout of the row-major src [rows, cols] for dst.direction.
struct PackArgs {
  TensorView src;
  void* dst = nullptr;  // packed_bytes(rows, cols, dtype, direction)
  Direction direction = Direction::kForward;
};

// dst [rows, cols] row-major ← a matrix packed kForward, bit for bit.
struct UnpackArgs {
  PackedView src;
  TensorView dst;
};

// ---- lora_linear -----------------------------------------------------------------------------

// Inverted dropout on the input of the LoRA path, recomputed wherever it is needed. The mask of
// element (row, column) depends on nothing but these numbers (philox.h).
struct Dropout {
  float p = 0;
  uint64_t seed = 0;
  uint32_t layer = 0;
  uint32_t forward = 0;  // the layer's count of forwards
  bool active() const { return p > 0; }
};

// One linear layer fed by a shared input x [m, in]:
//   h = B·drop(x),  y = W·x + bias + scale·A·h
// a and b are absent together: then the layer is the plain frozen one.
struct LoraBranch {
  PackedView weight;  // [out, in], act; kForward in forward, kBackward in backward
  TensorView bias;    // [out] act or f32, or absent
  TensorView a;       // A [out, r] f32, or absent
  TensorView b;       // B [r, in] f32, or absent
  float scale = 1;
  Dropout dropout;
};

// q/k/v (or gate/up) are the branches of one call, so that a backend may read x once.
struct LoraLinearForwardArgs {
  TensorView x;  // [m, in] act
  std::vector<LoraBranch> branches;
  std::vector<TensorView> y;  // per branch [m, out] act
  std::vector<TensorView> h;  // per branch [m, r] f32, unscaled; absent where nobody will need it
};

// With u = Aᵀ·g:
//   dx = Σ over branches (Wᵀ·g + drop(scale·Bᵀ·u))
//   dA = scale·gᵀ·h → [out, r],  dB = scale·uᵀ·drop(x) → [r, in]
// Any of dx, da, db may be absent.
struct LoraLinearBackwardArgs {
  TensorView x;  // [m, in] act; absent when no db is wanted
  std::vector<LoraBranch> branches;
  std::vector<TensorView> g;   // per branch [m, out] act
  std::vector<TensorView> h;   // per branch [m, r] f32 from forward; absent when no da is wanted
  TensorView dx;               // [m, in] act
  std::vector<TensorView> da;  // per branch [out, r] f32
  std::vector<TensorView> db;  // per branch [r, in] f32
};

// ---- layers of a Llama-family model ----------------------------------------------------------

// y[i] = weight[ids[i]]; an id outside [0, rows) fails the op with ERR_DATA.
struct EmbeddingArgs {
  PackedView weight;  // [vocab, dim] kForward
  TensorView ids;     // [n] i32
  TensorView y;       // [n, dim] of the weight's dtype
};

// rstd = 1/√(mean(x²) + eps),  y = x·rstd·weight, computed in f32, rounded once.
struct RmsNormForwardArgs {
  TensorView x;       // [n, d] act
  TensorView weight;  // [d] act or f32
  float eps = 0;
  TensorView y;     // [n, d] act
  TensorView rstd;  // [n] f32, or absent
};
struct RmsNormBackwardArgs {
  TensorView x, weight, rstd, g;
  TensorView dx;  // [n, d] act
};

// Half-split rotary embedding (rotate_half = [-x2, x1]) of x [b, s, heads, d] with tables
// [positions, d/2]:
//   y1 = x1·cos − x2·sin,  y2 = x2·cos + x1·sin
// `inverse` rotates back, which is the gradient.
struct RopeArgs {
  TensorView x;
  TensorView cos, sin;   // [positions, d/2] f32
  TensorView positions;  // [b, s] i32, or absent: offset + index in the sequence
  int64_t offset = 0;
  bool inverse = false;
  TensorView y;  // may be x itself
};

// Causal grouped-query attention with online softmax. Query i of a row (i counts from q_offset)
// sees keys j with max(begin, i − window + 1) ≤ j ≤ i; begin is key_begin[b, i − q_offset] or 0;
// window 0 means none. y = softmax(scale·q·kᵀ)·v. Head h of q uses head h / (q_heads / kv_heads) of
// k and v. Values that are not finite may reach queries that do not see them (their weight is 0,
// and 0·∞ is NaN).
struct AttentionForwardArgs {
  TensorView q;          // [b, sq, q_heads, d] act
  TensorView k, v;       // [b, capacity, kv_heads, d] act, of which kv_length positions are valid
  TensorView key_begin;  // [b, sq] i32, or absent
  int64_t kv_length = 0;
  int64_t q_offset = 0;  // position of the first query; q_offset + sq <= kv_length
  int64_t window = 0;
  float scale = 1;
  TensorView y;    // [b, sq, q_heads, d] act
  TensorView lse;  // [b, q_heads, sq] f32: log Σ exp of the scaled scores; absent without gradient
};
struct AttentionBackwardArgs {  // here kv_length == capacity == sq and q_offset == 0
  TensorView q, k, v, key_begin, y, lse, g;
  int64_t window = 0;
  float scale = 1;
  TensorView dq, dk, dv;
};

// cache[b, offset + i, :] ← src[b, i, :], the rest of the cache untouched.
struct CacheAppendArgs {
  TensorView src;    // [b, s, ...]
  TensorView cache;  // [b, capacity, ...], same trailing dims and dtype
  int64_t offset = 0;
};

// y = silu(gate)·up.
struct SwigluForwardArgs {
  TensorView gate, up, y;  // same shape, act
};
struct SwigluBackwardArgs {
  TensorView gate, up, g, dgate, dup;
};

// ---- losses ----------------------------------------------------------------------------------

// A label of −100 does not count; any other label outside [0, vocab) fails with ERR_DATA, and so
// does a call without a label that counts.
//   loss [1] f32 = Σ −log softmax(logits)[label],  count [1] f32 = the number of labels that count
struct CrossEntropyForwardArgs {
  TensorView logits;  // [n, vocab] act or f32
  TensorView labels;  // [n] i32
  TensorView loss, count;
  TensorView lse;  // [n] f32, or absent
};
struct CrossEntropyBackwardArgs {  // dlogits = (softmax(logits) − onehot)·g, 0 where label is −100
  TensorView logits, labels, lse;
  TensorView g;  // [1] f32: gradient of the summed loss
  TensorView dlogits;
};

// The same loss of logits = hidden·Wᵀ, never held whole; rows are processed in chunks.
struct LinearCrossEntropyArgs {
  TensorView hidden;       // [n, dim] act
  PackedView weight;       // [vocab, dim] kForward
  PackedView weight_bwd;   // the same kBackward; absent without d_hidden
  TensorView labels;       // [n] i32
  TensorView loss, count;  // [1] f32 each
  TensorView d_hidden;     // [n, dim] f32: gradient for an upstream gradient of 1, or absent
};

// ---- optimizer -------------------------------------------------------------------------------

// Decoupled weight decay (Loshchilov & Hutter 2019), bias-corrected, in f32, in place:
//   p ← p·(1 − lr·decay);  m ← β1·m + (1−β1)·g;  v ← β2·v + (1−β2)·g²
//   p ← p − lr/(1−β1^step) · m / (√(v/(1−β2^step)) + eps)
struct AdamWArgs {
  struct Segment {
    TensorView param, grad, m, v;  // f32, same numel
  };
  std::vector<Segment> segments;
  double lr = 0, beta1 = 0, beta2 = 0, eps = 0, weight_decay = 0;
  int64_t step = 1;  // 1 at the first call
};

// norm [1] f32 = √(Σ over all tensors and elements of x²).
struct GlobalNormArgs {
  std::vector<TensorView> tensors;  // f32
  TensorView norm;
};
// x ← x·min(1, max_norm/(norm + 1e-6)), in place; a non-finite norm leaves NaN, as PyTorch does.
struct ClipByNormArgs {
  std::vector<TensorView> tensors;  // f32
  TensorView norm;
  float max_norm = 0;
};

// ---- the tape's small set --------------------------------------------------------------------

enum class BinaryKind : uint8_t { kAdd, kSub, kMul, kDiv };
// y = a ∘ b with NumPy broadcasting; dtypes of a, b and y may differ, arithmetic is f32.
struct BinaryArgs {
  BinaryKind kind;
  TensorView a, b, y;
};

enum class UnaryKind : uint8_t { kCopy, kScale, kSquare, kRelu, kGelu, kSilu };
// y = f(x); kCopy casts, kScale multiplies by alpha; kGelu is the exact one, x·Φ(x).
struct UnaryArgs {
  UnaryKind kind;
  float alpha = 1;
  TensorView x, y;
};
struct UnaryBackwardArgs {  // dx = g·f'(x)
  UnaryKind kind;
  float alpha = 1;
  TensorView x, g, dx;
};

// y ← x summed over the dimensions in which y's shape has 1 (or lacks, aligned at the right) and
// x's has more. A y of shape [] is the sum of everything.
struct ReduceSumArgs {
  TensorView x, y;
};

// y ← y + x, in place.
struct AccumulateArgs {
  TensorView x, y;
};

struct FillArgs {
  float value = 0;
  TensorView y;
};

// y[i_perm...] = x[i...]: dimension d of y is dimension perm[d] of x.
struct TransposeArgs {
  TensorView x, y;
  std::vector<int> perm;
};

// y = a·b over the last two dimensions; a [.., m, k] (or [.., k, m] with trans_a), b [.., k, n] (or
// [.., n, k] with trans_b); leading dimensions broadcast. f32 accumulation, one rounding.
struct MatmulArgs {
  TensorView a, b, y;
  bool trans_a = false, trans_b = false;
};

// ---- random numbers --------------------------------------------------------------------------

enum class RandomKind : uint8_t { kUniform, kNormal };
// Element i depends on (seed, stream, i) only. kUniform: [lo, hi); kNormal: mean lo, std hi.
struct RandomArgs {
  RandomKind kind;
  uint64_t seed = 0;
  uint32_t stream = 0;
  float lo = 0, hi = 1;
  TensorView y;  // f32
};

// ids[i] of logits row i. temperature 0 is greedy (first of equals). Otherwise
// softmax(logits/temperature) limited to the top_k largest (0: all) and then to the smallest set of
// mass ≥ top_p (1: all), drawn with the uniform number of (seed, step, i).
struct SampleArgs {
  TensorView logits;  // [n, vocab] act or f32
  float temperature = 0;
  int64_t top_k = 0;
  float top_p = 1;
  uint64_t seed = 0;
  uint32_t step = 0;
  TensorView ids;  // [n] i32
};

}  // namespace lora
