// Computes products of matrices on a device, and their values in doubles.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "backend/cuda/gemm_plan.h"
#include "core/maths/philox.h"
#include "simt/buffer.h"
#include "test/support/schedules.h"
#include "test/support/tensors.h"

namespace lora::test::gemm {

enum class Added { kNothing, kBias, kAddend, kAll };

struct Case {
  int64_t m, n;
  std::vector<int64_t> k;  // of the segments
  Added added = Added::kNothing;
  float alpha = 1;
  std::vector<float> dropout = {};  // of the segments; p = 0.5 scales by 2, exactly
  int64_t batches = 1;
};

struct Types {
  DType a, b, c;
  bool trans_a, trans_b;
};

// Says how matrices lie in memory: elements of padding after each row, and elements between a
// multiple of 256 bytes and the first one. With pad −1 rows follow each other, most at odd
// addresses.
struct Place {
  int64_t pad, skew;
};

// A matrix on the host and on the device.
struct Matrix {
  Matrix(const Tensor& values, const Place& place, const char* name)
      : rows(values.shape().rank() == 3 ? values.shape()[0] * values.shape()[1]
                                        : values.shape()[0]),
        cols(values.shape()[-1]),
        pitch(place.pad < 0 ? cols : (cols + 7) / 8 * 8 + place.pad),
        values(values),
        device(static_cast<size_t>(rows), Bytes(cols), Bytes(pitch), name, Bytes(place.skew)) {}
  size_t Bytes(int64_t elements) const {
    return static_cast<size_t>(elements) * SizeOf(values.dtype());
  }
  void Upload() { device.Upload(values.view().data); }
  void Download() { device.Download(values.view().data); }

  int64_t rows, cols, pitch;
  Tensor values;
  simt::Buffer device;
};

inline bool Kept(const Dropout& dropout, int64_t row, int64_t col) {
  const PhiloxWords words = Philox4x32(
      dropout.seed,
      {static_cast<uint32_t>(col / 8), static_cast<uint32_t>(row), dropout.layer, dropout.forward});
  return DropoutKeeps(words, static_cast<int>(col % 8), DropoutThreshold(dropout.p));
}

// One product: its operands, and what comes of it.
class Product {
 public:
  Product(const Case& c, const Types& t, const Place& place, bool whole = true)
      : c_(c), t_(t), c_matrix_(Tensor(t.c, {c.batches, c.m, c.n}), place, "c") {
    const auto values = [&](DType dtype, Shape shape) {
      ++seed_;
      return whole ? Integers(dtype, shape, seed_) : Normal(dtype, shape, seed_);
    };
    for (size_t s = 0; s < c.k.size(); ++s) {
      const int64_t k = c.k[s];
      a_.push_back(std::make_unique<Matrix>(
          values(t.a, t.trans_a ? Shape{c.batches, k, c.m} : Shape{c.batches, c.m, k}), place,
          "a"));
      b_.push_back(std::make_unique<Matrix>(
          values(t.b, t.trans_b ? Shape{c.batches, c.n, k} : Shape{c.batches, k, c.n}), place,
          "b"));
    }
    const bool bias = c.added == Added::kBias || c.added == Added::kAll;
    const bool addend = c.added == Added::kAddend || c.added == Added::kAll;
    if (bias) bias_.reset(new Matrix(values(c.n % 2 ? DType::kF32 : t.a, {1, c.n}), place, "bias"));
    if (addend) addend_.reset(new Matrix(values(DType::kF32, {c.m, c.n}), place, "addend"));
    for (const auto* list : {&a_, &b_})
      for (const auto& matrix : *list) matrix->Upload();
    for (const auto* matrix : {bias_.get(), addend_.get()})
      if (matrix != nullptr) const_cast<Matrix*>(matrix)->Upload();
  }

