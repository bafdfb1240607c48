#include <mach/mach.h>
#include <sys/sysctl.h>

#include <algorithm>

#include "core/runtime/platform/platform.h"

namespace lora::platform {
namespace {

// Returns a number of the kernel's, or `otherwise` where this version of macOS has none of that
// name.
template <class T>
T Ask(const char* name, T otherwise) {
  T value = 0;
  size_t size = sizeof(value);
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 ? value : otherwise;
}

}  // namespace

void AdviseHugePages(void*, size_t) {}  // macOS takes no such advice

void WaitWhileEqual(const std::atomic<uint32_t>& word, uint32_t value) { word.wait(value); }
void WakeOne(std::atomic<uint32_t>& word) { word.notify_one(); }
void WakeAll(std::atomic<uint32_t>& word) { word.notify_all(); }

const char* CudaDriverLibrary() { return "libcuda.dylib"; }

int AllowedCpuCount() { return std::max(1, Ask<int>("hw.logicalcpu", 1)); }

std::optional<SystemMemory> AskSystemMemory() {
  SystemMemory memory;
  memory.total = Ask<uint64_t>("hw.memsize", 0);
  if (memory.total == 0) return std::nullopt;
  memory.available = memory.total;
  // These pages hold nothing, or only copies of files.
  vm_statistics64_data_t pages{};
  mach_msg_type_number_t count = HOST_VM_INFO64_COUNT;
  const mach_port_t host = mach_host_self();
  if (host_statistics64(host, HOST_VM_INFO64, reinterpret_cast<host_info64_t>(&pages), &count) ==
      KERN_SUCCESS)
    memory.available = (uint64_t{pages.free_count} + pages.inactive_count + pages.purgeable_count) *
                       Ask<uint64_t>("hw.pagesize", 16384);
  mach_port_deallocate(mach_task_self(), host);
  return memory;
}

std::optional<std::string> AskProcessorName() {
  char name[256] = "";
  size_t size = sizeof(name) - 1;
  if (sysctlbyname("machdep.cpu.brand_string", name, &size, nullptr, 0) != 0) return std::nullopt;
  return std::string(name);
}

ArmFeatures AskArmFeatures() {
  ArmFeatures has;
  has.aes = Ask<int>("hw.optional.arm.FEAT_AES", 1) != 0;  // all of Apple's 64-bit CPUs
  has.fp16 = Ask<int>("hw.optional.arm.FEAT_FP16", 0) != 0;
  has.dot_product = Ask<int>("hw.optional.arm.FEAT_DotProd", 0) != 0;
  has.bf16 = Ask<int>("hw.optional.arm.FEAT_BF16", 0) != 0;
  return has;
}

bool AskForTileRegisters() { return false; }  // no Mac has any

}  // namespace lora::platform
