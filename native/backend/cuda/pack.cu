// Packing and unpacking are copies, because W stays row-major, with its scales behind it, or the
// codebook of its blocks: nine copies of the codebooks in the kernels' images would take more room
// than all code that reads blocks. Unpacking widens a matrix of 16 bits under f32 activations, and
// expands a quantized one.
#include "backend/cuda/context.h"
#include "backend/cuda/copy.h"
#include "backend/cuda/expand.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/pack.h"
#include "core/maths/block_formats.h"
#include "core/maths/row_major.h"

namespace lora::cuda {

void Run(const UnaryArgs&, Scratch, Context&);  // unary.cu

size_t PackedBytes(int64_t rows, int64_t cols, WeightFormat format) {
  const size_t bytes = RowMajorBytes(format, rows, cols);
  const size_t points = PointsOf(format).size_bytes();
  return points == 0 ? bytes : PointsAt(format, rows, cols) + points;
}

void Run(const PackArgs& args, Scratch, Context& context) {
  CopyElements("pack", args.src.data, args.dst, args.src.numel(), SizeOf(args.src.dtype), context);
  if (const auto points = PointsOf(args.format); !points.empty()) {
    std::byte* const to =
        static_cast<std::byte*>(args.dst) + PointsAt(args.format, args.rows, args.cols);
    static_cast<CudaContext&>(context).Upload(to, points.data(), points.size_bytes());
  }
  if (!args.scales) return;
  std::byte* const scales =
      static_cast<std::byte*>(args.dst) + ScalesAt(args.format, args.rows, args.cols);
  CopyElements("pack", args.scales.data, scales, args.scales.numel(), sizeof(float), context);
}

void Run(const UnpackArgs& args, Scratch, Context& context) {
  const PackedView& w = args.src;
  if (IsQuantized(w.format)) return Expand("unpack", w, args.dst.data, context);
  if (w.format == FormatOf(w.dtype)) {
    CopyElements("unpack", w.data, args.dst.data, args.dst.numel(), SizeOf(w.dtype), context);
    return;
  }
  const TensorView stored(const_cast<void*>(w.data), StoredDType(w.format), {w.rows, w.cols});
  Run(UnaryArgs{UnaryKind::kCopy, 1, stored, args.dst}, {}, context);
}

template PlannedCall Plan(const PackArgs&, int);
template PlannedCall Plan(const UnpackArgs&, int);
}  // namespace lora::cuda
