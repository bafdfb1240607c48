#include "test/support/mirror.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <vector>

#include "backend/cuda/launches.h"
#include "backend/cuda/pack.h"
#include "test/support/schedules.h"

namespace lora::test {
namespace {

// The emulator sees what is read before it was written, and writes behind the end of a block. On a
// GPU outputs and scratch arrive as the test filled them, and a guard lies behind each block.
#ifdef LORA_REAL_GPU
constexpr bool kFilled = true;
constexpr size_t kGuard = 256;
#else
constexpr bool kFilled = false;
constexpr size_t kGuard = 0;
#endif
constexpr std::byte kGuardByte{0xA5};

void PlaceGuard(cuda::Gpu& gpu, std::byte* end) {
  const std::vector<std::byte> guard(kGuard, kGuardByte);
  if (kGuard > 0) gpu.Upload(end, guard.data(), kGuard);
}
void CheckGuard(const std::byte* end) {
  if (kGuard == 0) return;
  std::vector<std::byte> found(kGuard);
  OpenGpu()->Download(found.data(), end, kGuard);  // past those of the test, which may count
  CHECK_MESSAGE((found == std::vector<std::byte>(kGuard, kGuardByte)),
                "the op wrote behind the end of an operand or of its scratch");
}

// Copies host memory to the device and back, for one call.
class Copies {
 public:
  Copies(cuda::Gpu& gpu, Addresses addresses) : gpu_(gpu), addresses_(addresses) {}
  ~Copies() {
    for (const auto& [host, copy] : copies_) gpu_.Free(copy.block);
  }
  Copies(const Copies&) = delete;
  Copies& operator=(const Copies&) = delete;

  // Returns the same bytes on the device; operands that are one tensor stay one.
  void* Of(void* host, size_t bytes, size_t element, bool read, bool written) {
    const bool second = copies_.size() % 2 == 1;
    Copy& copy = copies_[host];
    if (copy.block == nullptr) {
      const Addresses own = second ? Addresses::kSecondOdd : Addresses::kFirstOdd;
      // The emulator's shadow memory has cells of two bytes, which two threads must not share.
      const size_t step = std::max<size_t>(element, 2);
      const size_t before = addresses_ == Addresses::kOdd || addresses_ == own ? step : 0;
      copy.block = gpu_.Allocate(before + bytes + kGuard);
      REQUIRE(copy.block != nullptr);
      copy.data = static_cast<std::byte*>(copy.block) + before;
      copy.bytes = bytes;
      PlaceGuard(gpu_, copy.data + bytes);
    }
    read |= kFilled;
    if (read && !copy.uploaded) gpu_.Upload(copy.data, host, bytes);
    copy.uploaded |= read;
    copy.written |= written;
    return copy.data;
  }
  void Download() {
    for (const auto& [host, copy] : copies_) {
      if (copy.written) gpu_.Download(host, copy.data, copy.bytes);
      CheckGuard(copy.data + copy.bytes);
    }
  }

