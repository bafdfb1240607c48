// Defines what -fsanitize=thread and -fsanitize=bounds,shift make kernel code call. The programs
// are not linked with the sanitizers' libraries, so these are the only definitions.
#include <cstdint>
#include <exception>

#include "simt/state.h"

namespace lora::simt {
void OnAccess(const void* p, int bytes, bool write, const void* return_address);
}

#define LORA_CALLER __builtin_return_address(0)
#define LORA_HOOK(name, bytes, write) \
  void __tsan_##name(void* p) { ::lora::simt::OnAccess(p, bytes, write, LORA_CALLER); }
#define LORA_HOOKS(n)                    \
  LORA_HOOK(read##n, n, false)           \
  LORA_HOOK(write##n, n, true)           \
  LORA_HOOK(unaligned_read##n, n, false) \
  LORA_HOOK(unaligned_write##n, n, true) \
  LORA_HOOK(volatile_read##n, n, false)  \
  LORA_HOOK(volatile_write##n, n, true)

namespace {
// The head of every record that the compiler hands to a handler.
struct Where {
  const char* file;
  uint32_t line, column;
};
void OutOfRange(const void* record, const char* what) {
  if (::lora::simt::world.current < 0) std::terminate();  // in host code there is no launch to end
  ::lora::simt::world.inside = true;
  const Where& where = *static_cast<const Where*>(record);
  ::lora::simt::Fatal(
      ::lora::simt::Kind::kRegisterBounds, std::string(what) + " at %a",
      ::lora::simt::SiteOf(::lora::simt::Loc{where.file, static_cast<int>(where.line)}));
}
}  // namespace

// Host code beside kernels uses atomics (shared pointers, static locals); kernels use none.
#define LORA_ATOMIC(bits)                                                                          \
  using lora_word##bits = uint##bits##_t;                                                          \
  lora_word##bits __tsan_atomic##bits##_load(const volatile lora_word##bits* p, int) {             \
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                   \
  }                                                                                                \
  void __tsan_atomic##bits##_store(volatile lora_word##bits* p, lora_word##bits v, int) {          \
    __atomic_store_n(p, v, __ATOMIC_SEQ_CST);                                                      \
  }                                                                                                \
  lora_word##bits __tsan_atomic##bits##_exchange(volatile lora_word##bits* p, lora_word##bits v,   \
                                                 int) {                                            \
    return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);                                            \
  }                                                                                                \
  lora_word##bits __tsan_atomic##bits##_fetch_add(volatile lora_word##bits* p, lora_word##bits v,  \
                                                  int) {                                           \
    return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);                                             \
  }                                                                                                \
  lora_word##bits __tsan_atomic##bits##_fetch_sub(volatile lora_word##bits* p, lora_word##bits v,  \
                                                  int) {                                           \
    return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST);                                             \
  }                                                                                                \
  int __tsan_atomic##bits##_compare_exchange_strong(                                               \
      volatile lora_word##bits* p, lora_word##bits* expected, lora_word##bits v, int, int) {       \
    return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  }

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-declarations"
extern "C" {
LORA_ATOMIC(8)
LORA_ATOMIC(32)
LORA_ATOMIC(64)
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
}
#pragma GCC diagnostic pop

extern "C" {
void __tsan_init();
void __tsan_init() {}
void __tsan_func_entry(void*);
void __tsan_func_entry(void*) {}
void __tsan_func_exit(void*);
void __tsan_func_exit(void*) {}

LORA_HOOKS(1)
LORA_HOOKS(2)
LORA_HOOKS(4)
LORA_HOOKS(8)
LORA_HOOKS(16)
void __tsan_read_range(void* p, unsigned long bytes) {
  if (bytes) ::lora::simt::OnAccess(p, static_cast<int>(bytes), false, LORA_CALLER);
}
void __tsan_write_range(void* p, unsigned long bytes) {
  if (bytes) ::lora::simt::OnAccess(p, static_cast<int>(bytes), true, LORA_CALLER);
}

void __ubsan_handle_out_of_bounds(void* record, void*) {
  OutOfRange(record, "an index outside its array");
}
void __ubsan_handle_shift_out_of_bounds(void* record, void*, void*) {
  OutOfRange(record, "a shift by more than the word has");
}
}
