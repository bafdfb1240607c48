// Tests, on the emulator, how much the banks of shared memory slow the kernels' ordinary loads and
// stores down, because no result shows a wrong pitch or swizzle. The tests of the ops count
// ldmatrix.
#ifndef LORA_REAL_GPU
#include <doctest/doctest.h>

#include <cstring>
#include <string>

#include "backend/cuda/skinny.h"
#include "core/maths/row_major.h"
#include "test/support/device_products.h"
#include "test/support/kept_matrix.h"
#include "test/support/lora_problem.h"
#include "test/support/page_cases.h"
#include "test/support/run.h"
#include "test/support/schedules.h"

namespace lora::test {
namespace {

// Checks the passes, by the fewest possible, of the worst line of what run(context) launches. Some
// kernels have one line of two passes that cost less than avoiding them would; `most` is accepted.
template <class RunFn>
void CheckConflict(const std::string& what, double most, const RunFn& run,
                   int multiprocessors = 4) {
  CAPTURE(what);
  simt::Options options;
  options.count_banks = true;
  simt::SetEmulatedOptions(options);
  simt::SetEmulatedProperties({multiprocessors, 80, 163 * 1024});
  {
    MirrorContext context(OpenGpu());
    run(context);
    const simt::Result counts = simt::EmulatedCounts(context.device.gpu());
    CHECK(counts.worst_bank_conflict >= 1);  // there are such accesses
    CHECK_MESSAGE(counts.worst_bank_conflict <= most, counts.worst_bank_conflict, " at ",
                  counts.worst_bank_place);
  }
  simt::SetEmulatedProperties({4, 80, 163 * 1024});
}

TEST_CASE("cuda transpose: tiles are written and read without bank conflicts") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Tensor x = Uniform(dtype, {128, 128}, 1);
    CheckConflict(NameOf(dtype), 1.0, [&](Context& context) {
      const Tensor y(dtype, {128, 128});
      Run(MirroredCuda(), TransposeArgs{x, y, {1, 0}}, context);
    });
  }
}

TEST_CASE("cuda matmul: operands of f32 tiles") {
  for (const int multiprocessors : {1, 64}) {  // large and small tiles
    for (const bool trans_a : {false, true}) {
      for (const bool trans_b : {false, true}) {
        const Tensor a = Uniform(DType::kF32, {128, 128}, 1),
                     b = Uniform(DType::kF32, {128, 128}, 2);
        CheckConflict(
            std::string("matmul") + (trans_a ? " ta" : "") + (trans_b ? " tb" : "") + ' ' +
                std::to_string(multiprocessors),
            multiprocessors == 1 || (trans_a && !trans_b) ? 1 : 2,
            [&](Context& context) {
              const Tensor y(DType::kF32, {128, 128});
              Run(MirroredCuda(), MatmulArgs{a, b, y, trans_a, trans_b}, context);
            },
            multiprocessors);
      }
    }
  }
}

TEST_CASE("cuda attention: scores, sums and tiles of f32") {
  using namespace attention;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t d : {64, 128, 256}) {
      const bool f32 = dtype == DType::kF32;
      const PagedCase few{dtype, AttentionPhase::kPrefill, 4, 1, 1, d, 0, {64}};
      const PagedOperands paged(few);
      CheckConflict(few.Name(), !f32 || d == 256 ? 2 : 1, [&](Context& context) {
        Run(MirroredCuda(), PagedArgs(few, paged, Tensor(dtype, paged.q.shape())), context);
      });
      AttentionCase c;
      c.dtype = dtype;
      c.queries = 64;
      c.d = d;
      const Operands o(c);
      const Tensor y(dtype, o.q.shape()), lse(DType::kF32, {1, 1, c.queries});
      CheckConflict("forward " + c.Name(), f32 && d == 256 ? 2 : 1, [&](Context& context) {
        Run(MirroredCuda(), ForwardArgs(c, o, y, Tensor()), context);
      });
      Run(ReferenceBackend(), ForwardArgs(c, o, y, lse));
      CheckConflict("backward " + c.Name(), f32 ? 2 : 1, [&](Context& context) {
        const Gradients gradients(dtype, o);
        Run(MirroredCuda(), BackwardArgs(c, o, y, lse, gradients), context);
      });
    }
  }
}

TEST_CASE("cuda lora_linear: decoding, the low-rank products and their gradients") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t m : {1, 4, 16, 64}) {
      LoraLinearCase c;
      c.dtype = dtype;
      c.m = m;
      c.k = 256;
      c.branches = {{64, 16, true}};
      const LoraLinearProblem problem(c);
      const bool f32 = dtype == DType::kF32;
      CheckConflict("forward " + c.Name(), (f32 ? m == 64 : m > 1) ? 2 : 1,
                    [&](Context& context) { problem.Forward(MirroredCuda(), context); });
      const LoraLinearOutputs expected = problem.Expected();
      CheckConflict("backward " + c.Name(), f32 ? 2 : 1, [&](Context& context) {
        problem.Backward(MirroredCuda(), context, {expected.h[0].As(DType::kF32)});
      });
    }
  }
}

// A byte of codes is looked up by every lane at once, and all bytes are there.
TEST_CASE("cuda decode: pairs of codes lie in banks of their lanes") {
  for (const WeightFormat format :
       {WeightFormat::kNF4, WeightFormat::kI8Rows, WeightFormat::kIQ4_NL, WeightFormat::kMXFP4}) {
    const int64_t n = 16, k = 2048;
    const KeptMatrix w({format, DType::kBF16}, n, k, 3);
    Tensor bytes = Zeros(DType::kI8, {1, static_cast<int64_t>(RowMajorBytes(format, n, k))});
    std::memcpy(bytes.view().data, w.stored.view().data, w.stored.view().bytes());
    if (HasScales(format))
      std::memcpy(bytes.view().as<std::byte>() + ScalesAt(format, n, k), w.scales.view().data,
                  w.scales.view().bytes());
    const Tensor x = Uniform(DType::kBF16, {1, k}, 4);
    CheckConflict(NameOf(format), 1, [&](MirrorContext& context) {
      const DeviceMatrix kept(bytes, bytes.numel(), 0, "kept"), xs(x, k, 0, "x"),
          y(DType::kBF16, 1, n, n, 0, "y");
      cuda::DecodeBranch branch;
      branch.packed = {kept.data(), DType::kBF16, n, k, format};
      branch.n = n;
      branch.y = y.data();
      cuda::DecodeArgs args;
      args.dtype = DType::kBF16;
      args.x = xs.data();
      args.m = 1;
      args.k = k;
      args.branches = {branch};
      cuda::DecodeLinear(args, context.device);
      context.device.Finish();
    });
  }
}

}  // namespace
}  // namespace lora::test
#endif  // LORA_REAL_GPU
