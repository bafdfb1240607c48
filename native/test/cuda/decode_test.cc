// Holds the decoding layer, y = W·x + bias + scale·up·h for few rows, against sums in doubles.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <map>

#include "backend/cuda/skinny.h"
#include "core/maths/row_major.h"
#include "test/support/device_products.h"
#include "test/support/kept_matrix.h"

namespace lora::test {
namespace {

struct DecodeCaseBranch {
  int64_t n = 0, rank = 0;
  int bias = 0;  // 1: of the dtype, 2: f32
};
struct DecodeCase {
  DType dtype;
  bool whole;
  int64_t m, k;
  std::vector<DecodeCaseBranch> branches;
  Tensor x;
  std::vector<Tensor> w, bias, a, h;
  std::map<size_t, PackedView> packed;  // in the place of w
  float scale = 2;

  DecodeCase(DType dtype, bool whole, int64_t m, int64_t k, std::vector<DecodeCaseBranch> of)
      : dtype(dtype), whole(whole), m(m), k(k), branches(std::move(of)) {
    uint64_t seed = 1000;
    x = Random(whole, dtype, {m, k}, ++seed);
    for (const DecodeCaseBranch& b : branches) {
      w.push_back(Random(whole, dtype, {b.n, k}, ++seed));
      bias.push_back(Random(whole, b.bias == 2 ? DType::kF32 : dtype, {1, b.n}, ++seed));
      a.push_back(Random(whole, DType::kF32, {b.n, b.rank}, ++seed));
      h.push_back(Random(whole, DType::kF32, {m, b.rank}, ++seed));
    }
  }

  std::vector<Tensor> Run(int turn, int64_t skew) const {
    MirrorContext context = ContextOf(turn, kUsual);
    const DeviceMatrix xs(x, k, skew, "x");
    std::vector<DeviceMatrix> operands, ys;
    const auto upload = [&](const Tensor& t, const char* name) {
      operands.emplace_back(t, t.shape()[1], skew, name);
      return operands.back().data();
    };
    cuda::DecodeArgs args;
    args.dtype = dtype;
    args.x = xs.data();
    args.m = m;
    args.k = k;
    for (size_t i = 0; i < branches.size(); ++i) {
      const DecodeCaseBranch& b = branches[i];
      ys.emplace_back(dtype, m, b.n, b.n, skew, "y");
      cuda::DecodeBranch branch;
      if (packed.contains(i)) {
        branch.packed = packed.at(i);
      } else {
        branch.w = upload(w[i], "w");
        branch.w_dtype = w[i].dtype();
      }
      branch.n = b.n;
      if (b.bias > 0) branch.bias = upload(bias[i], "bias");
      branch.bias_f32 = b.bias == 2 || dtype == DType::kF32;
      if (b.rank > 0) {
        branch.a = static_cast<const float*>(upload(a[i], "a"));
        branch.h = static_cast<const float*>(upload(h[i], "h"));
        branch.rank = b.rank;
        branch.scale = scale;
      }
      branch.y = ys.back().data();
      args.branches.push_back(branch);
    }
    cuda::DecodeLinear(args, context.device);
    context.device.Finish();
    std::vector<Tensor> out;
    for (const DeviceMatrix& y : ys) out.push_back(y.Download());
    return out;
  }

