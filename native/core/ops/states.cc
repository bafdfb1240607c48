// States the rules of the ops with a state.
#include "core/ops/states.h"

#include "core/ops/rules.h"

namespace lora {
namespace {

using check::Rules;

// Checks what all calls share, but for the dtype of x. Returns [b, s, c].
template <class Args>
Shape CheckConvolution(const Rules& rules, const Args& args) {
  rules.Rank("x", args.x, 3, "(batch, sequence, channels)");
  rules.Rank("weight", args.weight, 2, "(channels, taps)");
  rules.TypeOrFloat32("weight", args.weight, "x", args.x.dtype);
  const int64_t channels = args.weight.dim(0), taps = args.weight.dim(1);
  LORA_CHECK(taps >= 1 && taps <= kMaxTaps, rules.op(), "expected weight of 1 to ", kMaxTaps,
             " taps but received shape ", args.weight.shape);
  const bool gated = args.kind == ShortConvKind::kGated;
  rules.ShapeIs("x", args.x, {args.x.dim(0), args.x.dim(1), gated ? 3 * channels : channels},
                gated ? "(batch, sequence, 3 times the channels of weight)"
                      : "(batch, sequence, the channels of weight)");
  if (args.bias) {
    rules.ShapeIs("bias", args.bias, {channels}, "(channels)");
    rules.TypeOrFloat32("bias", args.bias, "x", args.x.dtype);
  }
  return {args.x.dim(0), args.x.dim(1), channels};
}

void CheckKeyBegin(const Rules& rules, const TensorView& key_begin, const Shape& y) {
  if (!key_begin) return;
  rules.Int32("keyBegin", key_begin);
  rules.ShapeIs("keyBegin", key_begin, {y[0], y[1]}, "(batch, sequence)");
}

// Demands [b, s, c] in the dtype of x.
template <class Args>
void CheckOutput(const Rules& rules, const char* name, const TensorView& output, const Args& args,
                 const Shape& y) {
  rules.ShapeIs(name, output, y, "(batch, sequence, channels)");
  rules.SameType(name, output, "x", args.x.dtype);
}

}  // namespace

void Check(const ShortConvForwardArgs& args) {
  const Rules rules(LabelOf(args));
  rules.InferenceAct("x", args.x);
  const Shape y = CheckConvolution(rules, args);
  CheckKeyBegin(rules, args.key_begin, y);
  CheckOutput(rules, "y", args.y, args, y);
}

void Check(const ShortConvBackwardArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Act("x", args.x);
  const Shape y = CheckConvolution(rules, args);
  CheckKeyBegin(rules, args.key_begin, y);
  CheckOutput(rules, "g", args.g, args, y);
  if (args.dx) rules.Like("dx", args.dx, "x", args.x);
  if (args.dweight) {
    rules.ShapeIs("dweight", args.dweight, args.weight.shape, "(that of weight)");
    rules.Float32("dweight", args.dweight);
  }
  if (args.dbias) {
    rules.ShapeIs("dbias", args.dbias, {y[2]}, "(channels)");
    rules.Float32("dbias", args.dbias);
  }
}

void Check(const ShortConvAppendArgs& args) {
  const Rules rules(LabelOf(args));
  rules.InferenceAct("x", args.x);
  const Shape y = CheckConvolution(rules, args);
  rules.Rank("pool", args.pool, 3, "(slots, taps - 1, channels)");
  rules.ShapeIs("pool", args.pool, {args.pool.dim(0), args.weight.dim(1) - 1, y[2]},
                "(slots, taps - 1, channels)");
  rules.Float32("pool", args.pool);
  rules.Int32("slots", args.slots);
  rules.ShapeIs("slots", args.slots, {y[0]}, "(batch)");
  rules.Int32("lengths", args.lengths);
  rules.ShapeIs("lengths", args.lengths, {y[0]}, "(batch)");
  CheckOutput(rules, "y", args.y, args, y);
}

void CheckSlots(const char* op, const TensorView& slots, const TensorView& lengths,
                int64_t pool_slots, int64_t count) {
  if (count == 0) return;
  for (int64_t b = 0; b < slots.numel(); ++b) {
    const int64_t slot = slots.as<const int32_t>()[b], length = lengths.as<const int32_t>()[b];
    if (slot < 0 || slot >= pool_slots)
      Throw("ERR_DATA", op, "expected slots from 0 to ", pool_slots - 1, " but received ", slot,
            " for sequence ", b);
    if (length < count)
      Throw("ERR_DATA", op, "expected lengths of at least ", count,
            " (the positions of this call) but received ", length, " for sequence ", b);
  }
}

}  // namespace lora
