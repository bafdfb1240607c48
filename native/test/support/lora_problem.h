// One case of lora_linear with its operands, what the reference makes of it, and how far another
// backend may be off.
#pragma once

#include <optional>
#include <vector>

#include "core/ops/backend.h"
#include "test/support/cases.h"
#include "test/support/close.h"
#include "test/support/run.h"
#include "test/support/tensors.h"

namespace lora::test {

// How a backend computes, which is what the bounds are derived from.
struct Precision {
  double accumulator = UnitRoundoff(DType::kF32);
  // Relative error with which a product of the low-rank vector and its matrix enters the
  // accumulators: 0 where both stay f32, 2·2⁻⁸ where both are rounded to bf16.
  double low_rank = 0;
  // Relative error of down in h, and of the factor that is rounded in the products of the
  // gradients: up in u, h in d_up and u in d_down. 0 where they stay f32, 2⁻⁸ where they are
  // rounded to bf16.
  double down = 0;
  double gradients = 0;
  // The dtype of the activations, where tensor cores multiply: 16-bit ones by W and, split into
  // 16-bit parts, all of them in the low-rank products.
  std::optional<DType> tensor_cores = {};

  // Returns how far a sum of x·w may be off, as a part of ‖x‖₂·‖w‖₂, if its accumulator gets `all`
  // terms, of which `terms` are its own.
  double Sum(int64_t terms, int64_t all) const;
  // Returns that for the low-rank products, which have accumulators of their own.
  double LowRankSum(int64_t terms) const;

  // What a backend that rides on bf16 products does; nothing is rounded for other dtypes. A decode
  // step reads down in f32.
  static Precision Of(DType activations, bool decodes = false) {
    const double u = activations == DType::kBF16 ? UnitRoundoff(DType::kBF16) : 0;
    return {UnitRoundoff(DType::kF32), 2 * u, decodes ? 0 : u, u};
  }
  // 16-bit factors of the low-rank path are rounded once each.
  static Precision OnTensorCores(DType activations) {
    const double u = activations == DType::kF32 ? 0 : UnitRoundoff(activations);
    return {UnitRoundoff(DType::kF32), 2 * u, 0, 0, activations};
  }
};

struct BranchOperands {
  Tensor weight, bias, up, down, factor;  // bias, factor, and up with down, may be absent
  float scale = 1;
  Dropout dropout;
};

struct LoraLinearOutputs {
  std::vector<Tensor> y, h;  // forward
  Tensor dx;                 // backward
  std::vector<Tensor> d_up, d_down;
};
// The same structure, of bounds.
struct LoraLinearBounds {
  std::vector<Bounds> y, h;
  Bounds dx;
  std::vector<Bounds> d_up, d_down;
};

class LoraLinearProblem {
 public:
  // Real numbers, or small whole ones (and s = 2), with which every product and sum is exact in
  // f32.
  enum class Values { kReal, kWhole };
  explicit LoraLinearProblem(const LoraLinearCase& of, uint64_t seed = 1,
                             Values values = Values::kReal);

  // Operands may be changed before a run.
  LoraLinearCase shape;
  Tensor x;
  std::vector<BranchOperands> branches;
  std::vector<Tensor> g;
  LinearPhase phase = LinearPhase::kAuto;  // of forward

  // All operands in another dtype, exactly where it is wider.
  LoraLinearProblem As(DType dtype) const;

  // y and h. Without `with_h`, h is not asked for.
  LoraLinearOutputs Forward(const Backend& backend, Context& context, bool with_h = true) const;
  // dx, d_up and d_down, given the h of a forward run (its dtype must be f32 unless x is f64). g is
  // that of the product before the factor.
  LoraLinearOutputs Backward(const Backend& backend, Context& context,
                             const std::vector<Tensor>& h) const;

  // What the reference computes in doubles, nothing rounded: all of forward and backward.
  LoraLinearOutputs Expected() const;
  // The bounds, given what is expected. With ε the accumulator's unit roundoff, per element of y
  // (where it has a factor, the lines but for the last are times its size):
  //     4·√k·ε·‖x‖₂·‖w‖₂
  //   + Σᵣ|s·a_r|·(4·√k·ε·‖x‖₂·‖b_r‖₂ + u_B·min(Σₖ|x·b_r|, 4·‖x∘b_r‖₂))
  //   + u_H·Σᵣ|s·h_r·a_r|
  //   + 4·√r·ε·‖h‖₂·‖s·a‖₂
  //   + |y|·u_out
  // The bounds of h, dx, d_up and d_down follow in the same manner. In the norm, independent
  // roundings add up in squares.
  LoraLinearBounds Bounds(const LoraLinearOutputs& expected, const Precision& precision) const;
};

// Returns h as backward receives it, wherever forward ran.
std::vector<Tensor> InF32(const std::vector<Tensor>& h);

}  // namespace lora::test
