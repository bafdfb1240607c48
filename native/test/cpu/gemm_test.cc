// Holds the matrix product of the CPU backend against sums in double.
#include "backend/cpu/product/gemm.h"

#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <cmath>
#include <limits>
#include <span>
#include <stdexcept>

#include "backend/cpu/product/panels.h"
#include "test/support/close.h"
#include "test/support/simd_targets.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

struct GemmProblem {
  DType dtype, x_dtype, y_dtype;
  int64_t m, n;
  std::vector<int64_t> k;
  bool bias = false, accumulate = false;
  bool split = false;  // f32 as the CPU multiplies it by frozen weights

  cpu::Operands operands() const {
    if (dtype == DType::kBF16) return cpu::Operands::kPairs;
    return split ? cpu::OperandsOf(false) : cpu::Operands::kF32;
  }
};

std::vector<std::byte> Panels(const Tensor& w) {
  const size_t n = static_cast<size_t>(w.shape()[0]), k = static_cast<size_t>(w.shape()[1]);
  std::vector<std::byte> panels(cpu::PanelBytes(n, k, w.dtype()));
  cpu::PackPanels(w.view().data, k, false, n, k, w.dtype(), panels.data(), nullptr);
  return panels;
}

Tensor Transposed(const Tensor& w) {
  const int64_t n = w.shape()[0], k = w.shape()[1];
  Tensor t(w.dtype(), {k, n});
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t l = 0; l < k; ++l) t.Set(l * n + i, w.at(i * k + l));
  }
  return t;
}

struct Operands {
  std::vector<Tensor> x, w;
  Tensor bias, start;  // start: what y holds before
  std::vector<double> exact;
  // ‖x‖·‖w‖ per element, to which errors are relative.
  std::vector<double> size;
};

Operands Make(const GemmProblem& p, bool whole) {
  Operands o;
  const auto random = [&](DType dtype, Shape shape, uint64_t seed) {
    return whole ? Integers(dtype, shape, seed) : Normal(dtype, shape, seed);
  };
  const size_t count = static_cast<size_t>(p.m * p.n);
  o.exact.assign(count, 0);
  o.size.assign(count, 0);
  if (p.accumulate) {
    o.start = random(p.y_dtype, {p.m, p.n}, 77);
    o.exact = o.start.Values();
  }
  if (p.bias) {
    o.bias = random(DType::kF32, {p.n}, 78);
    for (size_t i = 0; i < count; ++i) o.exact[i] += o.bias.at(static_cast<int64_t>(i) % p.n);
  }
  for (size_t s = 0; s < p.k.size(); ++s) {
    const int64_t k = p.k[s];
    o.x.push_back(random(p.x_dtype, {p.m, k}, 2 * s + 1));
    o.w.push_back(random(p.dtype, {p.n, k}, 2 * s + 2));
    // Returns x as the product sees it.
    const std::vector<double> x = o.x[s].As(p.dtype).Values(), w = o.w[s].Values();
    for (int64_t i = 0; i < p.m; ++i) {
      for (int64_t j = 0; j < p.n; ++j) {
        double sum = 0, xx = 0, ww = 0;
        for (int64_t l = 0; l < k; ++l) {
          const double a = x[static_cast<size_t>(i * k + l)], b = w[static_cast<size_t>(j * k + l)];
          sum += a * b;
          xx += a * a;
          ww += b * b;
        }
        o.exact[static_cast<size_t>(i * p.n + j)] += sum;
        o.size[static_cast<size_t>(i * p.n + j)] +=
            4 * std::sqrt(static_cast<double>(k)) * std::sqrt(xx * ww);
      }
    }
  }
  return o;
}

