// Tests what the real CUDA runtime makes of a driver that the test plays. This program starts
// itself with another libcuda.so.1 on the library path, because the runtime looks for it once per
// process.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <cstring>
#include <string>

#include "backend/cuda/runtime.h"
#include "core/error.h"

namespace {

std::string self;

int Probe() {
  using namespace lora::cuda;
  std::printf("%s|%d", UnavailableReason().c_str(), DeviceCount());
  try {
    Gpu::Open(0);
  } catch (const lora::Error& error) {
    std::printf("|%s %s", error.code().c_str(), error.what());
  }
  for (const Fact& fact : Facts())
    if (fact.name == "cuda driver") std::printf("|%s", fact.value.c_str());
  return 0;
}

// Returns "sentence|devices|error of opening|driver".
std::string With(const std::string& environment) {
  const std::string command =
      "CUDA_VISIBLE_DEVICES=0 LD_LIBRARY_PATH=" + environment + " " + self + " --probe 2>&1";
  FILE* pipe = popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::string output;
  char buffer[256];
  while (const size_t n = std::fread(buffer, 1, sizeof buffer, pipe)) output.append(buffer, n);
  CHECK(pclose(pipe) == 0);
  return output;
}
const std::string kStub = LORA_STUB_DRIVER;

void CheckReason(const std::string& environment, const std::string& reason) {
  CAPTURE(environment);
  const std::string output = With(environment);
  CAPTURE(output);
  CHECK(output.starts_with(reason));
  CHECK(output.find("|0|ERR_DEVICE_UNAVAILABLE [device] " + reason) != std::string::npos);
}

TEST_CASE("stub driver: none") {
  // Not on a machine that has one.
  const std::string output = With("/nonexistent");
  if (output.find("|none") == std::string::npos) return;
  CheckReason("/nonexistent", "no NVIDIA driver was found (libcuda.so.1)");
  CheckReason(kStub + " STUB_VERSION=0", "no NVIDIA driver was found (libcuda.so.1)");
}
TEST_CASE("stub driver: too old") {
  CheckReason(kStub + " STUB_VERSION=12020 STUB_DEVICES=86",
              "the NVIDIA driver is too old: it knows CUDA up to 12.2, and this build of "
              "lora-native uses CUDA ");
}
TEST_CASE("stub driver: no device") {
  CheckReason(kStub + " STUB_INIT=100",
              "the NVIDIA driver is there, but no CUDA device; "
              "CUDA_VISIBLE_DEVICES is \"0\", which may hide them");
}
TEST_CASE("stub driver: devices below 8.0") {
  CheckReason(kStub + " STUB_DEVICES=75,61",
              "lora-native needs a device of compute capability 8.0 or newer (Ampere), and here "
              "are only Stub 0 (7.5), Stub 1 (6.1)");
}
TEST_CASE("stub driver: other errors by name") {
  CheckReason(kStub + " STUB_INIT=999",
              "asking the NVIDIA driver for its devices gave cudaErrorUnknown (unknown error)");
  CheckReason(kStub + " STUB_INIT=803",
              "asking the NVIDIA driver for its devices gave cudaErrorSystemDriverMismatch (");
  CheckReason(kStub + " STUB_DEVICES=86",  // which has no more of a driver than this
              "asking the NVIDIA driver for its devices gave cudaErrorNotSupported (");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "--probe") == 0) return Probe();
  self = argv[0];
  return doctest::Context(argc, argv).run();
}
