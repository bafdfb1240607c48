#include "core/maths/quantize_blocks.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "backend/cpu/kernels.h"
#include "backend/cpu/runtime/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/formats/quantize_blocks.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/simd/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {
namespace {

// ---- Q4_K --------------------------------------------------------------------------------------
//
// Each lane has a group. A group's sums are added in the order of its values, which ggml's bits
// need, and no group waits for another. The values of the groups lie beside each other for that:
// x[i·kGroupsOfQ4K + group].

// Blocks that are encoded together, whose groups fill the lanes.
constexpr size_t kBlocksOfQ4K = std::max<size_t>(1, kLanes / q4_k::kGroups);
constexpr size_t kGroupsOfQ4K = kBlocksOfQ4K * q4_k::kGroups;
constexpr size_t kSizeOfQ4K = q4_k::kSize;

// The codes of places: numbers of 2²² and above, infinities and NaN have 0.
HWY_INLINE VF CodesOfPlaces(VF place) {
  const DF df;
  const VF number = hn::IfThenElseZero(hn::Lt(place, hn::Set(df, 0x1p22f)), place);
  return hn::Min(hn::Max(hn::Round(number), hn::Zero(df)), hn::Set(df, q4_k::kMaxCode));
}

// kLanes groups at work, whose values are at x.
struct GroupsOfQ4K {
  const float* x;
  HWY_ALIGN float w[kSizeOfQ4K * kLanes];
  HWY_ALIGN float codes[kSizeOfQ4K * kLanes];  // of the last cut
  VF sum_w, sum_wx, least, most;

  struct Lines {
    VF a, c;
  };

  HWY_INLINE VF At(size_t i) const { return hn::Load(DF(), x + i * kGroupsOfQ4K); }

  explicit HWY_INLINE GroupsOfQ4K(const float* values) : x(values) {
    const DF df;
    VF squares = hn::Zero(df);
    for (size_t i = 0; i < kSizeOfQ4K; ++i) squares = hn::Add(squares, hn::Mul(At(i), At(i)));
    const VF mean = hn::Sqrt(hn::Mul(squares, hn::Set(df, 1.0f / q4_k::kSize)));
    sum_w = sum_wx = least = hn::Zero(df);
    most = At(0);
    for (size_t i = 0; i < kSizeOfQ4K; ++i) {
      const VF weight = hn::Add(mean, hn::Abs(At(i)));
      hn::Store(weight, df, w + i * kLanes);
      least = hn::Min(least, At(i));
      most = hn::Max(most, At(i));
      sum_w = hn::Add(sum_w, weight);
      sum_wx = hn::Add(sum_wx, hn::Mul(weight, At(i)));
    }
  }

  HWY_INLINE VF CodeOf(size_t i, VF from, VF per_step) const {
    return CodesOfPlaces(hn::Mul(per_step, hn::Sub(At(i), from)));
  }

  // Gives the lines through the values at the codes of a cut, and where there is one.
  HWY_INLINE hn::Mask<DF> Cut(VF from, VF per_step, Lines& lines) {
    const DF df;
    VF wq = hn::Zero(df), wqq = wq, wqx = wq;
    for (size_t i = 0; i < kSizeOfQ4K; ++i) {
      const VF q = CodeOf(i, from, per_step);
      hn::Store(q, df, codes + i * kLanes);
      const VF weighted = hn::Mul(hn::Load(df, w + i * kLanes), q);
      wq = hn::Add(wq, weighted);
      wqq = hn::Add(wqq, hn::Mul(weighted, q));
      wqx = hn::Add(wqx, hn::Mul(weighted, At(i)));
    }
    const auto minus = [](VF a, VF b, VF c, VF d)
                           HWY_ATTR { return hn::Sub(hn::Mul(a, b), hn::Mul(c, d)); };
    const VF determinant = minus(sum_w, wqq, wq, wq);
    const VF c = hn::Div(minus(wqq, sum_wx, wq, wqx), determinant);
    const VF a = hn::Div(minus(sum_w, wqx, sum_wx, wq), determinant);
    const auto above = hn::Gt(c, hn::Zero(df));
    lines.c = hn::IfThenZeroElse(above, c);
    lines.a = hn::IfThenElse(above, hn::Div(wqx, wqq), a);
    return hn::Gt(determinant, hn::Zero(df));
  }

