// Frozen matrices, and the linear layers that LoRA adapts. See ops.h for what all ops share.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/maths/int8_activations.h"
#include "core/maths/quantize_blocks.h"
#include "core/ops/describe.h"

namespace lora {

// dst ← the backend's layout of W [rows, cols] in a format. src is row-major: W in StoredDType, or
// the bytes of its codes or blocks, [ValueBytes].
struct PackArgs {
  TensorView src;
  void* dst = nullptr;  // packed_bytes(rows, cols, format)
  TensorView scales;    // [ScaleCount] f32, or absent where the format has none
  WeightFormat format = WeightFormat::kF32;
  int64_t rows = 0, cols = 0;
  DType activations = DType::kF32;  // of the ops that will read it

  static constexpr auto Describe() {
    using A = PackArgs;
    return OpDescription{
        "pack",
        "pack",
        In("weight", &A::src),
        In("scales", &A::scales).OrNone(),
        OutPacked(&A::dst, &A::format, &A::rows, &A::cols, &A::activations),
    };
  }
};
void Check(const PackArgs&);

// Quantizes a row-major matrix for pack(). Values that share a scale (weight_format.h) are a group;
// its magnitude is max |x|, NaN where a value is not finite. W = q·s then has
//   nf4, fp4: q = the code whose value is nearest to x/magnitude, s = magnitude
//   int8:     q = round(127·x/magnitude), s = magnitude/127
// Codes and magnitudes are those of bitsandbytes 0.50, bit for bit.
struct QuantizeArgs {
  TensorView src;  // [rows, cols], f32, bf16 or f16
  WeightFormat format = WeightFormat::kNF4;
  TensorView values;      // i8, [rows, cols] or [ValueBytes], as pack() takes them
  TensorView magnitudes;  // f32 [ScaleCount]

  // They are asked for before the arguments are checked.
  int64_t rows() const { return src.shape.rank() == 2 ? src.dim(0) : 0; }
  int64_t cols() const { return src.shape.rank() == 2 ? src.dim(1) : 0; }
  Shape ValueShape() const {
    return HasCodes(format) ? Shape{ValueBytes(format, rows(), cols())} : Shape{rows(), cols()};
  }

  static constexpr auto Describe() {
    using A = QuantizeArgs;
    return OpDescription{
        "quantize",
        "quantize",
        In("weight", &A::src),
        Choice("format", &A::format, std::span(kFormatNames).first(kFormatsWithScales)),
        Out("values", &A::values, [](const A& a) { return Result{DType::kI8, a.ValueShape()}; }),
        Out("magnitudes", &A::magnitudes,
            [](const A& a) { return F32Result({ScaleCount(a.format, a.rows(), a.cols())}); }),
    };
  }
};
void Check(const QuantizeArgs&);

// Rounds whole blocks of values to a format of files, with ggml's bits (quantize_blocks.h). On the
// CPU and in the reference: files are written on the host.
struct QuantizeBlocksArgs {
  TensorView values;  // f32, bf16 or f16
  WeightFormat format = WeightFormat::kQ8_0;
  TensorView blocks;  // i8 [bytes]
  TensorView held;    // i8 [blocks]: 1, or 0 where a value is not finite or its scale is too large
                      // for f16; the bytes of that block are no use then

  int64_t count() const { return values.numel() / TraitsOf(format).block.values; }

  static constexpr auto Describe() {
    using A = QuantizeBlocksArgs;
    return OpDescription{
        "quantize_blocks",
        "quantize_blocks",
        In("values", &A::values),
        Choice("format", &A::format, kWrittenNames).Among(kWrittenBlocks),
        Out("blocks", &A::blocks,
            [](const A& a) {
              return Result{DType::kI8, {a.count() * TraitsOf(a.format).block.bytes}};
            }),
        Out("held", &A::held, [](const A& a) { return Result{DType::kI8, {a.count()}}; }),
    };
  }
};
void Check(const QuantizeBlocksArgs&);

// dst [rows, cols] row-major ← a packed matrix in the dtype in which ops see it. Where that is the
// dtype of the format, the values are those that were packed, bit for bit.
struct UnpackArgs {
  PackedView src;
  TensorView dst;

