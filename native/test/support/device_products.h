// Holds products of matrices in device memory against sums in doubles. Operands lie at pitches and
// odd addresses of their own; memory between rows must keep its contents.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "core/maths/philox.h"
#include "simt/buffer.h"
#include "test/support/close.h"
#include "test/support/rounding.h"
#include "test/support/schedules.h"
#include "test/support/tensors.h"

namespace lora::test {

using Vector = std::vector<double>;

// A matrix in device memory.
class DeviceMatrix {
 public:
  DeviceMatrix(DType dtype, int64_t rows, int64_t cols, int64_t pitch, int64_t skew,
               const std::string& name)
      : rows_(rows), cols_(cols), dtype_(dtype) {
    if (rows * cols == 0) return;
    const size_t size = SizeOf(dtype);
    buffer_ = std::make_unique<simt::Buffer>(
        static_cast<size_t>(rows), static_cast<size_t>(cols) * size,
        static_cast<size_t>(pitch) * size, name, static_cast<size_t>(skew) * size);
  }
  DeviceMatrix(const Tensor& t, int64_t pitch, int64_t skew, const std::string& name)
      : DeviceMatrix(t.dtype(), t.shape()[0], t.shape()[1], pitch, skew, name) {
    if (buffer_) buffer_->Upload(t.view().data);
  }
  void* data() const { return buffer_ ? buffer_->as<void>() : nullptr; }
  float* floats() const { return static_cast<float*>(data()); }
  Tensor Download() const {
    Tensor t(dtype_, {rows_, cols_});
    if (buffer_) {
      CHECK(buffer_->Unwritten() == 0);
      buffer_->Download(t.view().data);
    }
    return t;
  }

 private:
  int64_t rows_, cols_;
  DType dtype_;
  std::unique_ptr<simt::Buffer> buffer_;
};

class DeviceScratch {
 public:
  explicit DeviceScratch(size_t bytes) : bytes_(bytes) {
    if (bytes > 0) buffer_ = std::make_unique<simt::Buffer>(bytes, "scratch");
  }
  operator Scratch() const { return {buffer_ ? buffer_->as<std::byte>() : nullptr, bytes_}; }

 private:
  size_t bytes_;
  std::unique_ptr<simt::Buffer> buffer_;
};

// The device that the cases run on.
inline const cuda::DeviceProperties kUsual{4, 80, 163 * 1024}, kSmall{4, 86, 99 * 1024};
inline MirrorContext ContextOf(int turn, const cuda::DeviceProperties& properties) {
  simt::Options options = NthOptions(turn);
  options.arch = properties.arch;
  simt::SetEmulatedOptions(options);
  simt::SetEmulatedProperties(properties);
  return MirrorContext(OpenGpu());
}

inline double At(const Vector& v, int64_t i) { return v[static_cast<size_t>(i)]; }
inline constexpr double kEpsilon = 1.0 / (1 << 24);
inline double SumError(int64_t terms) {
  return 4 * std::sqrt(static_cast<double>(terms)) * kEpsilon;
}

// Returns the values of a [rows, cols] with the dropout's mask and scale.
inline Vector Dropped(const Tensor& z, const Dropout& dropout) {
  Vector values = z.Values();
  if (!dropout.active()) return values;
  const uint32_t threshold = DropoutThreshold(dropout.p);
  const int64_t cols = z.shape()[1];
  for (int64_t i = 0; i < z.numel(); ++i) {
    const int64_t col = i % cols;
    const PhiloxWords words =
        Philox4x32(dropout.seed, {static_cast<uint32_t>(col / 8), static_cast<uint32_t>(i / cols),
                                  dropout.layer, dropout.forward});
    values[static_cast<size_t>(i)] *=
        DropoutKeeps(words, static_cast<int>(col % 8), threshold) ? DropoutScale(threshold) : 0;
  }
  return values;
}

// Returns Σ over depth of z(i, depth)·s(depth, r), and how far it may be off: `error` is that of
// sums, as a part of the norms.
struct Expected {
  Vector values, bounds;
};
template <class Z, class S>
Expected ProductOf(int64_t outs, int64_t ranks, int64_t depth, double factor, double error, Z z,
                   S s) {
  Expected e;
  for (int64_t i = 0; i < outs; ++i) {
    for (int64_t r = 0; r < ranks; ++r) {
      double sum = 0, z_square = 0, s_square = 0;
      for (int64_t k = 0; k < depth; ++k) {
        sum += z(i, k) * s(k, r);
        z_square += z(i, k) * z(i, k);
        s_square += s(k, r) * s(k, r);
      }
      e.values.push_back(factor * sum);
      e.bounds.push_back(std::fabs(factor) * error * std::sqrt(z_square * s_square) +
                         4 * kEpsilon * std::fabs(factor * sum));
    }
  }
  return e;
}

inline Tensor Random(bool whole, DType dtype, Shape shape, uint64_t seed) {
  return whole ? Integers(dtype, shape, seed) : Normal(dtype, shape, seed);
}

inline void CheckResult(const Tensor& actual, const Expected& expected, bool whole) {
  const Tensor wanted = Of(DType::kF64, actual.shape(), expected.values);
  if (whole) {
    CHECK_IDENTICAL(actual, wanted.As(actual.dtype()));
  } else {
    CHECK_CLOSE(actual, wanted, expected.bounds);
  }
}

inline Dropout DropoutOf(float p, uint32_t layer) { return {p, 0x123456789abcdefull, layer, 41}; }

inline constexpr DType kDTypes[] = {DType::kF32, DType::kBF16, DType::kF16};

}  // namespace lora::test
