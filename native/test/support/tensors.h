// Provides tensors that own their memory, with random contents that depend on a seed only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/ops/tensor_view.h"

namespace lora::test {

// Fresh elements are NaN (−1 for i32), so that what an op forgot to write is seen. Behind the last
// element lies a guard (in an AddressSanitizer build, its red zone).
class Tensor {
 public:
  Tensor() = default;  // absent: an undefined view
  // `misalign` elements past a 64-byte boundary, as views into larger tensors may be.
  explicit Tensor(DType dtype, Shape shape, int64_t misalign = 0);
  Tensor(const Tensor& other);
  Tensor& operator=(const Tensor& other);
  Tensor(Tensor&&) = default;
  Tensor& operator=(Tensor&&) = default;

  const TensorView& view() const { return view_; }
  operator const TensorView&() const { return view_; }
  explicit operator bool() const { return view_.defined; }
  DType dtype() const { return view_.dtype; }
  const Shape& shape() const { return view_.shape; }
  int64_t numel() const { return view_.numel(); }

  double at(int64_t i) const;
  void Set(int64_t i, double value);  // rounds once to the dtype
  std::vector<double> Values() const;
  // Returns a copy, each element rounded once. An absent tensor stays absent.
  Tensor As(DType dtype) const;
  // Returns false after something wrote behind the end.
  bool intact() const;

 private:
  size_t bytes() const {
    return static_cast<size_t>(misalign_) * SizeOf(view_.dtype) + view_.bytes();
  }
  struct Free {
    void operator()(std::byte* memory) const;
  };
  std::unique_ptr<std::byte, Free> memory_;
  TensorView view_;
  int64_t misalign_ = 0;
};

// Returns numbers in [lo, hi).
Tensor Uniform(DType dtype, Shape shape, uint64_t seed, double lo = -1, double hi = 1);
Tensor Normal(DType dtype, Shape shape, uint64_t seed, double deviation = 1, double mean = 0);
// Returns whole numbers from lo to hi, both included. Products and sums of small ones are exact.
Tensor Integers(DType dtype, Shape shape, uint64_t seed, int lo = -3, int hi = 3);
Tensor Full(DType dtype, Shape shape, double value);
Tensor Zeros(DType dtype, Shape shape);
Tensor Of(DType dtype, Shape shape, const std::vector<double>& values);
Tensor Ints(Shape shape, const std::vector<int32_t>& values);

// Returns "[2, 3]".
std::string Text(const Shape& shape);

}  // namespace lora::test
