#include <cstring>

#include "backend/cpu/kernels.h"
#include "backend/cpu/logits/cross_entropy_rows.h"
#include "backend/cpu/runtime/arena.h"
#include "backend/cpu/runtime/context.h"
#include "core/error.h"
#include "core/ops/element.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/logits/cross_entropy.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/logits/cross_entropy-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

void RunAddLogits(const void* logits, DType dtype, size_t n, LogSum& total) {
  if (dtype == DType::kBF16) {
    return RowLogSum(static_cast<const hwy::bfloat16_t*>(logits), n, total);
  }
  RowLogSum(static_cast<const float*>(logits), n, total);
}

float RunAddAndExponentiate(const float* logits, size_t n, LogSum& total, DType dtype,
                            void* exponentials) {
  if (dtype == DType::kBF16) {
    return RowExponentials(logits, n, total, static_cast<hwy::bfloat16_t*>(exponentials));
  }
  return RowExponentials(logits, n, total, static_cast<float*>(exponentials));
}

void RunAddEntropy(const void* logits, DType dtype, size_t n, EntropySum& total) {
  if (dtype == DType::kBF16) {
    return RowEntropy(static_cast<const hwy::bfloat16_t*>(logits), n, total);
  }
  RowEntropy(static_cast<const float*>(logits), n, total);
}

void RunScaleRow(const void* src, DType dtype, size_t n, float factor, void* dst) {
  if (dtype == DType::kBF16) {
    return RowScaled(static_cast<const hwy::bfloat16_t*>(src), n, factor,
                     static_cast<hwy::bfloat16_t*>(dst));
  }
  RowScaled(static_cast<const float*>(src), n, factor, static_cast<float*>(dst));
}

void RunCapRow(float* logits, size_t n, float cap) { RowCapped(logits, n, cap); }

void RunTimesCapSlopes(const float* logits, size_t n, float cap, DType dtype, void* values) {
  if (dtype == DType::kBF16) {
    return RowTimesCapSlopes(logits, n, cap, static_cast<hwy::bfloat16_t*>(values));
  }
  RowTimesCapSlopes(logits, n, cap, static_cast<float*>(values));
}

