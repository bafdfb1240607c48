#include "backend/cuda/device/ids.cuh"
#include "backend/cuda/ids.h"
#include "backend/cuda/launch.h"
#include "core/ops/labels.h"

namespace lora::cuda {
namespace {

IdCheck CheckOnHost(const TensorView& ids, int64_t limit, int64_t ignored) {
  IdCheck check;
  const auto* const values = ids.as<const int32_t>();
  for (int64_t i = 0; i < ids.numel(); ++i) {
    if (values[i] >= 0 && values[i] < limit) {
      ++check.inside;
    } else if (values[i] != ignored && check.first_bad < 0) {
      check.first_bad = i;
      check.bad = values[i];
    }
  }
  return check;
}

}  // namespace

static_assert(sizeof(device::IdReport) <= kIdCheckBytes);

IdCheck CheckIds(const char* op, const TensorView& ids, int64_t limit, int64_t ignored,
                 void* scratch, CudaContext& cuda) {
  if (ids.numel() == 0) return {};
  if (const TensorView known = ids.on_host()) return CheckOnHost(known, limit, ignored);
  auto* report = static_cast<device::IdReport*>(scratch);
  Launch<device::CheckIds>(
      op, cuda, {},
      device::CheckIdsParams{Data<int32_t>(ids), ids.numel(), limit, ignored, report});
  device::IdReport read{device::kNoBadId, static_cast<uint64_t>(ids.numel()), 0};
  cuda.ReadNow(&read, report, sizeof read);
  IdCheck check;
  check.inside = static_cast<int64_t>(read.inside);
  if (read.first_bad != device::kNoBadId) {
    check.first_bad = static_cast<int64_t>(read.first_bad);
    check.bad = read.bad;
  }
  return check;
}

int64_t CheckLabels(const char* op, const TensorView& labels, int64_t vocab, void* scratch,
                    CudaContext& cuda) {
  const IdCheck check = CheckIds(op, labels, vocab, kIgnoredLabel, scratch, cuda);
  if (check.first_bad >= 0) ThrowLabel(op, vocab, check.bad, check.first_bad);
  return check.inside;
}

}  // namespace lora::cuda
