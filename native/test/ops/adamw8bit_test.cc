// A code depends on which side of a boundary between two values a moment falls, so the codes of two
// backends may be neighbors where the moment is at that boundary. The tests bound the distance of
// a dequantized moment to the exact one instead.
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/maths/ceil_div.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

constexpr double kLr = 3e-3, kBeta1 = 0.9, kBeta2 = 0.999, kEps = 1e-8, kDecay = 0.01;

// The tensors of a segment: p, g and the state.
struct Segment {
  Tensor p, g, m_codes, v_codes, m_scales, v_scales;
  explicit Segment(const Tensor& param) : p(param), g(Zeros(DType::kF32, param.shape())) {
    const int64_t blocks = CeilDiv(param.numel(), kDynamicBlock);
    m_codes = v_codes = Zeros(DType::kI32, {blocks * 64});
    m_scales = v_scales = Zeros(DType::kF32, {blocks});
  }
  AdamW8bitSegment view() const { return {p, g, m_codes, v_codes, m_scales, v_scales}; }
  uint32_t code(const Tensor& codes, int64_t i) const {
    return codes.view().as<const uint8_t>()[i];
  }
  double m(int64_t i) const {
    return m_scales.at(i / kDynamicBlock) * kSignedValues[code(m_codes, i)];
  }
  double v(int64_t i) const {
    return v_scales.at(i / kDynamicBlock) * kUnsignedValues[code(v_codes, i)];
  }
  std::vector<Tensor> Results() const { return {p, m_codes, v_codes, m_scales, v_scales}; }
};

// Returns the segment of results that Results() gave.
Segment From(const std::vector<Tensor>& results, size_t s) {
  Segment segment(results[5 * s]);
  segment.m_codes = results[5 * s + 1];
  segment.v_codes = results[5 * s + 2];
  segment.m_scales = results[5 * s + 3];
  segment.v_scales = results[5 * s + 4];
  return segment;
}

AdamW8bitArgs Settings(int step) {
  AdamW8bitArgs args;
  args.lr = kLr;
  args.beta1 = kBeta1;
  args.beta2 = kBeta2;
  args.eps = kEps;
  args.weight_decay = kDecay;
  args.step = step;
  return args;
}

void Step(const Backend& backend, Context& context, const std::vector<Segment>& segments,
          int step) {
  AdamW8bitArgs args = Settings(step);
  for (const Segment& segment : segments) args.segments.push_back(segment.view());
  Run(backend, args, context);
}

// Gives segments moments: those that two steps of the reference leave.
std::vector<Segment> Warm(const std::vector<int64_t>& sizes) {
  const auto reference = ReferenceBackend().create_context(1);
  std::vector<Segment> segments;
  for (size_t s = 0; s < sizes.size(); ++s)
    segments.emplace_back(Normal(DType::kF32, {sizes[s]}, 10 * s));
  for (int step = 1; step <= 3; ++step) {
    for (size_t s = 0; s < sizes.size(); ++s)
      segments[s].g = Normal(DType::kF32, {sizes[s]}, 10 * s + static_cast<uint64_t>(step), 0.1);
    if (step < 3) Step(ReferenceBackend(), *reference, segments, step);
  }
  return segments;
}

// Half the distance between the values around x is how far the nearest may be.
double HalfGap(const std::array<float, 256>& values, double x) {
  double below = -1, above = 1;
  for (const float value : values) {
    if (value <= x) below = std::max<double>(below, value);
    if (value >= x) above = std::min<double>(above, value);
  }
  // No value is below the last negative one, -0.993.
  if (x < *std::min_element(values.begin(), values.end())) return 0.008;
  return (above - below) / 2;
}

// Holds a step from `before` against the formula in double, given the dequantized moments.
void CheckStep(const Segment& before, const Segment& after, int step) {
  const double correction1 = 1 - std::pow(kBeta1, step), correction2 = 1 - std::pow(kBeta2, step);
  const int64_t n = before.p.numel();
  for (int64_t first = 0; first < n; first += kDynamicBlock) {
    const int64_t last = std::min(first + kDynamicBlock, n), block = first / kDynamicBlock;
    std::vector<double> ms, vs;
    double m_scale = 0, v_scale = 0;
    for (int64_t i = first; i < last; ++i) {
      const double g = before.g.at(i);
      ms.push_back(kBeta1 * before.m(i) + (1 - kBeta1) * g);
      vs.push_back(kBeta2 * before.v(i) + (1 - kBeta2) * g * g);
      m_scale = std::max(m_scale, std::fabs(ms.back()));
      v_scale = std::max(v_scale, vs.back());
      const double change =
          kLr / correction1 * ms.back() / (std::sqrt(vs.back() / correction2) + kEps);
      const double p = before.p.at(i) * (1 - kLr * kDecay) - change;
      CHECK(std::fabs(after.p.at(i) - p) <= 4 * kU * std::fabs(p) + 20 * kU * std::fabs(change));
    }
    CHECK(std::fabs(after.m_scales.at(block) - m_scale) <= 6 * kU * m_scale);
    CHECK(std::fabs(after.v_scales.at(block) - v_scale) <= 6 * kU * v_scale);
    for (int64_t i = first; i < last; ++i) {
      const double m = ms[static_cast<size_t>(i - first)], v = vs[static_cast<size_t>(i - first)];
      const double m_bound = m_scale * (HalfGap(kSignedValues, m / m_scale) + 2e-6);
      const double v_bound = v_scale * (HalfGap(kUnsignedValues, v / v_scale) + 2e-6);
      CHECK(std::fabs(after.m(i) - m) <= m_bound);
      CHECK(std::fabs(after.v(i) - v) <= v_bound);
    }
    for (int64_t i = n; i < (block + 1) * kDynamicBlock; ++i) {
      CHECK(after.code(after.m_codes, i) == 0);
      CHECK(after.code(after.v_codes, i) == 0);
    }
  }
}