// `transposed`: o.w [n, k] is the transpose of a packed matrix [k, n].
Tensor Multiply(const GemmProblem& p, const Operands& o, cpu::CpuContext* context,
                bool transposed = false) {
  std::vector<std::vector<std::byte>> panels;
  std::vector<cpu::GemmSegment> segments;
  for (size_t s = 0; s < p.k.size(); ++s) {
    const Tensor w = transposed ? Transposed(o.w[s]) : o.w[s];
    panels.push_back(Panels(w));
    const PackedView packed{panels.back().data(), w.dtype(), w.shape()[0], w.shape()[1]};
    cpu::GemmSegment segment;
    segment.w = transposed ? cpu::TransposedPanelsOf(packed) : cpu::PanelsOf(packed);
    segment.x = o.x[s].view().data;
    segment.x_dtype = p.x_dtype;
    segment.ldx = segment.k = static_cast<size_t>(p.k[s]);
    segments.push_back(segment);
  }
  Tensor y = p.accumulate ? o.start : Tensor(p.y_dtype, {p.m, p.n});
  cpu::GemmArgs args;
  args.operands = p.operands();
  args.m = static_cast<size_t>(p.m);
  args.n = args.ldy = static_cast<size_t>(p.n);
  args.segments = segments;
  args.bias = p.bias ? o.bias.view().as<float>() : nullptr;
  args.y = y.view().data;
  args.y_dtype = p.y_dtype;
  args.accumulate = p.accumulate;
  std::vector<std::byte> scratch(cpu::GemmScratchBytes(args, cpu::ThreadsOf(context)));
  cpu::Gemm(args, scratch, context);
  CHECK(y.intact());
  return y;
}

std::vector<GemmProblem> Problems() {
  std::vector<GemmProblem> problems;
  const DType f32 = DType::kF32, bf16 = DType::kBF16;
  for (const auto& [dtype, x, y] :
       {std::array{f32, f32, f32}, std::array{bf16, bf16, bf16}, std::array{bf16, bf16, f32},
        std::array{bf16, f32, f32}, std::array{f32, f32, bf16}}) {
    problems.push_back({dtype, x, y, 1, 1, {1}});
    problems.push_back({dtype, x, y, 3, 70, {0}, true});
    problems.push_back({dtype, x, y, 2, 9, {}});
    problems.push_back({dtype, x, y, 7, 65, {33}, true});
    problems.push_back({dtype, x, y, 13, 31, {5, 64, 1}});
    problems.push_back({dtype, x, y, 6, 129, {600}});
    problems.push_back({dtype, x, y, 20, 17, {2051, 16}, true});
    problems.push_back({dtype, x, y, 1030, 16, {9}});
    if (y == f32) problems.push_back({dtype, x, y, 9, 66, {40, 3}, true, true});
  }
  for (size_t i = 0, count = problems.size(); i < count; ++i) {
    if (problems[i].dtype != f32) continue;
    problems.push_back(problems[i]);
    problems.back().split = true;
  }
  return problems;
}

TEST_CASE("gemm: small whole numbers are multiplied exactly") {
  cpu::CpuContext context(2);
  for (const GemmProblem& p : Problems()) {
    CAPTURE(p.m);
    CAPTURE(p.n);
    const Operands o = Make(p, true);
    const Tensor expected = Of(p.y_dtype, {p.m, p.n}, o.exact);
    ForEachSimdTarget([&] { CHECK_IDENTICAL(Multiply(p, o, &context), expected); });
  }
}

TEST_CASE("gemm: real numbers stay within the bound of an f32 sum") {
  cpu::CpuContext context(2);
  for (const GemmProblem& p : Problems()) {
    CAPTURE(p.m);
    CAPTURE(p.n);
    const Operands o = Make(p, false);
    std::vector<double> bounds;
    for (size_t i = 0; i < o.exact.size(); ++i) {
      bounds.push_back(UnitRoundoff(DType::kF32) * (o.size[i] + 4 * std::fabs(o.exact[i]) + 8) +
                       UnitRoundoff(p.y_dtype) * std::fabs(o.exact[i]));
    }
    const Tensor expected = Of(DType::kF64, {p.m, p.n}, o.exact);
    ForEachSimdTarget([&] { CHECK_CLOSE(Multiply(p, o, &context), expected, bounds); });
  }
}

