#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <limits>
#include <system_error>

#include "core/error.h"

namespace lora {
namespace {

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

// Thread-safe, unlike strerror.
std::string Reason(int error) { return std::generic_category().message(error); }

[[noreturn]] void Fail(const std::string& path, const std::string& reason) {
  throw Error("ERR_FILE", "openFile", "cannot open " + path + ": " + reason);
}

}  // namespace

std::shared_ptr<const MappedFile> MappedFile::Open(const std::string& path) {
  // Without O_NONBLOCK the open of a named pipe waits for a writer for ever.
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.fd < 0) Fail(path, Reason(errno));
  struct stat info;
  if (fstat(file.fd, &info) != 0) Fail(path, Reason(errno));
  if (S_ISDIR(info.st_mode)) Fail(path, "it is a directory");
  if (!S_ISREG(info.st_mode)) Fail(path, "it is not a regular file");

  const uint64_t size = static_cast<uint64_t>(info.st_size);
  if (size > std::numeric_limits<size_t>::max()) Fail(path, "it is larger than the address space");
  // An empty mapping is an error of mmap, but an empty file is none.
  if (size == 0) return std::shared_ptr<const MappedFile>(new MappedFile(nullptr, 0));
  // Writable but private and unreserved: only pages that somebody writes ever cost memory.
  void* data = mmap(nullptr, static_cast<size_t>(size), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_NORESERVE, file.fd, 0);
  if (data == MAP_FAILED) Fail(path, "it cannot be mapped: " + Reason(errno));
  return std::shared_ptr<const MappedFile>(new MappedFile(static_cast<uint8_t*>(data), size));
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(size_));
}

}  // namespace lora