void RunSoftmaxGradient(const void* logits, DType dtype, size_t n, float lse, size_t label, float g,
                        void* gradient) {
  if (dtype == DType::kBF16) {
    return RowSoftmaxGradient(static_cast<const hwy::bfloat16_t*>(logits), n, lse, label, g,
                              static_cast<hwy::bfloat16_t*>(gradient));
  }
  RowSoftmaxGradient(static_cast<const float*>(logits), n, lse, label, g,
                     static_cast<float*>(gradient));
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {
namespace {

HWY_EXPORT(RunAddLogits);
HWY_EXPORT(RunAddAndExponentiate);
HWY_EXPORT(RunAddEntropy);
HWY_EXPORT(RunScaleRow);
HWY_EXPORT(RunCapRow);
HWY_EXPORT(RunTimesCapSlopes);
HWY_EXPORT(RunSoftmaxGradient);

size_t Rows(const TensorView& logits) { return static_cast<size_t>(logits.dim(0)); }
size_t Vocab(const TensorView& logits) { return static_cast<size_t>(logits.dim(1)); }

// Returns the pool, or null where waking its threads would take longer than the work.
CpuContext* PoolFor(const TensorView& logits, Context& context) {
  constexpr int64_t kWorthThreads = 1 << 14;  // logits
  return logits.numel() < kWorthThreads ? nullptr : static_cast<CpuContext*>(&context);
}
const std::byte* Row(const TensorView& logits, size_t row) {
  return logits.as<const std::byte>() + row * Vocab(logits) * SizeOf(logits.dtype);
}

}  // namespace

void AddLogits(const void* logits, DType dtype, size_t n, LogSum& total) {
  HWY_DYNAMIC_DISPATCH(RunAddLogits)(logits, dtype, n, total);
}

float AddAndExponentiate(const float* logits, size_t n, LogSum& total, DType dtype,
                         void* exponentials) {
  return HWY_DYNAMIC_DISPATCH(RunAddAndExponentiate)(logits, n, total, dtype, exponentials);
}

void AddEntropy(const void* logits, DType dtype, size_t n, EntropySum& total) {
  HWY_DYNAMIC_DISPATCH(RunAddEntropy)(logits, dtype, n, total);
}

void ScaleRow(const void* src, DType dtype, size_t n, float factor, void* dst) {
  HWY_DYNAMIC_DISPATCH(RunScaleRow)(src, dtype, n, factor, dst);
}

void CapRow(float* logits, size_t n, float cap) { HWY_DYNAMIC_DISPATCH(RunCapRow)(logits, n, cap); }

void TimesCapSlopes(const float* logits, size_t n, float cap, DType dtype, void* values) {
  HWY_DYNAMIC_DISPATCH(RunTimesCapSlopes)(logits, n, cap, dtype, values);
}

void SoftmaxGradient(const void* logits, DType dtype, size_t n, float lse, size_t label, float g,
                     void* gradient) {
  HWY_DYNAMIC_DISPATCH(RunSoftmaxGradient)(logits, dtype, n, lse, label, g, gradient);
}

size_t ScratchBytes(const CrossEntropyForwardArgs& args, int) {
  Arena arena;
  arena.Take<double>(Rows(args.logits));
  return arena.bytes();
}

// Sums the losses in row order, in double, so that the result is the same for any
// number of threads.
void Run(const CrossEntropyForwardArgs& args, Scratch scratch, Context& context) {
  const TensorView& logits = args.logits;
  const int32_t* labels = args.labels.as<const int32_t>();
  const size_t rows = Rows(logits), vocab = Vocab(logits);
  const int64_t count = CountLabels("cross_entropy", args.labels, logits.dim(1));
  if (!args.losses) RequireLabels("cross_entropy", count);
  Arena arena(scratch);
  double* losses = arena.Take<double>(rows);
  ParallelFor(PoolFor(logits, context), rows, [&](size_t row, size_t) {
    losses[row] = 0;
    if (args.losses) args.losses.as<float>()[row] = 0;
    if (args.entropies) args.entropies.as<float>()[row] = 0;
    const bool counts = labels[row] != kIgnoredLabel;
    if (!counts && !args.lse) return;
    LogSum total;
    AddLogits(Row(logits, row), logits.dtype, vocab, total);
    const double lse = total.Log();
    if (args.lse) args.lse.as<float>()[row] = static_cast<float>(lse);
    if (!counts) return;
    losses[row] = lse - Load(logits.dtype, Row(logits, row), labels[row]);
    if (args.losses) args.losses.as<float>()[row] = static_cast<float>(losses[row]);
    if (!args.entropies) return;
    EntropySum entropy;
    AddEntropy(Row(logits, row), logits.dtype, vocab, entropy);
    args.entropies.as<float>()[row] = static_cast<float>(entropy.Entropy());
  });
  double loss = 0;
  for (size_t row = 0; row < rows; ++row) loss += losses[row];
  *args.loss.as<float>() = static_cast<float>(loss);
  *args.count.as<float>() = static_cast<float>(count);
}

void Run(const CrossEntropyBackwardArgs& args, Scratch, Context& context) {
  const TensorView& logits = args.logits;
  const int32_t* labels = args.labels.as<const int32_t>();
  const size_t vocab = Vocab(logits), row_bytes = vocab * SizeOf(logits.dtype);
  CountLabels("cross_entropy", args.labels, logits.dim(1));
  const float* const g = args.g.as<const float>();
  const size_t step = args.g.numel() == 1 ? 0 : 1;
  ParallelFor(PoolFor(logits, context), Rows(logits), [&](size_t row, size_t) {
    std::byte* gradient = args.dlogits.as<std::byte>() + row * row_bytes;
    if (labels[row] == kIgnoredLabel) {
      std::memset(gradient, 0, row_bytes);
      return;
    }
    SoftmaxGradient(Row(logits, row), logits.dtype, vocab, args.lse.as<const float>()[row],
                    static_cast<size_t>(labels[row]), g[row * step], gradient);
  });
}

template PlannedCall Plan(const CrossEntropyForwardArgs&, int);
template PlannedCall Plan(const CrossEntropyBackwardArgs&, int);
}  // namespace lora::cpu
#endif  // HWY_ONCE
