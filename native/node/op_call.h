// One call of an op. Operands are taken from JavaScript and the arguments checked; then the results
// and the scratch get their memory, and the work is enqueued, or recorded in a program. ops.cc
// makes these calls for every op of which core/ops has a description:
//
//   OpCall call(info, "gated_forward", "gated");
//   GatedForwardArgs args;
//   args.kind = …;
//   args.gate = call.Operand(info[1], "gate", Access::kIn);
//   args.up = call.Operand(info[2], "up", Access::kIn);
//   call.Out(&args.y, {args.gate.dtype, args.gate.shape});
//   call.Run(args);
//   return call.ResultOf(args.y);
//
// Nothing has happened when any of this throws. The call holds what it has taken until the work is
// enqueued: reading the next argument may run a getter, and that may release an operand.
#pragma once

#include <napi.h>

#include <memory>
#include <utility>
#include <vector>

#include "core/ops/ops.h"
#include "node/env_state.h"
#include "node/errors.h"
#include "node/parse.h"

namespace lora::node {

// Throws ERR_UNSUPPORTED unless ops of the device take activations in f16.
void RequireF16(const Device& device, const char* label);

// Check(args), and whether the device computes in the dtype of the activations.
template <class Args>
void CheckOn(const Device& device, const char* label, const Args& args) {
  Check(args);
  if (ActivationOf(args) == DType::kF16) RequireF16(device, label);
}

class OpCall {
 public:
  // `op` is the name in the table of ops, `label` the one that error sentences carry.
  OpCall(const Napi::CallbackInfo& info, const char* op, const char* label);

  Napi::Env env() const { return env_; }
  EnvState& state() const { return state_; }
  const char* label() const { return label_; }
  void Relabel(const char* label) { label_ = label; }

  // Takes a tensor in the shape in which the op sees it. kOut is for one that is written whole; it
  // is good again afterwards when it is all of its storage.
  TensorView Operand(Napi::Value value, const char* name, Access access, Form form = Form::kSame);
  void Weight(PackedView* view, Napi::Value value, const char* name);
  void Table(DeltaTableView* view, Napi::Value value, const char* name);
  // Where an op has no operand that tells its device.
  void On(Napi::Value device);
  void Guarded(std::shared_ptr<Guard> guard) { guard_ = std::move(guard); }

  // Plans a result where it is present: *view gets its memory in Run. JavaScript sees kRows with
  // the leading dimensions of the first operand that was taken as kRows or kFlat.
  void Out(TensorView* view, const Result& result, Form form = Form::kSame);

  // Plans a frozen matrix: *data gets its memory in Run. No program packs one.
  void Packed(void** data, const WeightRef& weight);

  template <class Args>
  void Run(Args& args) {
    LORA_CHECK(device_, label_, "expected at least one tensor but received none");
    CheckOn(*device_, label_, args);
    const Op<Args>& entry = device_->backend().op<Args>();
    const auto plan = [plan_of = entry.plan, op = op_, profile = device_->profile,
                       writes = writes_](const Args& args, int threads) {
      if (!writes) return PlannedCall{0, [](Scratch, Context&) {}};
      PlannedCall call = plan_of(args, threads);
      return profile ? profile->Timed(std::move(call), op, WorkOf(args)) : call;
    };
    const int threads = device_->stream().threads();
    // A call that is planned holds the addresses of its outputs.
    if (!AllocateOutputs()) ThrowOutOfMemory(plan(args, threads).scratch_bytes);
    PlannedCall call = plan(args, threads);
    if (device_->recording) {
      Record(std::move(call), [plan, args](int threads) { return plan(args, threads); });
      return;
    }
    Block scratch;
    if (call.scratch_bytes > 0) {
      scratch = state_.TryAllocate(*device_, call.scratch_bytes);
      if (scratch.data == nullptr) ThrowOutOfMemory(call.scratch_bytes);
    }
    Enqueue(scratch, std::move(call));
  }

  // The handle of the output planned for this view, or null when there was none.
  Napi::Value ResultOf(const TensorView& view);
  Napi::Value PackedResult() const;

 private:
  struct Output {
    TensorView* view;
    StoragePtr storage;
    Shape seen;
  };

  size_t PackedBytes() const;
  void Join(const std::shared_ptr<Device>& device, const char* name);
  // Returns false when one of them gets no memory.
  bool AllocateOutputs();
  [[noreturn]] void ThrowOutOfMemory(size_t scratch_bytes);
  void Enqueue(const Block& scratch, PlannedCall call);
  void Record(PlannedCall call, Program::Planner plan);

  Napi::Env env_;
  EnvState& state_;
  const char* op_;
  const char* label_;
  std::shared_ptr<Device> device_;
  Shape lead_;
  const char* lead_name_ = nullptr;
  std::vector<lora::Operand> operands_;
  std::vector<StoragePtr> held_;  // of the operands
  std::vector<Output> outputs_;
  // Whether there is an element to write. Where there is none, operands may still have dimensions
  // that no loop should go through, such as [2^40, 0].
  bool writes_ = false;
  std::shared_ptr<WeightRef> packed_;
  void** packed_data_ = nullptr;
  std::shared_ptr<Guard> guard_;
};

}  // namespace lora::node
