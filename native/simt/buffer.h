// Holds global memory of the emulated device. Each byte is padding, allocated or initialized, and
// buffers lie far apart.
#pragma once

#include <cstddef>
#include <string>

namespace lora::simt {

// Contents start as NaN and as uninitialized. Padding between rows is out of bounds. The buffer
// starts `skew` bytes after a multiple of 256, as a view into a larger one may.
void* DeviceAlloc(size_t rows, size_t row_bytes, size_t pitch, const std::string& name,
                  size_t skew = 0);
// The same for more bytes than there is memory: only what is touched takes any, and what nothing
// has written is 0.
void* DeviceAllocSparse(size_t bytes, const std::string& name);
// Gives the memory back to the system; what still uses it is reported.
void DeviceFree(void* p);
void DeviceWrite(void* to, const void* from, size_t bytes);  // from host memory, without a kernel
void DeviceRead(void* to, const void* from, size_t bytes);
// Returns how many bytes of the buffer at p, without padding, nothing has written.
size_t DeviceUnwritten(const void* p);

class Buffer {
 public:
  Buffer(size_t bytes, const std::string& name) : Buffer(1, bytes, bytes, name) {}
  Buffer(size_t rows, size_t row_bytes, size_t pitch, const std::string& name, size_t skew = 0)
      : rows_(rows), row_bytes_(row_bytes), pitch_(pitch) {
    data_ = DeviceAlloc(rows, row_bytes, pitch, name, skew);
  }
  ~Buffer() { Free(); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  void Free() {
    if (data_) DeviceFree(data_);
    data_ = nullptr;
  }
  // These copy rows to and from host memory without padding.
  void Upload(const void* rows) {
    for (size_t r = 0; r < rows_; ++r)
      DeviceWrite(as<char>() + r * pitch_, static_cast<const char*>(rows) + r * row_bytes_,
                  row_bytes_);
  }
  void Download(void* rows) const {
    for (size_t r = 0; r < rows_; ++r)
      DeviceRead(static_cast<char*>(rows) + r * row_bytes_, as<char>() + r * pitch_, row_bytes_);
  }
  size_t Unwritten() const { return DeviceUnwritten(data_); }

 private:
  void* data_ = nullptr;
  size_t rows_, row_bytes_, pitch_;
};

}  // namespace lora::simt
