// Tensors of more than 2^32 elements, of which only the last block runs: their memory is addresses
// that take none until they are touched, which a GPU does not have.
#ifndef LORA_REAL_GPU
#include <doctest/doctest.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "backend/cuda/context.h"
#include "core/ops/ops.h"
#include "simt/buffer.h"
#include "test/support/schedules.h"

namespace lora::test {
namespace {

constexpr int64_t kMany = (int64_t{1} << 32) + 4096;

class Large {
 public:
  Large() {
    simt::Options options;
    options.last_block_only = true;
    simt::SetEmulatedOptions(options);
    context_ = std::make_unique<cuda::GpuContext>(OpenGpu());
  }
  ~Large() {
    context_.reset();
    for (void* data : made_) simt::DeviceFree(data);
    simt::SetEmulatedOptions({});
  }
  Large(const Large&) = delete;
  Large& operator=(const Large&) = delete;

  TensorView Make(DType dtype, Shape shape) {
    const size_t bytes = static_cast<size_t>(shape.numel()) * SizeOf(dtype);
    made_.push_back(simt::DeviceAllocSparse(bytes, "large"));
    return {made_.back(), dtype, shape};
  }
  // The last values of a tensor in bf16; the others are 0.
  static void SetLast(const TensorView& t, const std::vector<float>& values) {
    for (size_t i = 0; i < values.size(); ++i) {
      const uint16_t bits = BF16FromF32(values[i]);
      simt::DeviceWrite(t.as<uint16_t>() + t.numel() - static_cast<int64_t>(values.size() - i),
                        &bits, sizeof bits);
    }
  }
  static std::vector<float> Last(const TensorView& t, int64_t count, int64_t before = 0) {
    std::vector<float> values;
    for (int64_t i = t.numel() - before - count; i < t.numel() - before; ++i) {
      uint16_t bits;
      simt::DeviceRead(&bits, t.as<uint16_t>() + i, sizeof bits);
      values.push_back(F32FromBF16(bits));
    }
    return values;
  }
  template <class Args>
  void Run(const Args& args) {
    const PlannedCall call = CudaBackend()->op<Args>().plan(args, context_->threads());
    cuda::Gpu& gpu = context_->gpu();
    void* scratch = call.scratch_bytes == 0 ? nullptr : gpu.Allocate(call.scratch_bytes);
    call.run({static_cast<std::byte*>(scratch), call.scratch_bytes}, *context_);
    context_->Finish();
    gpu.Synchronize();
    if (scratch != nullptr) gpu.Free(scratch);
  }

 private:
  std::unique_ptr<cuda::GpuContext> context_;
  std::vector<void*> made_;
};

using Values = std::vector<float>;

}  // namespace

TEST_CASE("cuda large: elements behind 2^32") {
  Large large;
  const TensorView x = large.Make(DType::kBF16, {kMany}), y = large.Make(DType::kBF16, {kMany});
  Large::SetLast(x, {1, -2, 3, -4});
  large.Run(UnaryArgs{UnaryKind::kScale, 2, x, y});
  CHECK(Large::Last(y, 5) == Values{0, 2, -4, 6, -8});
  large.Run(BinaryArgs{BinaryKind::kAdd, x, y, x});
  CHECK(Large::Last(x, 5) == Values{0, 3, -6, 9, -12});
  // With a thread for each element.
  const TensorView whole = large.Make(DType::kI32, {kMany});
  const int32_t seven = 7;
  simt::DeviceWrite(whole.as<int32_t>() + kMany - 1, &seven, sizeof seven);
  large.Run(UnaryArgs{UnaryKind::kCopy, 1, whole, y});
  CHECK(Large::Last(y, 2) == Values{0, 7});
}

TEST_CASE("cuda large: rows behind 2^32 elements") {
  Large large;
  const Shape shape{kMany / 64, 64};
  const TensorView x = large.Make(DType::kBF16, shape), y = large.Make(DType::kBF16, shape);
  const TensorView ids = large.Make(DType::kI32, {1}), row = large.Make(DType::kBF16, {1, 64});
  Large::SetLast(x, Values(64, 3));
  const auto last = static_cast<int32_t>(shape[0] - 1);
  simt::DeviceWrite(ids.data, &last, sizeof last);
  EmbeddingArgs embedding;
  embedding.weight = {x.data, DType::kBF16, shape[0], shape[1]};
  embedding.ids = ids;
  embedding.y = row;
  large.Run(embedding);
  CHECK(Large::Last(row, 64) == Values(64, 3));
  const TensorView weight = large.Make(DType::kBF16, {64});
  Large::SetLast(weight, Values(64, 2));
  RmsNormForwardArgs norm;
  norm.x = x;
  norm.weight = weight;
  norm.y = y;
  large.Run(norm);
  CHECK(Large::Last(y, 64) == Values(64, 2));
}

TEST_CASE("cuda large: attention behind 2^32 elements") {
  Large large;
  // The last sequence has two positions, with keys of 0 and values of 1 and 3.
  const Shape shape{kMany / 128, 2, 1, 64};
  const TensorView q = large.Make(DType::kBF16, shape), v = large.Make(DType::kBF16, shape);
  const TensorView y = large.Make(DType::kBF16, shape);
  Values values(64, 1);
  values.resize(128, 3);
  Large::SetLast(v, values);
  AttentionForwardArgs attention;
  attention.q = attention.k = q;
  attention.v = v;
  attention.y = y;
  large.Run(attention);
  CHECK(Large::Last(y, 64) == Values(64, 2));
  CHECK(Large::Last(y, 64, 64) == Values(64, 1));
  CHECK(Large::Last(y, 64, 128) == Values(64, 0));
}

TEST_CASE("cuda large: products of matrices behind 2^32 elements") {
  Large large;
  const int64_t rows = kMany / 64;
  const TensorView a = large.Make(DType::kBF16, {rows, 64}), b = large.Make(DType::kBF16, {64, 64});
  const TensorView y = large.Make(DType::kBF16, {rows, 64});
  Large::SetLast(a, Values(64, 2));
  Large::SetLast(b, Values(4096, 0.5f));
  large.Run(MatmulArgs{a, b, y});
  CHECK(Large::Last(y, 64) == Values(64, 64));
  CHECK(Large::Last(y, 64, 64) == Values(64, 0));
}

}  // namespace lora::test
#endif
