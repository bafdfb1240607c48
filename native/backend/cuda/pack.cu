// Packing and unpacking are copies, because W stays row-major, with its scales behind it. Unpacking
// widens a matrix of 16 bits under f32 activations, and expands one with scales.
#include "backend/cuda/copy.h"
#include "backend/cuda/expand.h"
#include "backend/cuda/kernels.h"
#include "core/maths/row_major.h"

namespace lora::cuda {

size_t PackedBytes(int64_t rows, int64_t cols, WeightFormat format) {
  return RowMajorBytes(format, rows, cols);
}

void Run(const PackArgs& args, Scratch, Context& context) {
  CopyElements("pack", args.src.data, args.dst, args.src.numel(), SizeOf(args.src.dtype), context);
  if (!args.scales) return;
  std::byte* const scales =
      static_cast<std::byte*>(args.dst) + ScalesAt(args.format, args.rows, args.cols);
  CopyElements("pack", args.scales.data, scales, args.scales.numel(), sizeof(float), context);
}

void Run(const UnpackArgs& args, Scratch, Context& context) {
  const PackedView& w = args.src;
  if (HasScales(w.format)) return Expand("unpack", w, args.dst.data, context);
  if (w.format == FormatOf(w.dtype)) {
    CopyElements("unpack", w.data, args.dst.data, args.dst.numel(), SizeOf(w.dtype), context);
    return;
  }
  const TensorView stored(const_cast<void*>(w.data), StoredDType(w.format), {w.rows, w.cols});
  Run(UnaryArgs{UnaryKind::kCopy, 1, stored, args.dst}, {}, context);
}

}  // namespace lora::cuda
