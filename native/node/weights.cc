// pack(), which makes a frozen matrix, and release(), which drops a reference of any kind.
#include <span>

#include "node/api.h"
#include "node/op_call.h"

namespace lora::node {
namespace {

WeightFormat ParseFormat(Napi::Value value, const char* op) {
  const std::span names = std::span(kFormatNames).first(kFormatsOfJavaScript);
  return static_cast<WeightFormat>(ParseChoice(value, op, "format", names));
}

// reads(device, format, activation dtype)
Napi::Value Reads(const Napi::CallbackInfo& info) {
  EnvState& state = *EnvState::Get(info.Env());
  const auto device = state.Unwrap(info[0], Kind::kDevice, "pack", "device").device;
  const WeightFormat format = ParseFormat(info[1], "pack");
  const bool reads = device->backend().reads(format, ParseDType(info[2], "pack"));
  return Napi::Boolean::New(info.Env(), reads);
}

// pack(weight, scales, format, shape, activation dtype)
Napi::Value Pack(const Napi::CallbackInfo& info) {
  EnvState& state = *EnvState::Get(info.Env());
  const TensorRef tensor = state.Tensor(info[0], "pack", "weight");
  const std::shared_ptr<Device>& device = tensor.storage->device();
  state.RefuseRecording(*device, "pack");
  PackArgs args;
  args.src = tensor.view();
  Command command;
  command.operands = {{tensor.storage->status(), Access::kIn}};
  TensorRef scales;
  if (!IsNone(info[1])) {
    scales = state.Tensor(info[1], "pack", "scales");
    LORA_CHECK(scales.storage->device() == device, "pack", "expected scales on ", device->name(),
               " (the device of weight) but received them on ", scales.storage->device()->name());
    args.scales = scales.view();
    command.operands.push_back({scales.storage->status(), Access::kIn});
  }
  const WeightFormat format = args.format = ParseFormat(info[2], "pack");
  const Shape shape = ParseShape(info[3], "pack");
  LORA_CHECK(shape.rank() == 2 && shape[0] >= 0 && shape[1] >= 0, "pack",
             "expected a shape [out, in] but received ", shape);
  const int64_t rows = args.rows = shape[0], cols = args.cols = shape[1];
  const DType dtype = ParseDType(info[4], "pack");
  args.dst = args.src.data;  // stands in until the checks are done
  Check(args);
  if (dtype == DType::kF16) RequireF16(*device, "pack");  // of the activations
  const Backend& backend = device->backend();
  if (!backend.reads(format, dtype))
    Throw("ERR_UNSUPPORTED", "pack", device->name(), " does not read ", NameOf(format),
          " weights for ", NameOf(dtype), " activations");
  const StoragePtr packed =
      state.NewStorage(device, backend.packed_bytes(rows, cols, format), "pack");
  args.dst = packed->data();
  command.op = "pack";
  command.operands.push_back({packed->status(), Access::kOut});
  command.bytes = packed->bytes();
  command.run = backend.op<PackArgs>().plan(args, device->stream().threads()).run;  // no scratch
  state.Enqueue(*device, std::move(command));
  auto weight = std::make_shared<WeightRef>(WeightRef{packed, format, dtype, rows, cols});
  return state.Wrap({.kind = Kind::kWeight, .weight = std::move(weight)});
}

Napi::Value Release(const Napi::CallbackInfo& info) {
  EnvState& state = *EnvState::Get(info.Env());
  Shell* shell = state.Find(info[0]);
  const bool releasable =
      shell != nullptr && (shell->kind == Kind::kWeight || shell->kind == Kind::kTable ||
                           shell->kind == Kind::kProgram);
  if (!releasable) shell = &state.Unwrap(info[0], Kind::kTensor, "release", "reference");
  state.Release(*shell);
  return info.Env().Undefined();
}

}  // namespace

void RegisterWeights(Napi::Env env, Napi::Object exports) {
  Export<Reads>(env, exports, "reads");
  Export<Pack>(env, exports, "pack");
  Export<Release>(env, exports, "release");
}

}  // namespace lora::node
