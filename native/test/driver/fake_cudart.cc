#include "test/driver/fake_cudart.h"

#include <unistd.h>

#include <functional>
#include <map>
#include <mutex>
#include <utility>

// Handles are pointers to these.
struct CUevent_st {
  int device = 0;
  CUstream_st* stream = nullptr;
  size_t after = 0;
  bool sleeps = false;
};

namespace lora::test {
namespace {

std::recursive_mutex mutex;
FakeCudart fake;
thread_local int current = -1;
thread_local CUstream_st* captures = nullptr;  // the stream into which the thread captures
cudaError_t last = cudaSuccess;
std::set<const void*> handles;    // of streams and events
std::map<int, cudaError_t> lost;  // devices

cudaError_t State() { return Give(fake.stream_error); }

bool Exists(const void* handle) {
  if (handles.contains(handle)) return true;
  Violate("a call with a stream or an event that is not there");
  return false;
}
void RunUntil(CUstream_st* stream, size_t count) {
  while (stream->done < count) {
    stream->work.front()();
    stream->work.pop_front();
    ++stream->done;
  }
}

// What CUDA answers a thread that captures. A call that it forbids invalidates the capture, and
// what follows is told so. CUDA allows some of the forbidden ones in some of its versions. Of them
// the product makes those alone that load a kernel.
cudaError_t WhileCapturing(const std::string& call) {
  static const std::set<std::string> kAllowed = {"cudaSetDevice", "cudaStreamEndCapture"};
  static const std::set<std::string> kLoads = {"cudaFuncGetAttributes", "cudaFuncSetAttribute"};
  if (kAllowed.contains(call)) return cudaSuccess;
  if (call == "cudaLaunchKernel")
    return captures->invalidated ? cudaErrorStreamCaptureInvalidated : cudaSuccess;
  if (!kLoads.contains(call)) Violate(call + " while the thread captures");
  captures->invalidated = true;
  return cudaErrorStreamCaptureUnsupported;
}

}  // namespace

FakeCudart& Fake() { return fake; }
void ResetFake() {
  const std::lock_guard lock(mutex);
  fake = FakeCudart();
  last = cudaSuccess;
  ResetFakeMemory();
  lost.clear();
}

void Violate(const std::string& text) {
  if (fake.violation.empty()) fake.violation = text;
}

cudaError_t Give(cudaError_t error) {
  if (error != cudaSuccess) last = error;
  return error;
}

cudaError_t Begin(const char* call) {
  static const pid_t process = getpid();
  if (getpid() != process) return Give(cudaErrorInitializationError);  // CUDA outlives no fork
  fake.called.push_back(call);
  if (captures != nullptr)
    if (const cudaError_t error = WhileCapturing(call); error != cudaSuccess) return Give(error);
  if (static_cast<int>(fake.called.size()) == fake.fail_at) {
    fake.failed = call;
    if (fake.fail_for_good) lost[current] = fake.fail_with;
    return Give(fake.fail_with);
  }
  const auto found = lost.find(current);
  return found == lost.end() ? cudaSuccess : Give(found->second);
}

cudaError_t OnDevice(cudaStream_t stream) {
  if (Exists(stream) && stream->device == current) {
    if (stream != captures && (captures != nullptr || stream->captures))
      Violate("work for another stream than the one into which the thread captures");
    return cudaSuccess;
  }
  // Who could not choose the device may be refused.
  if (fake.failed.empty()) Violate("a call for another device than the thread's");
  return Give(cudaErrorInvalidResourceHandle);
}

void Enqueue(cudaStream_t stream, std::function<void()> work) {
  (stream->captures ? stream->captured : stream->work).push_back(std::move(work));
}

cudaError_t BeginCapture(cudaStream_t stream) {
  if (const cudaError_t error = OnDevice(stream); error != cudaSuccess) return error;
  if (captures != nullptr) Violate("a capture inside a capture");
  captures = stream;
  stream->captures = true;
  stream->invalidated = false;
  return State();
}
std::deque<std::function<void()>> EndCapture(cudaStream_t stream) {
  if (stream != captures) Violate("the end of a capture that the thread has not begun");
  captures = nullptr;
  stream->captures = false;
  return std::exchange(stream->captured, {});
}

int CurrentDevice() { return current; }
std::recursive_mutex& FakeMutex() { return mutex; }

}  // namespace lora::test

