#include "node/env_state.h"

#include <algorithm>
#include <utility>

#include "node/errors.h"

namespace lora::node {
namespace {

constexpr size_t kPollBytes = size_t{128} << 20;
constexpr size_t kPollHandles = 512;
constexpr size_t kCollectFiles = 1024;
constexpr size_t kMaxGarbage = size_t{512} << 20;

const char* NameOf(Kind kind) {
  switch (kind) {
    case Kind::kTensor:
      return "a native tensor";
    case Kind::kWeight:
      return "a native frozen weight";
    case Kind::kTable:
      return "a native table of changes";
    case Kind::kDevice:
      return "a native device";
    case Kind::kGuard:
      return "a native guard";
    case Kind::kFile:
      return "a native file";
    case Kind::kProgram:
      return "a native program";
    case Kind::kLock:
      return "a native lock";
  }
  return "a native object";
}

const char* Describe(Napi::Value value) {
  switch (value.Type()) {
    case napi_undefined:
      return "undefined";
    case napi_null:
      return "null";
    case napi_number:
      return "a number";
    case napi_string:
      return "a string";
    case napi_boolean:
      return "a boolean";
    case napi_function:
      return "a function";
    case napi_external:
      return "another native object";
    default:
      return "an object";
  }
}

}  // namespace

void EnvState::Install(Napi::Env env) {
  const auto state = std::make_shared<EnvState>(env);
  using Holder = std::shared_ptr<EnvState>;
  napi_set_instance_data(
      env, new Holder(state),
      [](napi_env, void* data, void*) { delete static_cast<Holder*>(data); }, nullptr);
  const napi_value name = Napi::String::New(env, "lora-native");
  const napi_status made = napi_create_threadsafe_function(
      env, nullptr, nullptr, name, 0, 1, new Holder(state),
      [](napi_env, void* data, void*) { delete static_cast<Holder*>(data); }, state.get(),
      [](napi_env wake_env, napi_value, void* context, void*) {
        if (wake_env != nullptr) static_cast<EnvState*>(context)->Settle();
      },
      &state->wake_);
  if (made != napi_ok) throw Napi::Error::New(env);
  napi_unref_threadsafe_function(env, state->wake_);
  // Hooks run in reverse order, so this one, which ends the workers, runs before the hook of the
  // threadsafe function that the workers call.
  napi_add_env_cleanup_hook(
      env,
      [](void* data) {
        const std::unique_ptr<Holder> holder(static_cast<Holder*>(data));
        (*holder)->Close();
      },
      new Holder(state));
  state->WatchCollections();
}

EnvState* EnvState::Get(Napi::Env env) {
  void* data = nullptr;
  if (napi_get_instance_data(env, &data) != napi_ok || data == nullptr) return nullptr;
  return static_cast<std::shared_ptr<EnvState>*>(data)->get();
}

EnvState::EnvState(Napi::Env env) : env_(env), files_before_collection_(kCollectFiles) {}

void EnvState::Close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  openers_.clear();  // waits for them
  opening_.clear();
  for (const auto& [name, device] : devices_) {
    device->on_bytes = nullptr;
    device->recording = nullptr;
    device->stream().Stop();
  }
  for (Request* request : completed_) delete request;
  completed_.clear();
  shells_.ForEach([this](Shell& shell) { Destroy(shell); });
  for (const auto& file : files_) file->Forget(env_);
  files_.clear();
  device_handles_.clear();
  error_factory.Reset();
}

// ---- handles -----------------------------------------------------------------------------------

void EnvState::WatchCollections() {
  // Makes an object that nobody keeps: its finalizer tells that a collection has passed.
  auto* holder = new std::shared_ptr<EnvState>(shared_from_this());
  napi_value witness = nullptr;
  const napi_status made = napi_create_external(
      env_, holder,
      [](napi_env env, void* data, void*) {
        const std::unique_ptr<std::shared_ptr<EnvState>> owner(
            static_cast<std::shared_ptr<EnvState>*>(data));
        EnvState& state = **owner;
        if (state.closed_) return;
        const Napi::HandleScope scope(env);
        state.PollDead();
        state.WatchCollections();
      },
      nullptr, &witness);
  if (made != napi_ok) delete holder;
}

