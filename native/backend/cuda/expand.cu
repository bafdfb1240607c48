#include "backend/cuda/expand.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/scaled.h"

namespace lora::cuda {
namespace {

// Calls f.template operator()<T>() for the dtypes of activations that formats with scales serve.
template <class F>
void ForActivations(DType dtype, F&& f) {
  return dtype == DType::kF32 ? f.template operator()<float>()
                              : f.template operator()<device::BF16>();
}

}  // namespace

void Expand(const char* op, const PackedView& w, void* to, Context& context) {
  ForActivations(w.dtype, [&]<class T>() {
    using Params = device::ExpandParams<T>;
    const Params params{ScaledOf(w), static_cast<T*>(to), w.rows * w.cols};
    device::LaunchShape shape = Blocks(params.count, Params::kThreads * Params::kPerThread);
    shape.shared_bytes = device::ScaledWeight::kSharedBytes;
    Launch<device::Expand<T>>(op, context, shape, params);
  });
}

void ExpandRows(const char* op, const PackedView& w, const int32_t* ids, int64_t count, void* to,
                Context& context) {
  ForActivations(w.dtype, [&]<class T>() {
    const device::ExpandRowsParams<T> params{ScaledOf(w), ids, static_cast<T*>(to), w.cols};
    device::LaunchShape shape = Blocks(count, 1);
    shape.shared_bytes = device::ScaledWeight::kSharedBytes;
    Launch<device::ExpandRows<T>>(op, context, shape, params);
  });
}

const void* Expansions::Add(const PackedView& w, ScratchArena& arena) {
  if (!HasScales(w.format)) return w.data;
  all_.push_back({w, arena.TakeBytes(ExpandedBytes(w))});
  return all_.back().to;
}

void Expansions::Run(const char* op, Context& context) const {
  for (const Expansion& expansion : all_) Expand(op, expansion.w, expansion.to, context);
}

}  // namespace lora::cuda
