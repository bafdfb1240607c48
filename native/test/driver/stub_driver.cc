// Makes a libcuda.so.1 that says what the environment tells it to: STUB_VERSION (12020 is CUDA
// 12.2), STUB_INIT (the error of cuInit) and STUB_DEVICES (architectures, "75,86"). It answers what
// comes before a device is opened, and nothing else.
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

int Number(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::atoi(text);
}

// Returns the architecture of the device at `index`, 0 after the last one.
int Arch(int index) {
  const char* text = std::getenv("STUB_DEVICES");
  for (; text != nullptr && index > 0; --index) {
    text = std::strchr(text, ',');
    if (text != nullptr) ++text;
  }
  return text == nullptr ? 0 : std::atoi(text);
}

int NotSupported() { return 801; }

}  // namespace

extern "C" {

int cuDriverGetVersion(int* version) {
  *version = Number("STUB_VERSION", 13000);
  return 0;
}
int cuInit(unsigned) { return Number("STUB_INIT", 0); }
int cuDeviceGetCount(int* count) {
  *count = 0;
  while (Arch(*count) != 0) ++*count;
  return 0;
}
int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return 0;
}
int cuDeviceGetName(char* name, int length, int device) {
  std::snprintf(name, static_cast<size_t>(length), "Stub %d", device);
  return 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = attribute == 75 ? Arch(device) / 10 : attribute == 76 ? Arch(device) % 10 : 0;
  return 0;
}
int cuDeviceTotalMem_v2(size_t* bytes, int) {
  *bytes = size_t{8} << 30;
  return 0;
}
// How the CUDA runtime finds all others.
int cuGetProcAddress_v2(const char* name, void** function, int, unsigned long long, int* status) {
  const struct {
    const char* name;
    void* function;
  } known[] = {
      {"cuDriverGetVersion", reinterpret_cast<void*>(cuDriverGetVersion)},
      {"cuInit", reinterpret_cast<void*>(cuInit)},
      {"cuDeviceGetCount", reinterpret_cast<void*>(cuDeviceGetCount)},
      {"cuGetProcAddress", reinterpret_cast<void*>(cuGetProcAddress_v2)},
  };
  *function = reinterpret_cast<void*>(NotSupported);
  for (const auto& entry : known)
    if (std::strcmp(entry.name, name) == 0) *function = entry.function;
  if (status != nullptr) *status = 0;
  return 0;
}

}  // extern "C"
