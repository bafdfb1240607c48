#include "backend/cpu/product/gemm.h"

#include <algorithm>
#include <limits>

#include "backend/cpu/product/panels.h"
#include "backend/cpu/runtime/arena.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/product/gemm.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/product/decode_rows-inl.h"
#include "backend/cpu/product/gemm-inl.h"
#include "hwy/highway.h"

#if HWY_ONCE
namespace lora::cpu {

HWY_EXPORT(PanelWidth);
HWY_EXPORT(MultipliesTiles);
HWY_EXPORT(WidensPairs);
HWY_EXPORT(MultiplyPanels);
HWY_EXPORT(MultiplyRows);
HWY_EXPORT(CopyElements);
HWY_EXPORT(SumGroups);
HWY_EXPORT(WidenRows);

size_t PanelWidth() { return HWY_DYNAMIC_DISPATCH(PanelWidth)(); }

bool MultipliesTiles() { return HWY_DYNAMIC_DISPATCH(MultipliesTiles)(); }

bool WidensPairs() { return HWY_DYNAMIC_DISPATCH(WidensPairs)(); }

void MultiplyPanels(const Product& product, size_t rows, Range tiles, Range panels,
                    const ProductScratch& scratch) {
  HWY_DYNAMIC_DISPATCH(MultiplyPanels)(product, rows, tiles, panels, scratch);
}

Operands OperandsOf(bool bf16) {
  if (bf16) return Operands::kPairs;
  return MultipliesTiles() ? Operands::kSplitF32 : Operands::kF32;
}

bool ReadsPanels(Operands operands, const PanelSource& w) {
  if (operands == Operands::kPairs && WidensPairs()) return false;
  if (operands != Operands::kSplitF32) return w.in_place();
  return w.split || (!w.transposed && w.format == WeightFormat::kBF16);
}

size_t BlockElements(Operands operands, size_t reduction) {
  // Three times as much for each element as elsewhere: a small model takes no more than it needs.
  if (operands == Operands::kSplitF32) {
    static_assert(kMaxPassElements % kAmxPairs == 0);
    return kParts * RoundUp(std::min(reduction, kMaxPassElements), kAmxPairs) * PanelWidth();
  }
  const bool widens = operands == Operands::kPairs && WidensPairs();
  return (kBlockRows + (widens ? 2 * kMaxPassElements : 0)) * PanelWidth();
}

namespace {
size_t SumsElements(size_t rows) { return std::max(rows, kStreams) * PanelWidth(); }
}  // namespace

ProductScratch ProductScratch::Take(Arena& arena, size_t threads, size_t rows, bool sums,
                                    size_t block_elements) {
  ProductScratch scratch;
  scratch.block_elements = block_elements;
  if (sums) scratch.sums = arena.Take<float>(threads * SumsElements(rows));
  if (block_elements != 0) scratch.block = arena.Take<uint32_t>(threads * block_elements);
  return scratch;
}

ProductScratch ProductScratch::Of(size_t thread, size_t rows) const {
  return {sums ? sums + thread * SumsElements(rows) : nullptr,
          block ? block + thread * block_elements : nullptr, block_elements};
}

void MultiplyRows(const Product& product, size_t rows, Range panels,
                  std::span<const LowRankRows> low, const ProductScratch& scratch) {
  HWY_DYNAMIC_DISPATCH(MultiplyRows)(product, rows, panels, low, scratch);
}

void CopyElements(const void* x, bool x_is_bf16, size_t ldx, size_t rows, size_t k,
                  Operands operands, uint32_t* dst, size_t dst_stride) {
  HWY_DYNAMIC_DISPATCH(CopyElements)(x, x_is_bf16, ldx, rows, k, operands, dst, dst_stride);
}

void WidenRows(const uint32_t* x, size_t x_stride, size_t rows, size_t k, float* dst) {
  HWY_DYNAMIC_DISPATCH(WidenRows)(x, x_stride, rows, k, dst);
}

void SumGroups(const uint32_t* x, size_t x_stride, size_t rows, size_t groups, bool pairs,
               float* sums) {
  HWY_DYNAMIC_DISPATCH(SumGroups)(x, x_stride, rows, groups, pairs, sums);
}

Blocks::Blocks(size_t k, Operands operands)
    : operands(operands), elements(CeilDiv(k, ValuesPerElement(operands))) {
  // Blocks are nearly equal, because a short last one would still read and write all the sums.
  constexpr size_t kGranule = kAmxPairs;
  count = std::max<size_t>(1, (elements + kPassElements / 2) / kPassElements);
  length = ((elements + count - 1) / count + kGranule - 1) / kGranule * kGranule;
  if (length > 0) count = std::max<size_t>(1, (elements + length - 1) / length);
  // The stride is an odd number of cache lines, so that the rows of a tile do not share cache sets.
  stride = std::max(length, kGranule) * (operands == Operands::kSplitF32 ? kParts : 1);
  if (stride / kGranule % 2 == 0) stride += kGranule;
}

size_t ChunkRows(size_t rows, size_t elements) {
  constexpr size_t kMaxElements = size_t{8} << 20;
  const size_t fit = kMaxElements / std::max<size_t>(1, elements) / kRegisterRows * kRegisterRows;
  return std::min(rows, std::clamp(fit, 16 * kRegisterRows, kChunkRows));
}

bool ReadsInPlace(const RowsOfX& x, Operands operands) {
  if (operands == Operands::kSplitF32) return false;
  const bool pairs = operands == Operands::kPairs;
  const bool whole = !pairs || (x.k % 2 == 0 && x.ld % 2 == 0);
  const uintptr_t address = reinterpret_cast<uintptr_t>(x.data);
  if (x.is_bf16 != pairs || !whole || address % alignof(uint32_t) != 0) return false;
  // 16 rows are read at once there, a cache line of each: the lines must be whole ones, and in
  // different sets of the cache.
  if (!pairs || !MultipliesTiles()) return true;
  constexpr size_t kLine = 64, kSameSet = 2048;
  const size_t bytes = x.ld * sizeof(uint16_t);
  return address % kLine == 0 && bytes % kLine == 0 && bytes % kSameSet != 0;
}

size_t CopiedBytes(bool bf16, size_t rows, std::span<const size_t> widths) {
  const Operands operands = OperandsOf(bf16);
  size_t elements = 0, copied = 0;  // of a row of each x
  for (const size_t k : widths) {
    const size_t size = Blocks(k, operands).Size(1);
    elements += size;
    if (!ReadsInPlace({nullptr, bf16, k, k}, operands)) copied += size;
  }
  return ChunkRows(rows, elements) * copied * sizeof(uint32_t);
}

BlockedRows BlocksOf(const Blocks& blocks, const RowsOfX& x, size_t rows, const uint32_t* copy) {
  if (!ReadsInPlace(x, blocks.operands)) return {copy, blocks.stride, rows * blocks.stride};
  return {static_cast<const uint32_t*>(x.data), x.ld / ValuesPerElement(blocks.operands),
          blocks.length};
}

void CopyBlocks(const Blocks& blocks, const RowsOfX& x, size_t rows, Range r, uint32_t* copy) {
  if (ReadsInPlace(x, blocks.operands)) return;
  const size_t per = ValuesPerElement(blocks.operands), size = x.is_bf16 ? 2 : 4;
  for (size_t b = 0; b < blocks.count && x.k != 0; ++b) {
    const size_t k0 = blocks.Begin(b) * per, count = std::min(x.k - k0, blocks.Length(b) * per);
    CopyElements(static_cast<const std::byte*>(x.data) + (r.begin * x.ld + k0) * size, x.is_bf16,
                 x.ld, r.end - r.begin, count, blocks.operands,
                 copy + (b * rows + r.begin) * blocks.stride, blocks.stride);
  }
}

size_t BlockPasses(const Blocks& blocks, const BlockedRows& x, const PanelSource& w, Pass* passes) {
  for (size_t b = 0; b < blocks.count; ++b) {
    Pass pass;
    pass.main = {x.At(b, 0), x.row_stride, w.From(blocks.Begin(b)), blocks.Length(b)};
    passes[b] = pass;
  }
  return blocks.count;
}

namespace {

// How the panels of some products are cut into tasks. The first are groups of `size` panels for all
// rows. The rows of the `rest` are cut into `parts`, and each part of a panel is a task.
struct Cut {
  size_t groups, size, rest, parts;
};

// There are a few groups for each thread, which even out the time that other processes take, and
// equal threads end at nearly the same time. A panel is in as few tasks as that allows, because
// each task reads it anew, and transposes or expands it. No cut changes a result.
Cut CutProduct(size_t panels, size_t tiles, size_t threads) {
  constexpr double kEven = 0.03;  // of the time, that a thread may wait for others
  const double equal = static_cast<double>(threads);
  const size_t size = std::max<size_t>(1, panels / (4 * threads));
  const size_t groups = panels / (size * threads) * threads, rest = panels - groups * size;
  // Times are in that of a panel.
  const double enough =
      static_cast<double>(rest) / equal + kEven * static_cast<double>(panels) / equal;
  Cut best{groups, size, rest, 1};
  double least = std::numeric_limits<double>::infinity();
  for (size_t parts = 1; rest != 0 && parts <= std::min(threads, tiles); ++parts) {
    const double time =
        static_cast<double>(CeilDiv(rest * parts, threads)) / static_cast<double>(parts);
    if (time < least) {
      best.parts = parts;
      least = time;
    }
    if (time <= enough) break;
  }
  return best;
}

// Multiplies panels [panels.begin, panels.end), counted over all products.
void MultiplyOver(std::span<const Product> products, size_t rows, Range tiles, Range panels,
                  const ProductScratch& scratch) {
  size_t first = 0;
  for (const Product& product : products) {
    const size_t count = Panels(product.n, PanelWidth());
    const size_t begin = std::max(panels.begin, first), end = std::min(panels.end, first + count);
    if (begin < end) MultiplyPanels(product, rows, tiles, {begin - first, end - first}, scratch);
    first += count;
  }
}

}  // namespace

void MultiplyAll(CpuContext* context, std::span<const Product> products, size_t rows,
                 const ProductScratch& scratch, size_t chunk_rows) {
  const size_t threads = static_cast<size_t>(ThreadsOf(context)), tiles = Tiles(rows);
  const size_t width = PanelWidth();
  size_t panels = 0;
  for (const Product& product : products) panels += Panels(product.n, width);
  if (panels == 0 || tiles == 0) return;
  const Cut cut = CutProduct(panels, tiles, threads);
  ParallelFor(context, cut.groups + cut.rest * cut.parts, [&](size_t task, size_t thread) {
    Range mine{task * cut.size, (task + 1) * cut.size}, of{0, tiles};
    if (task >= cut.groups) {
      const size_t unit = task - cut.groups, panel = cut.groups * cut.size + unit / cut.parts;
      mine = {panel, panel + 1};
      of = Split(tiles, cut.parts, unit % cut.parts);
    }
    MultiplyOver(products, rows, of, mine, scratch.Of(thread, chunk_rows));
  });
}

namespace {

// What a call derives from its sizes.
struct GemmPlan {
  Operands operands = Operands::kF32;
  size_t chunk = 0;  // rows packed at a time
  size_t pass_count = 0;
  size_t element_count = 0;  // of packed x
  size_t block_elements = 0;
};

GemmPlan PlanGemm(const GemmArgs& args) {
  GemmPlan plan;
  plan.operands = args.operands;
  for (const GemmSegment& segment : args.segments) {
    const Blocks blocks(segment.k, plan.operands);
    plan.pass_count += blocks.count;
    plan.element_count += blocks.Size(1);
    if (!ReadsPanels(plan.operands, segment.w)) {
      plan.block_elements =
          std::max(plan.block_elements, BlockElements(plan.operands, blocks.elements));
    }
  }
  plan.chunk = ChunkRows(args.m, plan.element_count);
  return plan;
}

struct GemmScratch {
  uint32_t* x;
  Pass* passes;
  ProductScratch product;
};

GemmScratch TakeGemm(Arena& arena, const GemmArgs& args, const GemmPlan& plan, int threads) {
  GemmScratch scratch;
  scratch.x = arena.Take<uint32_t>(plan.chunk * plan.element_count);
  scratch.passes = arena.Take<Pass>(std::max<size_t>(1, plan.pass_count));
  scratch.product = ProductScratch::Take(arena, static_cast<size_t>(threads), plan.chunk,
                                         args.y_dtype == DType::kBF16, plan.block_elements);
  return scratch;
}

}  // namespace

size_t GemmScratchBytes(const GemmArgs& args, int threads) {
  Arena arena;
  TakeGemm(arena, args, PlanGemm(args), threads);
  return arena.bytes();
}

void Gemm(const GemmArgs& args, Scratch scratch_span, CpuContext* context) {
  if (args.m == 0 || args.n == 0) return;
  const GemmPlan plan = PlanGemm(args);
  const size_t threads = static_cast<size_t>(ThreadsOf(context));
  Arena arena(scratch_span);
  const GemmScratch scratch = TakeGemm(arena, args, plan, static_cast<int>(threads));

  for (size_t m0 = 0; m0 < args.m; m0 += plan.chunk) {
    const size_t rows = std::min(plan.chunk, args.m - m0), tiles = Tiles(rows);
    const auto rows_of = [&](const GemmSegment& segment) {
      const size_t size = SizeOf(segment.x_dtype);
      return RowsOfX{static_cast<const std::byte*>(segment.x) + m0 * segment.ldx * size,
                     segment.x_dtype == DType::kBF16, segment.ldx, segment.k};
    };
    // The blocks of a segment follow each other; each is [rows][stride].
    ParallelFor(context, tiles, [&](size_t tile, size_t) {
      uint32_t* at = scratch.x;
      for (const GemmSegment& segment : args.segments) {
        const Blocks blocks(segment.k, plan.operands);
        CopyBlocks(blocks, rows_of(segment), rows, Split(rows, tiles, tile), at);
        at += blocks.Size(rows);
      }
    });

    size_t count = 0;
    const uint32_t* at = scratch.x;
    for (const GemmSegment& segment : args.segments) {
      const Blocks blocks(segment.k, plan.operands);
      count += BlockPasses(blocks, BlocksOf(blocks, rows_of(segment), rows, at), segment.w,
                           scratch.passes + count);
      at += blocks.Size(rows);
    }
    if (count == 0) scratch.passes[count++] = Pass();

    Product product;
    product.operands = plan.operands;
    product.passes = {scratch.passes, count};
    product.n = args.n;
    product.bias = args.bias;
    product.y = static_cast<std::byte*>(args.y) + m0 * args.ldy * SizeOf(args.y_dtype);
    product.y_is_bf16 = args.y_dtype == DType::kBF16;
    product.ldy = args.ldy;
    product.accumulate = args.accumulate;
    MultiplyAll(context, {&product, 1}, rows, scratch.product, plan.chunk);
  }
}

}  // namespace lora::cpu
#endif  // HWY_ONCE
