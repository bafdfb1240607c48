// Tests the sentences that follow from facts, without a driver.
#include "backend/cuda/driver.h"

#include <doctest/doctest.h>

#include "backend/cuda/runtime.h"
#include "core/ops/backend.h"

namespace lora::cuda {
namespace {

DriverState Working() {
  DriverState state;
  state.driver_version = 13010;
  state.runtime_version = 13000;
  state.installed = "580.95.05";
  state.devices = {{0, 86, "NVIDIA GeForce RTX 3090", size_t{24} << 30}};
  return state;
}
DriverState Failing(int error, const char* name = "", const char* text = "") {
  DriverState state = Working();
  state.count_error = error;
  state.error_name = name;
  state.error_text = text;
  state.devices.clear();
  return state;
}

TEST_CASE("driver: nothing to say where a device works") {
  CHECK(UnavailableSentence(Working()).empty());
}

TEST_CASE("driver: none") {
  DriverState state = Failing(35);
  state.driver_version = 0;
  state.installed = "";
  CHECK(UnavailableSentence(state) == "no NVIDIA driver was found (libcuda.so.1)");
}

TEST_CASE("driver: too old, with its CUDA, ours, the minimum and what is installed") {
  DriverState state = Failing(35);
  state.driver_version = 12020;
  state.installed = "535.183.01";
  CHECK(UnavailableSentence(state) ==
        "the NVIDIA driver is too old: it knows CUDA up to 12.2, and this build of lora-native "
        "uses CUDA 13.0, which needs driver 580.65.06 or newer; installed is 535.183.01");
  state.installed = "";
  CHECK(UnavailableSentence(state).ends_with(
      "or newer; which driver is installed could not be found out"));
  state.runtime_version = 12080;
  CHECK(UnavailableSentence(state).find("CUDA 12.8, which needs driver 525.60.13") !=
        std::string::npos);
}

TEST_CASE("driver: no device") {
  CHECK(UnavailableSentence(Failing(100)) == "the NVIDIA driver is there, but no CUDA device");
  DriverState hidden = Failing(100);
  hidden.visible_devices_set = true;
  CHECK(UnavailableSentence(hidden) ==
        "the NVIDIA driver is there, but no CUDA device; CUDA_VISIBLE_DEVICES is \"\", which may "
        "hide them");
  CHECK(UnavailableSentence(Failing(0)) == "the NVIDIA driver is there, but no CUDA device");
}

TEST_CASE("driver: devices below 8.0, also where the driver is too old for us") {
  DriverState state = Working();
  state.devices = {{0, 75, "Tesla T4", 1}};
  const std::string one =
      "lora-native needs a device of compute capability 8.0 or newer (Ampere), and here is only "
      "Tesla T4 (7.5)";
  CHECK(UnavailableSentence(state) == one);
  state.count_error = 35;
  CHECK(UnavailableSentence(state) == one);
  state.devices.push_back({1, 61, "Tesla P4", 1});
  CHECK(UnavailableSentence(state).ends_with("and here are only Tesla T4 (7.5), Tesla P4 (6.1)"));
}

TEST_CASE("driver: other errors by name") {
  CHECK(UnavailableSentence(Failing(2, "cudaErrorMemoryAllocation", "out of memory")) ==
        "asking the NVIDIA driver for its devices gave cudaErrorMemoryAllocation (out of memory)");
  CHECK(UnavailableSentence(Failing(999, "cudaErrorUnknown", "unknown error"))
            .find("(unknown error); is the kernel module nvidia_uvm loaded") != std::string::npos);
}

TEST_CASE("driver: devices that kernels run on are numbered without the others") {
  DriverState state = Working();
  state.devices = {{0, 75, "old", 1}, {1, 86, "new", 2}, {2, 120, "newest", 3}};
  const auto usable = UsableDevices(state);
  REQUIRE(usable.size() == 2);
  CHECK(usable[0].ordinal == 1);
  const DeviceSummary first = Summarize(usable[0], 0), second = Summarize(usable[1], 1);
  CHECK(first.id == "cuda");
  CHECK(first.compute_capability == "8.6");
  CHECK(second.id == "cuda:1");
  CHECK(second.compute_capability == "12.0");
  CHECK(second.memory_bytes == 3);
}

TEST_CASE("driver: on which devices launches overlap, and why they do not") {
  CHECK(OverlapText({}) == "none: they need a device of compute capability 9.0 or newer");
  CHECK(OverlapText({{"cuda", "", 90}}) == "cuda: overlap");
  CHECK(OverlapText({{"cuda", "", 120}}) == "cuda: overlap");
  CHECK(OverlapText({{"cuda", "", 0}}) ==
        "cuda: none, because the driver says of no kernel which PTX its code comes from "
        "(ptxVersion 0), so that launches wait for each other");
  CHECK(OverlapText({{"cuda", "", 80}, {"cuda:1", "cudaErrorUnknown", 0}}) ==
        "cuda: none, because the code comes from PTX for compute_80, which has no wait; "
        "cuda:1: not known, asking for a kernel gave cudaErrorUnknown");
  CHECK(OverlapText({{"cuda", "", 89}}).starts_with("cuda: none"));
}

TEST_CASE("driver: a build without kernels says how to get one that has them") {
  const std::string reason = CudaUnavailableReason();
  CHECK(reason.find("no CUDA backend") != std::string::npos);
  CHECK(reason.find("npx lora-native build --cuda native") != std::string::npos);
  CHECK(UnavailableReason() == reason);
}

}  // namespace
}  // namespace lora::cuda