  cuda::GemmProblem Problem() const {
    cuda::GemmProblem p;
    p.m = c_.m;
    p.n = c_.n;
    p.a_dtype = t_.a;
    p.b_dtype = t_.b;
    p.c_dtype = t_.c;
    p.trans_a = t_.trans_a;
    p.trans_b = t_.trans_b;
    for (size_t s = 0; s < c_.k.size(); ++s) {
      p.segments.push_back({a_[s]->device.as<void>(), b_[s]->device.as<void>(), c_.k[s],
                            a_[s]->pitch, b_[s]->pitch, DropoutOf(s), false});
      p.a_batch = c_.batches == 1 ? 0 : a_[s]->pitch * (t_.trans_a ? c_.k[s] : c_.m);
      p.b_batch = c_.batches == 1 ? 0 : b_[s]->pitch * (t_.trans_b ? c_.n : c_.k[s]);
    }
    p.alpha = c_.alpha;
    if (bias_) {
      p.bias = bias_->device.as<void>();
      p.bias_dtype = bias_->values.dtype();
    }
    if (addend_) {
      p.addend = addend_->device.as<float>();
      p.addend_pitch = addend_->pitch;
    }
    p.c = c_matrix_.device.as<void>();
    p.c_pitch = c_matrix_.pitch;
    p.batches = c_.batches;
    p.c_batch = c_.batches == 1 ? 0 : c_matrix_.pitch * c_.m;
    return p;
  }

  Tensor Run(MirrorContext& context) { return Run(context, Problem()); }
  Tensor Run(MirrorContext& context, const cuda::GemmProblem& p) {
    cuda::Gpu& gpu = context.device.gpu();
    const cuda::GemmPlan plan = cuda::PlanGemm("gemm", p, context.threads());
    const size_t bytes = plan.scratch_bytes;
    void* scratch = bytes > 0 ? gpu.Allocate(bytes) : nullptr;
    cuda::Gemm("gemm", p, plan, Scratch(static_cast<std::byte*>(scratch), bytes), context.device);
    if (scratch != nullptr) gpu.Free(scratch);
    gpu.Synchronize();
    return Result();
  }
  // Checks the result after a run.
  Tensor Result() {
    CHECK(c_matrix_.device.Unwritten() == 0);
    c_matrix_.Download();
    return c_matrix_.values;
  }

  // How far the terms of a sum get: Σ|a·b|, and 4·√Σ(a·b)² where their signs are independent.
  struct Reach {
    double absolute = 0, square = 0;
    double partial() const { return std::min(absolute, 4 * std::sqrt(square)); }
  };

  // Returns the product in doubles, and what its terms are like.
  Tensor Expected(std::vector<Reach>* reaches = nullptr) const {
    Tensor c(DType::kF64, {c_.batches, c_.m, c_.n});
    for (int64_t i = 0; i < c.numel(); ++i) {
      const int64_t batch = i / (c_.m * c_.n), row = i / c_.n % c_.m, col = i % c_.n;
      double sum = 0;
      Reach reach;
      for (size_t s = 0; s < c_.k.size(); ++s) {
        const int64_t k = c_.k[s];
        const Tensor &a = a_[s]->values, &b = b_[s]->values;
        const Dropout dropout = DropoutOf(s);
        double factor = 1;
        if (dropout.active()) {
          factor = Kept(dropout, row, col) ? DropoutScale(DropoutThreshold(dropout.p)) : 0;
        }
        for (int64_t l = 0; l < k; ++l) {
          const double product =
              a.at(batch * c_.m * k + (t_.trans_a ? l * c_.m + row : row * k + l)) *
              b.at(batch * k * c_.n + (t_.trans_b ? col * k + l : l * c_.n + col));
          sum += factor * product;
          reach.absolute += std::fabs(factor * product);
          reach.square += factor * product * factor * product;
        }
      }
      sum *= c_.alpha;
      if (bias_) sum += bias_->values.at(col);
      if (addend_) sum += addend_->values.at(row * c_.n + col);
      c.Set(i, sum);
      if (reaches != nullptr) reaches->push_back(reach);
    }
    return c;
  }

 private:
  Dropout DropoutOf(size_t segment) const {
    if (segment >= c_.dropout.size()) return {};
    return {c_.dropout[segment], 0x123456789abcdefull + segment, 3, 41};
  }

  Case c_;
  Types t_;
  uint64_t seed_ = 0;
  std::vector<std::unique_ptr<Matrix>> a_, b_;
  std::unique_ptr<Matrix> bias_, addend_;
  Matrix c_matrix_;
};

}  // namespace lora::test::gemm
