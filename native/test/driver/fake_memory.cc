// The memory of the CUDA runtime that the tests play: blocks, pools, page-locked memory, copies.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "test/driver/fake_cudart.h"

// Handles are pointers to these.
struct CUmemPoolHandle_st {
  uint64_t threshold = 0;
  uint64_t reserved = 0, used = 0;
  std::map<size_t, std::vector<char*>> idle;  // by size: pieces that only their own size fits
};

namespace lora::test {
namespace {

struct Block {
  size_t bytes = 0;
  cudaMemPool_t pool = nullptr;  // that it came from
  bool freed = false;            // once the stream gets there
};
std::map<char*, Block> blocks;
size_t in_use = 0;  // of the device's memory, what pools reserve included

char* Zeros(size_t bytes) { return static_cast<char*>(std::calloc(bytes == 0 ? 1 : bytes, 1)); }

// Tells whether [data, data + bytes) lies in a live block.
bool Live(const void* data, size_t bytes) {
  const auto* begin = static_cast<const char*>(data);
  for (const auto& [start, block] : blocks)
    if (begin >= start && begin + bytes <= start + block.bytes) return true;
  return false;
}

void Trim(cudaMemPool_t pool) {
  for (auto& [bytes, pieces] : pool->idle)
    for (char* piece : pieces) {
      std::free(piece);
      pool->reserved -= bytes;
      in_use -= bytes;
    }
  pool->idle.clear();
}

}  // namespace

void ResetFakeMemory() { in_use = 0; }

}  // namespace lora::test

using namespace lora::test;  // NOLINT: the functions below are its C face

