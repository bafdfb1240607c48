// Exports recorded programs (core/runtime/program.h): how one is recorded and run.
#include <utility>

#include "node/api.h"
#include "node/env_state.h"
#include "node/errors.h"

namespace lora::node {
namespace {

constexpr const char* kOp = "program";

std::shared_ptr<Device> RecordingDevice(const Napi::CallbackInfo& info) {
  return EnvState::Get(info.Env())->Unwrap(info[0], Kind::kDevice, kOp, "device").device;
}

std::shared_ptr<Program> TakeRecording(Device& device) {
  LORA_CHECK(device.recording, kOp, "expected a program to be recorded on ", device.name(),
             " but there is none");
  return std::exchange(device.recording, nullptr);
}

void Prepare(EnvState& state, Program& program) {
  program.Prepare([&](size_t bytes) { return state.NewStorage(program.device(), bytes, kOp); });
}

Napi::Value BeginRecording(const Napi::CallbackInfo& info) {
  const std::shared_ptr<Device> device = RecordingDevice(info);
  LORA_CHECK(!device->recording, kOp, "expected one program at a time on ", device->name(),
             " but another is being recorded");
  device->recording = std::make_shared<Program>(device);
  return info.Env().Undefined();
}

Napi::Value EndRecording(const Napi::CallbackInfo& info) {
  EnvState& state = *EnvState::Get(info.Env());
  const std::shared_ptr<Program> program = TakeRecording(*RecordingDevice(info));
  Prepare(state, *program);
  return state.Wrap({.kind = Kind::kProgram, .program = program});
}

Napi::Value AbandonRecording(const Napi::CallbackInfo& info) {
  TakeRecording(*RecordingDevice(info));
  return info.Env().Undefined();
}

Napi::Value RunProgram(const Napi::CallbackInfo& info) {
  EnvState& state = *EnvState::Get(info.Env());
  const std::shared_ptr<Program> program =
      state.Unwrap(info[0], Kind::kProgram, kOp, "program").program;
  if (!program) Throw("ERR_DISPOSED", kOp, "program was disposed");
  state.RefuseRecording(*program->device(), kOp);
  Prepare(state, *program);
  state.Enqueue(*program->device(), program->Run());
  return info.Env().Undefined();
}

}  // namespace

void RegisterPrograms(Napi::Env env, Napi::Object exports) {
  Export<BeginRecording>(env, exports, "beginRecording");
  Export<EndRecording>(env, exports, "endRecording");
  Export<AbandonRecording>(env, exports, "abandonRecording");
  Export<RunProgram>(env, exports, "runProgram");
}

}  // namespace lora::node
