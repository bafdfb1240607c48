// Packing and unpacking are copies, because W stays row-major. Unpacking widens a matrix of 16 bits
// under f32 activations.
#include "backend/cuda/copy.h"
#include "backend/cuda/kernels.h"

namespace lora::cuda {

size_t PackedBytes(int64_t rows, int64_t cols, WeightFormat format) {
  return static_cast<size_t>(ValueBytes(format, rows, cols));
}

void Run(const PackArgs& args, Scratch, Context& context) {
  CopyElements("pack", args.src.data, args.dst, args.src.numel(), SizeOf(args.src.dtype), context);
}

void Run(const UnpackArgs& args, Scratch, Context& context) {
  const PackedView& w = args.src;
  if (w.format == FormatOf(w.dtype)) {
    CopyElements("unpack", w.data, args.dst.data, args.dst.numel(), SizeOf(w.dtype), context);
    return;
  }
  const TensorView stored(const_cast<void*>(w.data), StoredDType(w.format), {w.rows, w.cols});
  Run(UnaryArgs{UnaryKind::kCopy, 1, stored, args.dst}, {}, context);
}

}  // namespace lora::cuda
