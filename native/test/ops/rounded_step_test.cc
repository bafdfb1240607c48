// Steps of parameters of bf16: the new value of a step in f32, rounded as
// core/maths/stochastic_rounding.h says, and the same state.
#include <bit>
#include <type_traits>
#include <vector>

#include "core/maths/ceil_div.h"
#include "core/maths/stochastic_rounding.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

// The tensors of some segments: p, g and the state.
using Segments = std::vector<std::vector<Tensor>>;

// The counters of segment s.
StochasticRounding RoundingOf(size_t s) {
  return {(uint64_t{1} << 40) + 11, static_cast<uint32_t>(5 * s + 2), 7};
}

AdamWSegment SegmentOf(std::type_identity<AdamWSegment>, const std::vector<Tensor>& t) {
  return {t[0], t[1], t[2], t[3]};
}
AdamW8bitSegment SegmentOf(std::type_identity<AdamW8bitSegment>, const std::vector<Tensor>& t) {
  return {t[0], t[1], t[2], t[3], t[4], t[5]};
}
SgdArgs::Segment SegmentOf(std::type_identity<SgdArgs::Segment>, const std::vector<Tensor>& t) {
  return {t[0], t[1], t.size() > 2 ? t[2].view() : TensorView()};
}
LionArgs::Segment SegmentOf(std::type_identity<LionArgs::Segment>, const std::vector<Tensor>& t) {
  return {t[0], t[1], t[2]};
}

// Takes a step, and returns p and the state of every segment.
template <class Args>
std::vector<Tensor> Step(const Args& settings, Context& context, const Segments& start) {
  using Segment = typename decltype(Args::segments)::value_type;
  const Segments segments = start;
  Args args = settings;
  for (size_t s = 0; s < segments.size(); ++s) {
    args.segments.push_back(SegmentOf(std::type_identity<Segment>(), segments[s]));
    if (segments[s][0].dtype() == DType::kBF16) args.segments.back().rounding = RoundingOf(s);
  }
  RunTested(args, context);
  std::vector<Tensor> results;
  for (const auto& tensors : segments)
    for (size_t t = 0; t < tensors.size(); ++t)
      if (t != 1) results.push_back(tensors[t]);
  return results;
}

Tensor RoundedAs(const Tensor& wide, const StochasticRounding& rounding) {
  Tensor rounded(DType::kBF16, wide.shape());
  for (int64_t i = 0; i < wide.numel(); ++i) {
    const PhiloxWords words = RoundingWords(rounding.seed, rounding.parameter, rounding.step,
                                            static_cast<uint64_t>(i) / 8);
    const uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(wide.at(i)));
    const uint16_t bf16 = RoundStochastically(bits, RoundingBits(words, static_cast<int>(i % 8)));
    rounded.Set(i, F32FromBF16(bf16));
  }
  return rounded;
}

// state(n, s) gives the state of segment s with n elements. Every third parameter stays f32.
template <class Args, class StateFn>
void CheckRounded(const Args& settings, const StateFn& state) {
  std::vector<int64_t> sizes = {1, 0, 3, 7, 8, 9, 15, 250, 257, 1001, 4095, 4104};
  if (Tested().many > 10000) sizes.push_back(30011);  // enough for three threads
  Segments narrow, wide;
  for (size_t s = 0; s < sizes.size(); ++s) {
    const Tensor p = Normal(DType::kBF16, {sizes[s]}, 10 * s);
    std::vector<Tensor> tensors = {p, Normal(DType::kF32, {sizes[s]}, 10 * s + 1)};
    for (const Tensor& tensor : state(sizes[s], s)) tensors.push_back(tensor);
    wide.push_back(tensors);
    wide.back()[0] = p.As(DType::kF32);
    narrow.push_back(s % 3 == 2 ? wide.back() : tensors);
  }
  OnEveryPath(
      [&](Context& context) {
        std::vector<Tensor> results = Step(settings, context, narrow);
        for (const Tensor& tensor : Step(settings, context, wide)) results.push_back(tensor);
        return results;
      },
      [&](const std::vector<Tensor>& results) {
        const size_t half = results.size() / 2, each = half / sizes.size();
        for (size_t s = 0; s < sizes.size(); ++s) {
          CAPTURE(s);
          const Tensor& p = results[half + s * each];
          CHECK_IDENTICAL(results[s * each], s % 3 == 2 ? p : RoundedAs(p, RoundingOf(s)));
          for (size_t t = 1; t < each; ++t)
            CHECK_IDENTICAL(results[s * each + t], results[half + s * each + t]);
        }
      });
}

