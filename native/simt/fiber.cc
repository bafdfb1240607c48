#include "simt/fiber.h"

#include <sys/mman.h>

#include <new>

#ifndef LORA_SIMT_USE_UCONTEXT
// Saves the registers that a call must preserve, swaps the stack pointer and restores the
// registers. Nothing else is live.
asm(R"(
.text
.globl lora_simt_switch
.hidden lora_simt_switch
.type lora_simt_switch, @function
lora_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq (%rsi), %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size lora_simt_switch, . - lora_simt_switch
)");
extern "C" void lora_simt_switch(void** save, void* const* load);
#endif

namespace lora::simt {
namespace {
// A page between stacks makes an overflow fault instead of overwriting a neighbor.
constexpr size_t kGuard = 4096;
}  // namespace

Fiber::~Fiber() {
  if (stack_) munmap(stack_ - kGuard, kStackBytes + kGuard);
}

void Fiber::Prepare(void (*entry)()) {
  if (!stack_) {
    void* map = mmap(nullptr, kStackBytes + kGuard, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) throw std::bad_alloc();
    mprotect(map, kGuard, PROT_NONE);
    stack_ = static_cast<char*>(map) + kGuard;
  }
#ifdef LORA_SIMT_USE_UCONTEXT
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack_;
  context_.uc_stack.ss_size = kStackBytes;
  context_.uc_link = nullptr;
  makecontext(&context_, entry, 0);
#else
  void** top = reinterpret_cast<void**>(stack_ + kStackBytes);
  *--top = nullptr;  // so that rsp % 16 is 8 when `entry` begins, as after a call
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  stack_pointer_ = top;
#endif
}

void Fiber::Switch(Fiber& from, Fiber& to) {
#ifdef LORA_SIMT_USE_UCONTEXT
  swapcontext(&from.context_, &to.context_);
#else
  lora_simt_switch(&from.stack_pointer_, &to.stack_pointer_);
#endif
}

}  // namespace lora::simt