Napi::Value EnvState::Wrap(Shell shell) {
  napi_value external = nullptr;
  Shell* const kept = shells_.Add(std::move(shell));
  if (napi_create_external(env_, kept, nullptr, nullptr, &external) != napi_ok ||
      napi_create_reference(env_, external, 0, &kept->weak) != napi_ok) {
    shells_.Remove(kept);
    throw Napi::Error::New(env_);
  }
  if (kept->tensor) ++tensors_;
  if (++handles_since_poll_ > kPollHandles + shells_.size() / 2 ||
      bytes_ > least_bytes_ + kPollBytes)
    PollDead();
  return Napi::Value(env_, external);
}

Napi::Value EnvState::WrapTensor(StoragePtr storage, size_t offset, DType dtype,
                                 const Shape& shape) {
  return Wrap(
      {.kind = Kind::kTensor, .tensor = TensorRef{std::move(storage), offset, dtype, shape}});
}

Shell* EnvState::Find(Napi::Value value) {
  void* data = nullptr;
  // A foreign External may point anywhere, so its address is looked up and never dereferenced.
  return napi_get_value_external(env_, value, &data) == napi_ok ? shells_.Find(data) : nullptr;
}

Shell& EnvState::Unwrap(Napi::Value value, Kind kind, const char* op, const char* name) {
  Shell* shell = Find(value);
  LORA_CHECK(shell != nullptr && shell->kind == kind, op, "expected ", name, " to be ",
             NameOf(kind), " but received ", shell ? NameOf(shell->kind) : Describe(value));
  return *shell;
}

const TensorRef& EnvState::Tensor(Napi::Value value, const char* op, const char* name) {
  Shell& shell = Unwrap(value, Kind::kTensor, op, name);
  if (!shell.tensor) Throw("ERR_DISPOSED", op, name, " was disposed");
  return *shell.tensor;
}

std::shared_ptr<WeightRef> EnvState::Weight(Napi::Value value, const char* op, const char* name) {
  Shell& shell = Unwrap(value, Kind::kWeight, op, name);
  if (!shell.weight) Throw("ERR_DISPOSED", op, name, " was disposed");
  return shell.weight;
}

std::shared_ptr<TableRef> EnvState::Table(Napi::Value value, const char* op, const char* name) {
  Shell& shell = Unwrap(value, Kind::kTable, op, name);
  if (!shell.table) Throw("ERR_DISPOSED", op, name, " was disposed");
  return shell.table;
}

void EnvState::Release(Shell& shell) {
  if (shell.tensor) --tensors_;
  shell.tensor.reset();
  shell.weight.reset();
  shell.table.reset();
  shell.file.reset();
  shell.program.reset();
  shell.lock.reset();
}

void EnvState::Destroy(Shell& shell) {
  Release(shell);
  napi_delete_reference(env_, shell.weak);
  shells_.Remove(&shell);
}

void EnvState::PollDead() {
  const Napi::HandleScope scope(env_);
  shells_.ForEach([this](Shell& shell) {
    napi_value value = nullptr;
    if (napi_get_reference_value(env_, shell.weak, &value) == napi_ok && value == nullptr)
      Destroy(shell);
  });
  handles_since_poll_ = 0;
  least_bytes_ = bytes_;
  for (const auto& file : files_) file->Poll(env_);
  DropFiles();
}

void EnvState::CollectDead() {
  // V8 answers a huge amount of external memory with a full collection. Afterwards the weak
  // references of everything unreachable are clear.
  constexpr int64_t kPressure = int64_t{1} << 40;
  int64_t now = 0;
  napi_adjust_external_memory(env_, kPressure, &now);
  napi_adjust_external_memory(env_, -kPressure, &now);
  PollDead();
  for (const auto& [name, device] : devices_)
    collect_at_[device.get()] = 2 * device->bytes + kMaxGarbage;
}

