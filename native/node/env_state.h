// Holds everything the add-on knows in one Napi::Env: its devices, its live handles, its pending
// reads. Nothing of it is static, because workers load the add-on once per thread. Only the
// JavaScript thread uses it, except where a comment says otherwise.
#pragma once

#include <napi.h>

#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "node/mapped_file.h"
#include "node/shells.h"

namespace lora::node {

// A promise that a command will settle: with `buffer`, or with undefined.
struct Request {
  napi_deferred deferred = nullptr;
  napi_ref buffer = nullptr;
  FailurePtr failure;
};

class EnvState : public std::enable_shared_from_this<EnvState> {
 public:
  static void Install(Napi::Env env);
  // Returns nullptr before Install.
  static EnvState* Get(Napi::Env env);

  explicit EnvState(Napi::Env env);

  // ---- devices
  // Opens 'cpu', 'reference', 'cuda' or 'cuda:N'; throws ERR_DEVICE_UNAVAILABLE, ERR_ARGUMENT.
  Napi::Value OpenDevice(const std::string& name);
  // Opens a device on another thread, because a driver may take seconds for it. When the promise is
  // settled, OpenDevice has nothing left to do; a call before that waits for the rest.
  Napi::Promise OpenDeviceLater(const std::string& name);
  const std::map<std::string, std::shared_ptr<Device>>& devices() const { return devices_; }
  void SetThreads(int threads);
  // Returns the number that was set, or LORA_THREADS, or the CPUs that the process may use.
  int threads();
  void SetLimits(QueueLimits limits);

  // ---- handles
  Napi::Value Wrap(Shell shell);
  Napi::Value WrapTensor(StoragePtr storage, size_t offset, DType dtype, const Shape& shape);
  // Returns the shell of any handle of this add-on, or nullptr.
  Shell* Find(Napi::Value value);
  // Returns the shell of a handle of that kind, released or not; throws ERR_ARGUMENT otherwise.
  Shell& Unwrap(Napi::Value value, Kind kind, const char* op, const char* name);
  // These also throw ERR_DISPOSED for a released handle. JavaScript that runs later in the call (a
  // getter, a setter of Object.prototype, a hook for promises) may release it: until then the
  // reference is good, and a copy holds the memory.
  const TensorRef& Tensor(Napi::Value value, const char* op, const char* name);
  std::shared_ptr<WeightRef> Weight(Napi::Value value, const char* op, const char* name);
  std::shared_ptr<TableRef> Table(Napi::Value value, const char* op, const char* name);
  void Release(Shell& shell);
  // Frees the handles that nobody can reach any more, by asking their weak references. Handles have
  // no finalizers: those do not run in a loop that never yields to the event loop. Called when the
  // queue is full, when memory is short, after so many new handles, where tensors hold so much more
  // than they did, and after garbage collections.
  void PollDead();
  // Does the same after making V8 collect all garbage.
  void CollectDead();

  // ---- files
  // Keeps the mapping until DropFiles finds it without a handle and without views.
  void KeepFile(std::shared_ptr<FileRef> file);
  void DropFiles();

  // ---- memory
  // Returns a block without data where nothing that could be given up was enough. While a program
  // is recorded, the block comes from its pool.
  Block TryAllocate(Device& device, size_t bytes);
  [[noreturn]] void ThrowOutOfMemory(Device& device, size_t bytes, const char* op);
  StoragePtr NewStorage(const std::shared_ptr<Device>& device, size_t bytes, const char* op);
  // Returns null instead of the error.
  StoragePtr TryNewStorage(const std::shared_ptr<Device>& device, size_t bytes);
  size_t bytes() const { return bytes_; }
  size_t peak_bytes() const { return peak_bytes_; }
  // The most bytes since WatchPeak() was called last, or ever. That frees first what nobody can
  // reach, so that garbage from before does not count.
  size_t watched_peak_bytes() const { return watched_peak_bytes_; }
  void WatchPeak();
  size_t tensors() const { return tensors_; }
  // How many objects of each kind are there, for tests that look for leaks: handles that hold
  // something by what they hold, handles of any state, views and mappings of files, and reads that
  // are not settled.
  std::map<std::string, size_t> LiveObjects() const;

  // ---- work
  // Waits while the queue is full, unless the command has a `done`; then marks it with the current
  // tag. Throws ERR_UNSUPPORTED while a program is recorded.
  void Enqueue(Device& device, Command command);
  // Throws what Enqueue would, before a call has done anything.
  void RefuseRecording(const Device& device, const char* op);
  // The next op of this name fails when it runs, once; without a message it does not any more.
  void InjectFailure(const std::string& op, const std::string& message) {
    if (message.empty())
      injected_.erase(op);
    else
      injected_[op] = message;
  }
  // The nth allocation from now on fails, for want of memory; 0: none does.
  void InjectOutOfMemory(int64_t nth) { fails_in_ = nth; }
  Napi::Promise NewRequest(Request** request, Napi::ArrayBuffer* buffer);
  // Any thread may call it. It settles the promise on the JavaScript thread and frees the request.
  void Complete(Request* request);

  Napi::FunctionReference error_factory;
  int64_t tag = 0;

 private:
  void Settle();
  void Close();
  void Destroy(Shell& shell);
  void WatchCollections();
  // Makes V8 collect garbage before `bytes` more are taken, where the device would then hold more
  // than twice what it held after the last collection of ours, plus kMaxGarbage. The bytes of
  // tensors are not reported to V8, which would collect again and again for a loop that frees what
  // it takes.
  void LimitGarbage(Device& device, size_t bytes);
  // Makes the command fail where a failure was injected for its op, or for one of its program's.
  void Inject(Command& command);

  const napi_env env_;
  std::map<std::string, std::shared_ptr<Device>> devices_;
  std::map<std::string, Napi::Reference<Napi::Value>> device_handles_;
  std::map<std::string, std::shared_future<std::shared_ptr<Device>>> opening_;  // not in devices_
  std::vector<std::future<void>> openers_;  // the threads of OpenDeviceLater
  int threads_ = 0;                         // not known yet
  QueueLimits limits_;
  std::map<std::string, std::string> injected_;
  int64_t fails_in_ = 0;  // allocations

  Shells shells_;
  std::vector<std::shared_ptr<FileRef>> files_;
  size_t files_before_collection_;
  size_t tensors_ = 0, bytes_ = 0, peak_bytes_ = 0, watched_peak_bytes_ = 0;
  size_t handles_since_poll_ = 0, least_bytes_ = 0;  // the least that bytes_ was since then
  std::map<const Device*, size_t> collect_at_;       // bytes, where they differ from kMaxGarbage

  size_t pending_ = 0;  // requests that are not settled
  napi_threadsafe_function wake_ = nullptr;
  std::mutex mutex_;  // of what follows
  std::vector<Request*> completed_;
  bool closed_ = false;
};

}  // namespace lora::node