template <class Args>
Args AdamSettings() {
  Args args;
  args.lr = 3e-3;
  args.beta1 = 0.9;
  args.beta2 = 0.999;
  args.eps = 1e-8;
  args.weight_decay = 0.01;
  args.step = 17;
  return args;
}

TEST_CASE("adamw: a parameter of bf16 is rounded stochastically") {
  CheckRounded(AdamSettings<AdamWArgs>(), [](int64_t n, size_t s) {
    return std::vector<Tensor>{Normal(DType::kF32, {n}, 10 * s + 2, 0.1),
                               Uniform(DType::kF32, {n}, 10 * s + 3, 0, 0.1)};
  });
}

TEST_CASE("adamw8bit: a parameter of bf16 is rounded stochastically") {
  CheckRounded(AdamSettings<AdamW8bitArgs>(), [](int64_t n, size_t) {
    const int64_t blocks = CeilDiv(n, kDynamicBlock);
    const Tensor codes = Zeros(DType::kI32, {blocks * 64}), scales = Zeros(DType::kF32, {blocks});
    return std::vector<Tensor>{codes, codes, scales, scales};
  });
}

TEST_CASE("lion: a parameter of bf16 is rounded stochastically") {
  LionArgs args;
  args.lr = 1e-3;
  args.beta1 = 0.9;
  args.beta2 = 0.99;
  args.weight_decay = 0.25;
  CheckRounded(args, [](int64_t n, size_t s) {
    return std::vector<Tensor>{Normal(DType::kF32, {n}, 10 * s + 2)};
  });
}

TEST_CASE("sgd: a parameter of bf16 is rounded stochastically, with and without a velocity") {
  SgdArgs args;
  args.lr = 1e-3;
  args.weight_decay = 0.1;
  CheckRounded(args, [](int64_t, size_t) { return std::vector<Tensor>{}; });
  args.momentum = 0.9;
  CheckRounded(args, [](int64_t n, size_t s) {
    return std::vector<Tensor>{Normal(DType::kF32, {n}, 10 * s + 2)};
  });
}

TEST_CASE("lion: the bits of a rounded step are the same on every backend") {
  // p ± lr is exact in f32.
  constexpr int64_t kSize = 1000;
  LionArgs args;
  args.lr = 0x1p-12;
  args.beta1 = args.beta2 = 0.5;
  const Tensor p = Uniform(DType::kBF16, {kSize}, 1, 1, 2);
  const Tensor g = Full(DType::kF32, {kSize}, 1), m = Zeros(DType::kF32, {kSize});
  Tensor moved = p.As(DType::kF32);
  for (int64_t i = 0; i < kSize; ++i) moved.Set(i, p.at(i) - args.lr);
  const Tensor expected = RoundedAs(moved, RoundingOf(0));
  OnEveryPath([&](Context& context) { return Step(args, context, {{p, g, m}}); },
              [&](const std::vector<Tensor>& results) { CHECK_IDENTICAL(results[0], expected); });
  Tensor other = p;
  LionArgs alone = args;
  alone.segments.push_back({other, g, m, RoundingOf(0)});
  Run(ReferenceBackend(), alone, *ReferenceBackend().create_context(1));
  CHECK_IDENTICAL(other, expected);
}

}  // namespace
}  // namespace lora::test