using namespace lora::test;  // NOLINT: the functions below are its C face

extern "C" {

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorInitializationError:
      return "cudaErrorInitializationError";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorECCUncorrectable:
      return "cudaErrorECCUncorrectable";
    case cudaErrorInvalidResourceHandle:
      return "cudaErrorInvalidResourceHandle";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    case cudaErrorLaunchOutOfResources:
      return "cudaErrorLaunchOutOfResources";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated:
      return "cudaErrorStreamCaptureInvalidated";
    case cudaErrorUnknown:
      return "cudaErrorUnknown";
    default:
      return "cudaErrorOther";
  }
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
  const int before = std::exchange(current, device);
  if (const cudaError_t error = Begin(__func__); error != cudaSuccess) {
    if (!lost.contains(device)) current = before;
    return error;
  }
  return State();
}
cudaError_t cudaGetDevice(int* device) {
  *device = current;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const std::lock_guard lock(mutex);
  if (const cudaError_t error = Begin(__func__); error != cudaSuccess) return error;
  *stream = new CUstream_st;
  (*stream)->device = current;
  handles.insert(*stream);
  ++fake.live_objects;
  return State();
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const std::lock_guard lock(mutex);
  const cudaError_t error = Begin(__func__);
  if (!Exists(stream)) return Give(cudaErrorInvalidResourceHandle);
  if (stream->captures) Violate("a stream was destroyed that captures");
  // A device that failed may leave work undone.
  if (!stream->work.empty() && fake.failed.empty() && fake.stream_error == cudaSuccess)
    Violate("a stream with work in it was destroyed");
  handles.erase(stream);
  --fake.live_objects;
  delete stream;
  return error != cudaSuccess ? error : State();
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const std::lock_guard lock(mutex);
  if (const cudaError_t error = Begin(__func__); error != cudaSuccess) return error;
  if (const cudaError_t error = OnDevice(stream); error != cudaSuccess) return error;
  ++fake.waits;
  RunUntil(stream, stream->given());
  return State();
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const std::lock_guard lock(mutex);
  if (const cudaError_t error = Begin(__func__); error != cudaSuccess) return error;
  if (fake.stream_error != cudaSuccess) return State();
  if (!Exists(stream)) return Give(cudaErrorInvalidResourceHandle);
  return stream->work.empty() ? cudaSuccess : Give(cudaErrorNotReady);
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  const std::lock_guard lock(mutex);
  if (const cudaError_t error = Begin(__func__); error != cudaSuccess) return error;
  *event = new CUevent_st;
  (*event)->device = current;
  handles.insert(*event);
  (*event)->sleeps = (flags & cudaEventBlockingSync) != 0;
  ++fake.live_objects;
  return State();
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const std::lock_guard lock(mutex);
  const cudaError_t error = Begin(__func__);
  if (!Exists(event)) return Give(cudaErrorInvalidResourceHandle);
  handles.erase(event);
  --fake.live_objects;
  delete event;
  return error != cudaSuccess ? error : State();
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const std::lock_guard lock(mutex);
  if (const cudaError_t error = Begin(__func__); error != cudaSuccess) return error;
  if (const cudaError_t error = OnDevice(stream); error != cudaSuccess) return error;
  if (!Exists(event)) return Give(cudaErrorInvalidResourceHandle);
  if (event->device != stream->device) Violate("an event of another device than the stream's");
  event->stream = stream;
  event->after = stream->given();
  return State();
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  std::function<void()> meanwhile;
  {
    const std::lock_guard lock(mutex);
    meanwhile = std::exchange(fake.during_wait, nullptr);
  }
  if (meanwhile) meanwhile();
  const std::lock_guard lock(mutex);
  if (const cudaError_t error = Begin(__func__); error != cudaSuccess) return error;
  if (!Exists(event)) return Give(cudaErrorInvalidResourceHandle);
  if (!event->sleeps) Violate("a wait that spins");
  if (event->stream != nullptr && Exists(event->stream)) {
    ++fake.waits;
    RunUntil(event->stream, event->after);
  }
  return State();
}

}  // extern "C"
