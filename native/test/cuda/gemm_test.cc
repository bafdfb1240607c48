// Tests products of matrices on the device, mostly of whole numbers, so that results are exact.
#include "backend/cuda/gemm.h"

#include <doctest/doctest.h>

#include <cmath>
#include <utility>

#include "backend/cuda/gemm_plan.h"
#include "test/cuda/gemm_product.h"
#include "test/support/close.h"
#include "test/support/rounding.h"

namespace lora::test {
namespace {

using namespace gemm;  // NOLINT: the products of these tests

std::vector<Types> AllTypes() {
  std::vector<Types> all;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16})
    for (const bool trans_a : {false, true})
      for (const bool trans_b : {false, true})
        all.push_back({dtype, dtype, dtype, trans_a, trans_b});
  return all;
}

const Place kPlaces[] = {{0, 0}, {-1, 0}, {8, 0}, {2, 0}, {5, 0}, {0, 1}, {-1, 2}};

// One below, at and above a tile; k in and beside multiples of 8, 16 and 32; several segments, some
// without k; more of them than one launch takes.
const Case kCases[] = {
    {1, 1, {1}},
    {1, 64, {8}, Added::kBias},
    {64, 64, {32}},
    {63, 65, {33}, Added::kAll},
    {17, 130, {100}},
    {65, 40, {7}, Added::kBias, 0.5f},
    {33, 97, {40, 3, 16}, Added::kBias},
    {20, 36, {70, 0, 5}, Added::kAddend, 2},
    {66, 9, {16, 1, 0, 33, 16, 8, 7, 20, 3}, Added::kAll},
    {5, 5, {}, Added::kBias},
    {5, 6, {0}},
    {3, 4, {12}, Added::kNothing, 1, {}, 3},
    {67, 66, {24}, Added::kBias, 1, {}, 2},
    {34, 70, {40, 16, 9}, Added::kNothing, 1, {0, 0.5f, 0.5f}},
    {0, 4, {4}},
    {4, 0, {4}},
};

TEST_CASE("cuda gemm is exact on whole numbers, whatever the shape and the place") {
  int turn = 0;
  for (const Types& t : AllTypes()) {
    for (const Case& c : kCases) {
      // Every second place in every case, each with every type.
      const Place place = kPlaces[turn % 7];
      CAPTURE(NameOf(t.a));
      CAPTURE(t.trans_a);
      CAPTURE(t.trans_b);
      CAPTURE(c.m);
      CAPTURE(c.n);
      CAPTURE(c.k.size());
      CAPTURE(place.pad);
      CAPTURE(place.skew);
      MirrorContext context = NthContext(turn++ % 9);
      Product product(c, t, place);
      CHECK_IDENTICAL(product.Run(context), product.Expected().As(t.c));
    }
  }
}

TEST_CASE("cuda gemm: large tiles, the sum of splits, every dtype of the result") {
  int turn = 0;
  // Enough multiprocessors for splits, and so few that large tiles are best.
  const struct {
    Case c;
    int multiprocessors, tile;
    bool split;
  } cases[] = {
      {{127, 250, {40, 17}, Added::kAll, 2, {0, 0.5f}}, 1, 128, false},
      {{129, 119, {70}, Added::kBias}, 1, 128, false},
      {{40, 70, {1400, 16}, Added::kAll, 0.5f}, 8, 64, true},
      {{33, 64, {1100}, Added::kBias}, 16, 64, true},
      // segments for two launches, each with splits of its own
      {{33, 40, {600, 16, 5, 8, 3, 20, 300}, Added::kBias}, 16, 64, true},
  };
  for (const auto& c : cases) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      for (const DType result : {DType::kF32, dtype}) {
        for (const bool trans_b : {false, true}) {
          CAPTURE(c.c.m);
          CAPTURE(NameOf(dtype));
          CAPTURE(NameOf(result));
          CAPTURE(trans_b);
          simt::SetEmulatedProperties({c.multiprocessors, 80, 163 * 1024});
          Case given = c.c;
          if (trans_b && dtype != DType::kF32) given.dropout.clear();  // else no tensor cores
          const Product product(given, {dtype, dtype, result, false, trans_b}, kPlaces[turn % 7]);
          MirrorContext context = NthContext(turn++ % 9);
          const cuda::GemmPlan plan = cuda::PlanGemm("gemm", product.Problem(), c.multiprocessors);
          if (dtype != DType::kF32 || !c.split) {
            CHECK(plan.tile == c.tile);
            CHECK((plan.slabs > 1) == c.split);
          }
          CHECK_IDENTICAL(const_cast<Product&>(product).Run(context),
                          product.Expected().As(result));
        }
      }
    }
  }
  simt::SetEmulatedProperties({4, 80, 163 * 1024});
}