  // Σ w·(a·q + c − x)².
  HWY_INLINE VF ErrorOf(const Lines& lines) const {
    const DF df;
    VF sum = hn::Zero(df);
    for (size_t i = 0; i < kSizeOfQ4K; ++i) {
      const VF q = hn::Load(df, codes + i * kLanes);
      const VF off = hn::Sub(hn::Add(hn::Mul(lines.a, q), lines.c), At(i));
      sum = hn::Add(sum, hn::Mul(hn::Load(df, w + i * kLanes), hn::Mul(off, off)));
    }
    return sum;
  }
};

// Fits kLanes groups: their lines, and their codes in [32, kGroupsOfQ4K].
HWY_INLINE void FitGroupsOfQ4K(const float* x, float* codes, float* a, float* c) {
  const DF df;
  GroupsOfQ4K groups(x);
  VF from = groups.least;
  VF per_step = hn::Div(hn::Set(df, q4_k::kMaxCode), hn::Sub(groups.most, groups.least));
  // `line` has values, since on ARM a constructor that the compiler makes has not the attributes of
  // the target, which vectors need.
  GroupsOfQ4K::Lines line{hn::Zero(df), hn::Zero(df)};
  GroupsOfQ4K::Lines best{hn::Div(hn::Set(df, 1.0f), per_step), groups.least};
  groups.Cut(from, per_step, line);  // for its codes
  VF error = groups.ErrorOf(best);
  for (int cut = 0; cut < q4_k::kCuts; ++cut) {
    const VF begin = best.c;
    const VF steps = hn::Set(df, q4_k::StepsOf(cut));
    const VF per = hn::Div(steps, hn::Sub(groups.most, begin));
    const auto exists = groups.Cut(begin, per, line);
    const VF off = groups.ErrorOf(line);
    const auto better = hn::And(exists, hn::Lt(off, error));
    best.a = hn::IfThenElse(better, line.a, best.a);
    best.c = hn::IfThenElse(better, line.c, best.c);
    error = hn::IfThenElse(better, off, error);
    from = hn::IfThenElse(better, begin, from);
    per_step = hn::IfThenElse(better, per, per_step);
  }
  for (size_t i = 0; i < kSizeOfQ4K; ++i)
    hn::Store(groups.CodeOf(i, from, per_step), df, codes + i * kGroupsOfQ4K);
  hn::Store(best.a, df, a);
  hn::Store(best.c, df, c);
}

// blocks ← `count` ≤ kBlocksOfQ4K blocks of values at x; held[i]: whether f16 holds the scales of
// block i. Those that are missing are zeros.
inline void EncodeQ4K(const float* x, size_t count, uint8_t* blocks, bool* held) {
  constexpr size_t kBytes = 144;
  const DF df;
  HWY_ALIGN float values[kSizeOfQ4K * kGroupsOfQ4K], codes[kSizeOfQ4K * kGroupsOfQ4K];
  HWY_ALIGN float a[kGroupsOfQ4K], c[kGroupsOfQ4K], step[kGroupsOfQ4K], minimum[kGroupsOfQ4K];
  for (size_t g = 0; g < kGroupsOfQ4K; ++g)
    for (size_t i = 0; i < kSizeOfQ4K; ++i)
      values[i * kGroupsOfQ4K + g] = g < count * q4_k::kGroups ? x[g * kSizeOfQ4K + i] : 0.0f;
  for (size_t g = 0; g < kGroupsOfQ4K; g += kLanes)
    FitGroupsOfQ4K(values + g, codes + g, a + g, c + g);
  for (size_t b = 0; b < kBlocksOfQ4K; ++b) {
    const size_t first = b * q4_k::kGroups;
    float lines_a[q4_k::kGroups], lines_c[q4_k::kGroups];
    std::copy_n(a + first, q4_k::kGroups, lines_a);
    std::copy_n(c + first, q4_k::kGroups, lines_c);
    q4_k::Stored stored[q4_k::kGroups] = {};
    uint8_t unused[kBytes];
    const bool holds =
        q4_k::StoreScales(lines_a, lines_c, b < count ? blocks + b * kBytes : unused, stored);
    if (b < count) held[b] = holds;
    for (size_t j = 0; j < q4_k::kGroups; ++j) {
      step[first + j] = stored[j].step;
      minimum[first + j] = stored[j].minimum;
    }
  }
  for (size_t g = 0; g < kGroupsOfQ4K; g += kLanes) {
    const VF steps = hn::Load(df, step + g), minima = hn::Load(df, minimum + g);
    // Without a step every code means the same: those of the fit stay, as in ggml.
    const auto none = hn::Eq(steps, hn::Zero(df));
    for (size_t i = g; i < kSizeOfQ4K * kGroupsOfQ4K; i += kGroupsOfQ4K) {
      const VF place = hn::Div(hn::Add(hn::Load(df, values + i), minima), steps);
      const VF code = hn::IfThenElse(none, hn::Load(df, codes + i), CodesOfPlaces(place));
      hn::Store(code, df, codes + i);
    }
  }
  for (size_t b = 0; b < count; ++b) {
    // Two groups share 32 bytes, in which the first has the lower bits.
    uint8_t* const bytes = blocks + b * kBytes + 16;
    for (size_t j = 0; j < q4_k::kGroups; j += 2) {
      const float* const low = codes + b * q4_k::kGroups + j;
      for (size_t i = 0; i < kSizeOfQ4K; ++i)
        bytes[j / 2 * kSizeOfQ4K + i] =
            static_cast<uint8_t>(static_cast<int>(low[i * kGroupsOfQ4K]) |
                                 static_cast<int>(low[i * kGroupsOfQ4K + 1]) << 4);
    }
  }
}

}  // namespace

