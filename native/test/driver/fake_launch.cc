// Kernels of the CUDA runtime that the tests play: what nvcc's code registers, what it says of
// itself, and what a launch must keep to.
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "backend/cuda/occupancy.h"
#include "test/driver/fake_cudart.h"

namespace lora::test {
namespace {

// Registered before main, by static constructors of any order.
struct Registered {
  const void* fat_binary = nullptr;
  std::string name;
};
std::unordered_map<const void*, Registered>& Kernels() {
  static auto& kernels = *new std::unordered_map<const void*, Registered>;
  return kernels;
}

// By device: the dynamic shared memory that a kernel was allowed.
std::map<std::pair<const void*, int>, int> granted;
constexpr int kUsualSharedBytes = 48 << 10;

using Facts = std::map<std::string, KernelFacts>;
const Facts& FactsOfBinary(const void* fat_binary, int arch) {
  static std::map<std::pair<const void*, int>, Facts> known;
  const auto [it, added] = known.try_emplace({fat_binary, arch});
  if (added) it->second = FactsInFatBinary(fat_binary, arch);
  return it->second;
}

// Names the first rule that a launch breaks; empty where it keeps to all.
std::string Broken(const FakeLaunch& launch, const KernelFacts& facts, size_t allowed) {
  const dim3 &grid = launch.grid, &block = launch.block;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  const auto text = [](uint64_t value) { return std::to_string(value); };
  if (threads == 0 || threads > facts.threads || threads > 1024)
    return text(threads) + " threads, compiled for at most " + text(facts.threads);
  if (cuda::BlocksByRegisters(static_cast<int>(facts.registers), static_cast<int>(threads)) == 0)
    return text(threads) + " threads of " + text(facts.registers) + " registers";
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffff || grid.y > 0xffff ||
      grid.z > 0xffff)
    return "a grid of " + text(grid.x) + " x " + text(grid.y) + " x " + text(grid.z);
  if (launch.shared_bytes > allowed)
    return text(launch.shared_bytes) + " bytes of shared memory, allowed " + text(allowed);
  const auto most =
      static_cast<size_t>(AttributeOf(launch.device, cudaDevAttrMaxSharedMemoryPerBlockOptin));
  if (launch.shared_bytes + facts.static_shared_bytes > most)
    return text(launch.shared_bytes) + " bytes of shared memory beside " +
           text(facts.static_shared_bytes) + " static ones, the device has " + text(most);
  if (launch.programmatic && ArchOf(launch.device) < 90) return "programmatic before sm_90";
  if (launch.programmatic && PtxVersionOf(facts) < 90)
    return "programmatic with code of PTX " + std::to_string(PtxVersionOf(facts));
  return "";
}

// Returns the work of a kernel that looks for bad ids, pages or slots where there are none, so that
// the launches behind the check come too; of others, nothing. Offsets are those of their
// parameters.
std::function<void()> Played(const std::string& kernel, const void* params) {
  const auto is = [&](const char* name) { return kernel.find(name) != std::string::npos; };
  const auto at = [&](size_t offset) {
    uint64_t value;
    std::memcpy(&value, static_cast<const char*>(params) + offset, sizeof value);
    return value;
  };
  const auto report = [](uint64_t to, std::vector<uint64_t> values) {
    return [=] { std::memcpy(reinterpret_cast<void*>(to), values.data(), 8 * values.size()); };
  };
  if (is("8CheckIds")) return report(at(32), {UINT64_MAX, at(8)});          // device/ids.cuh
  if (is("10CheckPages")) return report(at(56), {UINT64_MAX});              // device/pages.cuh
  if (is("10CheckTable")) return report(at(32), {UINT64_MAX, UINT64_MAX});  // device/table_down.cuh
  return [] {};
}

// A broken rule is also refused as CUDA would refuse it.
cudaError_t Launch(const void* kernel, FakeLaunch launch, cudaStream_t stream, void** arguments) {
  const std::lock_guard lock(FakeMutex());
  if (const cudaError_t error = Begin("cudaLaunchKernel"); error != cudaSuccess) return error;
  if (const cudaError_t error = OnDevice(stream); error != cudaSuccess) return error;
  const auto it = Kernels().find(kernel);
  if (it == Kernels().end()) {
    Violate("a launch of a kernel that no binary registered");
    return Give(cudaErrorInvalidDeviceFunction);
  }
  launch.device = CurrentDevice();
  launch.kernel = it->second.name;
  const KernelFacts* const facts = FactsOf(kernel, launch.device);
  if (facts == nullptr) return Give(cudaErrorNoKernelImageForDevice);
  const auto allowed = granted.find({kernel, launch.device});
  const std::string broken =
      Broken(launch, *facts,
             static_cast<size_t>(allowed == granted.end() ? kUsualSharedBytes : allowed->second));
  if (!broken.empty()) {
    Violate(launch.kernel + " was launched with " + broken);
    return Give(cudaErrorInvalidConfiguration);
  }
  if (Fake().on_launch) Fake().on_launch(launch);
  Enqueue(stream, Played(launch.kernel, arguments[0]));
  return cudaSuccess;
}

}  // namespace

std::set<std::string> RegisteredKernels() {
  std::set<std::string> names;
  for (const auto& [function, kernel] : Kernels()) names.insert(kernel.name);
  return names;
}

