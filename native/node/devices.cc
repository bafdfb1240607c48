// Exports devices, threads, memory, and how errors are made and queues limited.
#include "core/runtime/devices.h"

#include <utility>
#include <vector>

#include "node/api.h"
#include "node/env_state.h"
#include "node/errors.h"
#include "node/op_call.h"
#include "node/parse.h"

namespace lora::node {
namespace {

Napi::Value SetErrorFactory(const Napi::CallbackInfo& info) {
  LORA_CHECK(info[0].IsFunction(), "native", "expected an error factory to be a function");
  EnvState::Get(info.Env())->error_factory = Napi::Persistent(info[0].As<Napi::Function>());
  return info.Env().Undefined();
}

Napi::Value SetTag(const Napi::CallbackInfo& info) {
  EnvState::Get(info.Env())->tag = ParseInteger(info[0], "native", "tag", -(int64_t{1} << 53));
  return info.Env().Undefined();
}

Napi::Value OpenDevice(const Napi::CallbackInfo& info) {
  return EnvState::Get(info.Env())->OpenDevice(ParseString(info[0], "device", "name"));
}

Napi::Value OpenDeviceLater(const Napi::CallbackInfo& info) {
  return EnvState::Get(info.Env())->OpenDeviceLater(ParseString(info[0], "device", "name"));
}

Napi::Value Devices(const Napi::CallbackInfo& info) {
  Napi::Object cpu = Napi::Object::New(info.Env());
  cpu.Set("id", "cpu");
  cpu.Set("name", CpuName());
  cpu.Set("memoryBytes", static_cast<double>(TotalMemory()));
  Napi::Array devices = Napi::Array::New(info.Env());
  devices.Set(0u, cpu);
  for (int ordinal = 0; ordinal < cuda::DeviceCount(); ++ordinal) {
    const cuda::DeviceSummary summary = cuda::Describe(ordinal);
    Napi::Object gpu = Napi::Object::New(info.Env());
    gpu.Set("id", summary.id);
    gpu.Set("name", summary.name);
    gpu.Set("memoryBytes", static_cast<double>(summary.memory_bytes));
    gpu.Set("computeCapability", summary.compute_capability);
    devices.Set(devices.Length(), gpu);
  }
  return devices;
}

Napi::Value CudaReason(const Napi::CallbackInfo& info) {
  if (CudaBackend() != nullptr) return info.Env().Null();
  return Napi::String::New(info.Env(), CudaUnavailableReason());
}

Napi::Value CudaFacts(const Napi::CallbackInfo& info) {
  Napi::Object facts = Napi::Object::New(info.Env());
  for (const cuda::Fact& fact : cuda::Facts()) facts.Set(fact.name, fact.value);
  return facts;
}

Napi::Value CpuInfo(const Napi::CallbackInfo& info) {
  EnvState& state = *EnvState::Get(info.Env());
  Napi::Object result = Napi::Object::New(info.Env());
  const auto array = [&](const std::vector<std::string>& names) {
    Napi::Array values = Napi::Array::New(info.Env());
    for (const std::string& name : names) values.Set(values.Length(), name);
    return values;
  };
  result.Set("target", cpu::ActiveTarget());
  result.Set("highwayVersion", cpu::HighwayVersion());
  result.Set("targets", array(cpu::UsableTargets()));
  if (const auto missing = cpu::MissingTargets(); !missing.empty())
    result.Set("missingTargets", array(missing));
  result.Set("threads", state.threads());
  return result;
}

Napi::Value SetThreads(const Napi::CallbackInfo& info) {
  EnvState::Get(info.Env())
      ->SetThreads(static_cast<int>(ParseInteger(info[0], "set_threads", "threads", 1, 1024)));
  return info.Env().Undefined();
}

Napi::Value MemoryUsage(const Napi::CallbackInfo& info) {
  const EnvState& state = *EnvState::Get(info.Env());
  Napi::Object by_device = Napi::Object::New(info.Env());
  for (const auto& [name, device] : state.devices())
    by_device.Set(name, static_cast<double>(device->bytes));
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("tensors", static_cast<double>(state.tensors()));
  result.Set("bytes", static_cast<double>(state.bytes()));
  result.Set("byDevice", by_device);
  result.Set("peakBytes", static_cast<double>(state.peak_bytes()));
  return result;
}

Napi::Value WatchPeak(const Napi::CallbackInfo& info) {
  EnvState::Get(info.Env())->WatchPeak();
  return info.Env().Undefined();
}

Napi::Value WatchedPeakBytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(),
                           static_cast<double>(EnvState::Get(info.Env())->watched_peak_bytes()));
}

