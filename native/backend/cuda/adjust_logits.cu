#include "backend/cuda/device/adjust_logits.cuh"
#include "backend/cuda/ids.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"

namespace lora::cuda {

size_t ScratchBytes(const AdjustLogitsArgs&, int) { return kIdCheckBytes; }

void Run(const AdjustLogitsArgs& args, Scratch scratch, Context& context) {
  constexpr const char* kOp = "adjust_logits";
  const auto require = [&](const char* name, const TensorView& ids, int64_t limit) {
    const IdCheck check =
        CheckIds(kOp, ids, limit, -1, scratch.data(), static_cast<CudaContext&>(context));
    if (check.first_bad >= 0) ThrowEntry(name, limit, check.first_bad, check.bad);
  };
  require("rows", args.rows, args.logits.dim(0));
  require("ids", args.ids, args.logits.dim(1));
  ForFloat(args.logits.dtype, [&]<class T>() {
    using Params = device::AdjustLogitsParams<T>;
    const int64_t entries = args.rows.dim(0);
    Launch<device::AdjustLogits<T>>(
        kOp, context, Blocks(entries, Params::kThreads),
        Params{Data<T>(args.logits), args.logits.dim(1), entries, Data<const int32_t>(args.rows),
               Data<const int32_t>(args.ids), Data<const float>(args.factors),
               Data<const float>(args.addends)});
  });
}

void Run(const MaskLogitsArgs& args, Scratch, Context& context) {
  ForFloat(args.logits.dtype, [&]<class T>() {
    using Params = device::MaskLogitsParams<T>;
    const int64_t vocab = args.logits.dim(1);
    device::LaunchShape shape = Blocks(args.logits.dim(0), 1);
    shape.grid_y = static_cast<unsigned>(CeilDiv(vocab, int64_t{Params::kThreads}));
    Launch<device::MaskLogits<T>>(
        "mask_logits", context, shape,
        Params{Data<T>(args.logits), vocab, args.bits.dim(1), Data<const int32_t>(args.bits)});
  });
}

template PlannedCall Plan(const AdjustLogitsArgs&, int);
template PlannedCall Plan(const MaskLogitsArgs&, int);
}  // namespace lora::cuda
