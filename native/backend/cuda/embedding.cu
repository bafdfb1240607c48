#include <type_traits>

#include "backend/cuda/device/embedding.cuh"
#include "backend/cuda/expand.h"
#include "backend/cuda/ids.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"

namespace lora::cuda {
namespace {

void CheckRows(const TensorView& ids, int64_t rows, Scratch scratch, Context& context) {
  auto& cuda = static_cast<CudaContext&>(context);
  const IdCheck check = CheckIds("embedding", ids, rows, kIgnoreNone, scratch.data(), cuda);
  if (check.first_bad >= 0) {
    Throw("ERR_DATA", "embedding", "expected ids from 0 to ", rows - 1, " but received ", check.bad,
          " at position ", check.first_bad);
  }
}

}  // namespace

size_t ScratchBytes(const EmbeddingArgs&, int) { return kIdCheckBytes; }
size_t ScratchBytes(const EmbeddingBackwardArgs&, int) { return kIdCheckBytes; }

void Run(const EmbeddingBackwardArgs& args, Scratch scratch, Context& context) {
  CheckRows(args.ids, args.dw.dim(0), scratch, context);
  const device::EmbeddingBackwardParams params{Data<float>(args.g), Data<int32_t>(args.ids),
                                               Data<float>(args.dw), args.ids.numel(),
                                               args.dw.dim(1)};
  Launch<device::EmbeddingBackward>("embedding", context, Blocks(params.n, 1), params);
}

void Run(const EmbeddingArgs& args, Scratch scratch, Context& context) {
  CheckRows(args.ids, args.weight.rows, scratch, context);
  if (args.weight.cols == 0) return;
  if (IsQuantized(args.weight.format)) {
    return ExpandRows("embedding", args.weight, Data<int32_t>(args.ids), args.ids.numel(),
                      args.y.data, context);
  }
  const DType stored = StoredDType(args.weight.format);
  if (stored != args.y.dtype) {
    const device::WidenedEmbeddingParams params{
        {args.weight.data, stored}, Data<int32_t>(args.ids), Data<float>(args.y), args.weight.cols};
    Launch<device::WidenedEmbedding>("embedding", context, Blocks(args.ids.numel(), 1), params);
    return;
  }
  ForFloat(args.y.dtype, [&]<class Number>() {
    using T = std::conditional_t<sizeof(Number) == 4, uint32_t, uint16_t>;
    const device::EmbeddingParams<T> params{static_cast<const T*>(args.weight.data),
                                            Data<int32_t>(args.ids), Data<T>(args.y),
                                            args.weight.cols};
    Launch<device::Embedding<T>>("embedding", context, Blocks(args.ids.numel(), 1), params);
  });
}

template PlannedCall Plan(const EmbeddingBackwardArgs&, int);
template PlannedCall Plan(const EmbeddingArgs&, int);
}  // namespace lora::cuda