 private:
  struct Copy {
    void* block = nullptr;
    std::byte* data = nullptr;
    size_t bytes = 0;
    bool uploaded = false, written = false;
  };
  cuda::Gpu& gpu_;
  const Addresses addresses_;
  std::map<void*, Copy> copies_;
};

// Bytes of the largest element of a packed matrix.
size_t ElementOf(WeightFormat format) {
  return HasScales(format) ? sizeof(float) : SizeOf(StoredDType(format));
}

struct ToDevice {
  Copies& copies;
  cuda::Gpu& gpu;
  void operator()(TensorView& t, Access access) const {
    if (!t || t.bytes() == 0) return;
    t.data = copies.Of(t.data, t.bytes(), SizeOf(t.dtype), access != Access::kOut,
                       access != Access::kIn);
  }
  void operator()(PackedView& w) const {
    const size_t bytes = cuda::PackedBytes(w.rows, w.cols, w.format);
    if (!w || bytes == 0) return;
    w.data = copies.Of(const_cast<void*>(w.data), bytes, ElementOf(w.format), true, false);
  }
  void operator()(DeltaTableView& table) const {
    if (!table) return;
    const size_t sites = table.sites->size();
    std::vector<DeltaEntry> entries(table.entries,
                                    table.entries + static_cast<size_t>(table.slots) * sites);
    for (size_t i = 0; i < entries.size(); ++i) {
      DeltaEntry& entry = entries[i];
      if (entry.rank <= 0) continue;
      const DeltaSite& site = (*table.sites)[i % sites];
      entry.up = Mirrored(entry.up, site.out * entry.rank);
      entry.down = Mirrored(entry.down, site.in * entry.rank);
      if (entry.factor) entry.factor = static_cast<const float*>(Mirrored(entry.factor, site.out));
    }
    const size_t bytes = entries.size() * sizeof(DeltaEntry);
    void* const to =
        copies.Of(const_cast<DeltaEntry*>(table.entries), bytes, alignof(DeltaEntry), false, false);
    gpu.Upload(to, entries.data(), bytes);
    table.entries = static_cast<const DeltaEntry*>(to);
  }
  // Tables on a GPU are of f32.
  const void* Mirrored(const void* data, int64_t numel) const {
    const size_t bytes = static_cast<size_t>(numel) * sizeof(float);
    if (bytes == 0) return data;
    return copies.Of(const_cast<void*>(data), bytes, sizeof(float), true, false);
  }
};

// Whether values of its operands, which only the device knows, decide what an op launches.
template <class Args>
constexpr bool kLooksAtData =
    std::is_same_v<Args, SampleArgs> || std::is_same_v<Args, LinearCrossEntropyArgs> ||
    std::is_same_v<Args, RoutedLinearForwardArgs> ||
    std::is_same_v<Args, RoutedLinearBackwardArgs> || std::is_same_v<Args, RoutedWeightsArgs>;

// Runs a call on the device, and holds what it launched and waited for against the list of it.
template <class Args>
void RunAsListed(const PlannedCall& call, Scratch scratch, cuda::GpuContext& device) {
  using Kind = cuda::PlannedStep::Kind;
  const std::vector<cuda::PlannedStep> steps = cuda::LaunchesOf(call, device.properties());
  CHECK(cuda::BrokenRule(steps) == "");
  const cuda::Gpu& gpu = device.gpu();
  const int64_t launches = gpu.launches, waits = gpu.waits;
  call.run(scratch, device);
  if (kLooksAtData<Args>) return;
  CHECK(gpu.launches - launches ==
        std::ranges::count(steps, Kind::kLaunch, &cuda::PlannedStep::kind));
  CHECK(gpu.waits - waits == std::ranges::count(steps, Kind::kWait, &cuda::PlannedStep::kind));
}

template <class Args>
void RunMirrored(const Args& args, Scratch host_scratch, Context& context) {
  auto& mirror = static_cast<MirrorContext&>(context);
  cuda::Gpu& gpu = mirror.device.gpu();
  const Op<Args>& op = CudaBackend()->op<Args>();
  Copies copies(gpu, mirror.addresses);
  Args device_args = args;
  ForEachOperand(device_args, ToDevice{copies, gpu});
  if constexpr (std::is_same_v<Args, PackArgs>) {
    const size_t bytes = cuda::PackedBytes(args.rows, args.cols, args.format);
    if (bytes > 0)
      device_args.dst = copies.Of(args.dst, bytes, ElementOf(args.format), false, true);
  }
  // The plan does not depend on where the operands lie, so the host's scratch has the size that the
  // device's needs.
  const PlannedCall call = op.plan(device_args, context.threads());
  const size_t bytes = call.scratch_bytes;
  CHECK(bytes == host_scratch.size());
  auto* scratch = static_cast<std::byte*>(bytes == 0 ? nullptr : gpu.Allocate(bytes + kGuard));
  if (scratch != nullptr) {
    if (kFilled) gpu.Upload(scratch, host_scratch.data(), bytes);
    PlaceGuard(gpu, scratch + bytes);
  }
  RunAsListed<Args>(call, Scratch(scratch, bytes), mirror.device);
  mirror.device.Finish();
  copies.Download();
  if (scratch != nullptr) {
    CheckGuard(scratch + bytes);
    gpu.Free(scratch);
  }
}

Backend MakeMirrored() {
  Backend b;
  b.name = "cuda, mirrored";
  b.create_context = [](int) -> std::unique_ptr<Context> {
    return std::make_unique<MirrorContext>(cuda::Gpu::Open(0));
  };
  b.reads = CudaBackend()->reads;
  b.packed_bytes = cuda::PackedBytes;
  b.f16_activations = CudaBackend()->f16_activations;
  AllOps::ForEach([&]<class Args>(std::type_identity<Args>) {
    b.op<Args>() = {[](const Args& args, int threads) {
      const size_t bytes = CudaBackend()->op<Args>().plan(args, threads).scratch_bytes;
      return CallOf<Args>(args, bytes, RunMirrored<Args>);
    }};
  });
  return b;
}

}  // namespace

const Backend& MirroredCuda() {
  static const Backend backend = MakeMirrored();
  return backend;
}

}  // namespace lora::test
