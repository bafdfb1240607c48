// Every pair of matrices is one Gemm, whose b is packed in the call. A batch of at least as
// many pairs as threads gives each thread whole pairs; in a smaller batch all threads work on
// one pair at a time.
#include <algorithm>

#include "backend/cpu/elementwise/convert.h"
#include "backend/cpu/formats/pack.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/product/gemm.h"
#include "backend/cpu/runtime/arena.h"
#include "backend/cpu/runtime/context.h"
#include "core/ops/element.h"

namespace lora::cpu {
namespace {

struct MatmulPlan {
  size_t m = 0, n = 0, k = 0, batch = 1;
  DType dtype = DType::kF32;    // of the product: bf16 where a and b are, else f32
  DType y_dtype = DType::kF32;  // of what Gemm writes
  bool split_batch = false;     // a task per pair
  // A slot is a thread's scratch when the batch is split; otherwise there is one. Per slot:
  size_t slots = 1;
  size_t a_bytes = 0, b_bytes = 0, panel_bytes = 0, y_count = 0, gemm_bytes = 0;
};

struct MatmulScratch {
  std::byte* a;  // [m, k] where a is transposed or cast
  std::byte* b;  // [k, n] or [n, k] where b is cast
  std::byte* panels;
  float* y;  // [m, n] where Gemm cannot write y's dtype
  std::byte* gemm;

