#include <algorithm>
#include <bit>

#include "backend/cuda/device/expand_blocks.cuh"
#include "backend/cuda/expand.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/scaled.h"
#include "core/runtime/memory_limit.h"

namespace lora::cuda {
namespace {

// Calls f.template operator()<T>() for the dtypes of activations that formats with scales serve.
template <class F>
void ForActivations(DType dtype, F&& f) {
  return dtype == DType::kF32 ? f.template operator()<float>()
                              : f.template operator()<device::BF16>();
}

// Of rows of w, which has blocks: the first ones, or those of ids.
device::ExpandBlocksParams BlocksOf(const PackedView& w, const int32_t* ids, int64_t rows,
                                    void* to) {
  const BlockSize& block = TraitsOf(w.format).block;
  return {.blocks = static_cast<const uint8_t*>(w.data),
          .points = reinterpret_cast<const uint16_t*>(static_cast<const uint8_t*>(w.data) +
                                                      PointsAt(w.format, w.rows, w.cols)),
          .ids = ids,
          .y = to,
          .cols = w.cols,
          .values = rows * w.cols,
          .format = static_cast<int32_t>(w.format),
          .log_block = std::countr_zero(static_cast<uint64_t>(block.values)),
          .block_bytes = static_cast<int32_t>(block.bytes),
          .is_bf16 = w.dtype == DType::kBF16};
}

// to [rows, cols] ← rows of w, which has blocks: all, or those of ids.
void Decode(const char* op, const PackedView& w, const int32_t* ids, int64_t rows, void* to,
            Context& context) {
  using Params = device::ExpandBlocksParams;
  const Params params = BlocksOf(w, ids, rows, to);
  Launch<device::ExpandBlocks>(op, context, Blocks(params.values, Params::kThreads), params);
}

}  // namespace

void Expand(const char* op, const PackedView& w, void* to, Context& context) {
  if (HasBlocks(w.format)) return Decode(op, w, nullptr, w.rows, to, context);
  ForActivations(w.dtype, [&]<class T>() {
    using Params = device::ExpandParams<T>;
    const Params params{ScaledOf(w), static_cast<T*>(to), w.rows * w.cols};
    Launch<device::Expand<T>>(op, context,
                              Blocks(params.count, Params::kThreads * Params::kPerThread), params);
  });
}

void ExpandRows(const char* op, const PackedView& w, const int32_t* ids, int64_t count, void* to,
                Context& context) {
  if (HasBlocks(w.format)) return Decode(op, w, ids, count, to, context);
  ForActivations(w.dtype, [&]<class T>() {
    const device::ExpandRowsParams<T> params{ScaledOf(w), ids, static_cast<T*>(to), w.cols};
    Launch<device::ExpandRows<T>>(op, context, Blocks(count, 1), params);
  });
}

void ExpandRange(const char* op, const PackedView& w, int64_t first, int64_t count, void* to,
                 Context& context) {
  const int64_t before = first * w.cols;
  if (HasBlocks(w.format)) {
    using Params = device::ExpandBlocksParams;
    Params params = BlocksOf(w, nullptr, count, to);
    params.blocks += ValueBytes(w.format, first, w.cols);
    return Launch<device::ExpandBlocks>(op, context, Blocks(params.values, Params::kThreads),
                                        params);
  }
  ForActivations(w.dtype, [&]<class T>() {
    using Params = device::ExpandParams<T>;
    Params params{ScaledOf(w), static_cast<T*>(to), count * w.cols};
    params.weight.values += ValueBytes(w.format, first, w.cols);
    params.weight.scales += before / params.weight.per_scale;
    Launch<device::Expand<T>>(op, context,
                              Blocks(params.count, Params::kThreads * Params::kPerThread), params);
  });
}

bool ExpandsInTurn(const std::vector<PackedView>& weights) {
  // As it is when a process asks first, so that all its plans agree.
  static const size_t most =
      BytesFromEnvironment("LORA_CUDA_EXPANSION_BYTES").value_or(kExpansionBytes);
  size_t bytes = 0, largest = 0;
  for (const PackedView& w : weights) {
    bytes += ExpandedBytes(w);
    largest = std::max(largest, ExpandedBytes(w));
  }
  return bytes > most && bytes > largest;
}

Expansions::Expansions(const std::vector<PackedView>& weights, ScratchArena& arena)
    : shares_(true) {
  size_t largest = 0;
  for (const PackedView& w : weights) largest = std::max(largest, ExpandedBytes(w));
  shared_ = arena.TakeBytes(largest);
}

const void* Expansions::Add(const PackedView& w, ScratchArena& arena) {
  if (!IsQuantized(w.format)) {
    all_.push_back({w, nullptr});
    return w.data;
  }
  all_.push_back({w, shares_ ? shared_ : arena.TakeBytes(ExpandedBytes(w))});
  return all_.back().to;
}

void Expansions::Run(const char* op, Context& context) const {
  for (size_t i = 0; i < all_.size(); ++i) RunOne(op, i, context);
}

void Expansions::RunOne(const char* op, size_t i, Context& context) const {
  if (all_[i].to != nullptr) Expand(op, all_[i].w, all_[i].to, context);
}

}  // namespace lora::cuda
