// Makes CUDA graphs of launches, on a stream that runs nothing.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <mutex>
#include <thread>

namespace lora::cuda {

class Captures {
 public:
  // Calls work(stream), and makes a graph of what it launches there. On the way the thread may ask
  // the device for nothing else; other threads may. Throws what `work` throws.
  template <class Work>
  cudaError_t Capture(const Work& work, cudaGraphExec_t& exec) {
    const std::lock_guard lock(mutex_);
    cudaError_t error = cudaSuccess;
    if (stream_ == nullptr) error = cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking);
    if (error == cudaSuccess)
      error = cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal);
    if (error != cudaSuccess) return error;
    cudaGraph_t graph = nullptr;
    thread_ = std::this_thread::get_id();
    try {
      work(stream_);
      thread_ = std::thread::id();
    } catch (...) {
      thread_ = std::thread::id();
      (void)cudaStreamEndCapture(stream_, &graph);
      if (graph != nullptr) (void)cudaGraphDestroy(graph);
      (void)cudaGetLastError();
      throw;
    }
    error = cudaStreamEndCapture(stream_, &graph);
    if (error == cudaSuccess) error = cudaGraphInstantiate(&exec, graph, 0);
    if (graph != nullptr) (void)cudaGraphDestroy(graph);
    return error;
  }
  // Tells whether the calling thread is inside of `work`: CUDA refuses its questions then.
  bool IsCapturing() const { return thread_ == std::this_thread::get_id(); }
  void Close() {
    if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
  }

 private:
  std::mutex mutex_;
  cudaStream_t stream_ = nullptr;
  std::atomic<std::thread::id> thread_{};  // that captures
};

}  // namespace lora::cuda
