#include "backend/cuda/ask_driver.h"

#include <cuda_runtime_api.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "backend/cuda/device/kernel_list.h"
#include "core/runtime/platform/platform.h"

namespace lora::cuda {
namespace {

// Reads the driver's version from its kernel module; WSL and containers may have no such file.
std::string InstalledDriver() {
  std::ifstream file("/sys/module/nvidia/version");
  std::string text;
  std::getline(file, text);
  return text;
}

// Asks libcuda itself for the devices, by the few entry points that never change, so that they are
// known even where the CUDA runtime refuses to start.
class DriverApi {
 public:
  DriverApi() : library_(platform::OpenLibrary(platform::CudaDriverLibrary())) {}

  void AddDevices(DriverState& state) const {
    const auto init = Find<int(unsigned)>("cuInit");
    const auto count_devices = Find<int(int*)>("cuDeviceGetCount");
    const auto get = Find<int(int*, int)>("cuDeviceGet");
    const auto name = Find<int(char*, int, int)>("cuDeviceGetName");
    const auto memory = Find<int(size_t*, int)>("cuDeviceTotalMem_v2");
    const auto attribute = Find<int(int*, int, int)>("cuDeviceGetAttribute");
    if (!init || !count_devices || !get || !name || !memory || !attribute) return;
    int count = 0;
    if (init(0) != 0 || count_devices(&count) != 0) return;
    for (int i = 0; i < count; ++i) {
      constexpr int kMajor = 75, kMinor = 76;  // of CUdevice_attribute
      DriverDevice device{i, 0, "", 0};
      int handle = 0, major = 0, minor = 0;
      char text[256] = "";
      if (get(&handle, i) != 0 || attribute(&major, kMajor, handle) != 0 ||
          attribute(&minor, kMinor, handle) != 0 || name(text, sizeof text - 1, handle) != 0 ||
          memory(&device.memory_bytes, handle) != 0)
        return;
      device.arch = 10 * major + minor;
      device.name = text;
      state.devices.push_back(std::move(device));
    }
  }

 private:
  template <class F>
  F* Find(const char* symbol) const {
    return library_ ? reinterpret_cast<F*>(platform::FindSymbol(library_, symbol)) : nullptr;
  }
  void* const library_;  // is never closed: the CUDA runtime opens the same one
};

// Asks the devices on which launches may overlap for the code of a kernel, which creates a context
// on each.
std::vector<KernelCode> AskForCode() {
  std::vector<KernelCode> codes;
  if (device::Kernels().empty()) return codes;
  int before = 0;
  const bool known = cudaGetDevice(&before) == cudaSuccess;
  for (int i = 0; i < DeviceCount(); ++i) {
    const DriverDevice& one = Devices()[static_cast<size_t>(i)];
    if (one.arch < kLeastOverlapArch) continue;
    KernelCode code;
    code.id = Summarize(one, i).id;
    cudaFuncAttributes attributes{};
    cudaError_t error = cudaSetDevice(one.ordinal);
    if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, device::Kernels().front());
    if (error != cudaSuccess) {
      code.error_name = cudaGetErrorName(error);
      (void)cudaGetLastError();
    }
    code.ptx_version = attributes.ptxVersion;
    codes.push_back(std::move(code));
  }
  if (known) (void)cudaSetDevice(before);
  return codes;
}

// This is never destroyed, because a stream's thread may still ask while the process ends.
const DriverState& Driver() {
  static const DriverState& state = *new DriverState(AskDriver());
  return state;
}

}  // namespace

DriverState AskDriver() {
  DriverState state;
  state.runtime_version = CUDART_VERSION;
  state.installed = InstalledDriver();
  if (const char* visible = std::getenv("CUDA_VISIBLE_DEVICES"); visible != nullptr) {
    state.visible_devices_set = true;
    state.visible_devices = visible;
  }
  if (cudaDriverGetVersion(&state.driver_version) != cudaSuccess) state.driver_version = 0;
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    state.count_error = error;
    state.error_name = cudaGetErrorName(error);
    state.error_text = cudaGetErrorString(error);
    (void)cudaGetLastError();
  }
  DriverApi().AddDevices(state);
  return state;
}

const std::vector<DriverDevice>& Devices() {
  static const auto& devices = *new std::vector<DriverDevice>(UsableDevices(Driver()));
  return devices;
}

const std::string& UnavailableReason() {
  static const std::string& reason = *new std::string(UnavailableSentence(Driver()));
  return reason;
}

int DeviceCount() { return UnavailableReason().empty() ? static_cast<int>(Devices().size()) : 0; }

DeviceSummary Describe(int ordinal) {
  return Summarize(Devices().at(static_cast<size_t>(ordinal)), ordinal);
}

std::vector<Fact> Facts() {
  const DriverState& state = Driver();
  return {
      {"cuda runtime", CudaVersionText(state.runtime_version)},
      {"cuda driver", state.driver_version == 0
                          ? "none"
                          : (state.installed.empty() ? "version unknown" : state.installed) +
                                ", CUDA up to " + CudaVersionText(state.driver_version)},
      {"cuda kernels",
       std::to_string(device::Kernels().size()) + " for " + LORA_CUDA_ARCHITECTURES},
      {"cuda programmatic launches", OverlapText(AskForCode())},
      {"CUDA_VISIBLE_DEVICES", state.visible_devices_set ? state.visible_devices : "not set"},
  };
}

}  // namespace lora::cuda
