// Runs one CUDA thread on a stack with a saved stack pointer. Switching takes a few instructions on
// x86-64 (the emulator spends most of its time on it), and ucontext elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__) || defined(LORA_SIMT_UCONTEXT)
#define LORA_SIMT_USE_UCONTEXT 1
#include <ucontext.h>
#endif

namespace lora::simt {

class Fiber {
 public:
  static constexpr size_t kStackBytes = 64 << 10;

  Fiber() = default;
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The next switch to this fiber calls `entry`, which must never return.
  void Prepare(void (*entry)());
  static void Switch(Fiber& from, Fiber& to);
  bool OnStack(const void* p) const {
    return reinterpret_cast<uintptr_t>(p) - reinterpret_cast<uintptr_t>(stack_) < kStackBytes;
  }

 private:
  char* stack_ = nullptr;  // null: the fiber of the calling OS thread
#ifdef LORA_SIMT_USE_UCONTEXT
  ucontext_t context_;
#else
  void* stack_pointer_ = nullptr;
#endif
};

}  // namespace lora::simt
