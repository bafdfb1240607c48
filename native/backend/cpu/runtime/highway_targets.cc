// Defines the three functions that Highway's dispatch (HWY_EXPORT, HWY_DYNAMIC_DISPATCH)
// calls, as hwy/targets.h declares them. With them a build needs only Highway's headers: the
// add-on has no libhwy beside it, the build machine needs no certain version of it, and
// nothing is cross-compiled.
#include <atomic>
#include <cstdint>
#include <cstdio>

#include "core/runtime/platform/platform.h"
#include "hwy/highway.h"
#include "hwy/targets.h"

#if HWY_ARCH_X86
#include <cpuid.h>
#endif

namespace hwy {
namespace {

#if HWY_ARCH_X86

struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// Returns zeros where the CPU has no such leaf.
Registers CpuId(unsigned leaf, unsigned subleaf) {
  Registers r;
  if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return {};
  return r;
}

bool HasAll(unsigned value, std::initializer_list<int> bits) {
  for (const int bit : bits)
    if ((value >> bit & 1) == 0) return false;
  return true;
}

bool IsIntel() {
  const Registers r = CpuId(0, 0);
  return r.ebx == 0x756e6547 && r.edx == 0x49656e69 && r.ecx == 0x6c65746e;  // "GenuineIntel"
}

// Returns which registers the operating system saves when it switches threads.
unsigned SavedState() {
  unsigned eax, edx;
  asm volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
  return eax;
}

// A target counts when the CPU has every feature that Highway lets the compiler use for it
// (HWY_TARGET_STR in ops/set_macros-inl.h). The bits are those of CPUID in Intel's Software
// Developer's Manual, volume 2.
int64_t CpuTargets() {
  const Registers basic = CpuId(1, 0), extended = CpuId(7, 0), more = CpuId(7, 1);
  int64_t targets = HWY_SSE2;
  if (!HasAll(basic.ecx, {9})) return targets;  // SSSE3
  targets |= HWY_SSSE3;
  if (!HasAll(basic.ecx, {1, 19, 20, 25})) return targets;  // PCLMULQDQ, SSE4.1, SSE4.2, AES
  targets |= HWY_SSE4;
  constexpr int kXsave = 27, kAvx = 28, kFma = 12, kF16c = 29;
  if (!HasAll(basic.ecx, {kXsave, kAvx, kFma, kF16c})) return targets;
  const unsigned saved = SavedState();
  if (!HasAll(saved, {1, 2})) return targets;            // XMM, YMM
  if (!HasAll(extended.ebx, {3, 5, 8})) return targets;  // BMI1, AVX2, BMI2
  targets |= HWY_AVX2;
  if (!HasAll(saved, {5, 6, 7})) return targets;  // mask registers, both halves of ZMM
  // AVX512 F, DQ, CD, BW, VL
  if (!HasAll(extended.ebx, {16, 17, 28, 30, 31})) return targets;
  targets |= HWY_AVX3;
  // VBMI, VBMI2, GFNI, VAES, VPCLMULQDQ, VNNI, BITALG, VPOPCNTDQ
  if (!HasAll(extended.ecx, {1, 6, 8, 9, 10, 11, 12, 14})) return targets;
  targets |= HWY_AVX3_DL;
  if (!HasAll(more.eax, {5})) return targets;  // BF16
  // The kernels of AVX3_SPR use AMX: BF16, TILE, and FP16, which Highway asks for.
  const bool tiles = HasAll(extended.edx, {22, 23, 24}) && HasAll(saved, {17, 18}) &&
                     lora::platform::AskForTileRegisters();
  // Intel's CPUs multiply pairs of bf16 in four times the cycles of f32. Those without AMX are
  // faster with the kernels of AVX3, which widen the pairs.
  if (IsIntel() && !tiles) return targets;
  targets |= HWY_AVX3_ZEN4;
  if (tiles) targets |= HWY_AVX3_SPR;
  return targets;
}

#elif HWY_ARCH_ARM_A64

int64_t CpuTargets() {
  const lora::platform::ArmFeatures has = lora::platform::AskArmFeatures();
  int64_t targets = HWY_NEON_WITHOUT_AES;
  if (!has.aes) return targets;
  targets |= HWY_NEON;
  if (has.fp16 && has.dot_product && has.bf16) targets |= HWY_NEON_BF16;
  return targets;
}

#else

int64_t CpuTargets() { return 0; }

#endif

std::atomic<int64_t> disabled{0};

}  // namespace

int64_t SupportedTargets() {
  // Targets that the compiler was told to assume count in any case.
  static const int64_t cpu = CpuTargets() | HWY_STATIC_TARGET;
  const int64_t enabled = cpu & ~disabled.load();
  return enabled != 0 ? enabled : HWY_STATIC_TARGET;
}

void DisableTargets(int64_t targets) {
  disabled.store(targets);
  // Makes the next dispatch choose anew.
  GetChosenTarget().DeInit();
}

ChosenTarget& GetChosenTarget() {
  static ChosenTarget chosen;
  return chosen;
}

// Builds with sanitizers keep Highway's assertions, which report here; other builds have none.
void Abort(const char* file, int line, const char* format, ...) {
  std::fprintf(stderr, "%s:%d: Highway's assertion failed: %s\n", file, line, format);
  __builtin_trap();
}

}  // namespace hwy
