// y ← Σ x over dimensions. Blocks of at most kBlock elements are summed in f32 (chains of a few
// dozen additions) or column by column; sums of blocks are double. Where the pieces are cut depends
// on the shape only, never on the number of threads.
//
// The loops over x are split into those that y keeps and those that are summed away;
// neighboring loops of each kind are merged where their strides allow it. Two cases
// follow from the innermost loop:
//   summed away  each element of y sums runs of x, in pieces of kPiece elements; where there are
//                several pieces, scratch holds one double for each;
//   kept         kColumns neighbors of y are summed together, one row of x after another.
#include "backend/cpu/elementwise/convert.h"
#include "backend/cpu/elementwise/nest.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/runtime/arena.h"
#include "backend/cpu/runtime/parallel.h"
#include "core/maths/ceil_div.h"
#include "core/ops/element.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/elementwise/reduce_sum.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/simd/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// Returns Σ of `count` neighbors.
double SumRun(const void* x, DType dtype, size_t begin, size_t count) {
  HWY_ALIGN float buffer[kBlock];
  double sum = 0;
  for (size_t i = 0; i < count; i += kBlock) {
    const size_t n = std::min(kBlock, count - i);
    sum += static_cast<double>(SumBlock(ReadBlock(x, dtype, begin + i, n, buffer), n));
  }
  return sum;
}

// sums[j] += x[begin + j] for j < count <= kBlock. Whole vectors of sums are read and written.
void AddColumns(const void* x, DType dtype, size_t begin, size_t count, double* sums) {
  const DF64 dd;
  const size_t half = hn::Lanes(dd);
  HWY_ALIGN float buffer[kBlock];
  const float* p = ReadBlock(x, dtype, begin, count, buffer);
  for (size_t i = 0; i < count; i += kLanes) {
    const VF v = i + kLanes <= count ? ReadVec(p + i) : ReadPart(p + i, count - i);
    hn::StoreU(hn::Add(hn::LoadU(dd, sums + i), hn::PromoteLowerTo(dd, v)), dd, sums + i);
    hn::StoreU(hn::Add(hn::LoadU(dd, sums + i + half), hn::PromoteUpperTo(dd, v)), dd,
               sums + i + half);
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {

HWY_EXPORT(SumRun);
HWY_EXPORT(AddColumns);

namespace {

constexpr size_t kPiece = 16384;
constexpr size_t kColumns = 256;  // a multiple of the vectors of every target

struct SumPlan {
  Nest<1> kept, lost;  // strides in x; the innermost loop of one of them is contiguous
  bool inner_lost = false;
  size_t outputs = 1, work = 1;  // elements of y, and of x for each
  size_t pieces = 1;             // per element of y

  explicit SumPlan(const ReduceSumArgs& args) {
    const Shape &x = args.x.shape, &y = args.y.shape;
    std::array<size_t, kMaxDims> stride{};
    size_t step = 1;
    for (int i = x.rank() - 1; i >= 0; --i) {
      stride[static_cast<size_t>(i)] = step;
      step *= static_cast<size_t>(x[i]);
    }
    for (int i = 0; i < x.rank(); ++i) {
      const int j = i - (x.rank() - y.rank());
      const size_t n = static_cast<size_t>(x[i]);
      const bool keep = j >= 0 && y[j] == x[i];
      (keep ? outputs : work) *= n;
      if (n == 1) continue;
      (keep ? kept : lost).Add(n, {stride[static_cast<size_t>(i)]});
      inner_lost = !keep;
    }
    if (inner_lost) pieces = std::max<size_t>(1, CeilDiv(work, kPiece));
  }
};

// Sums elements [begin, end) of those that belong to element `output` of y.
double SumPiece(const ReduceSumArgs& args, const SumPlan& plan, size_t output, size_t begin,
                size_t end) {
  const size_t base = plan.kept.OffsetOf(output, plan.kept.rank)[0];
  const size_t width = plan.lost.inner_size();
  double sum = 0;
  while (begin < end) {
    const size_t column = begin % width, n = std::min(width - column, end - begin);
    const size_t at = base + plan.lost.RowOffset(begin / width)[0] + column;
    sum += HWY_DYNAMIC_DISPATCH(SumRun)(args.x.data, args.x.dtype, at, n);
    begin += n;
  }
  return sum;
}

void SumRuns(const ReduceSumArgs& args, const SumPlan& plan, Scratch scratch, Context& context) {
  Arena arena(scratch);
  double* partial = plan.pieces == 1 ? nullptr : arena.Take<double>(plan.outputs * plan.pieces);
  ForRows(context, plan.outputs * plan.pieces, std::min(plan.work, kPiece), kCheapGrain,
          [&](size_t begin, size_t end) {
            for (size_t task = begin; task < end; ++task) {
              const size_t output = task / plan.pieces, from = task % plan.pieces * kPiece;
              const size_t to = std::min(from + kPiece, plan.work);
              const double sum = SumPiece(args, plan, output, from, to);
              if (partial == nullptr) {
                Store(args.y, static_cast<int64_t>(output), sum);
              } else {
                partial[task] = sum;
              }
            }
          });
  if (partial == nullptr) return;
  for (size_t output = 0; output < plan.outputs; ++output) {
    double sum = 0;
    for (size_t piece = 0; piece < plan.pieces; ++piece)
      sum += partial[output * plan.pieces + piece];
    Store(args.y, static_cast<int64_t>(output), sum);
  }
}

void SumColumns(const ReduceSumArgs& args, const SumPlan& plan, Context& context) {
  const size_t width = plan.kept.inner_size();
  const size_t groups = CeilDiv(width, kColumns);  // per row of y
  ForRows(context, plan.kept.rows() * groups, std::min(width, kColumns) * plan.work, kCheapGrain,
          [&](size_t begin, size_t end) {
            double sums[kColumns];
            for (size_t task = begin; task < end; ++task) {
              const size_t row = task / groups, column = task % groups * kColumns;
              const size_t n = std::min(kColumns, width - column);
              const size_t base = plan.kept.RowOffset(row)[0] + column;
              std::fill_n(sums, kColumns, 0.0);
              for (size_t i = 0; i < plan.work; ++i) {
                const size_t at = base + plan.lost.OffsetOf(i, plan.lost.rank)[0];
                HWY_DYNAMIC_DISPATCH(AddColumns)(args.x.data, args.x.dtype, at, n, sums);
              }
              for (size_t j = 0; j < n; ++j)
                Store(args.y, static_cast<int64_t>(row * width + column + j), sums[j]);
            }
          });
}

}  // namespace

PlannedCall PlanCall(const ReduceSumArgs& args, int) {
  const SumPlan plan(args);
  Arena arena;
  if (plan.pieces > 1) arena.Take<double>(plan.outputs * plan.pieces);
  return {arena.bytes(), [args, plan](Scratch scratch, Context& context) {
            for (const TensorView* view : {&args.x, &args.y}) RequireFloat("sum", view->dtype);
            if (plan.outputs == 0) return;
            if (plan.inner_lost) {
              SumRuns(args, plan, scratch, context);
            } else {
              SumColumns(args, plan, context);
            }
          }};
}

template PlannedCall Plan(const ReduceSumArgs&, int);
}  // namespace lora::cpu
#endif  // HWY_ONCE
