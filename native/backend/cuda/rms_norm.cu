#include <type_traits>

#include "backend/cuda/device/rms_norm.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"

namespace lora::cuda {
namespace {

constexpr int kThreads = device::kRmsNormThreads;
// Rows up to this length are read by one warp in a few turns.
constexpr int64_t kMaxOfAWarp = 1024;

// Calls f<X, W, Y>() for the dtypes of x, the weight and y. Both x and the weight have the dtype of
// y or are f32, which Check has seen to.
template <class F>
void ForTypes(DType x, DType weight, DType y, F&& f) {
  ForFloat(y, [&]<class Y>() {
    const auto with_weight = [&]<class X>() {
      if (weight == y) return f.template operator()<X, Y, Y>();
      f.template operator()<X, float, Y>();
    };
    if (x == y) return with_weight.template operator()<Y>();
    with_weight.template operator()<float>();
  });
}

// Calls f<threads per row>(shape).
template <class F>
void ForWidth(int64_t rows, int64_t d, F&& f) {
  if (d <= kMaxOfAWarp) {
    f.template operator()<32>(Blocks(rows, kThreads / 32));
  } else {
    f.template operator()<kThreads>(Blocks(rows, 1));
  }
}

// −0 is the number that changes no other when it is added: 0 makes 0 of −0.
template <class Args>
float OffsetOf(const Args& args) {
  return args.offset == 0 ? -0.0f : args.offset;
}

}  // namespace

void Run(const RmsNormForwardArgs& args, Scratch, Context& context) {
  const int64_t rows = args.x.dim(0), d = args.x.dim(1);
  ForTypes(args.x.dtype, args.weight.dtype, args.y.dtype, [&]<class X, class W, class Y>() {
    const device::RmsNormParams<X, W, Y> params{Data<const X>(args.x),
                                                Data<const Y>(args.addend),
                                                Data<const W>(args.weight),
                                                Data<X>(args.sum),
                                                Data<Y>(args.y),
                                                Data<float>(args.rstd),
                                                rows,
                                                d,
                                                args.eps,
                                                OffsetOf(args)};
    ForWidth(rows, d, [&]<int kWidth>(const device::LaunchShape& shape) {
      Launch<device::RmsNorm<X, W, Y, kWidth>>("rms_norm", context, shape, params);
    });
  });
}

void Run(const RmsNormBackwardArgs& args, Scratch, Context& context) {
  const int64_t rows = args.x.dim(0), d = args.x.dim(1);
  ForTypes(args.x.dtype, args.weight.dtype, args.g.dtype, [&]<class X, class W, class Y>() {
    const device::RmsNormBackwardParams<X, W, Y> params{Data<const X>(args.x),
                                                        Data<const W>(args.weight),
                                                        Data<const float>(args.rstd),
                                                        Data<const Y>(args.g),
                                                        Data<const X>(args.g_sum),
                                                        Data<X>(args.dx),
                                                        Data<Y>(args.d_addend),
                                                        Data<Y>(args.y),
                                                        rows,
                                                        d,
                                                        OffsetOf(args)};
    ForWidth(rows, d, [&]<int kWidth>(const device::LaunchShape& shape) {
      Launch<device::RmsNormBackward<X, W, Y, kWidth>>("rms_norm", context, shape, params);
    });
  });
}

template PlannedCall Plan(const RmsNormForwardArgs&, int);
template PlannedCall Plan(const RmsNormBackwardArgs&, int);
}  // namespace lora::cuda