  MatmulScratch(const MatmulPlan& plan, Arena& arena)
      : a(arena.Take<std::byte>(plan.slots * plan.a_bytes)),
        b(arena.Take<std::byte>(plan.slots * plan.b_bytes)),
        panels(arena.Take<std::byte>(plan.slots * plan.panel_bytes)),
        y(arena.Take<float>(plan.slots * plan.y_count)),
        gemm(arena.Take<std::byte>(plan.slots * plan.gemm_bytes)) {}
};

GemmArgs ProductOf(const MatmulPlan& plan, std::span<const GemmSegment> segment) {
  GemmArgs gemm;
  gemm.operands = plan.dtype == DType::kBF16 ? Operands::kPairs : Operands::kF32;
  gemm.m = plan.m;
  gemm.n = plan.n;
  gemm.segments = segment;
  gemm.y_dtype = plan.y_dtype;
  gemm.ldy = plan.n;
  return gemm;
}

MatmulPlan MakePlan(const MatmulArgs& args, int threads) {
  MatmulPlan plan;
  plan.m = static_cast<size_t>(args.y.dim(-2));
  plan.n = static_cast<size_t>(args.y.dim(-1));
  plan.k = static_cast<size_t>(args.a.dim(args.trans_a ? -2 : -1));
  for (int d = 0; d + 2 < args.y.shape.rank(); ++d)
    plan.batch *= static_cast<size_t>(args.y.dim(d));
  if (args.a.dtype == DType::kBF16 && args.b.dtype == DType::kBF16) plan.dtype = DType::kBF16;
  const bool direct = args.y.dtype == DType::kF32 || args.y.dtype == DType::kBF16;
  plan.y_dtype = direct ? args.y.dtype : DType::kF32;
  plan.split_batch = threads > 1 && plan.batch >= static_cast<size_t>(threads);
  plan.slots = plan.split_batch ? static_cast<size_t>(threads) : 1;

  const auto round_up = [](size_t bytes) {
    return (bytes + Arena::kAlignment - 1) / Arena::kAlignment * Arena::kAlignment;
  };
  const size_t size = SizeOf(plan.dtype);
  if (args.trans_a || args.a.dtype != plan.dtype) plan.a_bytes = round_up(plan.m * plan.k * size);
  if (args.b.dtype != plan.dtype) plan.b_bytes = round_up(plan.k * plan.n * size);
  plan.panel_bytes = round_up(PanelBytes(plan.n, plan.k, plan.dtype));
  if (!direct) plan.y_count = round_up(plan.m * plan.n * sizeof(float)) / sizeof(float);
  GemmSegment segment;
  segment.x_dtype = plan.dtype;
  segment.k = plan.k;
  plan.gemm_bytes =
      round_up(GemmScratchBytes(ProductOf(plan, {&segment, 1}), plan.split_batch ? 1 : threads));
  return plan;
}

// Returns the number of the matrix of `view` that matrix `index` of y reads, under broadcasting.
size_t MatrixOf(const TensorView& view, const TensorView& y, size_t index) {
  size_t matrix = 0, step = 1;
  const int dims = y.shape.rank() - 2, own = view.shape.rank() - 2;
  for (int d = 1; d <= dims; ++d) {
    const size_t extent = static_cast<size_t>(y.dim(dims - d));
    const size_t i = index % extent;
    index /= extent;
    if (d > own) continue;
    const size_t mine = static_cast<size_t>(view.dim(own - d));
    if (mine != 1) matrix += i * step;
    step *= mine;
  }
  return matrix;
}

const std::byte* MatrixAt(const TensorView& view, size_t matrix) {
  const size_t numel = static_cast<size_t>(view.dim(-2) * view.dim(-1));
  return view.as<std::byte>() + matrix * numel * SizeOf(view.dtype);
}

// dst [rows, cols] of `dtype` ← matrix `matrix` of view, transposed if it is stored [cols, rows].
void CopyMatrix(const TensorView& view, size_t matrix, bool transposed, DType dtype, size_t rows,
                size_t cols, std::byte* dst, CpuContext* context) {
  const size_t base = matrix * rows * cols;
  constexpr size_t kRowsPerTask = 16;
  ParallelFor(context, Panels(rows, kRowsPerTask), [&](size_t task, size_t) {
    const size_t begin = task * kRowsPerTask, end = std::min(rows, begin + kRowsPerTask);
    // Columns are outermost, so that a cache line of a transposed source serves
    // all rows of the task.
    for (size_t j = 0; j < cols; ++j) {
      for (size_t i = begin; i < end; ++i) {
        const size_t from = base + (transposed ? j * rows + i : i * cols + j), to = i * cols + j;
        if (dtype == DType::kBF16) {
          reinterpret_cast<uint16_t*>(dst)[to] = view.as<uint16_t>()[from];
        } else if (view.dtype == DType::kF32) {
          reinterpret_cast<float*>(dst)[to] = view.as<float>()[from];
        } else {
          reinterpret_cast<float*>(dst)[to] =
              static_cast<float>(Load(view, static_cast<int64_t>(from)));
        }
      }
    }
  });
}

void MultiplyPair(const MatmulArgs& args, const MatmulPlan& plan, const MatmulScratch& scratch,
                  size_t index, size_t slot, CpuContext* context) {
  GemmSegment segment;
  segment.x_dtype = plan.dtype;
  segment.k = segment.ldx = plan.k;
  const size_t a_matrix = MatrixOf(args.a, args.y, index),
               b_matrix = MatrixOf(args.b, args.y, index);
  segment.x = MatrixAt(args.a, a_matrix);
  if (plan.a_bytes != 0) {
    std::byte* copy = scratch.a + slot * plan.a_bytes;
    CopyMatrix(args.a, a_matrix, args.trans_a, plan.dtype, plan.m, plan.k, copy, context);
    segment.x = copy;
  }
  const void* b = MatrixAt(args.b, b_matrix);
  const size_t b_rows = args.trans_b ? plan.n : plan.k, b_cols = args.trans_b ? plan.k : plan.n;
  if (plan.b_bytes != 0) {
    std::byte* copy = scratch.b + slot * plan.b_bytes;
    CopyMatrix(args.b, b_matrix, false, plan.dtype, b_rows, b_cols, copy, context);
    b = copy;
  }
  std::byte* panels = scratch.panels + slot * plan.panel_bytes;
  PackPanels(b, b_cols, !args.trans_b, plan.n, plan.k, plan.dtype, panels, context);
  segment.w.panels = reinterpret_cast<const uint32_t*>(panels);
  segment.w.stride = Elements(plan.k, plan.dtype) * PanelWidth();

  GemmArgs gemm = ProductOf(plan, {&segment, 1});
  float* y = scratch.y + slot * plan.y_count;
  gemm.y = plan.y_count != 0
               ? reinterpret_cast<std::byte*>(y)
               : args.y.as<std::byte>() + index * plan.m * plan.n * SizeOf(args.y.dtype);
  Gemm(gemm, Scratch(scratch.gemm + slot * plan.gemm_bytes, plan.gemm_bytes), context);
  if (plan.y_count != 0) {
    const size_t count = plan.m * plan.n;
    ConvertFromF32(y, count, args.y.as<std::byte>() + index * count * SizeOf(args.y.dtype),
                   args.y.dtype);
  }
}

void MultiplyBatch(const MatmulArgs& args, const MatmulPlan& plan, Scratch memory,
                   CpuContext& context) {
  if (plan.m == 0 || plan.n == 0) return;
  Arena arena(memory);
  const MatmulScratch scratch(plan, arena);
  if (plan.split_batch) {
    context.ParallelFor(plan.batch, [&](size_t index, size_t thread) {
      MultiplyPair(args, plan, scratch, index, thread, nullptr);
    });
  } else {
    for (size_t index = 0; index < plan.batch; ++index) {
      MultiplyPair(args, plan, scratch, index, 0, &context);
    }
  }
}

}  // namespace

PlannedCall PlanCall(const MatmulArgs& args, int threads) {
  const MatmulPlan plan = MakePlan(args, threads);
  Arena arena;
  MatmulScratch(plan, arena);
  return {arena.bytes(), [args, plan](Scratch scratch, Context& context) {
            MultiplyBatch(args, plan, scratch, static_cast<CpuContext&>(context));
          }};
}

template PlannedCall Plan(const MatmulArgs&, int);
}  // namespace lora::cpu
