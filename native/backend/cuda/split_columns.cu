#include "backend/cuda/device/columns.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"

namespace lora::cuda {
namespace {

template <class U>
void LaunchColumns(const char* op, const TensorView& whole, const std::vector<TensorView>& parts,
                   const std::vector<int64_t>& sizes, bool joins, Context& context) {
  using Params = device::ColumnsParams<U>;
  static_assert(Params::kParts == kMaxColumnParts);
  Params params{};
  params.whole = Data<U>(whole);
  for (size_t i = 0; i < sizes.size(); ++i) {
    params.parts[i] = Data<U>(parts[i]);
    params.sizes[i] = sizes[i];
  }
  params.rows = whole.dim(0);
  params.columns = whole.dim(1);
  params.joins = joins;
  Launch<device::Columns<U>>(op, context, Blocks(params.rows * params.chunks(), Params::kThreads),
                             params);
}

void MoveColumns(const char* op, const TensorView& whole, const std::vector<TensorView>& parts,
                 const std::vector<int64_t>& sizes, bool joins, Context& context) {
  if (SizeOf(whole.dtype) == 2)
    return LaunchColumns<uint16_t>(op, whole, parts, sizes, joins, context);
  LaunchColumns<uint32_t>(op, whole, parts, sizes, joins, context);
}

}  // namespace

void Run(const SplitColumnsArgs& args, Scratch, Context& context) {
  MoveColumns("split_columns", args.x, args.parts, args.sizes, false, context);
}

void Run(const JoinColumnsArgs& args, Scratch, Context& context) {
  MoveColumns("join_columns", args.y, args.parts, args.sizes, true, context);
}

template PlannedCall Plan(const SplitColumnsArgs&, int);
template PlannedCall Plan(const JoinColumnsArgs&, int);
}  // namespace lora::cuda
