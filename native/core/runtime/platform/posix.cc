// Implements what Linux and macOS share.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <limits>
#include <system_error>

#include "core/runtime/platform/platform.h"

namespace lora::platform {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif

struct Descriptor {
  explicit Descriptor(int fd) : fd(fd) {}
  ~Descriptor() {
    if (fd >= 0) close(fd);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  const int fd;
};

// This is safe on any thread, unlike strerror.
std::string Reason(int error) { return std::generic_category().message(error); }

// Pages have 4 KiB on most machines, 16 or 64 KiB on some with ARM.
size_t PageBytes() {
  static const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return page;
}

FileMapping Problem(std::string why, bool no_room = false) {
  return {nullptr, 0, std::move(why), no_room};
}

}  // namespace

void* MapPages(size_t bytes) {
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return data == MAP_FAILED ? nullptr : data;
}

void* MapHugePages(size_t bytes) {
  const size_t page = PageBytes();
  const size_t total = bytes + kHugePage;
  void* raw = MapPages(total);
  if (raw == nullptr) return nullptr;
  char* begin = static_cast<char*>(raw);
  const size_t head = (kHugePage - reinterpret_cast<uintptr_t>(raw) % kHugePage) % kHugePage;
  char* data = begin + head;
  char* end = data + (bytes + page - 1) / page * page;
  if (head > 0) munmap(begin, head);
  if (end < begin + total) munmap(end, static_cast<size_t>(begin + total - end));
  AdviseHugePages(data, bytes);
  return data;
}

void UnmapPages(void* data, size_t bytes) { munmap(data, bytes); }

void DropPages(void* data, size_t bytes) {
  const uintptr_t page = PageBytes(), at = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = (at + page - 1) / page * page, end = (at + bytes) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

void* AllocateAligned(size_t alignment, size_t bytes) {
  return std::aligned_alloc(alignment, bytes);
}

void FreeAligned(void* data) { std::free(data); }

FileMapping MapFile(const std::string& path) {
  // Without O_NONBLOCK the open of a named pipe waits for a writer for ever.
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.fd < 0) return Problem(Reason(errno));
  struct stat info;
  if (fstat(file.fd, &info) != 0) return Problem(Reason(errno));
  if (S_ISDIR(info.st_mode)) return Problem("it is a directory");
  if (!S_ISREG(info.st_mode)) return Problem("it is not a regular file");

  const uint64_t size = static_cast<uint64_t>(info.st_size);
  if (size > std::numeric_limits<size_t>::max())
    return Problem("it is larger than the address space");
  // An empty mapping is an error of mmap, but an empty file is none.
  if (size == 0) return {};
  // The mapping is writable, private and unreserved: only pages that are written cost memory.
  void* data = mmap(nullptr, static_cast<size_t>(size), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_NORESERVE, file.fd, 0);
  if (data == MAP_FAILED) {
    const int error = errno;
    return Problem("it cannot be mapped: " + Reason(error), error == ENOMEM);
  }
  return {static_cast<uint8_t*>(data), size, "", false};
}

void UnmapFile(uint8_t* data, uint64_t size) {
  if (data != nullptr) munmap(data, static_cast<size_t>(size));
}

FileLock::~FileLock() {
  if (file_ >= 0) close(static_cast<int>(file_));
}

bool FileLock::Try(const std::string& path, std::string& problem) {
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
  if (fd < 0) {
    if (errno != ENOENT) problem = Reason(errno);
    return false;
  }
  int locked = -1;
  do locked = flock(fd, LOCK_EX | LOCK_NB);
  while (locked != 0 && errno == EINTR);
  struct stat info;
  // Who held the lock before may have removed the file: then others lock the next one of that name.
  if (locked == 0 && fstat(fd, &info) == 0 && info.st_nlink > 0) {
    file_ = fd;
    return true;
  }
  if (locked != 0 && errno != EWOULDBLOCK) problem = Reason(errno);
  close(fd);
  return false;
}

void* OpenLibrary(const char* name) { return dlopen(name, RTLD_NOW | RTLD_LOCAL); }

void* FindSymbol(void* library, const char* symbol) { return dlsym(library, symbol); }

void KeepLoaded() {
  Dl_info self;
  if (dladdr(reinterpret_cast<void*>(&KeepLoaded), &self) != 0)
    dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
}

}  // namespace lora::platform