  void Check(const std::vector<Tensor>& out) const {
    const double u_out = dtype == DType::kF32    ? kEpsilon
                         : dtype == DType::kBF16 ? 1.0 / (1 << 8)
                                                 : 1.0 / (1 << 11);
    for (size_t i = 0; i < branches.size(); ++i) {
      const DecodeCaseBranch& b = branches[i];
      const Vector xs = x.Values(), ws = w[i].Values(), as = a[i].Values(), hs = h[i].Values();
      Expected e = ProductOf(
          m, b.n, k, 1, dtype == DType::kF32 ? SumError(k) : TensorCoreSumError(k),
          [&](int64_t row, int64_t j) { return At(xs, row * k + j); },
          [&](int64_t j, int64_t o) { return At(ws, o * k + j); });
      const Expected low = ProductOf(
          m, b.n, b.rank, scale, SumError(b.rank),
          [&](int64_t row, int64_t j) { return At(hs, row * b.rank + j); },
          [&](int64_t j, int64_t o) { return At(as, o * b.rank + j); });
      for (size_t j = 0; j < e.values.size(); ++j) {
        const double base = b.bias > 0 ? bias[i].at(static_cast<int64_t>(j) % b.n) : 0;
        e.values[j] += low.values[j] + base;
        e.bounds[j] += low.bounds[j] + 4 * kEpsilon * std::fabs(base) +
                       u_out * (1 + kEpsilon) * std::fabs(e.values[j]);
      }
      CheckResult(out[i], e, whole);
    }
  }
};

TEST_CASE("cuda decode agrees with doubles, whatever the addresses and schedule") {
  int turn = 0;
  for (const DType dtype : kDTypes) {
    for (const bool whole : {false, true}) {
      for (const DecodeCase& c : {
               DecodeCase(dtype, whole, 1, 1, {{1, 1}}),
               DecodeCase(dtype, whole, 1, 1160, {{33, 16, 1}, {5, 3}, {16, 0, 2}}),
               DecodeCase(dtype, whole, 2, 130, {{17, 64, 2}}),
               DecodeCase(dtype, whole, 8, 129, {{15, 5}}),
               DecodeCase(dtype, whole, 9, 256, {{31, 40, 1}}),
               DecodeCase(dtype, whole, 16, 7, {{9, 2}, {0, 2}, {24, 1}}),
               DecodeCase(dtype, whole, 3, 0, {{4, 2, 1}}),
           }) {
        const std::string name = NameOf(dtype);
        CAPTURE(name);
        CAPTURE(whole);
        CAPTURE(c.m);
        CAPTURE(c.k);
        const std::vector<Tensor> out = c.Run(turn++, 0);
        c.Check(out);
        const std::vector<Tensor> again = c.Run(turn++, 1);
        for (size_t i = 0; i < out.size(); ++i) CHECK_IDENTICAL(again[i], out[i]);
      }
    }
  }
}

// With whole turns of the columns, with and without a rest, and with none.
TEST_CASE("cuda decode of f32: W in 16 bits gives the bits of its values") {
  int turn = 0;
  for (const DType stored : {DType::kBF16, DType::kF16}) {
    for (const int64_t m : {1, 5}) {
      for (const int64_t k : {512, 644, 301, 9}) {
        for (const int64_t skew : {0, 1}) {
          CAPTURE(NameOf(stored));
          CAPTURE(m);
          CAPTURE(k);
          CAPTURE(skew);
          // A launch takes branches of both kinds.
          DecodeCase c(DType::kF32, false, m, k, {{19, 5, 1}, {5, 0}, {18, 3}});
          for (const size_t i : {0, 2}) c.w[i] = c.w[i].As(stored);
          const std::vector<Tensor> kept = c.Run(turn++, skew);
          c.Check(kept);
          for (Tensor& w : c.w) w = w.As(DType::kF32);
          const std::vector<Tensor> plain = c.Run(turn++, skew);
          for (size_t i = 0; i < kept.size(); ++i) CHECK_IDENTICAL(kept[i], plain[i]);
        }
      }
    }
  }
}

// The bytes of a matrix as a device has it.
Tensor RowMajorOf(const KeptMatrix& w, WeightFormat format, int64_t rows, int64_t cols) {
  Tensor bytes = Zeros(DType::kI8, {1, static_cast<int64_t>(RowMajorBytes(format, rows, cols))});
  std::memcpy(bytes.view().data, w.stored.view().data, w.stored.view().bytes());
  if (HasScales(format))
    std::memcpy(bytes.view().as<std::byte>() + ScalesAt(format, rows, cols), w.scales.view().data,
                w.scales.view().bytes());
  return bytes;
}

// Three branches: a plain one between two of a format, whose bytes are skewed. They give the bits
// of their values.
void CheckPacked(WeightFormat format, int64_t m, int64_t k, int64_t skew) {
  static int turn = 0;
  CAPTURE(NameOf(format));
  CAPTURE(m);
  CAPTURE(k);
  CAPTURE(skew);
  DecodeCase c(DType::kBF16, false, m, k, {{19, 5, 1}, {5, 0}, {18, 3}});
  std::vector<DeviceMatrix> kept;
  for (const size_t i : {0, 2}) {
    const int64_t rows = c.branches[i].n;
    const KeptMatrix w({format, DType::kBF16}, rows, k, i + 7);
    c.w[i] = w.values;
    const Tensor bytes = RowMajorOf(w, format, rows, k);
    kept.emplace_back(bytes, bytes.numel(), skew, "kept");
    c.packed[i] = {kept.back().data(), DType::kBF16, rows, k, format};
    CHECK(cuda::DecodesPacked(c.packed[i]));
  }
  const std::vector<Tensor> out = c.Run(turn++, 0);
  c.Check(out);
  // Rows of x that no access of 16 bytes may load.
  if (m == 2) {
    const std::vector<Tensor> apart = c.Run(turn++, 1);
    for (size_t i = 0; i < out.size(); ++i) CHECK_IDENTICAL(apart[i], out[i]);
  }
  c.packed = {};
  const std::vector<Tensor> plain = c.Run(turn++, 0);
  for (size_t i = 0; i < out.size(); ++i) CHECK_IDENTICAL(out[i], plain[i]);
}

// Rows end within blocks of 64, and within the columns of a warp, and begin within blocks where
// there are several turns of columns. A skew of 4 bytes keeps the scales of f32 aligned.
TEST_CASE("cuda decode: formats with scales give the bits of their values, for up to 64 rows") {
  for (const WeightFormat format :
       {WeightFormat::kNF4, WeightFormat::kFP4, WeightFormat::kI8Rows}) {
    for (const int64_t k : {352, 136, 1152, 2152, 8}) {
      for (const int64_t m : {1, 2, 8, 9, 64}) CheckPacked(format, m, k, 0);
      CheckPacked(format, 1, k, 4);
    }
  }
}

// Blocks of 32 begin at any address of their size: after a row of 67, where the next begins, too.
TEST_CASE("cuda decode: blocks give the bits of their values, for up to 64 rows") {
  for (const WeightFormat format : cuda::kDecodedBlocks) {
    const bool small = TraitsOf(format).block.values == 32;
    for (const int64_t k : {small ? 352 : 256, small ? 2144 : 2304, small ? 32 : 1280}) {
      for (const int64_t m : {1, 2, 8, 9, 64}) CheckPacked(format, m, k, 0);
      for (const int64_t skew : {1, 2, 16}) CheckPacked(format, 1, k, skew);
    }
  }
}

// There are 18 branches, so that there is a second launch.
TEST_CASE("cuda decode may start while h is still computed") {
  int turn = 0;
  for (const DType dtype : kDTypes) {
    for (const int64_t m : {1, 10}) {
      const int64_t k = 150;
      const DecodeCase c(dtype, true, m, k, std::vector<DecodeCaseBranch>(18, {19, 5}));
      MirrorContext context = ContextOf(turn++, kUsual);
      const DeviceMatrix x(c.x, k, 0, "x");
      std::vector<DeviceMatrix> operands, hs, ys;
      const auto upload = [&](const Tensor& t, const char* name) {
        operands.emplace_back(t, t.shape()[1], 0, name);
        return operands.back().data();
      };
      const Tensor b = Integers(DType::kF32, {5, k}, 77, -1, 1);
      cuda::LowRankDownArgs down;
      down.dtype = dtype;
      down.problems = {{x.data(), m, k, k, {}}};
      cuda::DecodeArgs args;
      args.dtype = dtype;
      args.x = x.data();
      args.m = m;
      args.k = k;
      args.programmatic = true;
      DecodeCase expected = c;
      const Vector xs = c.x.Values(), bs = b.Values();
      for (size_t i = 0; i < c.branches.size(); ++i) {
        hs.emplace_back(DType::kF32, m, 5, 5, 0, "h");
        ys.emplace_back(dtype, m, 19, 19, 0, "y");
        cuda::LowRankDownTerm term;
        term.small = static_cast<const float*>(upload(b, "b"));
        term.rank = 5;
        term.h = hs.back().floats();
        down.problems[0].terms.push_back(term);
        cuda::DecodeBranch branch;
        branch.w = upload(c.w[i], "w");
        branch.w_dtype = dtype;
        branch.n = 19;
        branch.a = static_cast<const float*>(upload(c.a[i], "a"));
        branch.h = term.h;
        branch.rank = 5;
        branch.scale = c.scale;
        branch.y = ys.back().data();
        args.branches.push_back(branch);
        expected.h[i] =
            Of(DType::kF32, {m, 5},
               ProductOf(
                   m, 5, k, 1, 0, [&](int64_t row, int64_t j) { return At(xs, row * k + j); },
                   [&](int64_t j, int64_t r) { return At(bs, r * k + j); })
                   .values);
      }
      cuda::LowRankDown(down, {}, {}, context.device);
      cuda::DecodeLinear(args, context.device);
      context.device.Finish();
      std::vector<Tensor> out;
      for (const DeviceMatrix& y : ys) out.push_back(y.Download());
      expected.Check(out);
    }
  }
}

TEST_CASE("cuda decode: one row of x gives the same bits alone as among others") {
  for (const DType dtype : kDTypes) {
    const DecodeCase all(dtype, false, 11, 300, {{20, 4, 1}});
    const std::vector<Tensor> out = all.Run(0, 0);
    DecodeCase one = all;
    one.m = 1;
    one.x = Tensor(dtype, {1, 300});
    one.h[0] = Tensor(DType::kF32, {1, 4});
    for (int64_t j = 0; j < 300; ++j) one.x.Set(j, all.x.at(10 * 300 + j));
    for (int64_t j = 0; j < 4; ++j) one.h[0].Set(j, all.h[0].at(10 * 4 + j));
    const std::vector<Tensor> alone = one.Run(0, 0);
    for (int64_t o = 0; o < 20; ++o) CHECK(alone[0].at(o) == out[0].at(10 * 20 + o));
  }
}

// ---- the plan -----------------------------------------------------------------------------------

}  // namespace
}  // namespace lora::test
