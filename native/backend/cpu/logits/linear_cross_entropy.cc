// With logits = scale·W·h, or scale·cap·tanh(W·h/cap):
// losses   = lse(logits) − logits[label] of counted rows; loss is their sum
// d_hidden = scale·Wᵀ·(softmax(logits) − onehot), each times the slope of its cap
//
// Counted rows are gathered into chunks. Both directions go over the vocabulary in parts, so that
// what one product writes is still in cache for the next step. Per part:
//   forward   logits = hidden · W_partᵀ [rows, part] in f32, which are added to Σ exp of each row;
//             their exponentials, to a base for each row and part and times the slopes of a cap,
//             are kept in scratch
//   backward  gradient = softmax − onehot [rows, part];  d_hidden += gradient · W_part
// Exponentials and gradient are bf16 where W is bf16, so a softmax is rounded twice there. W is
// read once per chunk and direction, and transposed once per chunk.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "backend/cpu/kernels.h"
#include "backend/cpu/logits/cross_entropy_rows.h"
#include "backend/cpu/product/gemm.h"
#include "backend/cpu/runtime/arena.h"
#include "backend/cpu/runtime/context.h"
#include "core/maths/ceil_div.h"
#include "core/ops/element.h"

namespace lora::cpu {
namespace {

constexpr size_t kPart = kExpBlock;  // tokens; a multiple of every panel width
constexpr size_t kLine = 32;         // elements of either dtype that are whole cache lines

struct LossPlan {
  size_t rows, dim, vocab;
  size_t chunk;   // rows whose exponentials are held at once, at most
  size_t part;    // tokens per part, at most
  size_t stride;  // of the rows of a part, which do not share cache sets
  size_t parts;

  explicit LossPlan(const LinearCrossEntropyArgs& args)
      : rows(static_cast<size_t>(args.hidden.dim(0))),
        dim(static_cast<size_t>(args.hidden.dim(1))),
        vocab(static_cast<size_t>(args.weight.rows)) {
    const size_t row_bytes = SizeOf(args.weight.dtype) * std::max<size_t>(1, vocab);
    const size_t fit = std::clamp(kChunkBytes / row_bytes, kMinChunk, kMaxChunk);
    chunk = std::min(std::max<size_t>(1, rows), fit);
    part = std::min(vocab, kPart);
    stride = RoundUp(part, kLine) + kLine;
    parts = CeilDiv(vocab, kPart);
  }
};

struct Pieces {
  std::byte* hidden;        // [chunk, dim] act
  float* logits;            // [chunk, stride] of a part
  std::byte* exponentials;  // [chunk, vocab] in the dtype of W; absent without d_hidden
  float* bases;             // [chunk, parts], of these
  float* of_labels;         // [chunk], the logits of the labels
  std::byte* gradients;     // [chunk, stride] of the logits of a part, in the dtype of W
  float* d_hidden;          // [chunk, dim]
  LogSum* sums;             // [chunk]
  EntropySum* entropies;    // [chunk], or absent
  double* lse;              // [chunk]
  size_t* rows;             // [chunk], where the gathered rows come from

  Pieces(const LossPlan& p, const LinearCrossEntropyArgs& args, Arena& arena)
      : hidden(arena.Take<std::byte>(p.chunk * p.dim * SizeOf(args.hidden.dtype))),
        logits(arena.Take<float>(p.chunk * p.stride)),
        exponentials(
            OfGradient<std::byte>(args, arena, p.chunk * p.vocab * SizeOf(args.weight.dtype))),
        bases(OfGradient<float>(args, arena, p.chunk * p.parts)),
        of_labels(arena.Take<float>(p.chunk)),
        gradients(
            OfGradient<std::byte>(args, arena, p.chunk * p.stride * SizeOf(args.weight.dtype))),
        d_hidden(OfGradient<float>(args, arena, p.chunk * p.dim)),
        sums(arena.Take<LogSum>(p.chunk)),
        entropies(args.entropies ? arena.Take<EntropySum>(p.chunk) : nullptr),
        lse(arena.Take<double>(p.chunk)),
        rows(arena.Take<size_t>(p.chunk)) {}

