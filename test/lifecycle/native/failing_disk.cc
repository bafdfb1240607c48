// A disk that fails, for programs that are started with LD_PRELOAD: calls that change what lies below $LORA_FAILING_DIR are
// counted, and one of them, or all from one on, fail with an errno. The file $LORA_FAILING_CONTROL says which.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>

namespace {

struct Control {
  int64_t code;   // the errno; 0: nothing fails
  int64_t first;  // how many calls succeed before
  int64_t lasts;  // 1: all that follow fail too
  std::atomic<int64_t> count;
};

template <typename Function>
Function Real(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

Control* Shared() {
  static Control* const control = [] {
    const char* path = getenv("LORA_FAILING_CONTROL");
    const int file =
        path == nullptr ? -1 : Real<int (*)(const char*, int, ...)>("open")(path, O_RDWR);
    void* memory = file < 0 ? MAP_FAILED
                            : mmap(nullptr, sizeof(Control), PROT_READ | PROT_WRITE, MAP_SHARED,
                                   file, 0);
    if (file >= 0) close(file);
    return memory == MAP_FAILED ? nullptr : static_cast<Control*>(memory);
  }();
  return control;
}

bool IsBelow(const char* path) {
  static const char* const dir = getenv("LORA_FAILING_DIR");
  return dir != nullptr && path != nullptr && strncmp(path, dir, strlen(dir)) == 0;
}

// Whether this call fails; errno is set then.
bool Fails(const char* path) {
  Control* control = Shared();
  if (control == nullptr || !IsBelow(path)) return false;
  const int64_t before = control->count++;
  if (control->code == 0 || before < control->first) return false;
  if (before > control->first && control->lasts == 0) return false;
  errno = static_cast<int>(control->code);
  return true;
}

bool Fails(int file) {
  char link[64], path[4096];
  snprintf(link, sizeof(link), "/proc/self/fd/%d", file);
  const ssize_t length = readlink(link, path, sizeof(path) - 1);
  if (length < 0) return false;
  path[length] = '\0';
  return Fails(path);
}

}  // namespace

extern "C" {

#define CALL(name, parameters, arguments, at)                                            \
  int name parameters {                                                                  \
    return Fails(at) ? -1 : Real<int(*) parameters>(#name) arguments;                    \
  }
CALL(fsync, (int file), (file), file)
CALL(fdatasync, (int file), (file), file)
CALL(mkdir, (const char* path, mode_t mode), (path, mode), path)
CALL(rename, (const char* from, const char* to), (from, to), to)
CALL(unlink, (const char* path), (path), path)
CALL(rmdir, (const char* path), (path), path)
CALL(chmod, (const char* path, mode_t mode), (path, mode), path)
#undef CALL

#define WRITE(name, parameters, arguments)                                               \
  ssize_t name parameters {                                                              \
    return Fails(file) ? -1 : Real<ssize_t(*) parameters>(#name) arguments;              \
  }
WRITE(write, (int file, const void* bytes, size_t count), (file, bytes, count))
WRITE(pwrite, (int file, const void* bytes, size_t count, off_t at), (file, bytes, count, at))
WRITE(pwrite64, (int file, const void* bytes, size_t count, off64_t at), (file, bytes, count, at))
WRITE(writev, (int file, const struct iovec* parts, int count), (file, parts, count))
#undef WRITE

#define OPEN(name)                                                                       \
  int name(const char* path, int flags, ...) {                                           \
    va_list rest;                                                                        \
    va_start(rest, flags);                                                               \
    const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(rest, mode_t) : 0;               \
    va_end(rest);                                                                        \
    if ((flags & O_CREAT) != 0 && Fails(path)) return -1;                                \
    return Real<int (*)(const char*, int, ...)>(#name)(path, flags, mode);               \
  }
OPEN(open)
OPEN(open64)
#undef OPEN

}  // extern "C"