TEST_CASE("gemm: f32 keeps its precision at every magnitude") {
  cpu::CpuContext context(2);
  GemmProblem p{DType::kF32, DType::kF32, DType::kF32, 48, 70, {77}};
  Operands o = Make(p, false);
  std::vector<double> bounds;
  for (int64_t i = 0; i < p.m; ++i) {
    // From 2⁻¹⁰⁰ to 2¹¹⁷.
    const double scale = std::ldexp(1.0, static_cast<int>(217 * i / (p.m - 1)) - 100);
    for (int64_t l = 0; l < p.k[0]; ++l)
      o.x[0].Set(i * p.k[0] + l, scale * o.x[0].at(i * p.k[0] + l));
    for (int64_t j = 0; j < p.n; ++j) {
      const size_t at = static_cast<size_t>(i * p.n + j);
      o.exact[at] *= scale;
      bounds.push_back(UnitRoundoff(DType::kF32) *
                       (scale * o.size[at] + 4 * std::fabs(o.exact[at])));
    }
  }
  const Tensor expected = Of(DType::kF64, {p.m, p.n}, o.exact);
  for (const bool split : {false, true}) {
    p.split = split;
    ForEachSimdTarget([&] { CHECK_CLOSE(Multiply(p, o, &context), expected, bounds); });
  }
}

TEST_CASE("gemm: f32 weights near the smallest numbers") {
  cpu::CpuContext context(2);
  GemmProblem p{DType::kF32, DType::kF32, DType::kF32, 3, 70, {78}};
  for (const int exponent : {-112, -120, -126, -132, -140}) {
    CAPTURE(exponent);
    Operands o = Make(p, false);
    const double scale = std::ldexp(1.0, exponent);
    std::vector<double> exact(o.exact.size(), 0), bounds;
    for (int64_t i = 0; i < o.w[0].numel(); ++i) o.w[0].Set(i, scale * o.w[0].at(i));
    for (int64_t i = 0; i < p.m * p.n; ++i) {
      double size = 0;
      for (int64_t l = 0; l < p.k[0]; ++l) {
        const double x = o.x[0].at(i / p.n * p.k[0] + l);
        exact[static_cast<size_t>(i)] += x * o.w[0].at(i % p.n * p.k[0] + l);
        size += std::fabs(x);
      }
      // Parts, products and sums below 2⁻¹²⁶ may count as zero.
      bounds.push_back(std::ldexp(size + 4 * static_cast<double>(p.k[0]), -126) +
                       UnitRoundoff(DType::kF32) * scale * o.size[static_cast<size_t>(i)]);
    }
    const Tensor expected = Of(DType::kF64, {p.m, p.n}, exact);
    for (const bool split : {false, true}) {
      p.split = split;
      ForEachSimdTarget([&] {
        CHECK_CLOSE(Multiply(p, o, &context), expected, bounds);
        CHECK_CLOSE(Multiply(p, o, &context, true), expected, bounds);
      });
    }
  }
}

TEST_CASE("gemm: the largest f32 are finite, and infinities keep their sign") {
  cpu::CpuContext context(2);
  GemmProblem p{DType::kF32, DType::kF32, DType::kF32, 4, 3, {40}};
  constexpr float kMax = std::numeric_limits<float>::max();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  Operands o = Make(p, false);
  // A weight with low parts of either sign.
  for (int64_t i = 0; i < p.n * p.k[0]; ++i) o.w[0].Set(i, i % 2 == 0 ? 0.3337 : 0.3351);
  for (int64_t i = 0; i < p.m * p.k[0]; ++i) o.x[0].Set(i, 0);
  o.x[0].Set(7, static_cast<double>(kMax));
  o.x[0].Set(p.k[0] + 8, static_cast<double>(-kInfinity));
  o.x[0].Set(2 * p.k[0] + 9, static_cast<double>(kInfinity));
  for (const bool split : {false, true}) {
    p.split = split;
    ForEachSimdTarget([&] {
      const Tensor y = Multiply(p, o, &context);
      for (int64_t j = 0; j < p.n; ++j) {
        const double largest = o.w[0].at(j * p.k[0] + 7) * static_cast<double>(kMax);
        CHECK(std::fabs(y.at(j) - largest) <= 4e-7 * largest);
        CHECK(y.at(p.n + j) == -kInfinity);
        CHECK(y.at(2 * p.n + j) == kInfinity);
        CHECK(y.at(3 * p.n + j) == 0);
      }
    });
  }
}

