#include "test/gpu/cublas.h"

#include <dlfcn.h>
#include <library_types.h>

#include <cstdlib>
#include <initializer_list>
#include <stdexcept>

namespace lora::test {
namespace {

// These are of cublas_api.h, which a machine with the library alone lacks.
constexpr int kNoTranspose = 0, kTranspose = 1, kCompute32F = 68, kDefaultAlgorithm = -1;

cudaDataType TypeOf(DType dtype) {
  return dtype == DType::kF32 ? CUDA_R_32F : dtype == DType::kBF16 ? CUDA_R_16BF : CUDA_R_16F;
}

}  // namespace

struct Cublas::Functions {
  void* library = nullptr;
  int (*create)(void**) = nullptr;
  int (*destroy)(void*) = nullptr;
  int (*set_stream)(void*, void*) = nullptr;
  int (*set_workspace)(void*, void*, size_t) = nullptr;
  int (*get_version)(void*, int*) = nullptr;
  int (*gemm)(void*, int, int, int, int, int, const void*, const void*, cudaDataType, int,
              const void*, cudaDataType, int, const void*, void*, cudaDataType, int, int,
              int) = nullptr;

  template <class F>
  void Load(F*& function, const char* name) {
    function = reinterpret_cast<F*>(dlsym(library, name));
    if (function == nullptr) throw std::runtime_error(std::string("it has no ") + name);
  }
};

Cublas::Cublas() : functions_(std::make_unique<Functions>()) {}

Cublas::~Cublas() {
  if (handle_ != nullptr) functions_->destroy(handle_);
}

void Cublas::Check(int status, const char* what) const {
  if (status != 0)
    throw std::runtime_error(std::string("cuBLAS: ") + what + " gave status " +
                             std::to_string(status));
}

std::unique_ptr<Cublas> Cublas::Open(void* stream, void* workspace, size_t workspace_bytes,
                                     std::string* why) {
  std::unique_ptr<Cublas> cublas(new Cublas());
  Functions& f = *cublas->functions_;
  *why = "no libcublas.so.13, .12 or .11 was found (LORA_CUBLAS may name one)";
  for (const char* name : {static_cast<const char*>(std::getenv("LORA_CUBLAS")), "libcublas.so.13",
                           "libcublas.so.12", "libcublas.so.11", "libcublas.so"}) {
    if (name == nullptr || *name == 0) continue;
    f.library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (f.library != nullptr) break;
    if (name == std::getenv("LORA_CUBLAS")) *why = dlerror();
  }
  if (f.library == nullptr) return nullptr;
  try {
    f.Load(f.create, "cublasCreate_v2");
    f.Load(f.destroy, "cublasDestroy_v2");
    f.Load(f.set_stream, "cublasSetStream_v2");
    f.Load(f.set_workspace, "cublasSetWorkspace_v2");
    f.Load(f.get_version, "cublasGetVersion_v2");
    f.Load(f.gemm, "cublasGemmEx");
    cublas->Check(f.create(&cublas->handle_), "cublasCreate");
    cublas->Check(f.set_stream(cublas->handle_, stream), "cublasSetStream");
    cublas->Check(f.set_workspace(cublas->handle_, workspace, workspace_bytes),
                  "cublasSetWorkspace");
  } catch (const std::runtime_error& e) {
    *why = e.what();
    return nullptr;
  }
  return cublas;
}

std::string Cublas::version() const {
  int version = 0;
  Check(functions_->get_version(handle_, &version), "cublasGetVersion");
  return std::to_string(version);
}

// cuBLAS is column-major, so it is asked for cᵀ = bᵀ·aᵀ.
void Cublas::Gemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                  const void* a, const void* b, DType in, float beta, void* c, DType out) {
  const auto narrow = [](int64_t value) { return static_cast<int>(value); };
  Check(functions_->gemm(handle_, trans_b ? kTranspose : kNoTranspose,
                         trans_a ? kTranspose : kNoTranspose, narrow(n), narrow(m), narrow(k),
                         &alpha, b, TypeOf(in), narrow(trans_b ? k : n), a, TypeOf(in),
                         narrow(trans_a ? m : k), &beta, c, TypeOf(out), narrow(n), kCompute32F,
                         kDefaultAlgorithm),
        "cublasGemmEx");
}

}  // namespace lora::test
