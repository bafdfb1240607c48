#include <linux/futex.h>
#include <sched.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <limits>

#include "core/runtime/platform/platform.h"

namespace lora::platform {
namespace {

static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t));

void Futex(const std::atomic<uint32_t>& word, int operation, uint32_t value) {
  syscall(SYS_futex, &word, operation, value, nullptr, nullptr, 0);
}

}  // namespace

void AdviseHugePages(void* data, size_t bytes) {
  // The advice must start at a page and is of use for whole huge pages only.
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) & ~(kHugePage - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) & ~(kHugePage - 1);
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

void WaitWhileEqual(const std::atomic<uint32_t>& word, uint32_t value) {
  Futex(word, FUTEX_WAIT_PRIVATE, value);
}
void WakeOne(std::atomic<uint32_t>& word) { Futex(word, FUTEX_WAKE_PRIVATE, 1); }
void WakeAll(std::atomic<uint32_t>& word) {
  Futex(word, FUTEX_WAKE_PRIVATE, std::numeric_limits<int>::max());
}

const char* CudaDriverLibrary() { return "libcuda.so.1"; }

int AllowedCpuCount() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}

std::optional<SystemMemory> AskSystemMemory() { return std::nullopt; }
std::optional<std::string> AskProcessorName() { return std::nullopt; }

ArmFeatures AskArmFeatures() {
  // The kernel's bits for arm64 (arch/arm64/include/uapi/asm/hwcap.h), which older headers lack.
  constexpr unsigned long kAes = 1ul << 3, kHalfScalar = 1ul << 9, kHalfVector = 1ul << 10,
                          kDotProduct = 1ul << 20, kBf16 = 1ul << 14;
  const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
  ArmFeatures has;
  has.aes = (first & kAes) != 0;
  has.fp16 = (first & kHalfScalar) != 0 && (first & kHalfVector) != 0;
  has.dot_product = (first & kDotProduct) != 0;
  has.bf16 = (second & kBf16) != 0;
  return has;
}

bool AskForTileRegisters() {
#ifdef __x86_64__
  // ARCH_REQ_XCOMP_PERM (Linux 5.16), which older headers lack, and the state of the tiles.
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace lora::platform