Napi::Value LiveObjects(const Napi::CallbackInfo& info) {
  Napi::Object result = Napi::Object::New(info.Env());
  for (const auto& [kind, count] : EnvState::Get(info.Env())->LiveObjects())
    result.Set(kind, static_cast<double>(count));
  return result;
}

Device& DeviceOf(const Napi::CallbackInfo& info) {
  return *EnvState::Get(info.Env())->Unwrap(info[0], Kind::kDevice, "synchronize", "device").device;
}

// requireF16(device, op), for a model or a layer before it has an op to run.
Napi::Value RequireF16Activations(const Napi::CallbackInfo& info) {
  const auto device =
      EnvState::Get(info.Env())->Unwrap(info[0], Kind::kDevice, "native", "device").device;
  const std::string op = ParseString(info[1], "native", "op");
  LORA_CHECK(!op.empty(), "native", "expected op to be the name of a call but received \"\"");
  RequireF16(*device, op.c_str());
  return info.Env().Undefined();
}

Napi::Value Synchronize(const Napi::CallbackInfo& info) {
  EnvState& state = *EnvState::Get(info.Env());
  Device& device = DeviceOf(info);
  state.RefuseRecording(device, "synchronize");
  Request* request = nullptr;
  const Napi::Promise promise = state.NewRequest(&request, nullptr);
  Command command;
  command.op = "synchronize";
  command.done = [&state, request](const FailurePtr& failure) {
    request->failure = failure;
    state.Complete(request);
  };
  state.Enqueue(device, std::move(command));
  return promise;
}

// Hands the memory that no tensor holds back to the system, once the commands so far have run.
Napi::Value Trim(const Napi::CallbackInfo& info) {
  EnvState& state = *EnvState::Get(info.Env());
  state.PollDead();
  DeviceOf(info).Trim(0);
  return info.Env().Undefined();
}

// Returns the bytes that can be taken without collecting garbage: what the system or the limit
// leaves, and what is kept for later tensors, which a call that needs it gives back first.
Napi::Value FreeBytes(const Napi::CallbackInfo& info) {
  Allocator& allocator = DeviceOf(info).allocator();
  return Napi::Number::New(info.Env(),
                           static_cast<double>(allocator.source().free() + allocator.cached()));
}

// copiedBytes(dtype, rows, widths)
Napi::Value CopiedBytes(const Napi::CallbackInfo& info) {
  const DType dtype = ParseDType(info[0], "native");
  LORA_CHECK(dtype == DType::kF32 || dtype == DType::kBF16, "native",
             "expected dtype to be f32 or bf16 but received ", NameOf(dtype));
  const int64_t rows = ParseInteger(info[1], "native", "rows");
  const Shape shape = ParseShape(info[2], "native");
  const std::vector<size_t> widths(shape.begin(), shape.end());
  const size_t bytes =
      CpuBackend().copied_bytes(dtype == DType::kBF16, static_cast<size_t>(rows), widths);
  return Napi::Number::New(info.Env(), static_cast<double>(bytes));
}

// Returns null when the queue is half empty, else a promise that it is. Who awaits it finds the
// other half free; a full queue would make a call wait, which holds the event loop.
Napi::Value RoomInQueue(const Napi::CallbackInfo& info) {
  EnvState& state = *EnvState::Get(info.Env());
  Device& device = DeviceOf(info);
  if (device.stream().half_empty()) return info.Env().Null();
  state.PollDead();
  Request* request = nullptr;
  const Napi::Promise promise = state.NewRequest(&request, nullptr);
  device.stream().WhenBelowHalf([&state, request] { state.Complete(request); });
  return promise;
}