TEST_CASE("adamw8bit: a step is that of AdamW in double, quantized to the nearest values") {
  const std::vector<int64_t> sizes = {1, 0, 3, 255, 256, 257, 1000};
  const std::vector<Segment> before = Warm(sizes);
  const auto check = [&](const std::vector<Tensor>& results) {
    for (size_t s = 0; s < sizes.size(); ++s) {
      CAPTURE(s);
      CheckStep(before[s], From(results, s), 3);
    }
  };
  const auto run = [&](const Backend& backend, Context& context) {
    const std::vector<Segment> segments = before;
    Step(backend, context, segments, 3);
    std::vector<Tensor> results;
    for (const Segment& segment : segments)
      for (const Tensor& tensor : segment.Results()) results.push_back(tensor);
    return results;
  };
  check(run(ReferenceBackend(), *ReferenceBackend().create_context(1)));
  OnEveryPath([&](Context& context) { return run(Tested().backend, context); }, check);
}

TEST_CASE(
    "adamw8bit: sizes around the block of a GPU, and many elements, agree with the reference") {
  const auto reference = ReferenceBackend().create_context(1);
  std::vector<int64_t> sizes = {8191, 8193};
  if (Tested().many > 10000) sizes = {8191, 8193, 30011};  // enough for three threads
  const std::vector<Segment> before = Warm(sizes), expected = before;
  Step(ReferenceBackend(), *reference, expected, 3);
  OnEveryPath(
      [&](Context& context) {
        const std::vector<Segment> segments = before;
        Step(Tested().backend, context, segments, 3);
        std::vector<Tensor> results;
        for (const Segment& segment : segments)
          for (const Tensor& tensor : segment.Results()) results.push_back(tensor);
        return results;
      },
      [&](const std::vector<Tensor>& results) {
        for (size_t s = 0; s < sizes.size(); ++s) {
          const Segment after = From(results, s);
          CHECK_CLOSE(after.p, expected[s].p, (Tolerance{20 * kU * 0.05, 4 * kU}));
          CHECK_CLOSE(after.m_scales, expected[s].m_scales, (Tolerance{0, 4 * kU}));
          CHECK_CLOSE(after.v_scales, expected[s].v_scales, (Tolerance{0, 6 * kU}));
          int64_t different = 0;
          for (int64_t i = 0; i < sizes[s]; ++i) {
            different += after.code(after.m_codes, i) != expected[s].code(expected[s].m_codes, i);
            different += after.code(after.v_codes, i) != expected[s].code(expected[s].v_codes, i);
          }
          CHECK(different <= 4);
        }
      });
}

TEST_CASE("adamw8bit: more segments than one launch takes") {
  constexpr size_t kSegments = 130;
  const auto shape = [](size_t s) { return Shape{static_cast<int64_t>(s % 3)}; };
  OnEveryPath(
      [&](Context& context) {
        std::vector<Segment> segments;
        for (size_t s = 0; s < kSegments; ++s) {
          segments.emplace_back(Full(DType::kF32, shape(s), static_cast<double>(s)));
          segments[s].g = Full(DType::kF32, shape(s), 4);
        }
        AdamW8bitArgs args;
        args.lr = 1;
        args.beta1 = args.beta2 = 0.5;
        for (const Segment& segment : segments) args.segments.push_back(segment.view());
        RunTested(args, context);
        std::vector<Tensor> results;
        for (const Segment& segment : segments)
          for (const Tensor& tensor : segment.Results()) results.push_back(tensor);
        return results;
      },
      [&](const std::vector<Tensor>& results) {
        for (size_t s = 0; s < kSegments; ++s) {
          CAPTURE(s);
          const Segment after = From(results, s);
          CHECK_CLOSE(after.p, Full(DType::kF32, shape(s), static_cast<double>(s) - 1),
                      (Tolerance{1e-6, 4 * kU}));
          if (after.p.numel() == 0) continue;
          CHECK(after.m(0) == 2);
          CHECK(after.v(0) == 8);
        }
      });
}

TEST_CASE(
    "adamw8bit: a gradient of 0 keeps a state of 0; one that is not finite spoils its block") {
  for (const double bad : {0.0, std::nan(""), HUGE_VAL}) {
    CAPTURE(bad);
    OnEveryPath(
        [&](Context& context) {
          std::vector<Segment> segments(1, Segment(Full(DType::kF32, {600}, 1)));
          segments[0].g.Set(300, bad);
          Step(Tested().backend, context, segments, 1);
          return segments[0].Results();
        },
        [&](const std::vector<Tensor>& results) {
          const Segment after = From(results, 0);
          for (int64_t i = 0; i < 600; ++i) {
            CHECK(std::isnan(after.p.at(i)) == (bad != 0 && i == 300));
            const bool spoilt = bad != 0 && i / 256 == 1;
            CHECK(std::isnan(after.m(i)) == spoilt);
            CHECK(std::isnan(after.v(i)) == spoilt);
            if (!spoilt) CHECK(after.m(i) == 0);
          }
        });
  }
}

}  // namespace
}  // namespace lora::test
