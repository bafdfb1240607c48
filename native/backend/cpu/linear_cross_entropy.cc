// loss = Σ over counted rows of lse(W·h) − (W·h)[label],  d_hidden = Wᵀ·(softmax(W·h) − onehot).
//
// Counted rows are gathered into chunks. Per chunk: logits [rows, vocab] f32 in scratch = gathered
// hidden · Wᵀ; each row becomes its loss and, in place, its gradient; d_hidden = gradients · W,
// scattered. The product rounds the f32 gradients to bf16 where W is bf16. Bytes read: W once per
// chunk and direction.
#include "backend/cpu/linear_cross_entropy.h"

#include <algorithm>
#include <cstring>

#include "backend/cpu/arena.h"
#include "backend/cpu/context.h"
#include "backend/cpu/cross_entropy_rows.h"
#include "backend/cpu/gemm.h"

namespace lora::cpu {
namespace {

// Large enough that a chunk pays for reading W, small enough for a laptop.
constexpr size_t kLogitBytes = size_t{48} << 20;
constexpr size_t kMinChunk = 16;

struct Plan {
  size_t rows, dim, vocab;
  size_t chunk;  // rows of logits held at once, at most
};

Plan PlanOf(const LinearCrossEntropyArgs& args) {
  Plan p;
  p.rows = static_cast<size_t>(args.hidden.dim(0));
  p.dim = static_cast<size_t>(args.hidden.dim(1));
  p.vocab = static_cast<size_t>(args.weight.rows);
  const size_t fit = kLogitBytes / (sizeof(float) * std::max<size_t>(1, p.vocab));
  p.chunk = std::min(p.rows, std::max(kMinChunk, fit));
  return p;
}

GemmArgs LogitProduct(const Plan& p, DType dtype, const GemmSegment* segment, size_t rows,
                      float* logits) {
  GemmArgs gemm;
  gemm.dtype = dtype;
  gemm.m = rows;
  gemm.n = p.vocab;
  gemm.segments = std::span(segment, 1);
  gemm.y = logits;
  gemm.ldy = p.vocab;
  return gemm;
}
GemmSegment LogitSegment(const Plan& p, const LinearCrossEntropyArgs& args, const void* x) {
  GemmSegment segment;
  segment.x = x;
  segment.x_dtype = args.hidden.dtype;
  segment.ldx = p.dim;
  segment.w = args.weight.data;
  segment.k = p.dim;
  return segment;
}

GemmArgs GradientProduct(const Plan& p, DType dtype, const GemmSegment* segment, size_t rows,
                         float* gradients) {
  GemmArgs gemm;
  gemm.dtype = dtype;
  gemm.m = rows;
  gemm.n = p.dim;
  gemm.segments = std::span(segment, 1);
  gemm.y = gradients;
  gemm.ldy = p.dim;
  return gemm;
}
GemmSegment GradientSegment(const Plan& p, const LinearCrossEntropyArgs& args, const float* x) {
  GemmSegment segment;
  segment.x = x;
  segment.ldx = p.vocab;
  segment.w = args.weight_bwd.data;
  segment.k = p.vocab;
  return segment;
}

size_t ProductScratchBytes(const Plan& p, const LinearCrossEntropyArgs& args, int threads) {
  const DType dtype = args.weight.dtype;
  const GemmSegment forward = LogitSegment(p, args, nullptr);
  size_t bytes = GemmScratchBytes(LogitProduct(p, dtype, &forward, p.chunk, nullptr), threads);
  if (args.d_hidden) {
    const GemmSegment backward = GradientSegment(p, args, nullptr);
    bytes = std::max(
        bytes, GemmScratchBytes(GradientProduct(p, dtype, &backward, p.chunk, nullptr), threads));
  }
  return bytes;
}

struct Pieces {
  double* losses;     // of the rows of a chunk
  std::byte* hidden;  // [chunk, dim] act
  float* logits;      // [chunk, vocab], then their gradients
  float* gradients;   // [chunk, dim]
  size_t* rows;       // the counted rows of a chunk
  Pieces(const Plan& p, const LinearCrossEntropyArgs& args, Arena& arena)
      : losses(arena.Take<double>(p.chunk)),
        hidden(arena.Take<std::byte>(p.chunk * p.dim * SizeOf(args.hidden.dtype))),
        logits(arena.Take<float>(p.chunk * p.vocab)),
        gradients(args.d_hidden ? arena.Take<float>(p.chunk * p.dim) : nullptr),
        rows(arena.Take<size_t>(p.chunk)) {}
};

}  // namespace

size_t LinearCrossEntropyScratchBytes(const LinearCrossEntropyArgs& args, int threads) {
  const Plan p = PlanOf(args);
  Arena arena;
  Pieces(p, args, arena);
  return arena.bytes() + ProductScratchBytes(p, args, threads);
}

void LinearCrossEntropy(const LinearCrossEntropyArgs& args, Scratch scratch, Context& context) {
  const Plan p = PlanOf(args);
  CpuContext& cpu = static_cast<CpuContext&>(context);
  const size_t counted = RequireLabels("linear_cross_entropy", args.labels, args.weight.rows);
  Arena arena(scratch);
  const Pieces w(p, args, arena);
  const Scratch product_scratch = arena.Rest(scratch);
  const int32_t* labels = args.labels.as<const int32_t>();
  const size_t hidden_bytes = p.dim * SizeOf(args.hidden.dtype);
  const size_t gradient_bytes = p.dim * sizeof(float);
  const auto gradient_row = [&](size_t row) { return args.d_hidden.as<float>() + row * p.dim; };

  const size_t chunks = (counted + p.chunk - 1) / p.chunk;
  double loss = 0;
  size_t next = 0;  // first row that has not been looked at
  for (size_t chunk = 0; chunk < chunks; ++chunk) {
    const Range range = Split(counted, chunks, chunk);  // chunks of nearly the same size
    const size_t rows = range.end - range.begin;
    for (size_t i = 0; i < rows; ++next) {
      if (labels[next] == kIgnoredLabel) continue;
      w.rows[i] = next;
      std::memcpy(w.hidden + i * hidden_bytes,
                  args.hidden.as<const std::byte>() + next * hidden_bytes, hidden_bytes);
      ++i;
    }
    const GemmSegment forward = LogitSegment(p, args, w.hidden);
    Gemm(LogitProduct(p, args.weight.dtype, &forward, rows, w.logits), product_scratch, &cpu);
    cpu.ParallelFor(rows, [&](size_t i, size_t) {
      float* logits = w.logits + i * p.vocab;
      const size_t label = static_cast<size_t>(labels[w.rows[i]]);
      const double lse = LogSumExp(logits, DType::kF32, p.vocab);
      w.losses[i] = lse - static_cast<double>(logits[label]);
      if (!args.d_hidden) return;
      SoftmaxGradient(logits, DType::kF32, p.vocab, static_cast<float>(lse), label, 1, logits);
    });
    for (size_t i = 0; i < rows; ++i) loss += w.losses[i];
    if (!args.d_hidden) continue;
    const GemmSegment backward = GradientSegment(p, args, w.logits);
    Gemm(GradientProduct(p, args.weight.dtype, &backward, rows, w.gradients), product_scratch,
         &cpu);
    for (size_t i = 0; i < rows; ++i) {
      std::memcpy(gradient_row(w.rows[i]), w.gradients + i * p.dim, gradient_bytes);
    }
  }
  if (args.d_hidden) {
    for (size_t row = 0; row < p.rows; ++row) {
      if (labels[row] == kIgnoredLabel) std::memset(gradient_row(row), 0, gradient_bytes);
    }
  }
  *args.loss.as<float>() = static_cast<float>(loss);
  *args.count.as<float>() = static_cast<float>(counted);
}

}  // namespace lora::cpu