TEST_CASE("cuda gemm: blocks inside of both operands, and blocks at their edges in between") {
  const struct {
    Case c;
    int multiprocessors;  // one takes large tiles, 16 split the sums
  } cases[] = {
      {{256, 128, {96, 40, 64, 16, 128}, Added::kNothing, 0.5f}, 1},
      {{130, 192, {64, 33, 96}}, 1},
      {{128, 128, {96, 32, 64}, Added::kBias, 1, {0, 0.5f}}, 1},
      {{128, 128, {96}, Added::kNothing, 1, {}, 2}, 1},
      {{128, 64, {160, 8, 64}}, 64},
      {{64, 128, {1120, 96}, Added::kAddend}, 16},
  };
  int turn = 0;
  for (const auto& c : cases) {
    for (const DType dtype : {DType::kBF16, DType::kF16}) {
      for (const auto& [trans_a, trans_b] :
           {std::pair{false, false}, std::pair{false, true}, std::pair{true, false}}) {
        CAPTURE(c.c.m);
        CAPTURE(NameOf(dtype));
        CAPTURE(trans_a);
        CAPTURE(trans_b);
        simt::SetEmulatedProperties({c.multiprocessors, 80, 163 * 1024});
        Case given = c.c;
        if (trans_a || trans_b) given.dropout.clear();  // else no tensor cores
        const DType result = turn % 4 == 3 ? DType::kF32 : dtype;
        Product product(given, {dtype, dtype, result, trans_a, trans_b}, {turn % 2 * 8, 0});
        MirrorContext context = NthContext(turn++ % 9);
        CHECK_IDENTICAL(product.Run(context), product.Expected().As(result));
      }
    }
  }
  simt::SetEmulatedProperties({4, 80, 163 * 1024});
}

TEST_CASE("cuda gemm: operands of two dtypes, and a result of a third") {
  int turn = 0;
  for (const DType a : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const DType b : {DType::kF32, DType::kBF16, DType::kF16}) {
      for (const DType c : {DType::kF32, DType::kBF16, DType::kF16}) {
        MirrorContext context = NthContext(turn % 9);
        Product product({18, 33, {21, 4}, Added::kBias, 1, {}}, {a, b, c, false, turn % 2 == 0},
                        kPlaces[turn % 7]);
        CHECK_IDENTICAL(product.Run(context), product.Expected().As(c));
        ++turn;
      }
    }
  }
}

// The plan, with large tiles for one multiprocessor, is that of b in f32.
TEST_CASE("cuda gemm of f32: b may be stored in 16 bits") {
  int turn = 0;
  for (const int multiprocessors : {1, 16}) {
    simt::SetEmulatedProperties({multiprocessors, 80, 163 * 1024});
    for (const DType stored : {DType::kBF16, DType::kF16}) {
      for (const bool trans_b : {false, true}) {
        for (const Place& place : kPlaces) {
          CAPTURE(NameOf(stored));
          CAPTURE(trans_b);
          CAPTURE(place.pad);
          CAPTURE(place.skew);
          Product product({127, 134, {41, 16}, Added::kBias, 1, {0, 0.5f}},
                          {DType::kF32, stored, DType::kF32, false, trans_b}, place);
          cuda::GemmProblem p = product.Problem();
          p.b_dtype = DType::kF32;
          for (cuda::GemmSegment& segment : p.segments) segment.b_stored = stored;
          CHECK(cuda::PlanGemm("gemm", p, multiprocessors).tile ==
                (multiprocessors == 1 ? 128 : 64));
          MirrorContext context = NthContext(turn++ % 9);
          CHECK_IDENTICAL(product.Run(context, p), product.Expected().As(DType::kF32));
        }
      }
    }
  }
  simt::SetEmulatedProperties({4, 80, 163 * 1024});
}