TEST_CASE("gemm: threads change no bit") {
  for (const GemmProblem& p : Problems()) {
    const Operands o = Make(p, false);
    const Tensor alone = Multiply(p, o, nullptr);
    for (const int threads : {1, 2, 3, 4}) {
      cpu::CpuContext context(threads);
      CHECK_IDENTICAL(Multiply(p, o, &context), alone);
    }
  }
}

TEST_CASE("gemm: panels that are read transposed give the bits of panels that lie so") {
  cpu::CpuContext context(2);
  for (const GemmProblem& p : Problems()) {
    CAPTURE(p.m);
    CAPTURE(p.n);
    const Operands o = Make(p, false);
    ForEachSimdTarget(
        [&] { CHECK_IDENTICAL(Multiply(p, o, &context, true), Multiply(p, o, &context)); });
  }
}

TEST_CASE("gemm: part of a packed matrix, into part of a wider y") {
  ForEachSimdTarget([&] {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const int64_t width = static_cast<int64_t>(cpu::PanelWidth());
      const int64_t m = 5, n = 3 * width, k = 41, n0 = width;
      const Tensor x = Integers(dtype, {m, k}, 1), w = Integers(dtype, {n, k}, 2);
      const std::vector<std::byte> panels = Panels(w);
      cpu::GemmSegment segment;
      segment.w = cpu::PanelsOf({panels.data(), dtype, n, k}, static_cast<size_t>(n0));
      segment.x = x.view().data;
      segment.x_dtype = dtype;
      segment.ldx = segment.k = 41;
      const int64_t ldy = width + 9;
      const Tensor y = Zeros(DType::kF32, {m, ldy});
      cpu::GemmArgs args;
      args.operands = cpu::OperandsOf(dtype == DType::kBF16);
      args.m = 5;
      args.n = static_cast<size_t>(width) + 2;
      args.segments = {&segment, 1};
      args.y = y.view().data;
      args.ldy = static_cast<size_t>(ldy);
      std::vector<std::byte> scratch(cpu::GemmScratchBytes(args, 1));
      cpu::Gemm(args, scratch, nullptr);
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < ldy; ++j) {
          double sum = 0;
          for (int64_t l = 0; l < k && j < width + 2; ++l) {
            sum += x.at(i * k + l) * w.at((n0 + j) * k + l);
          }
          CHECK(y.at(i * ldy + j) == sum);
        }
      }
    }
  });
}

