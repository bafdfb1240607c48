#include "backend/cuda/context.h"
#include "backend/cuda/device/rope.cuh"
#include "backend/cuda/ids.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"

namespace lora::cuda {

size_t ScratchBytes(const RopeArgs& args, int) { return args.positions ? kIdCheckBytes : 0; }

void Run(const RopeArgs& args, Scratch scratch, Context& context) {
  if (args.positions) {
    const int64_t table = args.cos.dim(0);
    const IdCheck check = CheckIds("rope", args.positions, table, kIgnoreNone, scratch.data(),
                                   static_cast<CudaContext&>(context));
    if (check.first_bad >= 0) {
      Throw("ERR_DATA", "rope", "expected positions from 0 to ", table - 1, " but received ",
            check.bad);
    }
  }
  ForFloat(args.x.dtype, [&]<class T>() {
    using Params = device::RopeParams<T>;
    Params params{};
    params.x = Data<const T>(args.x);
    params.cos = Data<const float>(args.cos);
    params.sin = Data<const float>(args.sin);
    params.positions = args.positions ? Data<const int32_t>(args.positions) : nullptr;
    params.y = Data<T>(args.y);
    params.tokens = args.x.dim(0) * args.x.dim(1);
    params.sequence = args.x.dim(1);
    params.heads = args.x.dim(2);
    params.half = args.x.dim(3) / 2;
    params.offset = args.offset;
    params.sign = args.inverse ? -1.0f : 1.0f;
    Launch<device::Rope<T>>(
        "rope", context,
        Blocks(params.tokens * params.groups() * params.chunks(), Params::kThreads), params);
  });
}

}  // namespace lora::cuda
