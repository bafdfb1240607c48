#include <type_traits>

#include "backend/cuda/device/rms_norm.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"

namespace lora::cuda {
namespace {

constexpr int kThreads = device::kRmsNormThreads;
// Rows up to this length are read by one warp in a few turns.
constexpr int64_t kMostOfAWarp = 1024;

// Calls f<T, W>(): the weight has the dtype of the activations or is f32.
template <class F>
void ForTypes(DType act, DType weight, F&& f) {
  ForFloat(act, [&]<class T>() {
    if (weight == act) return f.template operator()<T, T>();
    if (weight != DType::kF32)
      Throw("ERR_UNSUPPORTED", "rms_norm", "no kernel for a weight of dtype ", NameOf(weight));
    f.template operator()<T, float>();
  });
}

// Calls f<threads per row>(shape).
template <class F>
void ForWidth(int64_t rows, int64_t d, F&& f) {
  device::LaunchShape shape = Blocks(rows, d <= kMostOfAWarp ? kThreads / 32 : 1);
  shape.shared_bytes = kThreads / 32 * sizeof(float);
  if (d <= kMostOfAWarp) {
    f.template operator()<32>(shape);
  } else {
    f.template operator()<kThreads>(shape);
  }
}

}  // namespace

void Run(const RmsNormForwardArgs& args, Scratch, Context& context) {
  const int64_t rows = args.x.dim(0), d = args.x.dim(1);
  ForTypes(args.x.dtype, args.weight.dtype, [&]<class T, class W>() {
    const device::RmsNormParams<T, W> params{Data<const T>(args.x),
                                             Data<const W>(args.weight),
                                             Data<T>(args.y),
                                             args.rstd ? Data<float>(args.rstd) : nullptr,
                                             rows,
                                             d,
                                             args.eps};
    ForWidth(rows, d, [&]<int kWidth>(const device::LaunchShape& shape) {
      Launch<device::RmsNorm<T, W, kWidth>>("rms_norm", context, shape, params);
    });
  });
}

void Run(const RmsNormBackwardArgs& args, Scratch, Context& context) {
  const int64_t rows = args.x.dim(0), d = args.x.dim(1);
  ForTypes(args.x.dtype, args.weight.dtype, [&]<class T, class W>() {
    const device::RmsNormBackwardParams<T, W> params{Data<const T>(args.x),
                                                     Data<const W>(args.weight),
                                                     Data<const float>(args.rstd),
                                                     Data<const T>(args.g),
                                                     Data<T>(args.dx),
                                                     rows,
                                                     d};
    ForWidth(rows, d, [&]<int kWidth>(const device::LaunchShape& shape) {
      Launch<device::RmsNormBackward<T, W, kWidth>>("rms_norm", context, shape, params);
    });
  });
}

}  // namespace lora::cuda
