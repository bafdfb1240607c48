// Products of matrices on the emulated device: whole numbers, so that results are exact.
#include "backend/cuda/gemm.h"

#include <doctest/doctest.h>

#include <cmath>

#include "backend/cuda/gemm_plan.h"
#include "backend/cuda/kernels.h"
#include "core/philox.h"
#include "test/simt/buffer.h"
#include "test/support/close.h"
#include "test/support/schedules.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

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

// How matrices lie in memory: padding behind rows, which belongs to nobody, and elements between a
// multiple of 256 bytes and the first one. pad −1: rows follow each other, most at odd places.
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

bool Kept(const Dropout& dropout, int64_t row, int64_t col) {
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
    const size_t bytes = cuda::GemmScratchBytes(p, context.threads());
    void* scratch = bytes > 0 ? gpu.Allocate(bytes) : nullptr;
    cuda::Gemm("gemm", p, Scratch(static_cast<std::byte*>(scratch), bytes), context.device);
    if (scratch != nullptr) gpu.Free(scratch);
    gpu.Synchronize();
    return Result();
  }
  // After a run.
  Tensor Result() {
    CHECK(c_matrix_.device.Unwritten() == 0);
    c_matrix_.Download();
    return c_matrix_.values;
  }

  // In doubles, with Σ|a·b| to go with it.
  Tensor Expected(std::vector<double>* absolute = nullptr) const {
    Tensor c(DType::kF64, {c_.batches, c_.m, c_.n});
    for (int64_t i = 0; i < c.numel(); ++i) {
      const int64_t batch = i / (c_.m * c_.n), row = i / c_.n % c_.m, col = i % c_.n;
      double sum = 0, size = 0;
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
          size += std::fabs(factor * product);
        }
      }
      sum *= c_.alpha;
      if (bias_) sum += bias_->values.at(col);
      if (addend_) sum += addend_->values.at(row * c_.n + col);
      c.Set(i, sum);
      if (absolute != nullptr) absolute->push_back(size);
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

TEST_CASE("cuda gemm: real numbers are within the bound of f32 sums, and two runs agree") {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const bool trans_b : {false, true}) {
      Product product({70, 66, {520, 16}, Added::kAll, 0.7f, {0, trans_b ? 0 : 0.1f}},
                      {dtype, dtype, dtype, false, trans_b}, {0, 0}, false);
      std::vector<double> bounds;
      const Tensor expected = product.Expected(&bounds);
      // Far inside of k·ε·Σ|a·b|: √k of it.
      for (size_t i = 0; i < bounds.size(); ++i) {
        const double value = std::fabs(expected.at(static_cast<int64_t>(i)));
        bounds[i] = 4 * std::sqrt(536.0) * UnitRoundoff(DType::kF32) * (bounds[i] + value) +
                    UnitRoundoff(dtype) * value;
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
        const size_t bytes = cuda::GemmGroupScratchBytes(problems, multiprocessors);
        void* scratch = bytes > 0 ? gpu.Allocate(bytes) : nullptr;
        cuda::GemmGroup("gemm", problems, Scratch(static_cast<std::byte*>(scratch), bytes),
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
      cuda::Fill({2, TensorView(const_cast<void*>(p.segments[1].a), dtype, {40, 16})}, {},
                 context.device);
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

TEST_CASE("cuda gemm: tensor cores take dropout where no operand is transposed") {
  for (const bool trans_a : {false, true}) {
    for (const bool trans_b : {false, true}) {
      for (const float dropout : {0.0f, 0.1f}) {
        cuda::GemmProblem p;
        p.m = p.n = 256;
        p.a_dtype = p.b_dtype = p.c_dtype = DType::kBF16;
        p.trans_a = trans_a;
        p.trans_b = trans_b;
        p.segments = {{nullptr, nullptr, 64, 256, 256, {}, false},
                      {nullptr, nullptr, 16, 256, 256, {dropout, 1, 2, 3}, false}};
        const int transposed = trans_a + trans_b;
        CHECK(cuda::PlanGemm("gemm", p, 8).tensor_cores == (transposed <= (dropout > 0 ? 0 : 1)));
      }
    }
  }
}

TEST_CASE("cuda gemm: batches are not split, and each split has a slab of its own") {
  cuda::GemmProblem p;
  p.m = 40;
  p.n = 70;
  p.a_dtype = p.b_dtype = p.c_dtype = DType::kBF16;
  const auto of = [&](std::vector<int64_t> lengths, int64_t batches) {
    p.segments.clear();
    for (const int64_t k : lengths) p.segments.push_back({nullptr, nullptr, k, k, 70, {}, false});
    p.batches = batches;
    return cuda::PlanGemm("gemm", p, 132);
  };
  CHECK(of({8192}, 1).slabs > 1);
  for (const int64_t batches : {2, 3, 64}) {
    const cuda::GemmPlan plan = of({8192}, batches);
    CHECK(plan.slabs == 1);
    CHECK(plan.scratch_bytes == 0);
    REQUIRE(plan.launches.size() == 1);
    CHECK(plan.launches[0].splits == 1);
  }
  // More segments than a launch takes: the launches' slabs follow each other.
  const cuda::GemmPlan plan = of({4096, 16, 16, 16, 16, 16, 2048, 2048}, 1);
  REQUIRE(plan.launches.size() == 2);
  CHECK(plan.launches[0].splits > 1);
  CHECK(plan.launches[0].slab == 0);
  CHECK(plan.launches[1].slab == plan.launches[0].splits);
  CHECK(plan.slabs == plan.launches[0].splits + plan.launches[1].splits);
  CHECK(plan.scratch_bytes == static_cast<size_t>(plan.slabs) * 40 * 72 * sizeof(float));
}

TEST_CASE("cuda gemm: plans fill the device, and depend on the shape alone") {
  for (const int multiprocessors : {48, 84, 108, 132, 170}) {
    for (const int64_t d : {1024, 4096}) {
      for (const int64_t m : {17, 32, 64, 100, 128, 256, 512, 4096}) {
        cuda::GemmProblem p;
        p.m = m;
        p.n = d;
        p.a_dtype = p.b_dtype = p.c_dtype = DType::kBF16;
        p.trans_b = true;
        p.segments = {{nullptr, nullptr, 4096, 4096, 4096, {}, false},
                      {nullptr, nullptr, 16, 16, 16, {}, true}};
        const cuda::GemmPlan plan = cuda::PlanGemm("gemm", p, multiprocessors);
        CAPTURE(multiprocessors);
        CAPTURE(d);
        CAPTURE(m);
        CAPTURE(plan.tile);
        CAPTURE(plan.slabs);
        const int64_t tiles = (m + plan.tile - 1) / plan.tile * ((d + plan.tile - 1) / plan.tile);
        REQUIRE(plan.launches.size() == 1);
        CHECK(tiles * plan.slabs >= 0.75 * multiprocessors);
        CHECK(plan.scratch_bytes <=
              (plan.slabs > 1 ? static_cast<size_t>(plan.slabs * m * d * 4) : size_t{0}));
        if (m == 4096) CHECK(plan.tile == 128);
        const cuda::GemmLaunch& launch = plan.launches[0];
        CHECK(launch.blocks == 129);
        CHECK((launch.splits - 1) * launch.blocks_per_split < launch.blocks);
        CHECK(launch.splits * launch.blocks_per_split >= launch.blocks);
      }
    }
  }
}

}  // namespace
}  // namespace lora::test
