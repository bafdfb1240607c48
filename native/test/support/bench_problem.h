// Makes a large, random LoRA layer in a device's memory for the benchmark of scripts/gpu-check, and
// checks some elements against sums in double, because what is timed must be right.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/cuda/runtime.h"
#include "core/ops/backend.h"

namespace lora::test {

struct BenchShape {
  int64_t m = 0, k = 0, n = 0, r = 0;  // rows, inputs, outputs, rank
  DType dtype = DType::kBF16;
  int copies = 1;            // of W, up and down, to be used in turn
  std::string Name() const;  // "bf16 M=4096 4096→4096 r=16"
};

class BenchProblem {
 public:
  static constexpr float kScale = 2;

  BenchProblem(cuda::Gpu& gpu, const BenchShape& shape);
  ~BenchProblem();
  BenchProblem(const BenchProblem&) = delete;
  BenchProblem& operator=(const BenchProblem&) = delete;

  const BenchShape shape;
  // In the device's memory: [m, k], [m, n], [m, k], [m, n] of the dtype.
  void *x = nullptr, *g = nullptr, *dx = nullptr, *y = nullptr;
  struct Weights {
    void* w = nullptr;                                // [n, k] of the dtype
    void *a = nullptr, *b = nullptr;                  // [n, r] and [r, k] in f32
    void *a_rounded = nullptr, *b_rounded = nullptr;  // of the dtype, for rivals
  };
  std::vector<Weights> weights;
  // [m, r], unscaled; in f32, and of the dtype for rivals.
  void *h = nullptr, *h_rounded = nullptr, *u_rounded = nullptr;
  void *d_up = nullptr, *d_down = nullptr;  // [n, r], [r, k] in f32

  // Return the arguments of the layer with the weights of one copy, without LoRA unless `lora`.
  LoraLinearForwardArgs Forward(int copy, bool lora, bool with_h) const;
  LoraLinearBackwardArgs Backward(int copy, bool with_dx, bool with_gradients) const;

  // Fills every output with NaN.
  void Poison();
  // These return ‖error‖₂/‖expected‖₂ over some elements (of the copy 0), infinite if any element
  // of the whole output is not finite. Those of the gradients take h from forward.
  double YError(bool lora) const;
  double DxError() const;
  double DaError() const;
  double DbError() const;

 private:
  struct Host {  // a matrix as the device has it
    DType dtype = DType::kF32;
    int64_t cols = 0;
    std::vector<uint16_t> half;
    std::vector<float> single;
    double at(int64_t row, int64_t col) const;
  };
  Host Random(DType dtype, int64_t rows, int64_t cols, uint64_t seed, double deviation) const;
  Host Rounded(const Host& from) const;
  void* Allocate(size_t bytes);
  void* Upload(const Host& matrix);
  Host Download(const void* data, DType dtype, int64_t rows, int64_t cols) const;
  double H(int64_t row, int64_t rank) const;
  double U(int64_t row, int64_t rank) const;
  // Compares expected(row, col) with some elements of [rows, cols], only in the first `some_rows`
  // and `some_cols` where those are given.
  template <class F>
  double Error(const void* data, DType dtype, int64_t rows, int64_t cols, int64_t some_rows,
               int64_t some_cols, const F& expected) const;

  cuda::Gpu& gpu_;
  std::vector<void*> blocks_;
  Host host_x_, host_w_, host_a_, host_b_, host_g_;
};

}  // namespace lora::test