void EnvState::WatchPeak() {
  CollectDead();
  watched_peak_bytes_ = bytes_;
}

void EnvState::LimitGarbage(Device& device, size_t bytes) {
  const auto known = collect_at_.find(&device);
  const size_t limit = known == collect_at_.end() ? kMaxGarbage : known->second;
  if (device.bytes + bytes <= limit) return;
  PollDead();
  if (device.bytes + bytes > limit) CollectDead();
}

// ---- files -------------------------------------------------------------------------------------

void EnvState::KeepFile(std::shared_ptr<FileRef> file) {
  files_.push_back(std::move(file));
  if (files_.size() < files_before_collection_) return;
  CollectDead();  // in a loop that makes little garbage V8 has no reason to
  files_before_collection_ = 2 * files_.size() + kCollectFiles;
}

void EnvState::DropFiles() {
  std::erase_if(files_, [](const std::shared_ptr<FileRef>& file) {
    return file.use_count() == 1 && file->views.empty();
  });
}

// ---- memory ------------------------------------------------------------------------------------

Block EnvState::TryAllocate(Device& device, size_t bytes) {
  if (fails_in_ > 0 && --fails_in_ == 0) return {};
  LimitGarbage(device, bytes);
  const auto allocate = [&] {
    return device.recording ? device.recording->pool().Allocate(bytes)
                            : device.allocator().Allocate(bytes);
  };
  Block block = allocate();
  if (block.data != nullptr) return block;
  const auto give_back = [&] {
    for (const auto& [name, other] : devices_) {
      other->Trim(0);
      other->stream().Synchronize();
    }
    return allocate();
  };
  PollDead();
  block = allocate();
  if (block.data == nullptr) block = give_back();
  if (block.data != nullptr) return block;
  CollectDead();  // weak references may free some
  return give_back();
}

void EnvState::ThrowOutOfMemory(Device& device, size_t bytes, const char* op) {
  // A block may be larger than what was asked for.
  const size_t needed = Allocator::RoundUp(bytes), free = device.allocator().source().free();
  const bool on_host = device.host_memory();
  const size_t held = on_host ? HostMemoryBudget().used() : device.bytes;
  const std::string limit = device.allocator().source().limit();
  const std::string of = limit.empty() ? "" : " of " + limit;
  Throw("ERR_OUT_OF_MEMORY", op, "needs ", MiBText(needed, Rounding::kUp), " but only ",
        MiBText(free, Rounding::kDown), " are free on ", device.name(), ": with what is held, ",
        MiBText(needed + held, Rounding::kUp), of,
        "; smaller batches, shorter texts, gradientCheckpointing and quantize take less");
}

StoragePtr EnvState::TryNewStorage(const std::shared_ptr<Device>& device, size_t bytes) {
  const Block block = TryAllocate(*device, bytes);
  if (block.data == nullptr) return nullptr;
  if (device->recording) return device->recording->Make(block, bytes);
  return std::make_shared<Storage>(device, block, bytes);
}

StoragePtr EnvState::NewStorage(const std::shared_ptr<Device>& device, size_t bytes,
                                const char* op) {
  StoragePtr storage = TryNewStorage(device, bytes);
  if (!storage) ThrowOutOfMemory(*device, bytes, op);
  return storage;
}

