#include "test/simt/function_kernels.h"

#include "backend/cuda/device/primitives.h"

namespace lora::simt {
namespace {

using namespace device;

LORA_KERNEL void FunctionsKernel(const float* x, double* y) {
  const int i = BlockX();
  const float f = x[i];
  double* of = y + i * static_cast<int>(kFunctions);
  of[0] = double{Exp(f)};
  of[1] = double{Log(f)};
  of[2] = double{Pow(f, 0.7f)};
  of[3] = double{Exp2(f)};
  of[4] = Exp(double{f});
  of[5] = Log(double{f});
}

}  // namespace

Result Functions(const Options& options, size_t count, const float* x, double* y) {
  return Launch(options, FunctionsKernel, {static_cast<unsigned>(count)}, {1}, 0, x, y);
}

}  // namespace lora::simt