// The sums come from a product that is the same but for what is added and for its dtype.
TEST_CASE(
    "cuda gemm: c is scaled, then the bias and the addend are added, and it is rounded once") {
  constexpr int64_t kM = 130, kN = 150;
  const Case given{kM, kN, {40}, Added::kNothing, 0.7f};
  for (const int multiprocessors : {1, 64}) {
    simt::SetEmulatedProperties({multiprocessors, 80, 163 * 1024});
    MirrorContext context = NthContext(0);
    for (const Place& place : {Place{0, 0}, {4, 0}, {2, 0}, {-1, 0}, {0, 1}}) {
      Product plain({kM, kN, {40}}, {DType::kBF16, DType::kBF16, DType::kF32, false, false}, place,
                    false);
      const Tensor sums = plain.Run(context);
      Matrix factor(Normal(DType::kF32, {1, kN}, 7), place, "factor");
      Matrix bias(Normal(DType::kF32, {1, kN}, 8), place, "bias");
      Matrix addend(Normal(DType::kF32, {kM, kN}, 9), place, "addend");
      for (Matrix* matrix : {&factor, &bias, &addend}) matrix->Upload();
      for (const DType result : {DType::kF32, DType::kBF16, DType::kF16}) {
        CAPTURE(multiprocessors);
        CAPTURE(place.pad);
        CAPTURE(NameOf(result));
        Product product(given, {DType::kBF16, DType::kBF16, result, false, false}, place, false);
        cuda::GemmProblem p = product.Problem();
        p.factor = factor.device.as<float>();
        p.bias = bias.device.as<void>();
        p.bias_dtype = DType::kF32;
        p.addend = addend.device.as<float>();
        p.addend_pitch = addend.pitch;
        CHECK(cuda::PlanGemm("gemm", p, multiprocessors).tile == (multiprocessors == 1 ? 128 : 64));
        Tensor apart(DType::kF32, {1, kM, kN}), fused(DType::kF32, {1, kM, kN});
        for (int64_t i = 0; i < kM * kN; ++i) {
          const auto at = [](const Matrix& m, int64_t n) {
            return static_cast<float>(m.values.at(n));
          };
          const float sum = static_cast<float>(sums.at(i)), by = given.alpha * at(factor, i % kN);
          const float scaled = sum * by;
          apart.Set(i, scaled + at(bias, i % kN) + at(addend, i));
          fused.Set(i, std::fma(sum, by, at(bias, i % kN)) + at(addend, i));
        }
        // Deep tests run kernels whose compiler fuses.
        const Tensor found = product.Run(context, p);
        CHECK((Identical(found, apart.As(result)).ok || Identical(found, fused.As(result)).ok));
      }
    }
  }
  simt::SetEmulatedProperties({4, 80, 163 * 1024});
}

TEST_CASE("cuda gemm: real numbers are within the bound of f32 sums, and two runs agree") {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const bool trans_b : {false, true}) {
      Product product({70, 66, {520, 16}, Added::kAll, 0.7f, {0, trans_b ? 0 : 0.1f}},
                      {dtype, dtype, dtype, false, trans_b}, {0, 0}, false);
      std::vector<Product::Reach> reaches;
      std::vector<double> bounds;
      const Tensor expected = product.Expected(&reaches);
      // In f32 it is √k of k·u·Σ|a·b|, far inside of it. A bias and an addend come behind the sum.
      for (size_t i = 0; i < reaches.size(); ++i) {
        const double value = std::fabs(expected.at(static_cast<int64_t>(i)));
        const double sum = dtype == DType::kF32
                               ? 4 * std::sqrt(536.0) * kU * (reaches[i].absolute + value)
                               : TensorCoreError(536) * reaches[i].partial() +
                                     4 * kU * (reaches[i].partial() + value);
        bounds.push_back(sum + UnitRoundoff(dtype) * value);
      }
      MirrorContext one = NthContext(1), other = NthContext(5);
      const Tensor c = product.Run(one);
      CHECK_CLOSE(c, expected, bounds);
      CHECK_IDENTICAL(product.Run(other), c);
    }
  }
}

