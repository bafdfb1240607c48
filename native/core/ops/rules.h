// Provides the checks in which the files of this folder state the rules of an op.
#pragma once

#include <cmath>
#include <initializer_list>
#include <string>

#include "core/error.h"
#include "core/ops/tensor_view.h"

namespace lora::check {

// Checks what the operands of one op look like.
class Rules {
 public:
  explicit Rules(const char* op) : op_(op) {}

  void Present(const char* name, const TensorView& view) const {
    LORA_CHECK(view.defined, op_, "expected ", name, " but received none");
  }
  void Rank(const char* name, const TensorView& view, int rank, const char* dims) const {
    Present(name, view);
    LORA_CHECK(view.shape.rank() == rank, op_, "expected ", name, " of ", rank, " dimensions ",
               dims, " but received shape ", view.shape);
  }
  void ShapeIs(const char* name, const TensorView& view, const Shape& shape,
               const char* dims) const {
    Present(name, view);
    LORA_CHECK(view.shape == shape, op_, "expected ", name, " of shape ", shape, ' ', dims,
               " but received ", view.shape);
  }
  void Type(const char* name, const TensorView& view, std::initializer_list<DType> allowed) const {
    Present(name, view);
    for (const DType dtype : allowed)
      if (view.dtype == dtype) return;
    std::string list;
    for (const DType dtype : allowed) {
      if (dtype == DType::kF64)
        continue;  // only tests of the reference use it, so sentences leave it out
      list += (list.empty() ? "" : " or ") + std::string(NameOf(dtype));
    }
    LORA_CHECK(false, op_, "expected ", name, " of dtype ", list, " but received ",
               NameOf(view.dtype));
  }
  // Demands an activation.
  void Act(const char* name, const TensorView& view) const {
    Type(name, view, {DType::kF32, DType::kBF16, DType::kF64});
  }
  // Demands an activation of an op that inference needs; see Activation() in fields.h.
  void InferenceAct(const char* name, const TensorView& view) const {
    Type(name, view, {DType::kF32, DType::kBF16, DType::kF16, DType::kF64});
  }
  void Float32(const char* name, const TensorView& view) const {
    Type(name, view, {DType::kF32, DType::kF64});
  }
  void Int32(const char* name, const TensorView& view) const { Type(name, view, {DType::kI32}); }
  void SameType(const char* name, const TensorView& view, const char* of, DType dtype) const {
    Present(name, view);
    LORA_CHECK(view.dtype == dtype, op_, "expected ", name, " of dtype ", NameOf(dtype),
               " (that of ", of, ") but received ", NameOf(view.dtype));
  }
  // Demands `dtype`, or f32.
  void TypeOrFloat32(const char* name, const TensorView& view, const char* of, DType dtype) const {
    if (view.dtype == DType::kF32 || view.dtype == DType::kF64) return;
    SameType(name, view, of, dtype);
  }
  void Finite(const char* name, double value) const {
    LORA_CHECK(std::isfinite(value), op_, "expected ", name, " to be finite but received ", value);
  }
  void Count(const char* name, size_t count, size_t expected, const char* of) const {
    LORA_CHECK(count == expected, op_, "expected ", expected, ' ', name, " (one per ", of,
               ") but received ", count);
  }
  // Accepts f32, bf16 and f16.
  void Floating(const char* name, const TensorView& view) const {
    Type(name, view, {DType::kF32, DType::kBF16, DType::kF16, DType::kF64});
  }
  // Demands the dtype and shape of another operand.
  void Like(const char* name, const TensorView& view, const char* of,
            const TensorView& other) const {
    Present(name, view);
    LORA_CHECK(view.shape == other.shape, op_, "expected ", name, " of shape ", other.shape,
               " (that of ", of, ") but received ", view.shape);
    SameType(name, view, of, other.dtype);
  }
  void OneFloat32(const char* name, const TensorView& view) const {
    Float32(name, view);
    LORA_CHECK(view.numel() == 1, op_, "expected ", name, " of one element but received shape ",
               view.shape);
  }
  // Demands rows of `cols` activations of dtype `act`, called `act_name`, that fit a frozen matrix.
  void Weight(const char* name, const PackedView& weight, DType act, const char* act_name,
              int64_t cols) const {
    LORA_CHECK(weight, op_, "expected ", name, " but received none");
    LORA_CHECK(weight.dtype == act, op_, "expected ", act_name, " of dtype ", NameOf(weight.dtype),
               " (that of ", name, ") but received ", NameOf(act));
    LORA_CHECK(weight.cols == cols, op_, "expected ", act_name, " with a last dimension of ",
               weight.cols, " (the columns of ", name, ") but received one of ", cols);
  }
  // Demands tables [positions, pairs] that rotate heads x [.., d], whole or in part.
  void Rotation(const char* name, const TensorView& x, const TensorView& cos,
                const TensorView& sin) const {
    const int64_t d = x.dim(x.shape.rank() - 1);
    LORA_CHECK(d % 2 == 0, op_, "expected an even head_dim but received ", name, " of shape ",
               x.shape);
    Rank("cos", cos, 2, "(positions, pairs)");
    LORA_CHECK(cos.dim(1) <= d / 2, op_, "expected cos of at most ", d / 2,
               " columns (half of head_dim) but received shape ", cos.shape);
    ShapeIs("sin", sin, cos.shape, "(that of cos)");
    Float32("cos", cos);
    Float32("sin", sin);
  }
  // Demands a logit of each head of q.
  void Sinks(const TensorView& sinks, int64_t heads) const {
    ShapeIs("sinks", sinks, {heads}, "(heads of q)");
    Float32("sinks", sinks);
  }
  const char* op() const { return op_; }

 private:
  const char* op_;
};

}  // namespace lora::check
