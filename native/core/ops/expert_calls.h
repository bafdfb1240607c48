// The products of experts as calls of the ops that a backend has for one matrix: each expert with
// rows is a call on them, which is planned when its rows are known.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/error.h"
#include "core/ops/backend.h"
#include "core/ops/experts.h"

namespace lora {

// Rows [begin, begin + rows) of a matrix.
inline TensorView RowsOf(const TensorView& view, int64_t begin, int64_t rows) {
  if (!view) return view;
  const int64_t pitch = view.dim(1) * static_cast<int64_t>(SizeOf(view.dtype));
  return {view.as<std::byte>() + begin * pitch, view.dtype, {rows, view.dim(1)}};
}

// Matrix e of several.
inline TensorView MatrixOf(const TensorView& view, int64_t e) {
  if (!view) return view;
  const int64_t size = view.dim(1) * view.dim(2) * static_cast<int64_t>(SizeOf(view.dtype));
  return {view.as<std::byte>() + e * size, view.dtype, {view.dim(1), view.dim(2)}};
}

template <class Args>
LoraBranch BranchOf(const Args& args, int64_t e) {
  const Expert& expert = args.experts[static_cast<size_t>(e)];
  LoraBranch branch;
  branch.weight = expert.weight;
  branch.bias = expert.bias;
  branch.activations = expert.activations;
  branch.up = MatrixOf(args.up, e);
  branch.down = MatrixOf(args.down, e);
  branch.scale = args.scale;
  return branch;
}

// The call of `rows` rows of expert e.
inline LoraLinearForwardArgs CallOfExpert(const RoutedLinearForwardArgs& args, int64_t e,
                                          int64_t begin, int64_t rows) {
  LoraLinearForwardArgs call;
  call.x = RowsOf(args.x, begin, rows);
  call.branches = {BranchOf(args, e)};
  call.y = {RowsOf(args.y, begin, rows)};
  call.h = {RowsOf(args.h, begin, rows)};
  call.phase = args.phase;
  return call;
}

inline LoraLinearBackwardArgs CallOfExpert(const RoutedLinearBackwardArgs& args, int64_t e,
                                           int64_t begin, int64_t rows) {
  LoraLinearBackwardArgs call;
  call.x = RowsOf(args.x, begin, rows);
  call.branches = {BranchOf(args, e)};
  call.branches[0].bias = {};
  call.g = {RowsOf(args.g, begin, rows)};
  call.h = {RowsOf(args.h, begin, rows)};
  call.dx = RowsOf(args.dx, begin, rows);
  call.d_up = {MatrixOf(args.d_up, e)};
  call.d_down = {MatrixOf(args.d_down, e)};
  return call;
}

inline MatmulArgs CallOfExpert(const RoutedWeightsArgs& args, int64_t e, int64_t begin,
                               int64_t rows) {
  return {RowsOf(args.g, begin, rows), RowsOf(args.x, begin, rows), MatrixOf(args.dw, e), true,
          false};
}

inline int64_t RowsOfCall(const RoutedLinearForwardArgs& args) { return args.x.dim(0); }
inline int64_t RowsOfCall(const RoutedLinearBackwardArgs& args) { return args.g.dim(0); }
inline int64_t RowsOfCall(const RoutedWeightsArgs& args) { return args.x.dim(0); }

// Whether an expert without rows has results.
inline bool WritesEmpty(const RoutedLinearForwardArgs&) { return false; }
inline bool WritesEmpty(const RoutedLinearBackwardArgs& args) { return args.d_up || args.d_down; }
inline bool WritesEmpty(const RoutedWeightsArgs&) { return true; }

// Returns the scratch of the largest call. It may shrink where rows grow, since another kernel
// takes over, so that several numbers of rows are planned: all up to kEachRows, and its multiples,
// between which no kernel changes.
constexpr int64_t kEachRows = 64;
template <class Args, class PlanOf>
size_t ScratchOfExperts(const Args& args, const PlanOf& plan) {
  const int64_t rows = RowsOfCall(args);
  size_t bytes = 0;
  for (int64_t m = 0; m <= rows; m += m < kEachRows ? 1 : kEachRows)
    bytes = std::max(bytes, plan(CallOfExpert(args, 0, 0, m)).scratch_bytes);
  return std::max(bytes, plan(CallOfExpert(args, 0, 0, rows)).scratch_bytes);
}

// Runs the calls of all experts.
template <class Args, class PlanOf>
void RunExperts(const Args& args, const int32_t* offsets, int64_t experts, const PlanOf& plan,
                Scratch scratch, Context& context) {
  CheckOffsets(offsets, experts, RowsOfCall(args));
  for (int64_t e = 0; e < experts; ++e) {
    const int64_t begin = offsets[e], rows = offsets[e + 1] - begin;
    if (rows == 0 && !WritesEmpty(args)) continue;
    const PlannedCall call = plan(CallOfExpert(args, e, begin, rows));
    if (call.scratch_bytes > scratch.size())
      Throw("ERR_UNSUPPORTED", "routed_linear", "no memory was planned for ", rows,
            " rows of an expert");
    call.run(scratch, context);
  }
}

}  // namespace lora
