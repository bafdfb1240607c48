// Answers on a GPU what the tests of the CUDA backend ask of the emulator. Memory is the GPU's,
// schedules are the hardware's own, and nothing is counted. Plans see the properties that a test
// sets, so that a large GPU also runs the plans of a small one.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <stdexcept>
#include <vector>

#include "core/error.h"
#include "simt/buffer.h"
#include "simt/emulated_runtime.h"
#include "test/support/schedules.h"

namespace lora::test {
namespace {

// Tells whether these are the properties that the emulator plays unless a test says otherwise; here
// they stand for the GPU as it is.
bool IsUsual(const cuda::DeviceProperties& p) {
  return p.multiprocessors == 4 && p.arch == 80 && p.shared_bytes == 163 * 1024;
}

cuda::DeviceProperties& Wanted() {
  static cuda::DeviceProperties wanted{4, 80, 163 * 1024};
  return wanted;
}

// It is opened once and never closed, as no call of CUDA may come from a static destructor.
const std::shared_ptr<cuda::Gpu>& TheGpu() {
  static const auto& gpu = *new std::shared_ptr<cuda::Gpu>(cuda::Gpu::Open(0));
  return gpu;
}

class PlayedGpu final : public cuda::Gpu {
 public:
  PlayedGpu() : gpu_(*TheGpu()), properties_(gpu_.properties()) {
    const cuda::DeviceProperties& wanted = Wanted();
    if (IsUsual(wanted)) return;
    properties_.multiprocessors = wanted.multiprocessors;
    properties_.arch = std::min(properties_.arch, wanted.arch);
    properties_.shared_bytes = std::min(properties_.shared_bytes, wanted.shared_bytes);
    // The GPU may have fewer multiprocessors than it plays.
    const std::vector<uint32_t> zeros(static_cast<size_t>(kCounters * wanted.multiprocessors));
    own_counters_ = gpu_.Allocate(zeros.size() * sizeof(uint32_t));
    gpu_.Upload(own_counters_, zeros.data(), zeros.size() * sizeof(uint32_t));
  }
  ~PlayedGpu() override {
    if (own_counters_ != nullptr) gpu_.Free(own_counters_);
  }
  const cuda::DeviceProperties& properties() const override { return properties_; }
  void* stream() const override { return gpu_.stream(); }
  uint32_t* counters() const override {
    return own_counters_ != nullptr ? static_cast<uint32_t*>(own_counters_) : gpu_.counters();
  }
  void* Allocate(size_t bytes) override { return gpu_.Allocate(bytes); }
  void Free(void* data) override { gpu_.Free(data); }
  size_t free_bytes() const override { return gpu_.free_bytes(); }
  void Upload(void* device, const void* host, size_t bytes) override {
    gpu_.Upload(device, host, bytes);
  }
  void Download(void* host, const void* device, size_t bytes) override {
    gpu_.Download(host, device, bytes);
  }
  bool LoadKernel(const char* op, size_t kernel) override { return gpu_.LoadKernel(op, kernel); }
  std::string TakeLaunchError(int error) override { return gpu_.TakeLaunchError(error); }
  void* Capture(const std::function<void(void*)>& work) override { return gpu_.Capture(work); }
  void LaunchGraph(void* graph) override { gpu_.LaunchGraph(graph); }
  void FreeGraph(void* graph) override { gpu_.FreeGraph(graph); }
  void Synchronize() override { gpu_.Synchronize(); }
  void Pace() override { gpu_.Pace(); }

 private:
  cuda::Gpu& gpu_;
  cuda::DeviceProperties properties_;
  void* own_counters_ = nullptr;
};

}  // namespace

std::shared_ptr<cuda::Gpu> OpenGpu() { return std::make_shared<PlayedGpu>(); }

}  // namespace lora::test

namespace lora::simt {

void SetEmulatedOptions(const Options&) {}
void SetEmulatedProperties(const cuda::DeviceProperties& properties) {
  test::Wanted() = properties;
}
// Reports no bank conflict, because only the emulator sees those.
Result EmulatedCounts(const cuda::Gpu&) {
  Result result;
  result.ldmatrix_phases = result.ldmatrix_wavefronts = 1;
  return result;
}
double Result::WavefrontsPerPhase() const {
  return static_cast<double>(ldmatrix_wavefronts) / static_cast<double>(ldmatrix_phases);
}

// Blocks are filled with NaN, which must stay between and behind their rows.
namespace {
constexpr size_t kGuard = 256;
constexpr unsigned char kFill = 0xff;
struct Block {
  void* memory;
  size_t rows, row_bytes, pitch, skew;
  size_t size() const { return skew + (rows - 1) * pitch + row_bytes + kGuard; }
};
std::map<const void*, Block>& Blocks() {
  static std::map<const void*, Block> blocks;
  return blocks;
}
}  // namespace

void* DeviceAlloc(size_t rows, size_t row_bytes, size_t pitch, const std::string&, size_t skew) {
  cuda::Gpu& gpu = *test::TheGpu();
  Block block{nullptr, std::max<size_t>(rows, 1), row_bytes, pitch, skew};
  block.memory = gpu.Allocate(block.size());
  if (block.memory == nullptr) throw std::runtime_error("the GPU has too little memory");
  const std::vector<unsigned char> fill(block.size(), kFill);
  gpu.Upload(block.memory, fill.data(), fill.size());
  void* data = static_cast<char*>(block.memory) + skew;
  Blocks()[data] = block;
  return data;
}

void DeviceFree(void* p) {
  cuda::Gpu& gpu = *test::TheGpu();
  const Block block = Blocks().at(p);
  Blocks().erase(p);
  std::vector<unsigned char> bytes(block.size());
  try {
    gpu.Download(bytes.data(), block.memory, bytes.size());
  } catch (const Error& lost) {  // in a destructor, mostly
    CHECK_MESSAGE(false, lost.what());
    return;
  }
  for (size_t row = 0; row < block.rows; ++row)
    std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(block.skew + row * block.pitch),
                block.row_bytes, kFill);
  CHECK_MESSAGE(
      (std::count(bytes.begin(), bytes.end(), kFill) == static_cast<std::ptrdiff_t>(bytes.size())),
      "something wrote between or behind the rows of an operand");
  gpu.Free(block.memory);
}

void DeviceWrite(void* to, const void* from, size_t bytes) {
  test::TheGpu()->Upload(to, from, bytes);
}
void DeviceRead(void* to, const void* from, size_t bytes) {
  test::TheGpu()->Download(to, from, bytes);
}
size_t DeviceUnwritten(const void*) { return 0; }

}  // namespace lora::simt
