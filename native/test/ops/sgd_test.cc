#include <cmath>
#include <vector>

#include "test/support/tested.h"

namespace lora::test {
namespace {

struct Settings {
  double momentum, decay;
  bool nesterov;
};
constexpr Settings kSettings[] = {
    {0, 0, false}, {0, 0.3, false}, {0.9, 0, false}, {0.8, 0.1, true}};
constexpr double kLr = 0.05;

// The tensors of some segments: p, g and, with momentum, v.
using Segments = std::vector<std::vector<Tensor>>;

Segments Random(const std::vector<int64_t>& sizes, const Settings& settings) {
  Segments segments;
  for (size_t s = 0; s < sizes.size(); ++s) {
    const Shape shape{sizes[s]};
    segments.push_back(
        {Normal(DType::kF32, shape, 10 * s), Normal(DType::kF32, shape, 10 * s + 1)});
    if (settings.momentum > 0) segments[s].push_back(Normal(DType::kF32, shape, 10 * s + 2));
  }
  return segments;
}

// Takes two steps, and returns p and v of every segment.
std::vector<Tensor> TwoSteps(const Backend& backend, Context& context, const Settings& settings,
                             const Segments& start) {
  const Segments segments = start;
  SgdArgs args;
  args.lr = kLr;
  args.momentum = settings.momentum;
  args.weight_decay = settings.decay;
  args.nesterov = settings.nesterov;
  std::vector<Tensor> results;
  for (const auto& tensors : segments) {
    args.segments.push_back(
        {tensors[0], tensors[1], tensors.size() > 2 ? tensors[2].view() : TensorView()});
  }
  Run(backend, args, context);
  Run(backend, args, context);
  for (const auto& tensors : segments)
    for (size_t i = 0; i < tensors.size(); ++i)
      if (i != 1) results.push_back(tensors[i]);
  return results;
}

TEST_CASE("sgd: two steps over segments of odd sizes agree with the reference") {
  const auto reference = ReferenceBackend().create_context(1);
  std::vector<std::vector<int64_t>> cases = {
      {1, 0, 3, 7, 16, 17, 63, 65, 1000}, {4095, 4096, 4097}, {}};
  if (Tested().many > 10000) cases.push_back({9, 30011});  // enough for three threads
  for (const Settings& settings : kSettings) {
    CAPTURE(settings.momentum);
    CAPTURE(settings.nesterov);
    for (const auto& sizes : cases) {
      const Segments start = Random(sizes, settings);
      const auto expected = TwoSteps(ReferenceBackend(), *reference, settings, start);
      OnEveryPath(
          [&](Context& context) { return TwoSteps(Tested().backend, context, settings, start); },
          [&](const std::vector<Tensor>& results) {
            // Numbers are below 10, and each of the few operations of two steps rounds once.
            for (size_t i = 0; i < results.size(); ++i)
              CHECK_CLOSE(results[i], expected[i], (Tolerance{60 * kU, 4 * kU}));
          });
    }
  }
}

TEST_CASE("sgd: more segments than one launch takes") {
  constexpr size_t kSegments = 400;
  for (const bool moving : {false, true}) {
    OnEveryPath(
        [&](Context& context) {
          std::vector<Tensor> p, g, v;
          SgdArgs args;
          args.lr = 0.5;
          args.momentum = moving ? 0.5 : 0;
          for (size_t s = 0; s < kSegments; ++s) {
            const Shape shape{static_cast<int64_t>(s % 3)};
            p.push_back(Full(DType::kF32, shape, static_cast<double>(s)));
            g.push_back(Full(DType::kF32, shape, 4));
            v.push_back(Full(DType::kF32, shape, 8));
            args.segments.push_back({p[s], g[s], moving ? v[s].view() : TensorView()});
          }
          RunTested(args, context);
          return p;
        },
        [&](const std::vector<Tensor>& p) {
          for (size_t s = 0; s < kSegments; ++s) {
            CAPTURE(s);
            const Shape shape{static_cast<int64_t>(s % 3)};
            const double change = moving ? 4 : 2;  // ½·(½·8 + 4), or ½·4
            CHECK_IDENTICAL(p[s], Full(DType::kF32, shape, static_cast<double>(s) - change));
          }
        });
  }
}

TEST_CASE("sgd: a gradient that is not finite spoils its own element only") {
  Tensor g = Full(DType::kF32, {9}, 1);
  g.Set(4, std::nan(""));
  const Settings settings{0.9, 0, true};
  const Segments start{{Full(DType::kF32, {9}, 1), g, Zeros(DType::kF32, {9})}};
  OnEveryPath(
      [&](Context& context) { return TwoSteps(Tested().backend, context, settings, start); },
      [&](const std::vector<Tensor>& results) {
        for (const Tensor& tensor : results)
          for (int64_t i = 0; i < 9; ++i) CHECK(std::isnan(tensor.at(i)) == (i == 4));
      });
}

}  // namespace
}  // namespace lora::test
