// What the adapters of a model change in its layers, as kernels read it: one entry per adapter
// (slot) and layer (site). A call whose rows have adapters of their own names a slot for each row.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace lora {

// W·x becomes factor ⊙ (W·x + scale·A·B·x), with A [out, rank] and B [rank, in] row-major f32.
struct DeltaEntry {
  const float* up = nullptr;      // A
  const float* down = nullptr;    // B
  const float* factor = nullptr;  // [out], or null: 1. Not where the rank is 0.
  float scale = 0;
  int32_t rank = 0;  // 0: the layer stays as it is
};
// The rank of an entry whose tensors had failed when it was set.
constexpr int32_t kFailedRank = -1;

// The shape of W.
struct DeltaSite {
  int64_t out = 0, in = 0;
};

struct DeltaTableView {
  const DeltaEntry* entries = nullptr;  // [slots, sites], in the memory of the backend
  int64_t slots = 0;
  int64_t max_rank = 0;  // no entry has a larger rank
  std::shared_ptr<const std::vector<DeltaSite>> sites;

  explicit operator bool() const { return entries != nullptr; }
};

}  // namespace lora
