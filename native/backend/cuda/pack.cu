// Packing and unpacking are copies, because W stays row-major.
#include "backend/cuda/copy.h"
#include "backend/cuda/kernels.h"

namespace lora::cuda {

size_t PackedBytes(int64_t rows, int64_t cols, WeightFormat format) {
  return static_cast<size_t>(rows * cols) * SizeOf(StoredDType(format));
}

void Run(const PackArgs& args, Scratch, Context& context) {
  CopyElements("pack", args.src.data, args.dst, args.src.numel(), SizeOf(args.src.dtype), context);
}

void Run(const UnpackArgs& args, Scratch, Context& context) {
  CopyElements("unpack", args.src.data, args.dst.data, args.dst.numel(), SizeOf(args.src.dtype),
               context);
}

}  // namespace lora::cuda
