#include "backend/cuda/driver.h"

namespace lora::cuda {
namespace {

// Values of cudaError_t, without its header, because this file is also built
// where there is no CUDA.
constexpr int kInsufficientDriver = 35, kNoDevice = 100;

std::string ArchText(int arch) {
  return std::to_string(arch / 10) + "." + std::to_string(arch % 10);
}

std::string TooOld(const DriverState& state) {
  const std::string ours = CudaVersionText(state.runtime_version);
  std::string text = "the NVIDIA driver is too old: it knows CUDA up to " +
                     CudaVersionText(state.driver_version) +
                     ", and this build of lora-native uses CUDA " + ours + ", which needs driver " +
                     MinimumDriver(state.runtime_version) + " or newer";
  text += state.installed.empty() ? "; which driver is installed could not be found out"
                                  : "; installed is " + state.installed;
  return text;
}

std::string NoDevice(const DriverState& state) {
  std::string text = "the NVIDIA driver is there, but no CUDA device";
  if (state.visible_devices_set)
    text += "; CUDA_VISIBLE_DEVICES is \"" + state.visible_devices + "\", which may hide them";
  return text;
}

std::string TooOldDevices(const DriverState& state) {
  std::string text = "lora-native needs a device of compute capability " + ArchText(kLeastArch) +
                     " or newer (Ampere), and here ";
  text += state.devices.size() == 1 ? "is only " : "are only ";
  for (size_t i = 0; i < state.devices.size(); ++i) {
    const DriverDevice& device = state.devices[i];
    text += (i == 0 ? "" : ", ") + device.name + " (" + ArchText(device.arch) + ")";
  }
  return text;
}

// Returns what to do about errors whose cause is the machine and not the program.
const char* Advice(int error) {
  switch (error) {
    case 802:  // cudaErrorSystemNotReady
      return "; is nvidia-fabricmanager running?";
    case 803:  // cudaErrorSystemDriverMismatch
      return "; the kernel's driver and libcuda differ, which a restart mends after an update";
    case 999:  // cudaErrorUnknown
      return "; is the kernel module nvidia_uvm loaded, and may this user open /dev/nvidia*?";
    default:
      return "";
  }
}

}  // namespace

std::string CudaVersionText(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string MinimumDriver(int runtime_version) {
  switch (runtime_version / 1000) {
    case 11:
      return "450.80.02";
    case 12:
      return "525.60.13";
    default:
      return "580.65.06";
  }
}

std::string UnavailableSentence(const DriverState& state) {
  const bool insufficient = state.count_error == kInsufficientDriver;
  if (insufficient && state.driver_version == 0) return "no NVIDIA driver was found (libcuda.so.1)";
  // This comes before the driver's age, because a newer driver would not help.
  if (!state.devices.empty() && UsableDevices(state).empty()) return TooOldDevices(state);
  if (insufficient) return TooOld(state);
  if (state.count_error == kNoDevice) return NoDevice(state);
  if (state.count_error != 0)
    return "asking the NVIDIA driver for its devices gave " + state.error_name + " (" +
           state.error_text + ")" + Advice(state.count_error);
  return state.devices.empty() ? NoDevice(state) : "";
}

std::vector<DriverDevice> UsableDevices(const DriverState& state) {
  std::vector<DriverDevice> usable;
  for (const DriverDevice& device : state.devices)
    if (device.arch >= kLeastArch) usable.push_back(device);
  return usable;
}

std::string OverlapText(const std::vector<KernelCode>& codes) {
  if (codes.empty()) return "none: they need a device of compute capability 9.0 or newer";
  std::string text;
  for (const KernelCode& code : codes) {
    text += (text.empty() ? "" : "; ") + code.id;
    if (!code.error_name.empty()) {
      text += ": not known, asking for a kernel gave " + code.error_name;
    } else if (code.ptx_version == 0) {
      text +=
          ": none, because the driver says of no kernel which PTX its code comes from "
          "(ptxVersion 0), so that launches wait for each other";
    } else if (code.ptx_version < kLeastOverlapArch) {
      text += ": none, because the code comes from PTX for compute_" +
              std::to_string(code.ptx_version) + ", which has no wait";
    } else {
      text += ": overlap";
    }
  }
  return text;
}

DeviceSummary Summarize(const DriverDevice& device, int index) {
  return {index == 0 ? "cuda" : "cuda:" + std::to_string(index), device.name, device.memory_bytes,
          ArchText(device.arch)};
}

}  // namespace lora::cuda