void WriteBlocks(const QuantizeBlocksArgs& args, size_t begin, size_t end) {
  const BlockSize size = TraitsOf(args.format).block;
  const size_t per_block = static_cast<size_t>(size.values);
  const size_t bytes = static_cast<size_t>(size.bytes);
  const bool in_lanes = args.format == WeightFormat::kQ4_K;
  const size_t together = in_lanes ? kBlocksOfQ4K : 1;
  float buffer[kBlock];
  static_assert(kSizeOfQ4K * kGroupsOfQ4K <= kBlock);
  for (size_t b = begin; b < end; b += together) {
    const size_t n = std::min(together, end - b);
    const float* x =
        ReadBlock(args.values.data, args.values.dtype, b * per_block, n * per_block, buffer);
    uint8_t* const blocks = args.blocks.as<uint8_t>() + b * bytes;
    bool held[kBlocksOfQ4K] = {};
    if (in_lanes) {
      EncodeQ4K(x, n, blocks, held);
    } else {
      held[0] = EncodeBlock(args.format, x, blocks);
    }
    for (size_t i = 0; i < n; ++i) {
      const float* const values = x + i * per_block;
      const bool finite =
          std::all_of(values, values + per_block, [](float value) { return std::isfinite(value); });
      args.held.as<int8_t>()[b + i] = held[i] && finite;
    }
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {

HWY_EXPORT(WriteBlocks);

void Run(const QuantizeBlocksArgs& args, Scratch, Context& context) {
  const size_t width = static_cast<size_t>(TraitsOf(args.format).block.values);
  ForRows(context, static_cast<size_t>(args.count()), width, kCostlyGrain,
          [&](size_t begin, size_t end) { HWY_DYNAMIC_DISPATCH(WriteBlocks)(args, begin, end); });
}

template PlannedCall Plan(const QuantizeBlocksArgs&, int);
}  // namespace lora::cpu
#endif  // HWY_ONCE
