// Holds products that expand codes of 4 bits as they load them against the same products of the
// values: every bit is the same.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "backend/cuda/gemm.h"
#include "backend/cuda/gemm_plan.h"
#include "core/error.h"
#include "test/support/device_products.h"
#include "test/support/kept_matrix.h"

namespace lora::test {
namespace {

struct CodedCase {
  WeightFormat format;
  int64_t m, n, k;
  int multiprocessors, tile;
  bool splits = false;
  int64_t rank = 0;    // of a second segment, without codes
  int64_t a_skew = 0;  // elements past an address of 16 bytes
};

// The elements of a flat tensor as a matrix.
Tensor InRows(const Tensor& flat, int64_t rows) {
  const Tensor matrix(flat.dtype(), {rows, flat.numel() / rows});
  std::memcpy(matrix.view().data, flat.view().data, flat.view().bytes());
  return matrix;
}

// One product on the device, of codes or of their values.
class CodedProduct {
 public:
  explicit CodedProduct(const CodedCase& c)
      : c_(c),
        w_({c.format, DType::kBF16}, c.n, c.k, 7),
        x_(Normal(DType::kBF16, {c.m, c.k}, 1), c.k, c.a_skew, "x"),
        t_(Normal(DType::kBF16, {c.m, rank()}, 2), rank(), 0, "t"),
        up_(Normal(DType::kBF16, {c.n, rank()}, 3), rank(), 0, "up"),
        codes_(InRows(w_.stored, c.n), c.k / 2, 0, "codes"),
        values_(w_.values, c.k, 0, "values"),
        scales_(InRows(w_.scales, c.n), c.k / kBlockValues, 0, "scales") {}

  cuda::GemmProblem Problem(bool coded, const DeviceMatrix& y) const {
    cuda::GemmProblem p;
    p.m = c_.m;
    p.n = c_.n;
    p.a_dtype = p.b_dtype = p.c_dtype = DType::kBF16;
    p.trans_b = true;
    p.segments.push_back(
        {x_.data(), coded ? codes_.data() : values_.data(), c_.k, c_.k, c_.k, {}, false});
    if (c_.rank > 0)
      p.segments.push_back({t_.data(), up_.data(), c_.rank, c_.rank, c_.rank, {}, false});
    if (coded) {
      p.segments[0].b_scales = scales_.floats();
      p.codes = TraitsOf(c_.format).codes->values;
    }
    p.c = y.data();
    p.c_pitch = c_.n;
    return p;
  }
  DeviceMatrix Result() const { return {DType::kBF16, c_.m, c_.n, c_.n, 0, "y"}; }

 private:
  int64_t rank() const { return std::max<int64_t>(c_.rank, 1); }

  const CodedCase c_;
  const KeptMatrix w_;
  const DeviceMatrix x_, t_, up_, codes_, values_, scales_;
};

void CheckCoded(const CodedCase& c, int turn) {
  CAPTURE(c.m);
  CAPTURE(c.n);
  CAPTURE(c.k);
  MirrorContext context = ContextOf(turn, {c.multiprocessors, 80, 163 * 1024});
  const CodedProduct product(c);
  const auto run = [&](bool coded) {
    const DeviceMatrix y = product.Result();
    const cuda::GemmProblem p = product.Problem(coded, y);
    const cuda::GemmPlan plan = cuda::PlanGemm("gemm", p, context.threads());
    CHECK(plan.tile == c.tile);
    CHECK((plan.slabs > 1) == c.splits);
    const DeviceScratch scratch(plan.scratch_bytes);
    cuda::Gemm("gemm", p, plan, scratch, context.device);
    context.device.Finish();
    return y.Download();
  };
  CHECK_IDENTICAL(run(true), run(false));
}

TEST_CASE("cuda gemm: products of codes have the bits of products of their values") {
  constexpr auto kNF4 = WeightFormat::kNF4, kFP4 = WeightFormat::kFP4;
  int turn = 0;
  for (const CodedCase& c : {CodedCase{kNF4, 1, 1, 64, 16, 64},
                             {kFP4, 70, 70, 192, 16, 64},
                             {kNF4, 64, 64, 128, 16, 64, false, 5},
                             {kNF4, 64, 65, 1024, 16, 64, true, 5},
                             {kNF4, 130, 300, 128, 1, 128, false, 16},
                             {kFP4, 128, 128, 64, 1, 128},
                             {kNF4, 129, 127, 320, 1, 128, false, 3, 1}})
    CheckCoded(c, turn++);
  simt::SetEmulatedProperties(kUsual);
}

// The first product has no codes, and the others have different sizes.
TEST_CASE("cuda gemm: products of codes share a launch with others") {
  constexpr auto kNF4 = WeightFormat::kNF4;
  MirrorContext context = ContextOf(0, kUsual);
  std::vector<std::unique_ptr<CodedProduct>> products;
  for (const CodedCase& c : {CodedCase{kNF4, 33, 40, 128, 4, 64, false, 3},
                             {kNF4, 33, 70, 64, 4, 64, false, 8},
                             {kNF4, 20, 64, 192, 4, 64}})
    products.push_back(std::make_unique<CodedProduct>(c));
  const auto run = [&](bool coded) {
    std::vector<DeviceMatrix> results;
    std::vector<cuda::GemmProblem> problems;
    for (size_t i = 0; i < products.size(); ++i) {
      results.push_back(products[i]->Result());
      problems.push_back(products[i]->Problem(coded && i > 0, results[i]));
    }
    const cuda::GemmGroupPlan plan = cuda::PlanGemmGroup("gemm", problems, context.threads());
    CHECK(plan.together);
    cuda::GemmGroup("gemm", problems, plan, {}, context.device);
    context.device.Finish();
    std::vector<Tensor> got;
    for (const DeviceMatrix& y : results) got.push_back(y.Download());
    return got;
  };
  const std::vector<Tensor> got = run(true), expected = run(false);
  for (size_t i = 0; i < got.size(); ++i) CHECK_IDENTICAL(got[i], expected[i]);
}

TEST_CASE("cuda gemm: other products of codes are refused") {
  const float scale = 1;
  cuda::GemmProblem p;
  p.m = p.n = 64;
  p.a_dtype = p.b_dtype = p.c_dtype = DType::kBF16;
  p.trans_b = true;
  p.segments.push_back({nullptr, nullptr, 64, 64, 64, {}, false});
  p.segments[0].b_scales = &scale;
  p.codes = TraitsOf(WeightFormat::kNF4).codes->values;
  CHECK_NOTHROW(cuda::PlanGemm("gemm", p, 4));
  const auto refused = [&](auto change) {
    cuda::GemmProblem other = p;
    change(other);
    CHECK_THROWS_AS(cuda::PlanGemm("gemm", other, 4), Error);
  };
  refused([](auto& q) { q.segments[0].k = 96; });
  refused([](auto& q) { q.segments.push_back(q.segments[0]); });
  refused([](auto& q) { q.codes = nullptr; });
  refused([](auto& q) { q.trans_b = false; });
  refused([](auto& q) { q.a_dtype = q.b_dtype = DType::kF16; });
  refused([](auto& q) { q.batches = 2; });
}

}  // namespace
}  // namespace lora::test