  static constexpr auto Describe() {
    using A = UnpackArgs;
    return OpDescription{
        "unpack",
        "unpack",
        Weight("weight", &A::src),
        Out("dst", &A::dst,
            [](const A& a) { return Result{a.src.dtype, {a.src.rows, a.src.cols}}; }),
    };
  }
};
void Check(const UnpackArgs&);

// Inverted dropout on the input of the LoRA path, recomputed wherever it is needed. The mask of
// element (row, column) depends on nothing but these numbers (philox.h).
struct Dropout {
  float p = 0;
  uint64_t seed = 0;
  uint32_t layer = 0;
  uint32_t forward = 0;  // the layer's count of forwards
  bool active() const { return p > 0; }

  static constexpr auto Describe() {
    using D = Dropout;
    return PartDescription{
        Number("p", &D::p),
        Whole("seed", &D::seed),
        Whole("layer", &D::layer),
        Whole("forward", &D::forward),
    };
  }
};

// One linear layer fed by a shared input x [m, in]:
//   h = down·drop(x),  y = factor ⊙ (W·x + scale·up·h) + bias
// up and down are absent together: then the layer is the plain frozen one. An absent factor is 1.
// Backward takes no factor: its g is that of the product, factor ⊙ the gradient of y.
// Of int8 activations W·x is the product of whole numbers (int8_activations.h), where the format
// has whole codes and no tile registers multiply a prefill faster; backward takes none.
struct LoraBranch {
  PackedView weight;  // [out, in], act
  TensorView bias;    // [out] act or f32, or absent
  TensorView up;      // [out, r] f32, or absent
  TensorView down;    // [r, in] f32, or absent
  float scale = 1;
  Dropout dropout;
  int64_t site = kNoSite;  // in the table of a forward call
  TensorView factor{};     // [out] f32, or absent
  Activations activations = Activations::kExact;

  static constexpr int64_t kNoSite = -1;

  static constexpr auto Describe() {
    using B = LoraBranch;
    return PartDescription{
        Weight("weight", &B::weight),
        In("bias", &B::bias).OrNone(),
        In("up", &B::up).OrNone(),
        In("down", &B::down).OrNone(),
        Number("scale", &B::scale),
        MaybePart("dropout", &B::dropout),
        Whole("site", &B::site, kNoSite),
        In("factor", &B::factor).OrNone(),
        Choice("activations", &B::activations, kActivationNames),
    };
  }
};

// The kernel of a call. A prefill has a chunk of one sequence, a decode step one row of each
// sequence. On the CPU the bits of a row of y then depend on that row alone: on neither the number
// nor the content of the others. kAuto chooses by the number of rows.
enum class LinearPhase : uint8_t { kAuto, kPrefill, kDecode };
inline constexpr const char* kLinearPhases[] = {"auto", "prefill", "decode"};

// q/k/v (or gate/up) are the branches of one call, so that a backend may read x once.
//
// With a table, row i has the change of slot slots[i] at the site of the branch, which has no up,
// down and factor of its own; slot −1 changes nothing. Slots are read when the op runs: one outside
// of the table is ERR_DATA. A table of bf16 is for decode steps on bf16 x.
struct LoraLinearForwardArgs {
  TensorView x;  // [m, in] act
  std::vector<LoraBranch> branches;
  std::vector<TensorView> y;  // per branch [m, out] act
  std::vector<TensorView> h;  // per branch [m, r] f32, unscaled; absent where nobody will need it
  LinearPhase phase = LinearPhase::kAuto;
  TensorView slots{};  // [m] i32; comes with a table
  DeltaTableView table{};

