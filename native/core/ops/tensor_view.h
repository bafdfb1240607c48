// A typed, shaped window on memory that somebody else owns. Always row-major and contiguous.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <ostream>
#include <vector>

#include "core/maths/dtype.h"
#include "core/maths/weight_format.h"
#include "core/ops/host_copy.h"

namespace lora {

constexpr int kMaxDims = 8;

class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) {
    for (int64_t d : dims) push_back(d);
  }
  void push_back(int64_t dim) { dims_[static_cast<size_t>(rank_++)] = dim; }  // rank() < kMaxDims
  int rank() const { return rank_; }
  int64_t operator[](int i) const { return dims_[static_cast<size_t>(i < 0 ? rank_ + i : i)]; }
  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= (*this)[i];
    return n;
  }
  const int64_t* begin() const { return dims_.data(); }
  const int64_t* end() const { return dims_.data() + rank_; }
  bool operator==(const Shape& other) const {
    return std::equal(begin(), end(), other.begin(), other.end());
  }

 private:
  std::array<int64_t, kMaxDims> dims_{};
  int rank_ = 0;
};

std::ostream& operator<<(std::ostream& out, const Shape& shape);

// An empty view (data == nullptr and `defined` false) stands for an absent optional operand.
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  Shape shape;
  bool defined = false;
  HostCopy* host_copy = nullptr;  // of memory of a device that keeps one

  TensorView() = default;
  TensorView(void* data, DType dtype, Shape shape)
      : data(data), dtype(dtype), shape(shape), defined(true) {}

  explicit operator bool() const { return defined; }
  int64_t numel() const { return defined ? shape.numel() : 0; }
  size_t bytes() const { return static_cast<size_t>(numel()) * SizeOf(dtype); }
  int64_t dim(int i) const { return shape[i]; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
  // Returns the view with its values in host memory; an empty one where only the device knows them.
  TensorView on_host() const {
    const void* const values = host_copy ? host_copy->At(data) : nullptr;
    return values ? TensorView(const_cast<void*>(values), dtype, shape) : TensorView();
  }
};

// A frozen matrix W [rows = out, cols = in] in the layout of the backend that packed it. The one
// copy serves y = W·x and dx = Wᵀ·g.
struct PackedView {
  const void* data = nullptr;
  DType dtype = DType::kF32;  // ops see the values in this dtype, which is that of the activations
  int64_t rows = 0;
  int64_t cols = 0;
  WeightFormat format = WeightFormat::kF32;

  PackedView() = default;
  PackedView(const void* data, DType dtype, int64_t rows, int64_t cols)
      : PackedView(data, dtype, rows, cols, FormatOf(dtype)) {}
  PackedView(const void* data, DType dtype, int64_t rows, int64_t cols, WeightFormat format)
      : data(data), dtype(dtype), rows(rows), cols(cols), format(format) {}

  explicit operator bool() const { return data != nullptr; }
};

// Whether a list has an element i. Where all elements are absent, it may be empty.
inline bool IsAt(const std::vector<TensorView>& views, size_t i) {
  return i < views.size() && views[i].defined;
}

}  // namespace lora
