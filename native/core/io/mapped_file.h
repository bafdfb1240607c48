// A private memory mapping of a whole file.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace lora {

// Pages are copied on write, so a program that writes into a view changes neither the file nor
// crashes, and a file that is replaced by rename stays as it was when it was opened. A file that is
// truncated in place is beyond help: reading a page that is gone raises SIGBUS.
class MappedFile {
 public:
  // Linux gives a process 65,530 mappings, and V8 and malloc end it when they get none.
  static constexpr size_t kMax = 32'768;
  // Throws ERR_FILE when the file is missing, unreadable or not a regular file, ERR_OUT_OF_MEMORY
  // when the system has no room for another mapping or the process has kMax.
  static std::shared_ptr<const MappedFile> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  // Null when the file is empty.
  uint8_t* data() const { return data_; }
  uint64_t size() const { return size_; }

 private:
  MappedFile(uint8_t* data, uint64_t size) : data_(data), size_(size) { ++count_; }

  static inline std::atomic<size_t> count_ = 0;  // of the process
  uint8_t* data_;
  uint64_t size_;
};

}  // namespace lora
