#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace lora::test {

// Reads `bytes` (a multiple of 16) once, with `blocks` blocks of 512 threads. The sink is a word
// that is never written, so that nothing is left out.
cudaError_t ReadAll(const void* data, size_t bytes, unsigned blocks, unsigned* sink,
                    cudaStream_t stream);

}  // namespace lora::test
