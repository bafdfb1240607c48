// loss     = Σ over counted rows of lse(W·h) − (W·h)[label]
// d_hidden = Wᵀ·(softmax(W·h) − onehot)
//
// Counted rows are gathered into chunks, whose f32 logits [rows, vocab] are in scratch. Both
// directions go over the vocabulary in parts, so that what one product writes is still in cache for
// the next step. Per part:
//   forward   logits = hidden · W_partᵀ, which are added to Σ exp of each row and replaced by their
//             exponentials, to a base for each row and part
//   backward  gradient = softmax − onehot [rows, part];  d_hidden += gradient · W_part
// The gradient is bf16 where W is bf16. W is read once per chunk and direction; the logits are
// written once and read once more.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "backend/cpu/arena.h"
#include "backend/cpu/context.h"
#include "backend/cpu/cross_entropy_rows.h"
#include "backend/cpu/gemm.h"
#include "backend/cpu/kernels.h"

namespace lora::cpu {
namespace {

// A chunk is large enough to pay for reading W, and small enough for the memory of a laptop.
constexpr size_t kLogitBytes = size_t{48} << 20;
constexpr size_t kMinChunk = 16;
constexpr size_t kPart = kExpBlock;  // tokens; a multiple of every panel width

struct Plan {
  size_t rows, dim, vocab;
  size_t chunk;  // rows of logits held at once, at most
  size_t part;   // tokens per part, at most
  size_t parts;

  explicit Plan(const LinearCrossEntropyArgs& args)
      : rows(static_cast<size_t>(args.hidden.dim(0))),
        dim(static_cast<size_t>(args.hidden.dim(1))),
        vocab(static_cast<size_t>(args.weight.rows)) {
    const size_t fit = kLogitBytes / (sizeof(float) * std::max<size_t>(1, vocab));
    chunk = std::min(rows, std::max(kMinChunk, fit));
    part = std::min(vocab, kPart);
    parts = CeilDiv(vocab, kPart);
  }
};

struct Pieces {
  std::byte* hidden;     // [chunk, dim] act
  float* logits;         // [chunk, vocab], then their exponentials
  float* bases;          // [chunk, parts], of these
  float* of_labels;      // [chunk], the logits of the labels
  std::byte* gradients;  // [chunk, part] of the logits, in the dtype of W
  float* d_hidden;       // [chunk, dim]
  LogSum* sums;          // [chunk]
  double* lse;           // [chunk]
  size_t* rows;          // [chunk], where the gathered rows come from

  Pieces(const Plan& p, const LinearCrossEntropyArgs& args, Arena& arena)
      : hidden(arena.Take<std::byte>(p.chunk * p.dim * SizeOf(args.hidden.dtype))),
        logits(arena.Take<float>(p.chunk * p.vocab)),
        bases(arena.Take<float>(p.chunk * p.parts)),
        of_labels(arena.Take<float>(p.chunk)),
        gradients(args.d_hidden
                      ? arena.Take<std::byte>(p.chunk * p.part * SizeOf(args.weight.dtype))
                      : nullptr),
        d_hidden(args.d_hidden ? arena.Take<float>(p.chunk * p.dim) : nullptr),
        sums(arena.Take<LogSum>(p.chunk)),
        lse(arena.Take<double>(p.chunk)),
        rows(arena.Take<size_t>(p.chunk)) {}
};

// One product of a chunk with a part of W. The segment is a member because GemmArgs only
// points to its segments.
class PartProduct {
 public:
  PartProduct(const PanelSource& part, size_t k, DType weight_dtype, size_t rows, size_t outputs) {
    segment_.w = part;
    segment_.k = k;
    gemm_.dtype = weight_dtype;
    gemm_.m = rows;
    gemm_.n = outputs;
    gemm_.segments = std::span(&segment_, 1);
    gemm_.ldy = outputs;
  }
  PartProduct(const PartProduct&) = delete;

  void Run(const void* x, DType x_dtype, size_t ldx, float* y, size_t ldy, bool accumulate,
           Scratch scratch, CpuContext& cpu) {
    segment_.x = x;
    segment_.x_dtype = x_dtype;
    segment_.ldx = ldx;
    gemm_.y = y;
    gemm_.ldy = ldy;
    gemm_.accumulate = accumulate;
    Gemm(gemm_, scratch, &cpu);
  }
  size_t ScratchBytes(int threads) const { return GemmScratchBytes(gemm_, threads); }

