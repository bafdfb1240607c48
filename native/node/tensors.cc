// Exports storage: how it is made, filled, viewed, read, moved between devices and released.
#include <condition_variable>
#include <cstring>

#include "core/runtime/platform/platform.h"
#include "node/api.h"
#include "node/op_call.h"

namespace lora::node {
namespace {

// Larger ArrayBuffers do not fit a typed array of Node 20.
constexpr double kMaxRead = 4294967296.0;

size_t BytesOf(const Shape& shape, DType dtype) {
  return static_cast<size_t>(shape.numel()) * SizeOf(dtype);
}

const std::shared_ptr<Device>& DeviceOf(EnvState& state, Napi::Value value, const char* op) {
  return state.Unwrap(value, Kind::kDevice, op, "device").device;
}

// Of whole numbers the host keeps a copy, because they are ids, slots or lengths, which ops check.
StoragePtr NewTensor(EnvState& state, const std::shared_ptr<Device>& device, DType dtype,
                     const Shape& shape, const char* op) {
  StoragePtr storage = state.NewStorage(device, BytesOf(shape, dtype), op);
  if (dtype == DType::kI32) storage->KeepHostCopy();
  return storage;
}

Napi::Value Alloc(const Napi::CallbackInfo& info) {
  EnvState& state = *EnvState::Get(info.Env());
  const auto& device = DeviceOf(state, info[0], "alloc");
  const DType dtype = ParseDType(info[1], "alloc");
  const Shape shape = ParseShape(info[2], "alloc");
  return state.WrapTensor(NewTensor(state, device, dtype, shape, "alloc"), 0, dtype, shape);
}

// Returns the data of a typed array of the size that a tensor has.
const std::byte* HostBytes(Napi::Value value, const Shape& shape, DType dtype, const char* op) {
  LORA_CHECK(value.IsTypedArray(), op, "expected bytes to be a Uint8Array");
  const auto array = value.As<Napi::TypedArray>();
  const size_t bytes = BytesOf(shape, dtype);
  LORA_CHECK(array.ByteLength() == bytes, op, "expected ", bytes, " bytes for shape ", shape,
             " of ", NameOf(dtype), " but received ", array.ByteLength());
  // Not through Napi::ArrayBuffer, which cannot be had of shared memory.
  void* data = nullptr;
  napi_get_typedarray_info(value.Env(), array, nullptr, nullptr, &data, nullptr, nullptr);
  return static_cast<const std::byte*>(data);
}

// Writes a tensor in stream order, and has copied the bytes when it returns. `unused` tells that no
// command can be using the memory.
void Write(EnvState& state, const TensorRef& to, const std::byte* from, bool unused,
           const char* op) {
  const TensorView view = to.view();
  const size_t bytes = view.bytes();
  if (bytes == 0) return;
  const StatusPtr& status = to.storage->status();
  const Access access = bytes == to.storage->bytes() ? Access::kOut : Access::kInOut;
  Device& device = *to.storage->device();
  if (unused && device.host_memory()) {
    // The copy need not wait for its turn.
    if (access == Access::kOut) status->failure = nullptr;
    if (!status->failure) std::memcpy(view.data, from, bytes);
    return;
  }
  Command command;
  command.op = op;
  command.operands = {{status, access}};
  command.bytes = bytes;
  command.copies_from_host = true;
  command.run = [&device, address = view.data, copy = status->host_copy.get(),
                 staged = std::vector<std::byte>(from, from + bytes)](Scratch, Context& context) {
    device.CopyTo(address, staged.data(), staged.size(), context);
    if (copy) copy->Wrote(address, staged.data(), staged.size());
  };
  state.Enqueue(device, std::move(command));
}

Napi::Value FromBytes(const Napi::CallbackInfo& info) {
  const char* op = "tensor";
  EnvState& state = *EnvState::Get(info.Env());
  const auto& device = DeviceOf(state, info[0], op);
  state.RefuseRecording(*device, op);
  const DType dtype = ParseStoredDType(info[1], op);
  const Shape shape = ParseShape(info[2], op);
  const std::byte* const from = HostBytes(info[3], shape, dtype, op);
  const TensorRef tensor{NewTensor(state, device, dtype, shape, op), 0, dtype, shape};
  Write(state, tensor, from, tensor.storage->fresh() || device->stream().idle(), op);
  return state.WrapTensor(tensor.storage, 0, dtype, shape);
}

// writeBytes(tensor, bytes)
Napi::Value WriteBytes(const Napi::CallbackInfo& info) {
  const char* op = "write";
  EnvState& state = *EnvState::Get(info.Env());
  const TensorRef tensor = state.Tensor(info[0], op, "tensor");
  Device& device = *tensor.storage->device();
  state.RefuseRecording(device, op);
  const std::byte* const from = HostBytes(info[1], tensor.shape, tensor.dtype, op);
  Write(state, tensor, from, device.stream().idle(), op);
  return info.Env().Undefined();
}

Napi::Value View(const Napi::CallbackInfo& info) {
  const char* op = "view";
  EnvState& state = *EnvState::Get(info.Env());
  const TensorRef tensor = state.Tensor(info[0], op, "tensor");
  const int64_t offset = ParseInteger(info[1], op, "elementOffset");
  const Shape shape = ParseShape(info[2], op);
  const int64_t numel = tensor.shape.numel();
  LORA_CHECK(offset <= numel && shape.numel() <= numel - offset, op, "expected shape ", shape,
             " from element ", offset, " on to lie within ", numel, " elements");
  return state.WrapTensor(tensor.storage,
                          tensor.offset + static_cast<size_t>(offset) * SizeOf(tensor.dtype),
                          tensor.dtype, shape);
}

// What V8 may take for itself while it makes an ArrayBuffer.
constexpr size_t kRoomOfRuntime = size_t{4} << 20;

// Whether malloc gives so many bytes: under ulimit -v it may not, however much memory is free.
bool HasAddresses(size_t bytes) {
  constexpr size_t kAlignment = 64;
  void* probe = platform::AllocateAligned(kAlignment, (bytes + kAlignment - 1) & ~(kAlignment - 1));
  if (probe == nullptr) return false;
  platform::FreeAligned(probe);
  return true;
}

Napi::ArrayBuffer NewBuffer(Napi::Env env, const TensorRef tensor) {
  const size_t bytes = tensor.view().bytes();
  // V8 ends the process when an ArrayBuffer does not fit, so the size is checked first.
  if (static_cast<double>(bytes) > kMaxRead)
    Throw("ERR_UNSUPPORTED", "read", "cannot read ", bytes, " bytes at once: the limit is 4 GiB");
  if (bytes > (size_t{1} << 20)) {
    const size_t free = AvailableMemory();
    if (bytes > free)
      Throw("ERR_OUT_OF_MEMORY", "read", "needs ", MiBText(bytes, Rounding::kUp), " but only ",
            MiBText(free, Rounding::kDown), " are free on cpu");
    if (!HasAddresses(bytes + kRoomOfRuntime))
      Throw("ERR_OUT_OF_MEMORY", "read", "needs ", bytes,
            " bytes, which a limit on the addresses of this process denies");
  }
  return Napi::ArrayBuffer::New(env, bytes);
}

// Runs in a command of the device's stream. It waits for no device where the host has the values.
void ReadInto(void* to, const TensorView& from, Device& device, Context& context) {
  if (from.bytes() == 0) return;
  if (const TensorView known = from.on_host()) {
    std::memcpy(to, known.data, known.bytes());
  } else {
    device.CopyFrom(to, from.data, from.bytes(), context);
  }
}

Napi::Value Read(const Napi::CallbackInfo& info) {
  EnvState& state = *EnvState::Get(info.Env());
  const TensorRef tensor = state.Tensor(info[0], "read", "tensor");
  state.RefuseRecording(*tensor.storage->device(), "read");
  Napi::ArrayBuffer buffer = NewBuffer(info.Env(), tensor);
  Request* request = nullptr;
  const Napi::Promise promise = state.NewRequest(&request, &buffer);
  Device& device = *tensor.storage->device();
  Command command;
  command.op = "read";
  command.operands = {{tensor.storage->status(), Access::kIn}};
  command.bytes = buffer.ByteLength();
  command.run = [&device, to = buffer.Data(), from = tensor.view()](Scratch, Context& context) {
    ReadInto(to, from, device, context);
  };
  command.done = [&state, request](const FailurePtr& failure) {
    request->failure = failure;
    state.Complete(request);
  };
  state.Enqueue(device, std::move(command));
  return promise;
}

Napi::Value ReadSync(const Napi::CallbackInfo& info) {
  EnvState& state = *EnvState::Get(info.Env());
  const TensorRef tensor = state.Tensor(info[0], "read", "tensor");
  Napi::ArrayBuffer buffer = NewBuffer(info.Env(), tensor);
  Device& device = *tensor.storage->device();
  FailurePtr failed;
  Command command;
  command.op = "read";
  command.operands = {{tensor.storage->status(), Access::kIn}};
  command.run = [&device, to = buffer.Data(), from = tensor.view()](Scratch, Context& context) {
    ReadInto(to, from, device, context);
  };
  command.done = [&failed](const FailurePtr& failure) { failed = failure; };
  state.Enqueue(device, std::move(command));
  device.stream().Synchronize();
  if (failed) throw MakeError(info.Env(), failed->code, failed->op, failed->message, failed->tag);
  return buffer;
}

// One device's worker hands this to another's. Each waits only for commands enqueued before its
// own, so two devices never wait for each other.
struct Transfer {
  std::mutex mutex;
  std::condition_variable arrived;
  bool ready = false;
  FailurePtr failure;
  std::vector<std::byte> bytes;
};

Napi::Value ToDevice(const Napi::CallbackInfo& info) {
  EnvState& state = *EnvState::Get(info.Env());
  const TensorRef tensor = state.Tensor(info[0], "to", "tensor");
  const auto device = DeviceOf(state, info[1], "to");
  Device& source = *tensor.storage->device();
  if (device.get() == &source)
    return state.WrapTensor(tensor.storage, tensor.offset, tensor.dtype, tensor.shape);
  state.RefuseRecording(source, "to");
  state.RefuseRecording(*device, "to");
  const TensorView from = tensor.view();
  StoragePtr storage = state.NewStorage(device, from.bytes(), "to");
  const auto transfer = std::make_shared<Transfer>();

  Command out;
  out.op = "to";
  out.operands = {{tensor.storage->status(), Access::kIn}};
  out.bytes = from.bytes();
  out.run = [&source, transfer, from](Scratch, Context& context) {
    transfer->bytes.resize(from.bytes());
    source.CopyFrom(transfer->bytes.data(), from.data, from.bytes(), context);
  };
  out.done = [transfer](const FailurePtr& failure) {
    const std::lock_guard lock(transfer->mutex);
    transfer->failure = failure;
    transfer->ready = true;
    transfer->arrived.notify_all();
  };

  Command in;
  in.op = "to";
  in.operands = {{storage->status(), Access::kOut}};
  in.bytes = from.bytes();
  in.run = [device = device.get(), transfer, to = storage->data()](Scratch, Context& context) {
    std::unique_lock lock(transfer->mutex);
    transfer->arrived.wait(lock, [&] { return transfer->ready; });
    if (transfer->failure) throw transfer->failure;
    device->CopyTo(to, transfer->bytes.data(), transfer->bytes.size(), context);
  };
  state.Enqueue(source, std::move(out));
  state.Enqueue(*device, std::move(in));
  return state.WrapTensor(std::move(storage), 0, tensor.dtype, tensor.shape);
}

Napi::Value Info(const Napi::CallbackInfo& info) {
  const TensorRef tensor = EnvState::Get(info.Env())->Tensor(info[0], "info", "tensor");
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("dtype", NameOf(tensor.dtype));
  result.Set("shape", ToArray(info.Env(), tensor.shape));
  result.Set("device", tensor.storage->device()->name());
  return result;
}

// With a guard, dst keeps its value when src has failed, and the guard remembers the failure.
Napi::Value CopyInto(const Napi::CallbackInfo& info) {
  OpCall call(info, "copy", "copy");
  const bool guarded = !info[2].IsUndefined();
  UnaryArgs args{UnaryKind::kCopy, 1, call.Operand(info[0], "src", Access::kIn),
                 call.Operand(info[1], "dst", guarded ? Access::kUpdate : Access::kOut)};
  if (guarded) {
    call.Guarded(call.state().Unwrap(info[2], Kind::kGuard, call.label(), "guard").guard);
  }
  LORA_CHECK(args.x.shape == args.y.shape, "copy", "expected src of shape ", args.y.shape,
             " (that of dst) but received ", args.x.shape);
  call.Run(args);
  return info.Env().Undefined();
}

}  // namespace

void RegisterTensors(Napi::Env env, Napi::Object exports) {
  Export<Alloc>(env, exports, "alloc");
  Export<FromBytes>(env, exports, "fromBytes");
  Export<WriteBytes>(env, exports, "writeBytes");
  Export<View>(env, exports, "view");
  Export<ToDevice>(env, exports, "toDevice");
  Export<Read>(env, exports, "read");
  Export<ReadSync>(env, exports, "readSync");
  Export<Info>(env, exports, "info");
  Export<CopyInto>(env, exports, "copyInto");
}

}  // namespace lora::node