TEST_CASE("gemm: the rows of a packed matrix from n0 on, read transposed") {
  ForEachSimdTarget([&] {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const int64_t more : {1, 2, 7}) {
        const int64_t width = static_cast<int64_t>(cpu::PanelWidth());
        const int64_t m = 5, n = 2 * width + more, k = width + 3, n0 = width;
        const Tensor x = Integers(dtype, {m, n}, 1), w = Integers(dtype, {n, k}, 2);
        const std::vector<std::byte> panels = Panels(w);
        cpu::GemmSegment segment;
        segment.w = cpu::TransposedPanelsOf({panels.data(), dtype, n, k}, static_cast<size_t>(n0));
        segment.x = x.view().as<std::byte>() + static_cast<size_t>(n0) * SizeOf(dtype);
        segment.x_dtype = dtype;
        segment.ldx = static_cast<size_t>(n);
        segment.k = static_cast<size_t>(n - n0);
        const Tensor y = Zeros(DType::kF32, {m, k});
        cpu::GemmArgs args;
        args.operands = cpu::OperandsOf(dtype == DType::kBF16);
        args.m = 5;
        args.n = args.ldy = static_cast<size_t>(k);
        args.segments = {&segment, 1};
        args.y = y.view().data;
        std::vector<std::byte> scratch(cpu::GemmScratchBytes(args, 1));
        cpu::Gemm(args, scratch, nullptr);
        for (int64_t i = 0; i < m; ++i) {
          for (int64_t j = 0; j < k; ++j) {
            double sum = 0;
            for (int64_t l = n0; l < n; ++l) sum += x.at(i * n + l) * w.at(l * k + j);
            CHECK(y.at(i * k + j) == sum);
          }
        }
      }
    }
  });
}

TEST_CASE("gemm: what a call copies is in its scratch, and a small one takes little on every set") {
  const auto scratch = [](DType dtype, size_t m, size_t k) {
    const Tensor w(dtype, {32, static_cast<int64_t>(k)});
    const std::vector<std::byte> panels = Panels(w);
    cpu::GemmSegment segment;
    segment.x_dtype = dtype;
    segment.ldx = segment.k = k;
    segment.w = cpu::PanelsOf({panels.data(), dtype, 32, static_cast<int64_t>(k)});
    cpu::GemmArgs args;
    args.operands = cpu::OperandsOf(dtype == DType::kBF16);
    args.y_dtype = dtype;
    args.m = m;
    args.n = args.ldy = 32;
    args.segments = std::span(&segment, 1);
    return cpu::GemmScratchBytes(args, 1);
  };
  ForEachSimdTarget([&] {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      CAPTURE(NameOf(dtype));
      for (const size_t k : {size_t{64}, size_t{1024}, size_t{1500}}) {
        CAPTURE(k);
        const size_t copied = cpu::CopiedBytes(dtype == DType::kBF16, 500, std::array{k});
        CHECK(copied <= scratch(dtype, 500, k));
        // Three parts of bf16 for each f32, which vectors read where they are.
        const size_t split = dtype == DType::kF32 && cpu::MultipliesTiles() ? 500 * k * 6 : 0;
        CHECK(copied >= split);
        if (dtype == DType::kF32) CHECK(copied <= split * 3 / 2);
        CHECK(cpu::CopiedBytes(dtype == DType::kBF16, 500, std::array{k, k}) == 2 * copied);
      }
      // Rows that are no whole pairs are copied everywhere.
      if (dtype == DType::kBF16) CHECK(cpu::CopiedBytes(true, 500, std::array{size_t{63}}) > 0);
      // A copy of 8 rows, and a panel: 64 outputs at most.
      CHECK(scratch(DType::kF32, 8, 64) < 64 * 1024);
    }
  });
}

TEST_CASE("context: every task runs once, and the lowest task's exception comes out") {
  for (const int threads : {1, 2, 4}) {
    cpu::CpuContext context(threads);
    CHECK(context.threads() == threads);
    for (const size_t tasks : {0, 1, 2, 5, 100}) {
      std::vector<std::atomic<int>> runs(tasks);
      context.ParallelFor(tasks, [&](size_t task, size_t thread) {
        CHECK(thread < static_cast<size_t>(threads));
        ++runs[task];
      });
      for (const std::atomic<int>& count : runs) CHECK(count == 1);
    }
    try {
      context.ParallelFor(10, [](size_t task, size_t) {
        if (task >= 3) throw std::runtime_error(std::to_string(task));
      });
      FAIL("expected the exception of a task");
    } catch (const std::runtime_error& error) {
      CHECK(std::string(error.what()) == "3");
    }
  }
}

}  // namespace
}  // namespace lora::test