const KernelFacts* FactsOf(const void* kernel, int device) {
  static const KernelFacts unregistered[] = {{1024, 512, 32, 80}, {1024, 512, 32, 90}};
  const auto it = Kernels().find(kernel);
  if (it == Kernels().end()) return &unregistered[ArchOf(device) < 90 ? 0 : 1];
  const Facts& facts = FactsOfBinary(it->second.fat_binary, ArchOf(device));
  const auto found = facts.find(it->second.name);
  return found == facts.end() ? nullptr : &found->second;
}

// STUB_PTX has every suite run on such a driver.
int PtxVersionOf(const KernelFacts& facts) {
  static const char* const said = std::getenv("STUB_PTX");
  if (Fake().ptx_version >= 0) return Fake().ptx_version;
  return said != nullptr ? std::atoi(said) : facts.ptx_version;
}

int ArchOf(int device) {
  const char* text = std::getenv("STUB_DEVICES");
  for (; text != nullptr && device > 0; --device) {
    text = std::strchr(text, ',');
    if (text != nullptr) ++text;
  }
  return text == nullptr ? 0 : std::atoi(text);
}

// Multiprocessors are those of a card of the architecture.
int AttributeOf(int device, cudaDeviceAttr attribute) {
  const int arch = ArchOf(device);
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      if (Fake().multiprocessors != 0) return Fake().multiprocessors;
      return arch == 80 ? 108 : arch == 90 ? 132 : arch == 100 ? 148 : arch == 120 ? 170 : 82;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      if (const cuda::Multiprocessor* const one = cuda::MultiprocessorOf(arch))
        return static_cast<int>(one->shared_bytes);
      return 64 << 10;  // of sm_75, which no launch is for
    case cudaDevAttrMemoryPoolsSupported:
      return Fake().pools ? 1 : 0;
    case cudaDevAttrL2CacheSize:
      return 6 << 20;
    default:
      Violate("attribute " + std::to_string(attribute) + ", which the test does not play");
      return 0;
  }
}

}  // namespace lora::test

using namespace lora::test;  // NOLINT: the functions below are its C face

extern "C" {

void** __cudaRegisterFatBinary(void* fat_binary) {
  return new void*(fat_binary);  // for as long as the process lives
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 1; }
void __cudaRegisterFunction(void** binary, const char* function, char*, const char* name, int,
                            uint3*, uint3*, dim3*, dim3*, int*) {
  Kernels()[function] = {*binary, name};
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel,
                                void** arguments) {
  FakeLaunch launch;
  launch.grid = config->gridDim;
  launch.block = config->blockDim;
  launch.shared_bytes = config->dynamicSmemBytes;
  for (unsigned i = 0; i < config->numAttrs; ++i)
    launch.programmatic |=
        config->attrs[i].id == cudaLaunchAttributeProgrammaticStreamSerialization &&
        config->attrs[i].val.programmaticStreamSerializationAllowed != 0;
  return Launch(kernel, launch, config->stream, arguments);
}
// Code of <<<…>>>, which nothing here launches with: nvcc writes these calls into every stub.
cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void**, size_t, cudaStream_t) {
  Violate("a launch by <<<…>>>");
  return cudaErrorNotSupported;
}
cudaError_t __cudaPopCallConfiguration(dim3*, dim3*, size_t*, void*) {
  return cudaErrorNotSupported;
}
unsigned __cudaPushCallConfiguration(dim3, dim3, size_t, void*) { return 1; }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  const std::lock_guard lock(FakeMutex());
  if (const cudaError_t error = Begin(__func__); error != cudaSuccess) return error;
  *value = AttributeOf(device, attribute);
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
  std::function<void()> meanwhile;
  {
    const std::lock_guard lock(FakeMutex());
    meanwhile = std::exchange(Fake().during_load, nullptr);
  }
  if (meanwhile) meanwhile();
  const std::lock_guard lock(FakeMutex());
  if (const cudaError_t error = Begin(__func__); error != cudaSuccess) return error;
  const KernelFacts* const facts = FactsOf(kernel, CurrentDevice());
  if (facts == nullptr) return Give(cudaErrorNoKernelImageForDevice);
  *attributes = {};
  attributes->sharedSizeBytes = facts->static_shared_bytes;
  attributes->maxThreadsPerBlock = static_cast<int>(facts->threads);
  attributes->numRegs = static_cast<int>(facts->registers);
  attributes->binaryVersion = ArchOf(CurrentDevice());
  attributes->ptxVersion = PtxVersionOf(*facts);
  ++Fake().kernels_loaded;
  return Give(Fake().kernel_error);
}
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  const std::lock_guard lock(FakeMutex());
  if (const cudaError_t error = Begin(__func__); error != cudaSuccess) return error;
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  const KernelFacts* const facts = FactsOf(kernel, CurrentDevice());
  const int most = AttributeOf(CurrentDevice(), cudaDevAttrMaxSharedMemoryPerBlockOptin);
  if (facts == nullptr || value < 0 ||
      value + static_cast<int>(facts->static_shared_bytes) > most) {
    Violate("a kernel was given more shared memory than the device has");
    return Give(cudaErrorInvalidValue);
  }
  Fake().shared_bytes.push_back(value);
  granted[{kernel, CurrentDevice()}] = value;
  return cudaSuccess;
}

}  // extern "C"