 private:
  template <class T>
  static T* OfGradient(const LinearCrossEntropyArgs& args, Arena& arena, size_t count) {
    return args.d_hidden ? arena.Take<T>(count) : nullptr;
  }
};

// One product of a chunk with a part of W. The segment is a member because GemmArgs only
// points to its segments.
class PartProduct {
 public:
  PartProduct(const PanelSource& part, size_t k, DType weight_dtype, size_t rows, size_t outputs) {
    segment_.w = part;
    segment_.k = k;
    gemm_.operands = OperandsOf(weight_dtype == DType::kBF16);
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

size_t ProductScratchBytes(const LossPlan& p, const LinearCrossEntropyArgs& args, int threads) {
  const DType dtype = args.weight.dtype;
  const PartProduct logits(PanelsOf(args.weight), p.dim, dtype, p.chunk, p.part);
  if (!args.d_hidden) return logits.ScratchBytes(threads);
  const PartProduct d_hidden(TransposedPanelsOf(args.weight), p.part, dtype, p.chunk, p.dim);
  return std::max(logits.ScratchBytes(threads), d_hidden.ScratchBytes(threads));
}

void RunChunks(const LinearCrossEntropyArgs& args, const LossPlan& p, Scratch scratch,
               CpuContext& cpu) {
  const int64_t labels_that_count =
      CountLabels("linear_cross_entropy", args.labels, args.weight.rows);
  if (!args.losses) RequireLabels("linear_cross_entropy", labels_that_count);
  const auto counted = static_cast<size_t>(labels_that_count);
  Arena arena(scratch);
  const Pieces w(p, args, arena);
  const Scratch product_scratch = arena.Rest(scratch);
  const DType dtype = args.weight.dtype;
  const int32_t* labels = args.labels.as<const int32_t>();
  const std::byte* hidden = args.hidden.as<const std::byte>();
  const size_t hidden_bytes = p.dim * SizeOf(args.hidden.dtype);
  const size_t gradient_bytes = p.dim * sizeof(float);
  for (const TensorView& values : {args.losses, args.entropies})
    if (values) std::memset(values.data, 0, values.bytes());

  // Returns the pool for `work` logits, or null where waking its threads would take longer.
  const auto pool = [&](size_t work) { return work < (size_t{1} << 14) ? nullptr : &cpu; };

  // Where the exponentials of a row of the chunk are, from a token on.
  const auto kept = [&](size_t i, size_t token) {
    return w.exponentials + (i * p.vocab + token) * SizeOf(dtype);
  };

  const float cap = args.cap * args.scale;  // of scaled logits
  // The slope of a logit that was capped.
  const auto slope = [&](float logit) {
    const double part = cap == 0 ? 0 : static_cast<double>(logit) / cap;
    return 1 - part * part;
  };

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
      if (args.entropies) w.entropies[i] = EntropySum();
      std::memcpy(w.hidden + i * hidden_bytes, hidden + next * hidden_bytes, hidden_bytes);
      ++i;
    }

    for (size_t begin = 0; begin < p.vocab; begin += p.part) {
      const size_t count = std::min(p.part, p.vocab - begin);
      PartProduct product(PanelsOf(args.weight, begin), p.dim, dtype, rows, count);
      product.Run(w.hidden, args.hidden.dtype, p.dim, w.logits, p.stride, false, product_scratch,
                  cpu);
      ParallelFor(pool(rows * count), rows, [&](size_t i, size_t) {
        float* const logits = w.logits + i * p.stride;
        if (args.scale != 1) ScaleRow(logits, DType::kF32, count, args.scale, logits);
        if (cap != 0) CapRow(logits, count, cap);
        if (args.entropies) AddEntropy(logits, DType::kF32, count, w.entropies[i]);
        const size_t label = static_cast<size_t>(labels[w.rows[i]]);
        if (label >= begin && label < begin + count) w.of_labels[i] = logits[label - begin];
        if (!args.d_hidden) return AddLogits(logits, DType::kF32, count, w.sums[i]);
        w.bases[i * p.parts + begin / kPart] =
            AddAndExponentiate(logits, count, w.sums[i], dtype, kept(i, begin));
        if (cap != 0) TimesCapSlopes(logits, count, cap, dtype, kept(i, begin));
      });
    }
    for (size_t i = 0; i < rows; ++i) {
      w.lse[i] = w.sums[i].Log();
      const double own = w.lse[i] - static_cast<double>(w.of_labels[i]);
      loss += own;
      if (args.losses) args.losses.as<float>()[w.rows[i]] = static_cast<float>(own);
      if (args.entropies)
        args.entropies.as<float>()[w.rows[i]] = static_cast<float>(w.entropies[i].Entropy());
    }
    if (!args.d_hidden) continue;

    for (size_t begin = 0; begin < p.vocab; begin += p.part) {
      const size_t count = std::min(p.part, p.vocab - begin);
      ParallelFor(pool(rows * count), rows, [&](size_t i, size_t) {
        const double base = w.bases[i * p.parts + begin / kPart];
        // A part of −∞ alone has the base 0, which may be above lse: its exponentials are 0.
        const double exponent = std::min(base - w.lse[i], 0.0);
        std::byte* const gradient = w.gradients + i * p.stride * SizeOf(dtype);
        const auto factor = static_cast<float>(args.scale * std::exp(exponent));
        ScaleRow(kept(i, begin), dtype, count, factor, gradient);
        const size_t label = static_cast<size_t>(labels[w.rows[i]]);
        if (label < begin || label >= begin + count) return;
        const double of_label = args.scale *
                                (std::exp(static_cast<double>(w.of_labels[i]) - w.lse[i]) - 1) *
                                slope(w.of_labels[i]);
        Store(TensorView(gradient, dtype, {static_cast<int64_t>(count)}),
              static_cast<int64_t>(label - begin), of_label);
      });
      PartProduct product(TransposedPanelsOf(args.weight, begin), count, dtype, rows, p.dim);
      product.Run(w.gradients, dtype, p.stride, w.d_hidden, p.dim, begin > 0, product_scratch, cpu);
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

}  // namespace

PlannedCall PlanCall(const LinearCrossEntropyArgs& args, int threads) {
  const LossPlan p(args);
  Arena arena;
  Pieces(p, args, arena);
  return {arena.bytes() + ProductScratchBytes(p, args, threads),
          [args, p](Scratch scratch, Context& context) {
            RunChunks(args, p, scratch, static_cast<CpuContext&>(context));
          }};
}

template PlannedCall Plan(const LinearCrossEntropyArgs&, int);
}  // namespace lora::cpu
