// What the adapters of a model change in its layers, as kernels read it: one entry per adapter
// (slot) and layer (site). A call whose rows have adapters of their own names a slot for each row.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/maths/dtype.h"
#include "core/ops/host_copy.h"

namespace lora {

// W·x becomes factor ⊙ (W·x + scale·up·down·x), with up [out, rank] and down [rank, in] in the
// dtype of the table: in f32 both are row-major; in bf16 up is packed as a W of its shape is, and
// down row-major.
struct DeltaEntry {
  const void* up = nullptr;       // [out, rank]
  const void* down = nullptr;     // [rank, in]
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
  const HostCopy* host_copy = nullptr;  // of the entries
  DType dtype = DType::kF32;  // or bf16, where Backend::bf16_deltas, for decode steps in bf16

  explicit operator bool() const { return entries != nullptr; }
  // Returns the entries in host memory, or null where only the device knows them.
  const DeltaEntry* entries_on_host() const {
    return host_copy ? static_cast<const DeltaEntry*>(host_copy->At(entries)) : nullptr;
  }
};

}  // namespace lora
