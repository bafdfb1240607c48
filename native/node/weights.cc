// pack(), which makes a frozen matrix, quantizeBlocks(), and release(), which drops a reference of
// any kind.
#include <algorithm>
#include <array>
#include <iterator>
#include <span>

#include "core/maths/quantize_blocks.h"
#include "core/ops/quantize_blocks.h"
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

// quantizeBlocks(values, format) → [blocks, held]: the bytes of whole blocks of values; and for
// each of them 1, or 0 where it does not hold its values.
Napi::Value QuantizeBlocks(const Napi::CallbackInfo& info) {
  const char* op = "quantize_blocks";
  EnvState& state = *EnvState::Get(info.Env());
  const TensorRef values = state.Tensor(info[0], op, "values");
  const std::shared_ptr<Device>& device = values.storage->device();
  state.RefuseRecording(*device, op);
  if (&device->backend() != &CpuBackend())
    Throw("ERR_UNSUPPORTED", op, "blocks are written on the CPU, not on ", device->name());
  cpu::BlocksArgs args;
  args.src = values.view();
  LORA_CHECK(
      values.dtype == DType::kF32 || values.dtype == DType::kBF16 || values.dtype == DType::kF16,
      op, "expected values of dtype f32, bf16 or f16 but received ", NameOf(values.dtype));
  std::array<const char*, std::size(kWrittenBlocks)> names;
  std::ranges::transform(kWrittenBlocks, names.begin(),
                         [](WeightFormat format) { return NameOf(format); });
  args.format = kWrittenBlocks[ParseChoice(info[1], op, "format", names)];
  const BlockSize size = TraitsOf(args.format).block;
  const int64_t count = values.shape.numel();
  LORA_CHECK(count % size.values == 0, op, "expected whole blocks of ", size.values, " values (",
             NameOf(args.format), ") but received ", count, " values");
  const int64_t n = count / size.values;
  const StoragePtr blocks = state.NewStorage(device, static_cast<size_t>(n * size.bytes), op);
  const StoragePtr held = state.NewStorage(device, static_cast<size_t>(n), op);
  args.blocks = static_cast<uint8_t*>(blocks->data());
  args.held = static_cast<uint8_t*>(held->data());
  Command command;
  command.op = op;
  command.operands = {{values.storage->status(), Access::kIn},
                      {blocks->status(), Access::kOut},
                      {held->status(), Access::kOut}};
  command.run = [args](Scratch, Context& context) { cpu::QuantizeBlocks(args, context); };
  state.Enqueue(*device, std::move(command));
  Napi::Array results = Napi::Array::New(info.Env(), 2);
  results[0u] = state.WrapTensor(blocks, 0, DType::kI8, {n * size.bytes});
  results[1u] = state.WrapTensor(held, 0, DType::kI8, {n});
  return results;
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
  Export<QuantizeBlocks>(env, exports, "quantizeBlocks");
  Export<Release>(env, exports, "release");
}

}  // namespace lora::node
