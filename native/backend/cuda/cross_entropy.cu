#include "backend/cuda/cross_entropy.h"
#include "backend/cuda/device/cross_entropy.cuh"
#include "backend/cuda/ids.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"
#include "core/maths/ceil_div.h"

namespace lora::cuda {
namespace {

// The checks refuse f16 activations, so only f32 and bf16 are instantiated.
template <class F>
void ForLogits(const char* op, DType dtype, F&& f) {
  if (dtype == DType::kF32) return f.template operator()<float>();
  if (dtype == DType::kBF16) return f.template operator()<device::BF16>();
  Throw("ERR_UNSUPPORTED", op, "no kernel for logits of dtype ", NameOf(dtype));
}

// Scratch for the losses of the rows, for the check of the labels, and for log-sums that nobody
// keeps.
struct ForwardScratch {
  void* check;
  double* losses;
  float* lse;
  ForwardScratch(std::byte* data, int64_t rows)
      : check(data),
        losses(reinterpret_cast<double*>(data + kIdCheckBytes)),
        lse(reinterpret_cast<float*>(losses + rows)) {}
};

bool NeedsOwnLogSums(const CrossEntropyForwardArgs& args) { return args.entropies && !args.lse; }

LogitRows RowsOf(const TensorView& logits, const TensorView& labels) {
  return {logits.data,   logits.dtype,  logits.dim(0),
          logits.dim(1), logits.dim(1), Data<const int32_t>(labels)};
}

}  // namespace

void SoftmaxLoss(const char* op, const LogitRows& rows, double* losses, float* lse, bool every_lse,
                 Context& context) {
  ForLogits(op, rows.dtype, [&]<class T>() {
    using Params = device::SoftmaxLossParams<T>;
    Launch<device::SoftmaxLoss<T>>(op, context, Blocks(rows.rows, 1),
                                   Params{static_cast<const T*>(rows.logits), rows.vocab,
                                          rows.pitch, rows.labels, losses, lse, every_lse});
  });
}

void RowLoss(const char* op, const RowParts& parts, int64_t rows, float scale, float cap,
             double* losses, const RowValues& values, Context& context) {
  using Params = device::RowLossParams;
  Launch<device::RowLoss>(
      op, context, Blocks(rows, Params::kThreads / 32),
      Params{reinterpret_cast<device::RowPart*>(parts.parts), parts.label_logits, rows, parts.count,
             values.list, losses, values.losses_to, values.entropies_to, scale, cap});
}

void RowGradient(const char* op, const RowParts& parts, const LogitRows& rows, Context& context) {
  using Params = device::RowGradientParams<device::BF16>;
  device::LaunchShape shape = Blocks(rows.rows, 1);
  shape.grid_y = static_cast<unsigned>(CeilDiv(rows.vocab, Params::kColumns));
  Launch<device::RowGradient<device::BF16>>(
      op, context, shape,
      Params{reinterpret_cast<const device::RowPart*>(parts.parts), parts.label_logits, rows.labels,
             parts.count, rows.vocab, static_cast<device::BF16*>(rows.logits), rows.pitch,
             static_cast<uint32_t>(parts.columns)});
}

void SumLosses(const char* op, const double* losses, int64_t rows, int64_t counted, float* loss,
               float* count, Context& context) {
  Launch<device::SumLosses>(
      op, context, {},
      device::SumLossesParams{losses, rows, loss, count, static_cast<float>(counted)});
}

void StoreRowValues(const char* op, const LogitRows& rows, const RowValues& values,
                    Context& context) {
  if (values.losses_to == nullptr && values.entropies_to == nullptr) return;
  ForLogits(op, rows.dtype, [&]<class T>() {
    using Params = device::RowValuesParams<T>;
    Launch<device::StoreRowValues<T>>(
        op, context, Blocks(rows.rows, 1),
        Params{static_cast<const T*>(rows.logits), rows.vocab, rows.pitch, rows.labels,
               values.losses, values.lse, values.list, values.losses_to, values.entropies_to});
  });
}

void SoftmaxGradient(const char* op, const LogitRows& rows, const float* lse,
                     const LogitGradients& to, Context& context) {
  ForLogits(op, rows.dtype, [&]<class T>() {
    using Params = device::SoftmaxGradientParams<T>;
    device::LaunchShape shape = Blocks(rows.rows, 1);
    // The first vector may begin up to 7 elements before the row.
    shape.grid_y = static_cast<unsigned>(CeilDiv(rows.vocab + 7, Params::kColumns));
    Launch<device::SoftmaxGradient<T>>(
        op, context, shape,
        Params{static_cast<const T*>(rows.logits), rows.vocab, rows.pitch, rows.labels, lse, to.g,
               to.g_step, to.scale, to.cap, static_cast<T*>(to.dlogits), to.pitch});
  });
}

size_t ScratchBytes(const CrossEntropyForwardArgs& args, int) {
  const size_t of_row = sizeof(double) + (NeedsOwnLogSums(args) ? sizeof(float) : 0);
  return kIdCheckBytes + static_cast<size_t>(args.logits.dim(0)) * of_row;
}

void Run(const CrossEntropyForwardArgs& args, Scratch scratch, Context& context) {
  const LogitRows rows = RowsOf(args.logits, args.labels);
  const ForwardScratch own(scratch.data(), rows.rows);
  const int64_t counted = CheckLabels("cross_entropy", args.labels, rows.vocab, own.check,
                                      static_cast<CudaContext&>(context));
  if (!args.losses) RequireLabels("cross_entropy", counted);
  float* const lse = args.lse ? Data<float>(args.lse) : NeedsOwnLogSums(args) ? own.lse : nullptr;
  SoftmaxLoss("cross_entropy", rows, own.losses, lse, args.lse.defined, context);
  RowValues values{own.losses, lse};
  if (args.losses) values.losses_to = Data<float>(args.losses);
  if (args.entropies) values.entropies_to = Data<float>(args.entropies);
  StoreRowValues("cross_entropy", rows, values, context);
  SumLosses("cross_entropy", own.losses, rows.rows, counted, Data<float>(args.loss),
            Data<float>(args.count), context);
}

size_t ScratchBytes(const CrossEntropyBackwardArgs&, int) { return kIdCheckBytes; }

void Run(const CrossEntropyBackwardArgs& args, Scratch scratch, Context& context) {
  const LogitRows rows = RowsOf(args.logits, args.labels);
  CheckLabels("cross_entropy", args.labels, rows.vocab, scratch.data(),
              static_cast<CudaContext&>(context));
  LogitGradients to;
  to.g = Data<const float>(args.g);
  to.g_step = args.g.numel() == 1 ? 0 : 1;
  to.dlogits = args.dlogits.data;
  to.pitch = rows.vocab;
  SoftmaxGradient("cross_entropy", rows, Data<const float>(args.lse), to, context);
}

template PlannedCall Plan(const CrossEntropyForwardArgs&, int);
template PlannedCall Plan(const CrossEntropyBackwardArgs&, int);
}  // namespace lora::cuda
