#include "test/driver/fake_cudart.h"

#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

// Handles are pointers to these.
struct CUstream_st {
  int device = 0;
  std::deque<std::function<void()>> work;
  size_t done = 0;  // of all work ever given
  size_t given() const { return done + work.size(); }
};
struct CUevent_st {
  CUstream_st* stream = nullptr;
  size_t after = 0;
  bool sleeps = false;
};
struct CUmemPoolHandle_st {
  uint64_t threshold = 0;
  uint64_t reserved = 0, used = 0;
  std::map<size_t, std::vector<char*>> idle;  // by size: pieces that only their own size fits
};

namespace lora::test {
namespace {

std::recursive_mutex mutex;
FakeCudart fake;
thread_local int current = -1;
cudaError_t last = cudaSuccess;
size_t in_use = 0;  // of the device's memory, what pools reserve included
std::map<char*, size_t> blocks;
std::map<char*, cudaMemPool_t> pools;  // that blocks came from

cudaError_t Give(cudaError_t error) {
  if (error != cudaSuccess) last = error;
  return error;
}
cudaError_t State() { return Give(fake.stream_error); }

void OnDevice(CUstream_st* stream) {
  if (stream->device != current) fake.violation = "a call for another device than the thread's";
}
void RunUntil(CUstream_st* stream, size_t count) {
  while (stream->done < count) {
    stream->work.front()();
    stream->work.pop_front();
    ++stream->done;
  }
}
// Tells whether [data, data + bytes) lies in a live block.
bool Live(const void* data, size_t bytes) {
  const auto* begin = static_cast<const char*>(data);
  for (const auto& [block, size] : blocks)
    if (begin >= block && begin + bytes <= block + size) return true;
  return false;
}

}  // namespace

FakeCudart& Fake() { return fake; }
void ResetFake() {
  const std::lock_guard lock(mutex);
  fake = FakeCudart();
  last = cudaSuccess;
  in_use = 0;
}

}  // namespace lora::test

using namespace lora::test;  // NOLINT: the functions below are its C face

extern "C" {

const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorIllegalAddress ? "cudaErrorIllegalAddress" : "cudaErrorOther";
}
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorIllegalAddress ? "an illegal memory access was encountered" : "other";
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 2;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() {
  const std::lock_guard lock(mutex);
  const cudaError_t error = last;
  last = cudaSuccess;
  return error;
}
cudaError_t cudaSetDevice(int device) {
  const std::lock_guard lock(mutex);
  current = device;
  return State();
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount    ? 82
           : attribute == cudaDevAttrMemoryPoolsSupported ? (fake.pools ? 1 : 0)
                                                          : 101376;
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  *attributes = {};
  attributes->sharedSizeBytes = 512;
  ++fake.kernels_loaded;
  return Give(fake.kernel_error);
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute attribute, int value) {
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) fake.shared_bytes.push_back(value);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const std::lock_guard lock(mutex);
  *free = fake.memory_bytes - in_use;
  *total = fake.memory_bytes;
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const std::lock_guard lock(mutex);
  *stream = new CUstream_st;
  (*stream)->device = current;
  ++fake.live_objects;
  return State();
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const std::lock_guard lock(mutex);
  if (!stream->work.empty()) fake.violation = "a stream with work in it was destroyed";
  --fake.live_objects;
  delete stream;
  return State();
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const std::lock_guard lock(mutex);
  OnDevice(stream);
  ++fake.waits;
  RunUntil(stream, stream->given());
  return State();
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const std::lock_guard lock(mutex);
  if (fake.stream_error != cudaSuccess) return State();
  return stream->work.empty() ? cudaSuccess : Give(cudaErrorNotReady);
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  const std::lock_guard lock(mutex);
  *event = new CUevent_st;
  (*event)->sleeps = (flags & cudaEventBlockingSync) != 0;
  ++fake.live_objects;
  return State();
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const std::lock_guard lock(mutex);
  --fake.live_objects;
  delete event;
  return State();
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const std::lock_guard lock(mutex);
  OnDevice(stream);
  event->stream = stream;
  event->after = stream->given();
  return State();
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (const auto meanwhile = std::exchange(fake.during_wait, nullptr)) meanwhile();
  const std::lock_guard lock(mutex);
  if (!event->sleeps) fake.violation = "a wait that spins";
  if (event->stream != nullptr) {
    ++fake.waits;
    RunUntil(event->stream, event->after);
  }
  return State();
}

cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned) {
  const std::lock_guard lock(mutex);
  if (fake.pinned_error != cudaSuccess) return Give(fake.pinned_error);
  *data = new char[bytes];
  ++fake.live_objects;
  return State();
}
cudaError_t cudaFreeHost(void* data) {
  const std::lock_guard lock(mutex);
  delete[] static_cast<char*>(data);
  --fake.live_objects;
  return State();
}
cudaError_t cudaMalloc(void** data, size_t bytes) {
  const std::lock_guard lock(mutex);
  if (fake.stream_error != cudaSuccess) return State();
  if (bytes >> 40 != 0) return Give(cudaErrorInvalidValue);
  if (bytes > fake.memory_bytes - in_use) return Give(cudaErrorMemoryAllocation);
  char* block = new char[bytes];
  blocks[block] = bytes;
  in_use += bytes;
  ++fake.live_objects;
  *data = block;
  return cudaSuccess;
}
cudaError_t cudaFree(void* data) {
  const std::lock_guard lock(mutex);
  auto* block = static_cast<char*>(data);
  in_use -= blocks.at(block);
  blocks.erase(block);
  delete[] block;
  --fake.live_objects;
  return State();
}
cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* props) {
  const std::lock_guard lock(mutex);
  if (props->location.id != current) fake.violation = "a pool of another device";
  *pool = new CUmemPoolHandle_st;
  ++fake.live_objects;
  return State();
}
cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) {
  const std::lock_guard lock(mutex);
  (void)cudaMemPoolTrimTo(pool, 0);
  if (pool->used != 0) fake.violation = "a pool was destroyed with memory in use";
  delete pool;
  --fake.live_objects;
  return State();
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  const std::lock_guard lock(mutex);
  if (attribute == cudaMemPoolAttrReleaseThreshold)
    pool->threshold = *static_cast<uint64_t*>(value);
  return State();
}
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  const std::lock_guard lock(mutex);
  *static_cast<uint64_t*>(value) =
      attribute == cudaMemPoolAttrReservedMemCurrent ? pool->reserved : pool->used;
  return State();
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t) {
  const std::lock_guard lock(mutex);
  ++fake.trims;
  for (auto& [bytes, pieces] : pool->idle)
    for (char* piece : pieces) {
      delete[] piece;
      pool->reserved -= bytes;
      in_use -= bytes;
    }
  pool->idle.clear();
  return State();
}
cudaError_t cudaMallocFromPoolAsync(void** data, size_t bytes, cudaMemPool_t pool,
                                    cudaStream_t stream) {
  const std::lock_guard lock(mutex);
  OnDevice(stream);
  if (fake.stream_error != cudaSuccess) return State();
  if (pool->threshold != UINT64_MAX) fake.violation = "a pool that gives back what is freed";
  char* block = nullptr;
  if (auto& idle = pool->idle[bytes]; !idle.empty()) {
    block = idle.back();
    idle.pop_back();
  } else {
    if (bytes >> 40 != 0) return Give(cudaErrorInvalidValue);
    if (bytes > fake.memory_bytes - in_use) return Give(cudaErrorMemoryAllocation);
    block = new char[bytes];
    in_use += bytes;
    pool->reserved += bytes;
  }
  pool->used += bytes;
  blocks[block] = bytes;
  pools[block] = pool;
  ++fake.live_objects;
  *data = block;
  return cudaSuccess;
}
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
  const std::lock_guard lock(mutex);
  OnDevice(stream);
  if (fake.stream_error != cudaSuccess) return State();
  --fake.live_objects;
  auto* block = static_cast<char*>(data);
  stream->work.push_back([block] {
    const size_t bytes = blocks.at(block);
    blocks.erase(block);
    const cudaMemPool_t pool = pools.at(block);
    pools.erase(block);
    pool->used -= bytes;
    pool->idle[bytes].push_back(block);
  });
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const std::lock_guard lock(mutex);
  OnDevice(stream);
  if (fake.stream_error != cudaSuccess) return State();
  stream->work.push_back([=] {
    const void* on_device = kind == cudaMemcpyHostToDevice ? to : from;
    if (!Live(on_device, bytes))
      fake.violation = "a copy of memory that is not there";
    else
      std::memcpy(to, from, bytes);
  });
  return cudaSuccess;
}

}  // extern "C"
