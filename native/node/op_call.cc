#include "node/op_call.h"

namespace lora::node {

void RequireF16(const Device& device, const char* label) {
  if (device.backend().f16_activations) return;
  Throw("ERR_UNSUPPORTED", label, "f16 activations are for inference on GPUs; use bf16 on ",
        device.name());
}

OpCall::OpCall(const Napi::CallbackInfo& info, const char* op, const char* label)
    : env_(info.Env()), state_(*EnvState::Get(info.Env())), op_(op), label_(label) {
  constexpr size_t kMax = 16;  // of most ops
  operands_.reserve(kMax);
  held_.reserve(kMax);
}

void OpCall::Join(const std::shared_ptr<Device>& device, const char* name) {
  if (!device_) device_ = device;
  LORA_CHECK(device_ == device, label_, "expected ", name, " on ", device_->name(),
             " (the device of the other operands) but received one on ", device->name());
}

TensorView OpCall::Operand(Napi::Value value, const char* name, Access access, Form form) {
  const TensorRef& tensor = state_.Tensor(value, label_, name);
  TensorView view = tensor.view();
  writes_ |= access != Access::kIn && view.numel() > 0;
  if (access == Access::kOut && view.bytes() != tensor.storage->bytes()) access = Access::kInOut;
  Join(tensor.storage->device(), name);
  operands_.push_back({tensor.storage->status(), access});
  held_.push_back(tensor.storage);
  if (form == Form::kSame) return view;

  const int rank = view.shape.rank(), leading = form == Form::kRows ? rank - 1 : rank;
  LORA_CHECK(leading >= 0, label_, "expected ", name,
             " of at least one dimension but received a scalar");
  Shape lead;
  int64_t rows = 1;
  for (int i = 0; i < leading; ++i) {
    lead.push_back(view.shape[i]);
    rows *= view.shape[i];
  }
  if (lead_name_ == nullptr) {
    lead_ = lead;
    lead_name_ = name;
  }
  view.shape = form == Form::kRows ? Shape{rows, view.shape[-1]} : Shape{rows};
  return view;
}

void OpCall::Weight(PackedView* view, Napi::Value value, const char* name) {
  const std::shared_ptr<WeightRef> weight = state_.Weight(value, label_, name);
  const StoragePtr& packed = weight->packed;
  Join(packed->device(), name);
  operands_.push_back({packed->status(), Access::kIn});
  held_.push_back(packed);
  *view = PackedView{packed->data(), weight->dtype, weight->rows, weight->cols, weight->format};
}

void OpCall::Table(DeltaTableView* view, Napi::Value value, const char* name) {
  const std::shared_ptr<TableRef> table = state_.Table(value, label_, name);
  Join(table->entries->device(), name);
  operands_.push_back({table->entries->status(), Access::kIn});
  // It holds the table, and with it the tensors that the entries name.
  held_.push_back(StoragePtr(table, table->entries.get()));
  *view = table->view;
}

void OpCall::On(Napi::Value device) {
  Join(state_.Unwrap(device, Kind::kDevice, label_, "device").device, "device");
}

void OpCall::Out(TensorView* view, const Result& result, Form form) {
  if (!result.present) return;
  CheckElements(result.shape, label_);
  *view = TensorView(nullptr, result.dtype, result.shape);
  Shape seen = result.shape;
  if (form == Form::kScalar) seen = {};
  if (form == Form::kRows) {
    LORA_CHECK(lead_.rank() < kMaxDims, label_, "expected ", lead_name_, " of at most ",
               kMaxDims - 1, " dimensions but received shape ", lead_);
    seen = lead_;
    seen.push_back(result.shape[-1]);
  }
  outputs_.push_back({view, nullptr, seen});
  writes_ |= result.shape.numel() > 0;
}

void OpCall::Packed(void** data, const WeightRef& weight) {
  state_.RefuseRecording(*device_, label_);
  packed_ = std::make_shared<WeightRef>(weight);
  packed_data_ = data;
  writes_ = true;
}

size_t OpCall::PackedBytes() const {
  if (!packed_) return 0;
  return device_->backend().packed_bytes(packed_->rows, packed_->cols, packed_->format);
}

bool OpCall::AllocateOutputs() {
  if (packed_) {
    if (!device_->backend().reads(packed_->format, packed_->dtype))
      Throw("ERR_UNSUPPORTED", label_, device_->name(), " does not read ", NameOf(packed_->format),
            " weights for ", NameOf(packed_->dtype), " activations");
    packed_->packed = state_.TryNewStorage(device_, PackedBytes());
    if (!packed_->packed) return false;
    *packed_data_ = packed_->packed->data();
    operands_.push_back({packed_->packed->status(), Access::kOut});
  }
  for (Output& output : outputs_) {
    output.storage = state_.TryNewStorage(device_, output.view->bytes());
    if (!output.storage) return false;
    if (output.view->dtype == DType::kI32) output.storage->KeepHostCopy();
    output.view->data = output.storage->data();
    output.view->host_copy = output.storage->status()->host_copy.get();
    operands_.push_back({output.storage->status(), Access::kOut});
  }
  return true;
}

void OpCall::ThrowOutOfMemory(size_t scratch_bytes) {
  size_t needed = scratch_bytes + PackedBytes();
  if (packed_) packed_->packed.reset();
  for (Output& output : outputs_) {
    needed += output.view->bytes();
    output.storage.reset();
  }
  device_->Trim(0);
  device_->stream().Synchronize();
  state_.ThrowOutOfMemory(*device_, needed, label_);
}

void OpCall::Enqueue(const Block& scratch, PlannedCall call) {
  Command command;
  command.op = op_;
  command.operands = operands_;
  command.guard = guard_;
  if (packed_) command.bytes = packed_->packed->bytes();
  command.scratch = Scratch(static_cast<std::byte*>(scratch.data), call.scratch_bytes);
  command.run = std::move(call.run);
  state_.Enqueue(*device_, std::move(command));
  // Stream-ordered: later commands may have it. Not before this one is queued, because a full queue
  // makes Enqueue give memory back to the system, by a command that would then run first.
  device_->allocator().Free(scratch);
}

void OpCall::Record(PlannedCall call, Program::Planner plan) {
  Step step;
  step.op = op_;
  step.operands = operands_;
  step.guard = guard_;
  device_->recording->Record(std::move(step), held_, std::move(call), std::move(plan));
}

Napi::Value OpCall::PackedResult() const {
  return state_.Wrap({.kind = Kind::kWeight, .weight = packed_});
}

Napi::Value OpCall::ResultOf(const TensorView& view) {
  for (const Output& output : outputs_)
    if (output.view == &view) return state_.WrapTensor(output.storage, 0, view.dtype, output.seen);
  return env_.Null();
}

}  // namespace lora::node
