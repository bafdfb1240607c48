#include "node/op_call.h"

namespace lora::node {
namespace {

// Enqueues a helper op (pack, unpack) with scratch of its own.
template <class Args>
void EnqueueHelper(EnvState& state, Device& device, const char* name, const char* label,
                   const Op<Args>& op, const Args& args, std::vector<Operand> operands) {
  const size_t bytes = op.scratch_bytes(args, device.stream().threads());
  const Block scratch = state.Allocate(device, bytes, label);
  const Scratch span(static_cast<std::byte*>(scratch.data), bytes);
  Command command;
  command.op = name;
  command.operands = std::move(operands);
  command.bytes = bytes;
  command.run = [args, span, run = op.run](Context& context) { run(args, span, context); };
  state.Enqueue(device, std::move(command));
  device.allocator().Free(scratch);  // stream-ordered; not before, see OpCall::Enqueue
}

}  // namespace

StoragePtr PackInto(EnvState& state, const std::shared_ptr<Device>& device, const TensorView& src,
                    const StatusPtr& src_status, Direction direction, const char* label) {
  PackArgs args{src, src.data, direction};
  CheckOn(*device, label, args);
  const Backend& backend = device->backend();
  const size_t bytes = backend.packed_bytes(src.dim(0), src.dim(1), src.dtype, direction);
  StoragePtr packed = state.NewStorage(device, bytes, label);
  args.dst = packed->data();
  EnqueueHelper(state, *device, "pack", label, backend.op<PackArgs>(), args,
                {{src_status, Access::kIn}, {packed->status(), Access::kOut}});
  return packed;
}

void EnsureBackward(EnvState& state, WeightRef& weight, const char* label) {
  if (weight.backward) return;
  const std::shared_ptr<Device>& device = weight.forward->device();
  const Backend& backend = device->backend();
  if (backend.packed_bytes(weight.rows, weight.cols, weight.dtype, Direction::kBackward) == 0)
    return;
  const Shape shape{weight.rows, weight.cols};
  const size_t bytes = static_cast<size_t>(shape.numel()) * SizeOf(weight.dtype);
  const StoragePtr rows =
      state.NewStorage(device, bytes, label);  // freed at the end, in stream order
  const UnpackArgs args{
      {weight.forward->data(), weight.dtype, weight.rows, weight.cols, Direction::kForward},
      TensorView(rows->data(), weight.dtype, shape)};
  EnqueueHelper(state, *device, "unpack", label, backend.op<UnpackArgs>(), args,
                {{weight.forward->status(), Access::kIn}, {rows->status(), Access::kOut}});
  weight.backward = PackInto(state, device, args.dst, rows->status(), Direction::kBackward, label);
}

OpCall::OpCall(const Napi::CallbackInfo& info, const char* op, const char* label)
    : env_(info.Env()), state_(*EnvState::Get(info.Env())), op_(op), label_(label) {}

void OpCall::Join(const std::shared_ptr<Device>& device, const char* name) {
  if (!device_) device_ = device;
  LORA_CHECK(device_ == device, label_, "expected ", name, " on ", device_->name(),
             " (the device of the other operands) but received one on ", device->name());
}

TensorView OpCall::Take(Napi::Value value, const char* name, Access access) {
  const TensorRef& tensor = state_.Tensor(value, label_, name);
  Join(tensor.storage->device(), name);
  operands_.push_back({tensor.storage->status(), access});
  return tensor.view();
}

TensorView OpCall::Overwrite(Napi::Value value, const char* name) {
  const TensorRef& tensor = state_.Tensor(value, label_, name);
  const bool whole = tensor.view().bytes() == tensor.storage->bytes();
  return Take(value, name, whole ? Access::kOut : Access::kInOut);
}

void OpCall::Weight(PackedView* view, Napi::Value value, const char* name, Direction direction,
                    bool used) {
  WeightRef& weight = state_.Weight(value, label_, name);
  Join(weight.forward->device(), name);
  operands_.push_back({weight.forward->status(), Access::kIn});
  // The forward block stands in until PackWeights, for checks and for backends that need no other.
  *view = PackedView{weight.forward->data(), weight.dtype, weight.rows, weight.cols, direction};
  if (direction == Direction::kBackward && used) backward_.push_back({view, &weight});
}

void OpCall::On(Napi::Value device) {
  Join(state_.Unwrap(device, Kind::kDevice, label_, "device").device, "device");
}

void OpCall::Out(TensorView* view, DType dtype, const Shape& shape, const Shape& seen) {
  CheckElements(shape, label_);
  *view = TensorView(nullptr, dtype, shape);
  outputs_.push_back({view, nullptr, seen});
}

void OpCall::PackWeights() {
  for (const WeightUse& use : backward_) {
    EnsureBackward(state_, *use.weight, label_);
    if (!use.weight->backward) continue;
    use.view->data = use.weight->backward->data();
    operands_.push_back({use.weight->backward->status(), Access::kIn});
  }
}

Block OpCall::Allocate(size_t scratch_bytes) {
  size_t needed = scratch_bytes;
  for (const Output& output : outputs_) needed += output.view->bytes();
  const auto fail = [&] {
    for (Output& output : outputs_) output.storage.reset();
    device_->Trim(0);
    device_->stream().Synchronize();
    state_.ThrowOutOfMemory(*device_, needed, label_);
  };
  for (Output& output : outputs_) {
    const Block block = state_.TryAllocate(*device_, output.view->bytes());
    if (block.data == nullptr) fail();
    output.storage = std::make_shared<Storage>(device_, block, output.view->bytes());
    output.view->data = block.data;
    operands_.push_back({output.storage->status(), Access::kOut});
  }
  if (scratch_bytes == 0) return {};
  const Block scratch = state_.TryAllocate(*device_, scratch_bytes);
  if (scratch.data == nullptr) fail();
  return scratch;
}

void OpCall::Enqueue(const Block& scratch, std::function<void(Context&)> run) {
  Command command;
  command.op = op_;
  command.operands = operands_;
  command.guard = guard_;
  for (const Output& output : outputs_) command.bytes += output.storage->bytes();
  command.run = std::move(run);
  state_.Enqueue(*device_, std::move(command));
  // Stream-ordered: later commands may have it. Not before this one is queued, because a full queue
  // makes Enqueue give memory back to the system, by a command that would then run first.
  device_->allocator().Free(scratch);
}

Napi::Value OpCall::Result(size_t i) {
  const Output& output = outputs_[i];
  return state_.WrapTensor(output.storage, 0, output.view->dtype, output.seen);
}

Napi::Value OpCall::ResultOf(const TensorView& view) {
  for (size_t i = 0; i < outputs_.size(); ++i)
    if (outputs_[i].view == &view) return Result(i);
  return env_.Null();
}

TensorView AsRows(const TensorView& view, const char* op, const char* name) {
  if (!view) return view;
  const int rank = view.shape.rank();
  LORA_CHECK(rank >= 1, op, "expected ", name, " of at least one dimension but received a scalar");
  int64_t rows = 1;
  for (int i = 0; i < rank - 1; ++i) rows *= view.shape[i];
  return TensorView(view.data, view.dtype, {rows, view.shape[-1]});
}

Shape WithLast(const Shape& shape, int64_t last) {
  Shape result;
  for (int i = 0; i < shape.rank() - 1; ++i) result.push_back(shape[i]);
  result.push_back(last);
  return result;
}

}  // namespace lora::node
