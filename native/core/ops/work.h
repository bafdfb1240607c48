// How much work a call of an op is, by its formula: what a profile (core/runtime/profile.h) divides
// by the time. It follows from shapes alone; a backend may do more, or less.
#pragma once

#include <cstdint>
#include <string>

#include "core/ops/ops.h"

namespace lora {

struct Work {
  double flops = 0;   // two for each multiply-add of its matrix products; 0 where it has none
  double bytes = 0;   // of all operands, those counted twice that are read and written
  std::string shape;  // "bf16 512x576 -> 576+192+192": the first operand, and the rows of weights
};

// Rows with a table of changes count the frozen product alone, since ranks differ by row. Attention
// counts the pairs that causality (or both directions) and the window leave, key_begin and key_end
// aside, and paged attention none, since its lengths are read when it runs.
template <class Args>
double FlopsOf(const Args&) {
  return 0;
}
double FlopsOf(const LoraLinearForwardArgs& args);
double FlopsOf(const LoraLinearBackwardArgs& args);
double FlopsOf(const RoutedLinearForwardArgs& args);
double FlopsOf(const RoutedLinearBackwardArgs& args);
double FlopsOf(const RoutedWeightsArgs& args);
double FlopsOf(const LinearCrossEntropyArgs& args);
double FlopsOf(const AttentionForwardArgs& args);
double FlopsOf(const AttentionBackwardArgs& args);
double FlopsOf(const MatmulArgs& args);

// Adds up the operands of a call.
class WorkTally {
 public:
  void operator()(const TensorView& view, Access access);
  void operator()(const PackedView& view);
  void operator()(const DeltaTableView&) {}
  Work Finish(double flops) const;

 private:
  double bytes_ = 0;
  int64_t tensors_ = 0, elements_ = 0;
  std::string first_, rows_;
};

template <class Args>
Work WorkOf(const Args& args) {
  WorkTally tally;
  ForEachOperand(args, tally);
  return tally.Finish(FlopsOf(args));
}

}  // namespace lora