extern "C" {

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const std::lock_guard lock(FakeMutex());
  if (const cudaError_t error = Begin(__func__); error != cudaSuccess) return error;
  *free = Fake().memory_bytes - in_use;
  *total = Fake().memory_bytes;
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned) {
  const std::lock_guard lock(FakeMutex());
  if (const cudaError_t error = Begin(__func__); error != cudaSuccess) return error;
  if (Fake().pinned_error != cudaSuccess) return Give(Fake().pinned_error);
  *data = Zeros(bytes);
  ++Fake().live_objects;
  return Give(Fake().stream_error);
}
cudaError_t cudaFreeHost(void* data) {
  const std::lock_guard lock(FakeMutex());
  const cudaError_t error = Begin(__func__);
  std::free(data);
  --Fake().live_objects;
  return error != cudaSuccess ? error : Give(Fake().stream_error);
}
cudaError_t cudaMalloc(void** data, size_t bytes) {
  const std::lock_guard lock(FakeMutex());
  if (const cudaError_t error = Begin(__func__); error != cudaSuccess) return error;
  if (Fake().stream_error != cudaSuccess) return Give(Fake().stream_error);
  if (bytes >> 40 != 0) return Give(cudaErrorInvalidValue);
  if (bytes > Fake().memory_bytes - in_use) return Give(cudaErrorMemoryAllocation);
  char* block = Zeros(bytes);
  blocks[block] = {bytes};
  in_use += bytes;
  ++Fake().live_objects;
  *data = block;
  return cudaSuccess;
}
cudaError_t cudaFree(void* data) {
  const std::lock_guard lock(FakeMutex());
  const cudaError_t error = Begin(__func__);
  auto* block = static_cast<char*>(data);
  in_use -= blocks.at(block).bytes;
  blocks.erase(block);
  std::free(block);
  --Fake().live_objects;
  return error != cudaSuccess ? error : Give(Fake().stream_error);
}
cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* props) {
  const std::lock_guard lock(FakeMutex());
  if (const cudaError_t error = Begin(__func__); error != cudaSuccess) return error;
  if (props->location.id != CurrentDevice()) Violate("a pool of another device");
  *pool = new CUmemPoolHandle_st;
  ++Fake().live_objects;
  return Give(Fake().stream_error);
}
cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) {
  const std::lock_guard lock(FakeMutex());
  const cudaError_t error = Begin(__func__);
  Trim(pool);
  // A device that failed gives its memory back with the pool.
  if (pool->used != 0 && Fake().failed.empty()) Violate("a pool was destroyed with memory in use");
  std::erase_if(blocks, [pool](auto& entry) {
    Block& block = entry.second;
    if (block.pool != pool) return false;
    if (!block.freed) --Fake().live_objects;
    in_use -= block.bytes;
    std::free(entry.first);
    return true;
  });
  delete pool;
  --Fake().live_objects;
  return error != cudaSuccess ? error : Give(Fake().stream_error);
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  const std::lock_guard lock(FakeMutex());
  if (const cudaError_t error = Begin(__func__); error != cudaSuccess) return error;
  if (attribute == cudaMemPoolAttrReleaseThreshold)
    pool->threshold = *static_cast<uint64_t*>(value);
  return Give(Fake().stream_error);
}
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  const std::lock_guard lock(FakeMutex());
  if (const cudaError_t error = Begin(__func__); error != cudaSuccess) return error;
  *static_cast<uint64_t*>(value) =
      attribute == cudaMemPoolAttrReservedMemCurrent ? pool->reserved : pool->used;
  return Give(Fake().stream_error);
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t) {
  const std::lock_guard lock(FakeMutex());
  if (const cudaError_t error = Begin(__func__); error != cudaSuccess) return error;
  ++Fake().trims;
  Trim(pool);
  return Give(Fake().stream_error);
}
cudaError_t cudaMallocFromPoolAsync(void** data, size_t bytes, cudaMemPool_t pool,
                                    cudaStream_t stream) {
  const std::lock_guard lock(FakeMutex());
  if (const cudaError_t error = Begin(__func__); error != cudaSuccess) return error;
  if (const cudaError_t error = OnDevice(stream); error != cudaSuccess) return error;
  if (Fake().stream_error != cudaSuccess) return Give(Fake().stream_error);
  if (pool->threshold != UINT64_MAX) Violate("a pool that gives back what is freed");
  char* block = nullptr;
  if (auto& idle = pool->idle[bytes]; !idle.empty()) {
    block = idle.back();
    idle.pop_back();
  } else {
    if (bytes >> 40 != 0) return Give(cudaErrorInvalidValue);
    if (bytes > Fake().memory_bytes - in_use) return Give(cudaErrorMemoryAllocation);
    block = Zeros(bytes);
    in_use += bytes;
    pool->reserved += bytes;
  }
  pool->used += bytes;
  blocks[block] = {bytes, pool};
  ++Fake().live_objects;
  *data = block;
  return cudaSuccess;
}
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
  const std::lock_guard lock(FakeMutex());
  if (const cudaError_t error = Begin(__func__); error != cudaSuccess) return error;
  if (const cudaError_t error = OnDevice(stream); error != cudaSuccess) return error;
  if (Fake().stream_error != cudaSuccess) return Give(Fake().stream_error);
  --Fake().live_objects;
  auto* block = static_cast<char*>(data);
  blocks.at(block).freed = true;
  Enqueue(stream, [block] {
    const auto [bytes, pool, freed] = blocks.at(block);
    blocks.erase(block);
    pool->used -= bytes;
    pool->idle[bytes].push_back(block);
  });
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  const std::lock_guard lock(FakeMutex());
  if (const cudaError_t error = Begin(__func__); error != cudaSuccess) return error;
  if (const cudaError_t error = OnDevice(stream); error != cudaSuccess) return error;
  if (Fake().stream_error != cudaSuccess) return Give(Fake().stream_error);
  Enqueue(stream, [=] {
    if (!Live(to, bytes))
      Violate("memory is set that is not there");
    else
      std::memset(to, value, bytes);
  });
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const std::lock_guard lock(FakeMutex());
  if (const cudaError_t error = Begin(__func__); error != cudaSuccess) return error;
  if (const cudaError_t error = OnDevice(stream); error != cudaSuccess) return error;
  if (Fake().stream_error != cudaSuccess) return Give(Fake().stream_error);
  Enqueue(stream, [=] {
    const void* on_device = kind == cudaMemcpyHostToDevice ? to : from;
    if (!Live(on_device, bytes))
      Violate("a copy of memory that is not there");
    else
      std::memcpy(to, from, bytes);
  });
  return cudaSuccess;
}

}  // extern "C"
