// What -fsanitize=thread and -fsanitize=bounds,shift make kernel code call. The programs are not
// linked with the sanitizers' libraries: these are the only definitions.
#include <cstdint>
#include <exception>

#include "test/simt/state.h"

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
  if (::lora::simt::world.current < 0) std::terminate();  // in host code: no launch to end
  ::lora::simt::world.inside = true;
  const Where& where = *static_cast<const Where*>(record);
  ::lora::simt::Fatal(
      ::lora::simt::Kind::kRegisterBounds, std::string(what) + " at %a",
      ::lora::simt::SiteOf(::lora::simt::Loc{where.file, static_cast<int>(where.line)}));
}
}  // namespace

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
