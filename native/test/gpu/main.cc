// Runs the tests of native/test/ops and native/test/cuda on a GPU. It exits with 77 when there is
// no GPU to run on.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>

#include "backend/cuda/runtime.h"

int main(int argc, char** argv) {
  using namespace lora::cuda;
  // What failed so far shows even if the process is killed.
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  for (const Fact& fact : Facts()) std::printf("%s: %s\n", fact.name.c_str(), fact.value.c_str());
  if (!UnavailableReason().empty()) {
    std::printf("skipped: %s\n", UnavailableReason().c_str());
    return 77;
  }
  const DeviceSummary device = Describe(0);
  std::printf("device: %s, compute capability %s\n", device.name.c_str(),
              device.compute_capability.c_str());
  return doctest::Context(argc, argv).run();
}
