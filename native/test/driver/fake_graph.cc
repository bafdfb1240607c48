// Graphs of the CUDA runtime that the tests play: what a stream captures, and what runs it again.
#include <functional>
#include <mutex>
#include <set>
#include <utility>

#include "test/driver/fake_cudart.h"

// Handles are pointers to these.
struct CUgraph_st {
  int device = 0;
  std::deque<std::function<void()>> work;
};
struct CUgraphExec_st : CUgraph_st {};

namespace lora::test {
namespace {

std::set<const void*> graphs;  // that were not destroyed

template <class Made>
Made* Make(const CUgraph_st& from) {
  auto* const made = new Made{from};
  graphs.insert(made);
  ++Fake().live_objects;
  return made;
}
bool GraphExists(const void* graph) {
  if (graphs.contains(graph)) return true;
  Violate("a call with a graph that is not there");
  return false;
}
template <class Made>
cudaError_t Destroy(const char* call, Made* graph) {
  const std::lock_guard lock(FakeMutex());
  const cudaError_t error = Begin(call);
  if (!GraphExists(graph)) return Give(cudaErrorInvalidResourceHandle);
  graphs.erase(graph);
  --Fake().live_objects;
  delete graph;
  return error != cudaSuccess ? error : Give(Fake().stream_error);
}

}  // namespace
}  // namespace lora::test

using namespace lora::test;  // NOLINT: the functions below are its C face

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  const std::lock_guard lock(FakeMutex());
  if (const cudaError_t error = Begin(__func__); error != cudaSuccess) return error;
  // In the other modes a capture forbids calls to other threads, or allows this one to wait.
  if (mode != cudaStreamCaptureModeThreadLocal) Violate("a capture that is not the thread's own");
  return BeginCapture(stream);
}
// It ends the capture also where it fails.
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const std::lock_guard lock(FakeMutex());
  *graph = nullptr;
  const cudaError_t error = Begin(__func__);
  CUgraph_st captured{stream->device, EndCapture(stream)};
  if (error != cudaSuccess) return error;
  if (const cudaError_t on_device = OnDevice(stream); on_device != cudaSuccess) return on_device;
  if (stream->invalidated) return Give(cudaErrorStreamCaptureInvalidated);
  if (Fake().capture_error != cudaSuccess) return Give(Fake().capture_error);
  *graph = Make<CUgraph_st>(captured);
  return Give(Fake().stream_error);
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  const std::lock_guard lock(FakeMutex());
  if (const cudaError_t error = Begin(__func__); error != cudaSuccess) return error;
  if (!GraphExists(graph)) return Give(cudaErrorInvalidResourceHandle);
  *exec = Make<CUgraphExec_st>(*graph);
  return Give(Fake().stream_error);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  const std::lock_guard lock(FakeMutex());
  if (const cudaError_t error = Begin(__func__); error != cudaSuccess) return error;
  if (const cudaError_t error = OnDevice(stream); error != cudaSuccess) return error;
  if (!GraphExists(exec)) return Give(cudaErrorInvalidResourceHandle);
  if (Fake().stream_error != cudaSuccess) return Give(Fake().stream_error);
  if (exec->device != stream->device) Violate("a graph of another device than the stream's");
  ++Fake().graphs_launched;
  for (const auto& work : exec->work) Enqueue(stream, work);
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return Destroy(__func__, graph); }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return Destroy(__func__, exec); }

}  // extern "C"