std::map<std::string, size_t> EnvState::LiveObjects() const {
  std::map<std::string, size_t> live{{"tensors", 0},
                                     {"weights", 0},
                                     {"tables", 0},
                                     {"devices", 0},
                                     {"guards", 0},
                                     {"files", 0},
                                     {"handles", shells_.size()},
                                     {"views", 0},
                                     {"mappings", files_.size()},
                                     {"requests", pending_},
                                     {"programs", 0},
                                     {"locks", 0}};
  shells_.ForEach([&](const Shell& shell) {
    if (shell.tensor) ++live["tensors"];
    if (shell.weight) ++live["weights"];
    if (shell.table) ++live["tables"];
    if (shell.device) ++live["devices"];
    if (shell.guard) ++live["guards"];
    if (shell.file) ++live["files"];
    if (shell.program) ++live["programs"];
    if (shell.lock) ++live["locks"];
  });
  for (const auto& file : files_) live["views"] += file->views.size();
  return live;
}

// ---- work --------------------------------------------------------------------------------------

void EnvState::RefuseRecording(const Device& device, const char* op) {
  if (device.recording)
    Throw("ERR_UNSUPPORTED", op, "cannot be part of a program, which is being recorded on ",
          device.name(), ": make inputs before the recording, and read outputs after a run");
}

void EnvState::Inject(Command& command) {
  const auto inject = [this](Step& step) {
    const auto injected = injected_.find(step.op);
    if (injected == injected_.end()) return;
    step.run = [op = step.op, message = injected->second](Scratch, Context&) {
      Throw("ERR_ARGUMENT", op, message);
    };
    injected_.erase(injected);
  };
  inject(command);
  if (!command.steps) return;
  const auto failing = std::make_shared<Steps>();  // without the graphs
  failing->steps = command.steps->steps;
  failing->made = command.steps->made;
  for (Step& step : failing->steps) inject(step);
  command.steps = failing;
}

void EnvState::Enqueue(Device& device, Command command) {
  RefuseRecording(device, command.op);
  // A command whose end the program awaits, as a read, is let in: its call is asynchronous.
  if (!command.done && device.stream().full()) {
    PollDead();
    device.stream().WaitBelowHalf();
  }
  command.tag = tag;
  if (!injected_.empty()) {
    device.stream().Synchronize();  // a queued run may have the steps that Inject copies
    Inject(command);
  }
  device.stream().Enqueue(std::move(command));
}

Napi::Promise EnvState::NewRequest(Request** out, Napi::ArrayBuffer* buffer) {
  auto request = std::make_unique<Request>();
  napi_value promise = nullptr;
  if (napi_create_promise(env_, &request->deferred, &promise) != napi_ok)
    throw Napi::Error::New(env_);
  if (buffer != nullptr && napi_create_reference(env_, *buffer, 1, &request->buffer) != napi_ok)
    throw Napi::Error::New(env_);
  if (pending_++ == 0) napi_ref_threadsafe_function(env_, wake_);
  *out = request.release();
  return Napi::Promise(env_, promise);
}

void EnvState::Complete(Request* request) {
  const std::lock_guard lock(mutex_);
  completed_.push_back(request);
  // One wake-up settles everything that is there.
  if (!closed_ && completed_.size() == 1)
    napi_call_threadsafe_function(wake_, nullptr, napi_tsfn_nonblocking);
}

void EnvState::Settle() {
  std::vector<Request*> completed;
  {
    const std::lock_guard lock(mutex_);
    completed.swap(completed_);
  }
  for (Request* raw : completed) {
    const std::unique_ptr<Request> request(raw);
    const Napi::HandleScope scope(env_);
    if (--pending_ == 0) napi_unref_threadsafe_function(env_, wake_);
    napi_value value = Napi::Env(env_).Undefined();
    if (request->buffer != nullptr) {
      napi_get_reference_value(env_, request->buffer, &value);
      napi_delete_reference(env_, request->buffer);
    }
    if (!request->failure) {
      napi_resolve_deferred(env_, request->deferred, value);
      continue;
    }
    const Failure& failure = *request->failure;
    try {
      value = MakeError(env_, failure.code, failure.op, failure.message, failure.tag).Value();
    } catch (const Napi::Error& error) {  // the factory threw
      value = error.Value();
    }
    napi_reject_deferred(env_, request->deferred, value);
  }
}

}  // namespace lora::node