  static constexpr auto Describe() {
    using A = LoraLinearForwardArgs;
    return OpDescription{
        "lora_linear_forward",
        "lora_linear",
        In("x", &A::x).Rows().Activation(),
        Each("branches", "branch", &A::branches),
        Choice("phase", &A::phase, kLinearPhases),
        In("slots", &A::slots).OrNone(),
        MaybeTable("table", &A::table),
        OutEach("y", &A::y, &A::branches,
                [](const A& a, size_t i) {
                  return Result{a.x.dtype, {a.x.dim(0), a.branches[i].weight.rows}};
                })
            .Rows(),
        OutEach("h", &A::h, &A::branches,
                [](const A& a, size_t i) {
                  const TensorView& up = a.branches[i].up;
                  return up ? F32Result({a.x.dim(0), up.dim(1)}) : NoResult();
                })
            .If("keepH"),
    };
  }
};
void Check(const LoraLinearForwardArgs&);

// Throw ERR_DATA for a slot outside of the table, and for one with an entry of failed tensors.
[[noreturn]] void ThrowSlot(const LoraLinearForwardArgs& args, int32_t slot, int64_t row);
[[noreturn]] void ThrowFailedSlot(const LoraLinearForwardArgs& args, int32_t slot);
// Returns the change of one row of a branch, in a call with a table in host memory, or throws one
// of these.
const DeltaEntry& EntryOf(const LoraLinearForwardArgs& args, size_t branch, int64_t row);

// With u = upᵀ·g:
//   dx = Σ over branches (Wᵀ·g + drop(scale·downᵀ·u))
//   d_up = scale·gᵀ·h → [out, r],  d_down = scale·uᵀ·drop(x) → [r, in]
// Any of dx, d_up, d_down may be absent. Two calls, one for dx that keeps u and one for the rest
// that takes it, give the bits of one for all: x may be computed between them.
struct LoraLinearBackwardArgs {
  TensorView x;  // [m, in] act; absent when no d_down is wanted
  std::vector<LoraBranch> branches;
  std::vector<TensorView> g;  // per branch [m, out] act
  std::vector<TensorView> h;  // per branch [m, r] f32 from forward; absent when no d_up is wanted
  TensorView dx;              // [m, in] act
  std::vector<TensorView> d_up;    // per branch [out, r] f32
  std::vector<TensorView> d_down;  // per branch [r, in] f32
  // Per branch [m, r] f32: that of an earlier call with these g, and where this call keeps it.
  // Absent elements, or an empty list: it is computed where it is needed, and not kept.
  std::vector<TensorView> u{}, kept_u{};

  static constexpr auto Describe() {
    using A = LoraLinearBackwardArgs;
    return OpDescription{
        "lora_linear_backward",
        "lora_linear",
        In("x", &A::x).Rows().OrNone(),
        Each("branches", "branch", &A::branches),
        InEach("g", "g", &A::g).Rows(),
        InEach("h", "h", &A::h).OrNone(),
        InEach("u", "u", &A::u).OrNone(),
        Out("dx", &A::dx,
            [](const A& a) {
              if (a.g.empty() || a.branches.empty()) return NoResult();
              return Result{a.g[0].dtype, {a.g[0].dim(0), a.branches[0].weight.cols}};
            })
            .Rows()
            .If("wantDx"),
        OutEach("d_up", &A::d_up, &A::branches,
                [](const A& a, size_t i) { return F32Result(a.branches[i].up.shape); })
            .IfEach("wantUp"),
        OutEach("d_down", &A::d_down, &A::branches,
                [](const A& a, size_t i) { return F32Result(a.branches[i].down.shape); })
            .IfEach("wantDown"),
        OutEach("kept_u", &A::kept_u, &A::branches,
                [](const A& a, size_t i) {
                  const TensorView& up = a.branches[i].up;
                  if (!up || a.g.empty()) return NoResult();
                  return F32Result({a.g[0].dim(0), up.dim(1)});
                })
            .If("keepU"),
    };
  }
};
void Check(const LoraLinearBackwardArgs&);

// y = drop(x), by the mask that the LoRA path of lora_linear takes for these numbers. It is its own
// gradient: dx = drop(g).
struct DropoutArgs {
  TensorView x;  // [n, d]
  Dropout dropout;
  TensorView y;  // [n, d]

  static constexpr auto Describe() {
    using A = DropoutArgs;
    return OpDescription{
        "dropout",
        "dropout",
        In("x", &A::x).Rows().Activation(),
        MaybePart("dropout", &A::dropout),
        Out("y", &A::y, Like<&A::x>).Rows(),
    };
  }
};
void Check(const DropoutArgs&);

using LinearOps = OpList<PackArgs, QuantizeArgs, QuantizeBlocksArgs, UnpackArgs,
                         LoraLinearForwardArgs, LoraLinearBackwardArgs, DropoutArgs>;

}  // namespace lora