TEST_CASE("cuda gemm: several products in one launch, or in one each") {
  int turn = 0;
  for (const int multiprocessors : {1, 16}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const bool trans_b : {false, true}) {
        if (multiprocessors > 1 && trans_b) continue;
        simt::SetEmulatedProperties({multiprocessors, 80, 163 * 1024});
        MirrorContext context = NthContext(turn++ % 9);
        const Types t{dtype, dtype, dtype, false, trans_b};
        const int64_t k = multiprocessors == 1 ? 40 : 1400;
        Product products[] = {{{40, 130, {k, 16}, Added::kBias}, t, {0, 0}},
                              {{0, 3, {k}}, t, {0, 0}},
                              {{40, 33, {k}}, t, {-1, 1}},
                              {{40, 64, {k, 3}, Added::kAll}, t, {8, 0}}};
        std::vector<cuda::GemmProblem> problems;
        for (Product& product : products) problems.push_back(product.Problem());
        const cuda::GemmGroupPlan plan = cuda::PlanGemmGroup("gemm", problems, multiprocessors);
        CHECK(plan.together == (multiprocessors == 1 || dtype == DType::kBF16));
        cuda::Gpu& gpu = context.device.gpu();
        const size_t bytes = plan.scratch_bytes;
        void* scratch = bytes > 0 ? gpu.Allocate(bytes) : nullptr;
        cuda::GemmGroup("gemm", problems, plan, Scratch(static_cast<std::byte*>(scratch), bytes),
                        context.device);
        if (scratch != nullptr) gpu.Free(scratch);
        gpu.Synchronize();
        for (Product& product : products)
          CHECK_IDENTICAL(product.Result(), product.Expected().As(dtype));
      }
    }
  }
  simt::SetEmulatedProperties({4, 80, 163 * 1024});
}

TEST_CASE("cuda gemm: c may be the addend") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    MirrorContext context = NthContext(2);
    Product product({70, 33, {40}}, {dtype, dtype, DType::kF32, false, false}, {5, 1});
    const Tensor once = product.Run(context);
    cuda::GemmProblem p = product.Problem();
    p.addend = static_cast<const float*>(p.c);
    p.addend_pitch = p.c_pitch;
    const Tensor twice = product.Run(context, p);
    for (int64_t i = 0; i < once.numel(); ++i) REQUIRE(twice.at(i) == 2 * once.at(i));
  }
}

TEST_CASE("cuda gemm: a programmatic launch reads what the one before writes after its wait") {
  for (int turn = 0; turn < 9; ++turn) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      if (dtype == DType::kF32 && turn % 4 != 0) continue;
      MirrorContext context = NthContext(turn);
      const Case c{40, 40, {100, 16}};
      Product product(c, {dtype, dtype, dtype, false, true}, {-1, 0});
      const Tensor before = product.Run(context);
      cuda::GemmProblem p = product.Problem();
      // a of the second segment becomes 2 everywhere.
      const TensorView a(const_cast<void*>(p.segments[1].a), dtype, {40, 16});
      CudaBackend()->op<FillArgs>().plan({2, a}, 1).run({}, context.device);
      p.programmatic = true;
      p.segments[1].late = true;
      const Tensor after = product.Run(context, p);
      p.programmatic = false;
      CHECK_IDENTICAL(product.Run(context, p), after);
    }
  }
}

TEST_CASE("cuda gemm: ldmatrix meets no bank conflict") {
  for (const int multiprocessors : {1, 64}) {  // large and small tiles
    simt::SetEmulatedProperties({multiprocessors, 80, 163 * 1024});
    for (const bool trans_a : {false, true}) {
      for (const bool trans_b : {false, true}) {
        if (trans_a && trans_b) continue;
        MirrorContext context = NthContext(0);
        const float dropout = trans_a || trans_b ? 0 : 0.5f;
        Product product({128, 128, {64, 16}, Added::kNothing, 1, {0, dropout}},
                        {DType::kBF16, DType::kBF16, DType::kBF16, trans_a, trans_b}, {0, 0});
        product.Run(context);
        const simt::Result counts = simt::EmulatedCounts(context.device.gpu());
        CHECK(counts.ldmatrix_phases > 0);
        CHECK(counts.WavefrontsPerPhase() == 1.0);
      }
    }
  }
  simt::SetEmulatedProperties({4, 80, 163 * 1024});
}

}  // namespace
}  // namespace lora::test
