// Tests runtime.cc on a CUDA runtime that the test plays; the devices are the stub driver's, which
// is on the library path (75, 86, 90: two that kernels run on).
#include "backend/cuda/runtime.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "backend/cuda/device/kernel_list.h"
#include "core/error.h"
#include "test/driver/fake_cudart.h"

namespace lora::cuda {
namespace {

using test::Fake;

std::shared_ptr<Gpu> Open(int ordinal = 0) { return Gpu::Open(ordinal); }

template <class F>
std::string CodeOf(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.code() + " " + error.what();
  }
  return "no error";
}

std::vector<char> Numbers(size_t count) {
  std::vector<char> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<char>(i * 7 + i / 251);
  return values;
}

// Every test ends with nothing left and no rule broken.
struct Clean {
  Clean() { test::ResetFake(); }
  ~Clean() {
    CHECK(Fake().violation == "");
    CHECK(Fake().live_objects == 0);
  }
};

TEST_CASE("runtime: devices that kernels run on, under their names") {
  const Clean clean;
  CHECK(UnavailableReason() == "");
  REQUIRE(DeviceCount() == 2);
  CHECK(Describe(0).name == "Stub 1");
  CHECK(Describe(0).id == "cuda");
  CHECK(Describe(0).compute_capability == "8.6");
  CHECK(Describe(1).id == "cuda:1");
  CHECK(Describe(1).memory_bytes == size_t{8} << 30);
  CHECK(Open(1)->properties().arch == 90);
  CHECK(Open()->properties().multiprocessors == 82);
  CHECK(CodeOf([] { Open(2); }) ==
        "ERR_DEVICE_UNAVAILABLE [device] there is no CUDA device 2, only 2");
}

// Kernels that no binary registered, for as long as it lives.
struct TwoKernels {
  TwoKernels() { device::Kernels() = {&one, &two}; }
  ~TwoKernels() { device::Kernels() = {}; }
  const char one = 0, two = 0;
};

TEST_CASE("runtime: opening a device looks at one kernel, whether there is code for the device") {
  const Clean clean;
  const TwoKernels kernels;
  Open();
  CHECK(Fake().kernels_loaded == 1);
  CHECK(Fake().shared_bytes.empty());
  Fake().kernel_error = cudaErrorNoKernelImageForDevice;
  CHECK(CodeOf([] { Open(); })
            .starts_with("ERR_DEVICE_UNAVAILABLE [device] cannot open cuda (Stub 1): this build of "
                         "lora-native has no "
                         "code for compute capability 8.6, only for "));
  Fake().kernel_error = cudaErrorInvalidDeviceFunction;
  CHECK(CodeOf([] { Open(); }).find("no code for compute capability 8.6") != std::string::npos);
  Fake().kernel_error = cudaErrorInvalidPtx;
  CHECK(CodeOf([] { Open(); })
            .starts_with("ERR_DEVICE_UNAVAILABLE [device] cannot open cuda (Stub 1): loading a "
                         "kernel gave "));
  Fake().kernel_error = cudaSuccess;
  Fake().pinned_error = cudaErrorMemoryAllocation;
  CHECK(CodeOf([] { Open(); }).starts_with("ERR_OUT_OF_MEMORY [device] cannot open cuda (Stub 1)"));
}

TEST_CASE("runtime: a kernel is loaded, and given shared memory, once for each device") {
  const Clean clean;
  const TwoKernels kernels;
  const auto first = Open(0), second = Open(1);  // of compute capability 8.6 and 9.0
  Fake().kernels_loaded = 0;
  CHECK_FALSE(first->LoadKernel("op", 1));
  CHECK(Fake().kernels_loaded == 1);
  CHECK(second->LoadKernel("op", 1));  // its code is of PTX whose launches may overlap
  CHECK(Fake().kernels_loaded == 2);
  CHECK(Fake().shared_bytes ==  // what is left beside the static
        std::vector<int>{(99 << 10) - 512, (227 << 10) - 512});
  const size_t before = Fake().called.size();
  CHECK_FALSE(first->LoadKernel("op", 1));
  CHECK(second->LoadKernel("op", 1));
  CHECK(Fake().called.size() == before);
  second->LoadKernel("op", 0);
  CHECK(Fake().kernels_loaded == 3);
}

TEST_CASE("runtime: a thread that launches a kernel while another loads it waits for that") {
  const Clean clean;
  const TwoKernels kernels;
  const auto gpu = Open(1);
  Fake().kernels_loaded = 0;
  bool other_may_overlap = false;
  std::thread other;
  Fake().during_load = [&] {
    std::atomic<bool> started = false;
    other = std::thread([&] {
      started = true;
      other_may_overlap = gpu->LoadKernel("op", 0);
    });
    while (!started) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // the other gets as far as it can
  };
  CHECK(gpu->LoadKernel("op", 0));
  other.join();
  CHECK(other_may_overlap);
  CHECK(Fake().kernels_loaded == 1);
  CHECK(Fake().shared_bytes.size() == 1);
}

TEST_CASE("runtime: a kernel that cannot be loaded fails its op, and is loaded by the next") {
  const Clean clean;
  const TwoKernels kernels;
  const auto gpu = Open();
  const auto load = [&] { return CodeOf([&] { gpu->LoadKernel("rope", 0); }); };
  Fake().kernel_error = cudaErrorNoKernelImageForDevice;
  CHECK(load().starts_with("ERR_UNSUPPORTED [rope] the device could not load a kernel: "));
  Fake().kernel_error = cudaErrorMemoryAllocation;
  CHECK(load() ==
        "ERR_OUT_OF_MEMORY [rope] the device could not load a kernel: cudaErrorMemoryAllocation: "
        "other");
  CHECK(Fake().trims == 1);
  Fake().kernel_error = cudaSuccess;
  CHECK(cudaGetLastError() == cudaSuccess);
  // Code finds room in memory that the pool had kept: the device is chosen, then asked.
  for (const int call : {2, 3}) {
    const auto other = Open();
    Fake().trims = 0;
    Fake().fail_at = static_cast<int>(Fake().called.size()) + call;
    Fake().fail_with = cudaErrorMemoryAllocation;
    other->LoadKernel("rope", 0);
    CHECK(Fake().failed == (call == 2 ? "cudaFuncGetAttributes" : "cudaFuncSetAttribute"));
    CHECK(Fake().trims == 1);
  }
  CHECK(load() == "no error");
  Fake().stream_error = cudaErrorIllegalAddress;
  const std::string lost =
      "ERR_DEVICE_LOST [cuda] the device cuda (Stub 1) was lost: cudaErrorIllegalAddress";
  CHECK(CodeOf([&] { gpu->LoadKernel("rope", 1); }).starts_with(lost));
  CHECK(CodeOf([&] { gpu->Synchronize(); }).starts_with(lost));
  Fake().stream_error = cudaSuccess;
}

TEST_CASE("runtime: a graph is launched as often as wanted, and other threads go on meanwhile") {
  const Clean clean;
  const auto gpu = Open(1);
  void* const data = gpu->Allocate(8);
  void* const graph = gpu->Capture([&](void* stream) {
    CHECK(stream != gpu->stream());
    std::thread([&] {
      const char byte = 1;
      gpu->Upload(data, &byte, 1);
      gpu->Free(gpu->Allocate(100));
      gpu->Synchronize();
    }).join();
  });
  CHECK(Fake().graphs_launched == 0);
  for (int i = 0; i < 3; ++i) gpu->LaunchGraph(graph);
  CHECK(Fake().graphs_launched == 3);
  gpu->FreeGraph(graph);
  gpu->Free(data);
  gpu->Synchronize();
  CHECK(Fake().violation == "");
}

TEST_CASE("runtime: what a thread may not do while it captures would be seen") {
  const Clean clean;
  for (const bool allocates : {false, true}) {
    const auto gpu = Open(1);
    const std::string code = CodeOf([&] {
      gpu->Capture([&](void*) { allocates ? gpu->Free(gpu->Allocate(8)) : gpu->Synchronize(); });
    });
    CHECK(code.find("cudaErrorStreamCaptureUnsupported") != std::string::npos);
    CHECK(Fake().violation.ends_with(" while the thread captures"));
    Fake().violation = "";
  }
}

TEST_CASE("runtime: a kernel that is first wanted inside of a capture ends that, not the device") {
  const Clean clean;
  const TwoKernels kernels;
  const auto gpu = Open(1);
  const auto load_inside = [&](size_t kernel) {
    return CodeOf(
        [&] { gpu->FreeGraph(gpu->Capture([&](void*) { gpu->LoadKernel("rope", kernel); })); });
  };
  CHECK(load_inside(0).starts_with(
      "ERR_UNSUPPORTED [rope] the device could not load a kernel inside of a capture: "
      "cudaErrorStreamCaptureUnsupported"));
  CHECK(cudaGetLastError() == cudaSuccess);
  // Launches go to the stream in its place, and load the kernel there.
  CHECK(gpu->LoadKernel("rope", 0));
  CHECK(load_inside(0) == "no error");
  gpu->Synchronize();
  // Nor is memory given back for the code: that waits for the stream.
  // Enter, begin the capture, Enter, ask for the kernel.
  Fake().fail_at = static_cast<int>(Fake().called.size()) + 4;
  Fake().fail_with = cudaErrorMemoryAllocation;
  CHECK(load_inside(1).starts_with("ERR_UNSUPPORTED [rope] the device could not load a kernel"));
  CHECK(Fake().trims == 0);
  gpu->Synchronize();
  // Outside of its own capture a thread is told what it asks.
  CHECK(CodeOf([&] {
          gpu->FreeGraph(gpu->Capture(
              [&](void*) { std::thread([&] { gpu->LoadKernel("rope", 1); }).join(); }));
        }) == "no error");
}

TEST_CASE("runtime: launches overlap where the driver says which PTX a kernel comes from") {
  const TwoKernels kernels;
  const auto fact = [] {
    for (const Fact& one : Facts())
      if (one.name == "cuda programmatic launches") return one.value;
    return std::string();
  };
  for (const auto& [said, overlap, text] :
       {std::tuple{0, false, "cuda:1: none, because the driver says of no kernel"},
        {80, false, "cuda:1: none, because the code comes from PTX for compute_80"},
        {90, true, "cuda:1: overlap"},
        {120, true, "cuda:1: overlap"}}) {
    CAPTURE(said);
    const Clean clean;
    Fake().ptx_version = said;
    CHECK(Open(1)->LoadKernel("op", 1) == overlap);
    CHECK(fact().starts_with(text));
    Fake().kernel_error = cudaErrorUnknown;
    CHECK(fact() == "cuda:1: not known, asking for a kernel gave cudaErrorUnknown");
  }
}

TEST_CASE("runtime: a capture that fails leaves nothing behind, and the next one is made") {
  const Clean clean;
  const auto gpu = Open();
  CHECK(CodeOf([&] { gpu->Capture([](void*) { Throw("ERR_DATA", "rope", "a position"); }); }) ==
        "ERR_DATA [rope] a position");
  Fake().capture_error = cudaErrorStreamCaptureInvalidated;
  CHECK(CodeOf([&] { gpu->Capture([](void*) {}); }) ==
        "ERR_UNSUPPORTED [program] the device made no graph: cudaErrorStreamCaptureInvalidated: "
        "other");
  Fake().capture_error = cudaSuccess;
  CHECK(cudaGetLastError() == cudaSuccess);
  void* const graph = gpu->Capture([](void*) {});
  gpu->LaunchGraph(graph);
  // A lost device has its graphs taken back.
  Fake().stream_error = cudaErrorIllegalAddress;
  const std::string lost = "ERR_DEVICE_LOST [cuda] the device cuda (Stub 1) was lost";
  CHECK(CodeOf([&] { gpu->LaunchGraph(graph); }).starts_with(lost));
  CHECK(CodeOf([&] { gpu->Capture([](void*) {}); }).starts_with(lost));
  CHECK(CodeOf([&] { gpu->FreeGraph(graph); }) == "no error");
  Fake().stream_error = cudaSuccess;
}

TEST_CASE("runtime: copies of every size arrive, however late they run") {
  for (const bool pools : {true, false}) {
    const Clean clean;
    Fake().pools = pools;
    const auto gpu = Open();
    for (const size_t bytes : {size_t{0}, size_t{1}, size_t{1000}, size_t{512} << 10,
                               (size_t{512} << 10) + 1, (size_t{21} << 20) + 5}) {
      CAPTURE(bytes);
      void* const data = gpu->Allocate(bytes);
      REQUIRE(data != nullptr);
      const std::vector<char> sent = Numbers(bytes);
      std::vector<char> copy = sent, received(bytes);
      gpu->Upload(data, copy.data(), bytes);
      copy.assign(bytes, 0);  // it has been read
      gpu->Download(received.data(), data, bytes);
      CHECK(received == sent);
      gpu->Free(data);
    }
    gpu->Synchronize();
  }
}

TEST_CASE("runtime: small uploads do not wait for the device") {
  const Clean clean;
  const auto gpu = Open();
  void* const data = gpu->Allocate(64);
  const std::vector<char> sent = Numbers(64);
  for (int i = 0; i < 10; ++i) gpu->Upload(data, sent.data(), 64);
  CHECK(Fake().waits == 0);
  gpu->Free(data);
}

TEST_CASE("runtime: Pace waits for the work before its last call, and not for later work") {
  const Clean clean;
  const auto gpu = Open();
  const char sent = 7;
  auto* const first = static_cast<char*>(gpu->Allocate(1));
  auto* const second = static_cast<char*>(gpu->Allocate(1));
  *first = *second = 0;
  gpu->Upload(first, &sent, 1);
  gpu->Pace();
  CHECK(*first == 0);
  gpu->Upload(second, &sent, 1);
  gpu->Pace();
  CHECK(*first == sent);
  CHECK(*second == 0);
  gpu->Pace();
  CHECK(*second == sent);
  gpu->Free(first);
  gpu->Free(second);
}

TEST_CASE("runtime: memory that was freed comes back when there is no other") {
  for (const bool pools : {true, false}) {
    const Clean clean;
    Fake().pools = pools;
    const auto gpu = Open();
    Fake().memory_bytes -= gpu->free_bytes() - 1000;  // what it takes for itself does not count
    CHECK(gpu->free_bytes() == 1000);
    void* const first = gpu->Allocate(600);
    CHECK(gpu->free_bytes() == 400);
    gpu->Free(first);
    void* const second = gpu->Allocate(700);  // the piece of 600 does not do
    REQUIRE(second != nullptr);
    CHECK(Fake().trims == (pools ? 1 : 0));
    CHECK(gpu->Allocate(400) == nullptr);
    CHECK(gpu->Allocate(size_t{1} << 50) == nullptr);  // CUDA may call that something else
    CHECK(gpu->free_bytes() == 300);
    void* const third = gpu->Allocate(300);  // and the device is still of use
    CHECK(third != nullptr);
    gpu->Free(second);
    gpu->Free(third);
    gpu->Synchronize();
    CHECK(gpu->free_bytes() == 1000);  // what the pool keeps counts as free
  }
}

TEST_CASE("runtime: who opens a device has counters of its own, at 0") {
  const Clean clean;
  const auto first = Open(0), second = Open(0);
  CHECK(first->counters() != second->counters());
  CHECK(std::ranges::count(Fake().called, std::string("cudaMemsetAsync")) == 2);
  for (const auto& gpu : {first, second}) {
    std::vector<uint32_t> words(
        static_cast<size_t>(Gpu::kCounters * gpu->properties().multiprocessors), 1);
    gpu->Download(words.data(), gpu->counters(), words.size() * sizeof(uint32_t));
    CHECK(std::ranges::count(words, 0u) == static_cast<std::ptrdiff_t>(words.size()));
  }
}

TEST_CASE("runtime: every call of every thread is for its own device") {
  const Clean clean;
  const auto first = Open(0), second = Open(1);
  std::vector<char> sent = Numbers(100), received(100);
  void* const a = first->Allocate(100);
  void* const b = second->Allocate(100);
  first->Upload(a, sent.data(), 100);
  second->Upload(b, sent.data(), 100);
  std::thread([&] {
    CHECK(first->stream() != second->stream());
    first->Download(received.data(), a, 100);
    second->Free(b);
    first->Synchronize();
    second->Synchronize();
  }).join();
  CHECK(received == sent);
  first->Free(a);
}

TEST_CASE("runtime: two threads that wait at once leave no event behind") {
  const Clean clean;
  const auto gpu = Open();
  for (int round = 0; round < 3; ++round) {
    Fake().during_wait = [&] { std::thread([&] { gpu->Synchronize(); }).join(); };
    const int before = Fake().live_objects;
    gpu->Synchronize();
    CHECK(Fake().live_objects == before);
  }
}

TEST_CASE("runtime: an error of the device ends it, and every later call says the first one") {
  const Clean clean;
  {
    const auto gpu = Open(1);
    void* const data = gpu->Allocate(10);
    gpu->Free(data);
    gpu->Synchronize();
    Fake().stream_error = cudaErrorIllegalAddress;
    const std::string lost =
        "ERR_DEVICE_LOST [cuda] the device cuda:1 (Stub 2) was lost: cudaErrorIllegalAddress: an "
        "illegal memory access was encountered, seen at ";
    char byte = 0;
    const std::string text = CodeOf([&] { gpu->Synchronize(); });
    CHECK(text.starts_with(lost));
    Fake().stream_error = cudaErrorLaunchFailure;
    CHECK(CodeOf([&] { gpu->Allocate(1); }) == text);
    CHECK(CodeOf([&] { gpu->Upload(data, &byte, 1); }) == text);
    CHECK(CodeOf([&] { gpu->Download(&byte, data, 1); }) == text);
    CHECK(CodeOf([&] { gpu->Synchronize(); }) == text);
    CHECK(CodeOf([&] { gpu->Free(data); }) == "no error");  // destructors call it
    CHECK(gpu->free_bytes() == 0);
  }
  Fake().stream_error = cudaSuccess;
}

TEST_CASE("runtime: a refused launch is not a lost device, a launch after an error is") {
  const Clean clean;
  const auto gpu = Open();
  CHECK(gpu->TakeLaunchError(cudaErrorInvalidConfiguration)
            .starts_with("cudaErrorInvalidConfiguration: "));
  CHECK(cudaGetLastError() == cudaSuccess);
  void* const data = gpu->Allocate(1);
  char byte = 1;
  gpu->Upload(data, &byte, 1);  // the stream is busy
  CHECK(gpu->TakeLaunchError(cudaErrorInvalidConfiguration)
            .starts_with("cudaErrorInvalidConfiguration: "));
  CHECK(cudaGetLastError() == cudaSuccess);
  gpu->Free(data);
  gpu->Synchronize();
  Fake().stream_error = cudaErrorIllegalAddress;
  CHECK(CodeOf([&] {
          gpu->TakeLaunchError(cudaErrorIllegalAddress);
        }).starts_with("ERR_DEVICE_LOST"));
  Fake().stream_error = cudaSuccess;
}

}  // namespace
}  // namespace lora::cuda
