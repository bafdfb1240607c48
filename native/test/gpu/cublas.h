// Opens cuBLAS, a rival of the benchmark, at run time, so that nothing of the build needs it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/maths/dtype.h"

namespace lora::test {

class Cublas {
 public:
  // Returns nullptr, and why, where there is none. It looks at LORA_CUBLAS (a path) and then where
  // the loader looks. `workspace` of `workspace_bytes` is memory of the device.
  static std::unique_ptr<Cublas> Open(void* stream, void* workspace, size_t workspace_bytes,
                                      std::string* why);
  ~Cublas();
  std::string version() const;

  // Computes, row-major, contiguous and with f32 accumulation:
  //   c [m, n] = alpha·a·b + beta·c
  // with a [m, k] (or [k, m] with trans_a) and b [k, n] (or [n, k] with trans_b), both of `in`.
  void Gemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha, const void* a,
            const void* b, DType in, float beta, void* c, DType out);

 private:
  struct Functions;
  Cublas();
  void Check(int status, const char* what) const;
  std::unique_ptr<Functions> functions_;
  void* handle_ = nullptr;
};

}  // namespace lora::test