 private:
  GemmSegment segment_;
  GemmArgs gemm_;
};

size_t ProductScratchBytes(const Plan& p, const LinearCrossEntropyArgs& args, int threads) {
  const DType dtype = args.weight.dtype;
  const PartProduct logits(PanelsOf(args.weight), p.dim, dtype, p.chunk, p.part);
  if (!args.d_hidden) return logits.ScratchBytes(threads);
  const PartProduct d_hidden(TransposedPanelsOf(args.weight), p.part, dtype, p.chunk, p.dim);
  return std::max(logits.ScratchBytes(threads), d_hidden.ScratchBytes(threads));
}

}  // namespace

size_t ScratchBytes(const LinearCrossEntropyArgs& args, int threads) {
  const Plan p(args);
  Arena arena;
  Pieces(p, args, arena);
  return arena.bytes() + ProductScratchBytes(p, args, threads);
}

void Run(const LinearCrossEntropyArgs& args, Scratch scratch, Context& context) {
  const Plan p(args);
  CpuContext& cpu = static_cast<CpuContext&>(context);
  const int64_t labels_that_count =
      CountLabels("linear_cross_entropy", args.labels, args.weight.rows);
  RequireLabels("linear_cross_entropy", labels_that_count);
  const auto counted = static_cast<size_t>(labels_that_count);
  Arena arena(scratch);
  const Pieces w(p, args, arena);
  const Scratch product_scratch = arena.Rest(scratch);
  const DType dtype = args.weight.dtype;
  const int32_t* labels = args.labels.as<const int32_t>();
  const std::byte* hidden = args.hidden.as<const std::byte>();
  const size_t hidden_bytes = p.dim * SizeOf(args.hidden.dtype);
  const size_t gradient_bytes = p.dim * sizeof(float);

  // Returns the pool for `work` logits, or null where waking its threads would take longer.
  const auto pool = [&](size_t work) { return work < (size_t{1} << 14) ? nullptr : &cpu; };

  const size_t chunks = (counted + p.chunk - 1) / p.chunk;
  double loss = 0;
  size_t next = 0;  // the first row that no chunk has taken yet
  for (size_t chunk = 0; chunk < chunks; ++chunk) {
    const Range range = Split(counted, chunks, chunk);
    const size_t rows = range.end - range.begin;
    for (size_t i = 0; i < rows; ++next) {
      if (labels[next] == kIgnoredLabel) continue;
      w.rows[i] = next;
      w.sums[i] = LogSum();
      std::memcpy(w.hidden + i * hidden_bytes, hidden + next * hidden_bytes, hidden_bytes);
      ++i;
    }

    for (size_t begin = 0; begin < p.vocab; begin += p.part) {
      const size_t count = std::min(p.part, p.vocab - begin);
      PartProduct product(PanelsOf(args.weight, begin), p.dim, dtype, rows, count);
      product.Run(w.hidden, args.hidden.dtype, p.dim, w.logits + begin, p.vocab, false,
                  product_scratch, cpu);
      ParallelFor(pool(rows * count), rows, [&](size_t i, size_t) {
        float* const logits = w.logits + i * p.vocab;
        const size_t label = static_cast<size_t>(labels[w.rows[i]]);
        if (label >= begin && label < begin + count) w.of_labels[i] = logits[label];
        w.bases[i * p.parts + begin / kPart] = AddAndExponentiate(logits + begin, count, w.sums[i]);
      });
    }
    for (size_t i = 0; i < rows; ++i) {
      w.lse[i] = w.sums[i].Log();
      loss += w.lse[i] - static_cast<double>(w.of_labels[i]);
    }
    if (!args.d_hidden) continue;

    for (size_t begin = 0; begin < p.vocab; begin += p.part) {
      const size_t count = std::min(p.part, p.vocab - begin);
      ParallelFor(pool(rows * count), rows, [&](size_t i, size_t) {
        const size_t label = static_cast<size_t>(labels[w.rows[i]]);
        const double base = w.bases[i * p.parts + begin / kPart];
        // A part of −∞ alone has the base 0, which may be above lse: its exponentials are 0.
        const double exponent = std::min(base - w.lse[i], 0.0);
        ScaleExponentials(
            w.logits + i * p.vocab + begin, count, static_cast<float>(std::exp(exponent)),
            label < begin ? count : label - begin, dtype, w.gradients + i * count * SizeOf(dtype));
      });
      PartProduct product(TransposedPanelsOf(args.weight, begin), count, dtype, rows, p.dim);
      product.Run(w.gradients, dtype, count, w.d_hidden, p.dim, begin > 0, product_scratch, cpu);
    }
    for (size_t i = 0; i < rows; ++i) {
      std::memcpy(args.d_hidden.as<float>() + w.rows[i] * p.dim, w.d_hidden + i * p.dim,
                  gradient_bytes);
    }
  }
  for (size_t row = 0; args.d_hidden && row < p.rows; ++row) {
    if (labels[row] != kIgnoredLabel) continue;
    std::memset(args.d_hidden.as<float>() + row * p.dim, 0, gradient_bytes);
  }
  *args.loss.as<float>() = static_cast<float>(loss);
  *args.count.as<float>() = static_cast<float>(counted);
}

}  // namespace lora::cpu