Napi::Value SynchronizeSync(const Napi::CallbackInfo& info) {
  DeviceOf(info).stream().Synchronize();
  return info.Env().Undefined();
}

Napi::Value StartProfile(const Napi::CallbackInfo& info) {
  Device& device = DeviceOf(info);
  LORA_CHECK(!device.profile, "profile", "expected one profile at a time on ", device.name(),
             " but another is on: call endProfile first");
  device.profile = std::make_shared<Profile>();
  return info.Env().Undefined();
}

Napi::Value EndProfile(const Napi::CallbackInfo& info) {
  Device& device = DeviceOf(info);
  device.stream().Synchronize();
  const std::shared_ptr<Profile> profile = std::exchange(device.profile, nullptr);
  LORA_CHECK(profile, "profile", "expected a profile to be on for ", device.name(),
             " but it is not: call startProfile first");
  Napi::Array entries = Napi::Array::New(info.Env());
  for (const auto& [key, entry] : profile->entries()) {
    Napi::Object object = Napi::Object::New(info.Env());
    object.Set("op", entry->op);
    object.Set("shape", entry->work.shape);
    object.Set("calls", static_cast<double>(entry->calls));
    object.Set("ms", static_cast<double>(entry->nanoseconds) / 1e6);
    object.Set("flops", entry->work.flops);
    object.Set("bytes", entry->work.bytes);
    entries.Set(entries.Length(), object);
  }
  return entries;
}

// activity(device): { launches, waits, graphs, refused, refusal }
Napi::Value ActivityOf(const Napi::CallbackInfo& info) {
  const Activity activity = DeviceOf(info).activity();
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("launches", static_cast<double>(activity.launches));
  object.Set("waits", static_cast<double>(activity.waits));
  object.Set("graphs", static_cast<double>(activity.graphs));
  object.Set("refused", static_cast<double>(activity.refused));
  object.Set("refusal", activity.refusal);
  return object;
}

Napi::Value SetQueueLimits(const Napi::CallbackInfo& info) {
  const Napi::Object limits = ParseObject(info[0], "native", "limits");
  EnvState::Get(info.Env())
      ->SetLimits(
          {static_cast<size_t>(ParseInteger(limits.Get("commands"), "native", "commands", 1)),
           static_cast<size_t>(ParseInteger(limits.Get("bytes"), "native", "bytes", 1))});
  return info.Env().Undefined();
}

}  // namespace

void RegisterDevices(Napi::Env env, Napi::Object exports) {
  Export<SetErrorFactory>(env, exports, "setErrorFactory");
  Export<SetTag>(env, exports, "setTag");
  Export<OpenDevice>(env, exports, "openDevice");
  Export<OpenDeviceLater>(env, exports, "openDeviceLater");
  Export<Devices>(env, exports, "devices");
  Export<CudaReason>(env, exports, "cudaUnavailableReason");
  Export<CudaFacts>(env, exports, "cudaFacts");
  Export<RequireF16Activations>(env, exports, "requireF16");
  Export<CpuInfo>(env, exports, "cpuInfo");
  Export<SetThreads>(env, exports, "setThreads");
  Export<MemoryUsage>(env, exports, "memoryUsage");
  Export<WatchPeak>(env, exports, "watchPeak");
  Export<WatchedPeakBytes>(env, exports, "watchedPeakBytes");
  Export<LiveObjects>(env, exports, "liveObjects");
  Export<Synchronize>(env, exports, "synchronize");
  Export<Trim>(env, exports, "trim");
  Export<FreeBytes>(env, exports, "freeBytes");
  Export<CopiedBytes>(env, exports, "copiedBytes");
  Export<RoomInQueue>(env, exports, "roomInQueue");
  Export<SynchronizeSync>(env, exports, "synchronizeSync");
  Export<StartProfile>(env, exports, "startProfile");
  Export<EndProfile>(env, exports, "endProfile");
  Export<ActivityOf>(env, exports, "activity");
  Export<SetQueueLimits>(env, exports, "setQueueLimits");
}

}  // namespace lora::node
