// Turns what the driver says about CUDA on this machine into a sentence. Everything is a pure
// function, so that every case is tested without a driver.
#pragma once

#include <string>
#include <vector>

#include "backend/cuda/runtime.h"

namespace lora::cuda {

// Kernels are compiled for devices from this one on.
inline constexpr int kLeastArch = 80;

struct DriverDevice {
  int ordinal = 0;  // CUDA's, after CUDA_VISIBLE_DEVICES
  int arch = 0;     // 10·major + minor
  std::string name;
  size_t memory_bytes = 0;
};

struct DriverState {
  int count_error = 0;  // of cudaGetDeviceCount, and its name and words
  std::string error_name, error_text;
  // The newest CUDA that the driver knows, 1000·major + 10·minor; 0 without a driver.
  int driver_version = 0;
  int runtime_version = 0;      // the CUDA that this binary was built with
  std::string installed;        // the driver's own version, "535.183.01"; empty when not known
  std::string visible_devices;  // CUDA_VISIBLE_DEVICES, where it is set
  bool visible_devices_set = false;
  std::vector<DriverDevice> devices;
};

// Returns "12.4" for 12040.
std::string CudaVersionText(int version);
// Returns the first driver for Linux that runs this major version of CUDA.
std::string MinimumDriver(int runtime_version);
// Returns why there is no usable device, as a sentence without a full stop; empty
// when there is one.
std::string UnavailableSentence(const DriverState& state);
// Returns the devices that kernels run on, in CUDA's order, which are 'cuda', 'cuda:1' and so on.
std::vector<DriverDevice> UsableDevices(const DriverState& state);
DeviceSummary Summarize(const DriverDevice& device, int index);

// Launches of PTX for compute_90 or newer may overlap (launches are programmatic), on devices from
// this one on.
inline constexpr int kLeastOverlapArch = 90;

// What the driver says of the code of a kernel on a device.
struct KernelCode {
  std::string id;          // of the device: 'cuda', 'cuda:1'
  std::string error_name;  // of the question; empty where it was answered
  int ptx_version = 0;     // 10·major + minor of the PTX that the code comes from; 0: not known
};
// Returns whether launches overlap on each of these devices, which are kLeastOverlapArch or newer,
// and why they do not.
std::string OverlapText(const std::vector<KernelCode>& codes);

}  // namespace lora::cuda
