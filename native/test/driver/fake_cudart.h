// Plays a CUDA runtime in host memory for the tests of runtime.cc and of every launch. It acts as
// late as the rules allow: what a stream was given runs when someone waits for it, and freed memory
// comes back when the stream gets there and lies in pieces until the pool is trimmed. It computes
// nothing: a launch is held against what nvcc made of the kernel and against the limits of the
// device, and the device's memory keeps what it had, zeros at first. Devices are those that the
// stub driver is told of (STUB_DEVICES).
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

// A handle is a pointer to this.
struct CUstream_st {
  int device = 0;
  std::deque<std::function<void()>> work;
  size_t done = 0;  // of all work ever given
  size_t given() const { return done + work.size(); }
  bool captures = false;
  bool invalidated = false;  // the capture, by a call that CUDA forbids the thread meanwhile
  std::deque<std::function<void()>> captured;
};

namespace lora::test {

// What the code of a kernel for one architecture says of itself.
struct KernelFacts {
  unsigned threads = 0;  // that a block may have at most
  size_t static_shared_bytes = 0;
  unsigned registers = 0;  // of a thread
  int ptx_version = 0;     // of the PTX that the code comes from
};

struct FakeLaunch {
  std::string kernel;  // as nvcc names it
  int device = 0;
  dim3 grid, block;
  size_t shared_bytes = 0;  // dynamic
  bool programmatic = false;
};

struct FakeCudart {
  size_t memory_bytes = size_t{64} << 20;
  bool pools = true;
  cudaError_t kernel_error = cudaSuccess;   // of loading a kernel
  cudaError_t stream_error = cudaSuccess;   // of all work from now on; sticky
  cudaError_t pinned_error = cudaSuccess;   // of cudaHostAlloc
  cudaError_t capture_error = cudaSuccess;  // of ending a capture
  std::function<void()> during_wait;  // called once, by the next thread that waits for an event
  std::function<void()> during_load;  // called once, by the next thread that asks for a kernel
  std::function<void(const FakeLaunch&)> on_launch;  // that was not refused
  int multiprocessors = 0;                           // of every device; 0: what such a card has
  int ptx_version = -1;  // that a driver says of every kernel; -1: what its code says

  // Call number `fail_at` (the first is 1) fails with `fail_with`, and has no effect but where it
  // gives something back. With `fail_for_good` every later call of its device fails likewise.
  int fail_at = 0;
  cudaError_t fail_with = cudaSuccess;
  bool fail_for_good = false;
  std::string failed;  // the call that did

  // Counted since Reset.
  std::vector<const char*> called;  // functions that can fail
  int waits = 0, trims = 0, kernels_loaded = 0;
  int graphs_launched = 0;
  std::vector<int> shared_bytes;  // that kernels were allowed
  int live_objects = 0;           // streams, events, pools, pinned memory, blocks, graphs
  std::string violation;  // of the rules of the API: the wrong device, memory used after its end
};

FakeCudart& Fake();
void ResetFake();

// Returns the kernels that the binary registered, as nvcc names them.
std::set<std::string> RegisteredKernels();

// The rest is shared by the files of the fake.

std::recursive_mutex& FakeMutex();
void ResetFakeMemory();
// Takes note of the first broken rule.
void Violate(const std::string& text);
// Is called first by every function that can fail, under the lock.
cudaError_t Begin(const char* call);
// Checks that a stream exists and is of the thread's device. Returns an error otherwise.
cudaError_t OnDevice(cudaStream_t stream);
// Puts work into a stream, or into the graph that the stream captures.
void Enqueue(cudaStream_t stream, std::function<void()> work);
// Begins the capture of a stream by this thread, and ends it with what was captured.
cudaError_t BeginCapture(cudaStream_t stream);
std::deque<std::function<void()>> EndCapture(cudaStream_t stream);
cudaError_t Give(cudaError_t error);  // as cudaGetLastError will
int CurrentDevice();
// Returns an attribute of a device.
int AttributeOf(int device, cudaDeviceAttr attribute);
// Returns what the driver says of the PTX that code comes from.
int PtxVersionOf(const KernelFacts& facts);
int ArchOf(int device);
// Returns what the code of a kernel says that a device would run; null where there is none. A
// kernel that no binary registered has 512 bytes of shared memory.
const KernelFacts* FactsOf(const void* kernel, int device);

// Reads the facts of every kernel in a fat binary, as __cudaRegisterFatBinary is given it, for a
// device. Throws where it is of a form that this reader does not know.
std::map<std::string, KernelFacts> FactsInFatBinary(const void* fat_binary, int arch);

}  // namespace lora::test
