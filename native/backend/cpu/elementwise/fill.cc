#include <algorithm>

#include "backend/cpu/elementwise/convert.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/runtime/parallel.h"
#include "core/ops/element.h"

namespace lora::cpu {

void Run(const FillArgs& args, Scratch, Context& context) {
  const DType dtype = args.y.dtype;
  if (dtype != DType::kI32) RequireFloat("fill", dtype);
  ForRange(context, static_cast<size_t>(args.y.numel()), kCheapGrain, kLineElements,
           [&](size_t begin, size_t end) {
             const size_t n = end - begin;
             switch (dtype) {
               case DType::kI32:
                 std::fill_n(args.y.as<int32_t>() + begin, n,
                             Int32From(static_cast<double>(args.value)));
                 break;
               case DType::kBF16:
                 std::fill_n(args.y.as<uint16_t>() + begin, n, BF16FromF32(args.value));
                 break;
               case DType::kF16:
                 std::fill_n(args.y.as<uint16_t>() + begin, n, F16FromF32(args.value));
                 break;
               default:
                 std::fill_n(args.y.as<float>() + begin, n, args.value);
             }
           });
}

template PlannedCall Plan(const FillArgs&, int);
}  // namespace lora::cpu
