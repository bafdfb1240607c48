// Runs the self-test of the device primitives on a GPU. It exits with 0 when all
// hold and with 77 without a device.
//   nvcc -std=c++20 -arch=native -Inative -o self_test
//        native/test/simt/self_test.cu native/core/maths/dtype.cc
#include <cstdio>

#include "test/simt/self_test.cuh"

namespace {

using lora::device::SelfTest;

// Returns how many words differ, or -1 after an error of CUDA.
int Failures(SelfTest test) {
  const std::vector<uint32_t> input = lora::device::SelfTestInput(test);
  const std::vector<uint32_t> expected = lora::device::SelfTestExpected(test, input);
  std::vector<uint32_t> got(expected.size());
  const size_t in_bytes = input.size() * 4, out_bytes = expected.size() * 4;
  uint32_t *in = nullptr, *out = nullptr;
  cudaError_t error = cudaMalloc(&in, in_bytes);
  if (error == cudaSuccess) error = cudaMalloc(&out, out_bytes);
  if (error == cudaSuccess) error = cudaMemcpy(in, input.data(), in_bytes, cudaMemcpyHostToDevice);
  if (error == cudaSuccess) error = cudaMemset(out, 0xff, out_bytes);
  if (error == cudaSuccess) error = lora::device::LaunchSelfTest(test, in, out, nullptr);
  if (error == cudaSuccess) error = cudaMemcpy(got.data(), out, out_bytes, cudaMemcpyDeviceToHost);
  cudaFree(in);
  cudaFree(out);
  if (error != cudaSuccess) {
    std::printf("  %s\n", cudaGetErrorString(error));
    return -1;
  }
  int failures = 0;
  for (size_t i = 0; i < got.size(); ++i)
    if (got[i] != expected[i] && ++failures <= 4)
      std::printf("  word %zu is %08x, not %08x\n", i, got[i], expected[i]);
  return failures;
}

}  // namespace

int main() {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess || devices == 0) {
    std::printf("skipped: CUDA finds no device (%s)\n", cudaGetErrorName(error));
    return 77;
  }
  int failed = 0;
  for (const SelfTest test : lora::device::kSelfTests) {
    const int failures = Failures(test);
    std::printf("self-test %d: %s\n", static_cast<int>(test), failures == 0 ? "ok" : "FAILED");
    failed += failures != 0;
  }
  return failed == 0 ? 0 : 1;
}
