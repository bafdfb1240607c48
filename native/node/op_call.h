// One call of an op: operands are taken from JavaScript, the arguments checked, outputs and scratch
// allocated, the work enqueued.
//
//   OpCall call(info, "swiglu_forward", "swiglu");
//   SwigluForwardArgs args;
//   args.gate = call.In(info[0], "gate");
//   args.up = call.In(info[1], "up");
//   call.Out(&args.y, args.gate.dtype, args.gate.shape);
//   call.Run(args);
//   return call.Result(0);
//
// Nothing has happened when any of this throws.
#pragma once

#include <napi.h>

#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/ops/ops.h"
#include "node/env_state.h"
#include "node/errors.h"
#include "node/parse.h"

namespace lora::node {

// Check(args), and whether the device computes in the dtype of the activations.
template <class Args>
void CheckOn(const Device& device, const char* label, const Args& args) {
  Check(args);
  if (ActivationOf(args) == DType::kF16 && !device.backend().f16_activations)
    Throw("ERR_UNSUPPORTED", label, "f16 activations are for inference on GPUs; use bf16 on ",
          device.name());
}

class OpCall {
 public:
  // `op` is the name in the table of ops, `label` the one that error sentences carry.
  OpCall(const Napi::CallbackInfo& info, const char* op, const char* label);

  EnvState& state() const { return state_; }
  const char* label() const { return label_; }

  // Operands. The Maybe twin takes null as absent.
  TensorView In(Napi::Value value, const char* name) { return Take(value, name, Access::kIn); }
  TensorView MaybeIn(Napi::Value value, const char* name) {
    return IsNone(value) ? TensorView() : In(value, name);
  }
  TensorView InOut(Napi::Value value, const char* name) {
    return Take(value, name, Access::kInOut);
  }
  TensorView Update(Napi::Value value, const char* name) {
    return Take(value, name, Access::kUpdate);
  }
  // Written whole; good again afterwards when it is all of its storage.
  TensorView Overwrite(Napi::Value value, const char* name);
  // Fills *view, whose data is right from Run on. kBackward packs that direction when it is not
  // there yet, unless nobody will read it.
  void Weight(PackedView* view, Napi::Value value, const char* name, Direction direction,
              bool used = true);
  // Where an op has no operand that tells its device.
  void On(Napi::Value device);
  void Guarded(std::shared_ptr<Guard> guard) { guard_ = std::move(guard); }

  // Plans an output: *view gets its memory in Run. JavaScript sees it in `shape`, or in another one
  // of as many elements.
  void Out(TensorView* view, DType dtype, const Shape& shape) { Out(view, dtype, shape, shape); }
  void Out(TensorView* view, DType dtype, const Shape& shape, const Shape& seen);

  template <class Args>
  void Run(Args& args) {
    CheckOn(*device_, label_, args);
    const Op<Args>& entry = device_->backend().op<Args>();
    PackWeights();
    const size_t scratch_bytes = entry.scratch_bytes(args, device_->stream().threads());
    const Block scratch = Allocate(scratch_bytes);
    const Scratch span(static_cast<std::byte*>(scratch.data), scratch_bytes);
    Enqueue(scratch, [args, span, run = entry.run](Context& context) { run(args, span, context); });
  }

  // The handle of the i-th planned output.
  Napi::Value Result(size_t i = 0);
  // The handle of the output planned for this view, or null when there was none.
  Napi::Value ResultOf(const TensorView& view);

 private:
  struct Output {
    TensorView* view;
    StoragePtr storage;
    Shape seen;
  };
  struct WeightUse {
    PackedView* view;
    WeightRef* weight;
  };

  TensorView Take(Napi::Value value, const char* name, Access access);
  void Join(const std::shared_ptr<Device>& device, const char* name);
  void PackWeights();
  Block Allocate(size_t scratch_bytes);
  void Enqueue(const Block& scratch, std::function<void(Context&)> run);

  Napi::Env env_;
  EnvState& state_;
  const char* op_;
  const char* label_;
  std::shared_ptr<Device> device_;
  std::vector<Operand> operands_;
  std::vector<Output> outputs_;
  std::vector<WeightUse> backward_;
  std::shared_ptr<Guard> guard_;
};

// The packed forms of a weight; used by pack() too.
StoragePtr PackInto(EnvState& state, const std::shared_ptr<Device>& device, const TensorView& src,
                    const StatusPtr& src_status, Direction direction, const char* label);
// Makes weight.backward, where the backend has such a thing and it is not there yet.
void EnsureBackward(EnvState& state, WeightRef& weight, const char* label);

// [rows, last] of [..., last]: how ops that work on rows see a tensor.
TensorView AsRows(const TensorView& view, const char* op, const char* name);
// `shape` with another last dimension.
Shape WithLast(const Shape& shape, int64_t last);

}  // namespace lora::node
