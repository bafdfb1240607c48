// y = factor ⊙ (W·x + scale·up·(down·x)) + bias with what each row's slot in a table names. The
// kernels read slots and entries from device memory. For kMaxDecodeRows rows at a time: all
// h = scale·down·x in one launch, then W·x with up·h.
#include <algorithm>
#include <span>
#include <vector>

#include "backend/cuda/device/table_down.cuh"
#include "backend/cuda/expand.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/lora_linear_table.h"
#include "backend/cuda/scratch.h"
#include "backend/cuda/skinny.h"

namespace lora::cuda {
namespace {

constexpr const char* kOp = "lora_linear";

struct Place {
  device::TableReport* report;
  float* h;                    // [branches][rows of one launch, max_rank]
  std::vector<const void*> w;  // of the branches, once they are expanded
  Expansions expansions;
  size_t bytes;
};
Place PlaceOf(const LoraLinearForwardArgs& args, ScratchArena arena) {
  Place place;
  place.report = arena.Take<device::TableReport>(1);
  place.h = arena.Take<float>(static_cast<int64_t>(args.branches.size()) *
                              std::min(kMaxDecodeRows, args.x.dim(0)) * args.table.max_rank);
  for (const LoraBranch& branch : args.branches)
    place.w.push_back(DecodesPacked(branch.weight) ? nullptr
                                                   : place.expansions.Add(branch.weight, arena));
  place.bytes = arena.used();
  return place;
}

bool HasSite(const LoraBranch& branch) { return branch.site != LoraBranch::kNoSite; }

int64_t SitesOf(const DeltaTableView& table) { return static_cast<int64_t>(table.sites->size()); }

// Calls f(first, count) for the branches with a site, kTableSites at a time.
template <class F>
void ForSites(const LoraLinearForwardArgs& args, F&& f) {
  std::vector<size_t> sites;
  for (size_t i = 0; i < args.branches.size(); ++i)
    if (HasSite(args.branches[i])) sites.push_back(i);
  for (size_t first = 0; first < sites.size(); first += device::kTableSites) {
    f(std::span(sites).subspan(first, std::min<size_t>(device::kTableSites, sites.size() - first)));
  }
}

// The check of slots and entries that the host wrote.
void CheckSlotsOnHost(const LoraLinearForwardArgs& args, const int32_t* slots,
                      const DeltaEntry* entries) {
  const std::span rows(slots, static_cast<size_t>(args.x.dim(0)));
  for (size_t row = 0; row < rows.size(); ++row)
    if (rows[row] < -1 || rows[row] >= args.table.slots)
      ThrowSlot(args, rows[row], static_cast<int64_t>(row));
  for (const int32_t slot : rows) {
    if (slot < 0) continue;
    for (const LoraBranch& branch : args.branches)
      if (HasSite(branch) && entries[slot * SitesOf(args.table) + branch.site].rank == kFailedRank)
        ThrowFailedSlot(args, slot);
  }
}

void CheckSlots(const LoraLinearForwardArgs& args, const Place& place, CudaContext& cuda) {
  const TensorView known = args.slots.on_host();
  const DeltaEntry* const entries = args.table.entries_on_host();
  if (known && entries) return CheckSlotsOnHost(args, known.as<const int32_t>(), entries);
  const auto read_slot = [&](uint64_t row) {
    int32_t slot = 0;
    cuda.ReadNow(&slot, Data<int32_t>(args.slots) + row, sizeof slot);
    return slot;
  };
  const auto check = [&](std::span<const size_t> branches) {
    device::CheckTableParams params{};
    params.slots = Data<int32_t>(args.slots);
    params.rows = args.x.dim(0);
    params.slot_count = args.table.slots;
    params.sites = SitesOf(args.table);
    params.report = place.report;
    for (const size_t i : branches)
      params.site[params.count++] = args.table.entries + args.branches[i].site;
    Launch<device::CheckTable>(kOp, cuda, {}, params);
    device::TableReport report{device::kNoBadId, device::kNoBadId};
    cuda.ReadNow(&report, place.report, sizeof report);
    if (report.outside != device::kNoBadId)
      ThrowSlot(args, read_slot(report.outside), static_cast<int64_t>(report.outside));
    if (report.failed != device::kNoBadId) ThrowFailedSlot(args, read_slot(report.failed));
  };
  bool checked = false;
  ForSites(args, [&](std::span<const size_t> branches) {
    check(branches);
    checked = true;
  });
  if (!checked) check({});  // the range of the slots, where no branch has a site
}

// Computes h of rows [first, first + count).
template <class T>
void Down(const LoraLinearForwardArgs& args, const Place& place, int64_t first, int64_t count,
          Context& context) {
  const int64_t k = args.x.dim(1), max_rank = args.table.max_rank;
  ForSites(args, [&](std::span<const size_t> branches) {
    device::TableDownParams<T> params{};
    params.x = Data<const T>(args.x) + first * k;
    params.slots = Data<int32_t>(args.slots) + first;
    params.rows = count;
    params.k = k;
    params.max_rank = max_rank;
    params.sites = SitesOf(args.table);
    for (size_t t = 0; t < branches.size(); ++t) {
      params.term[t] = {args.table.entries + args.branches[branches[t]].site,
                        place.h + static_cast<int64_t>(branches[t]) * count * max_rank};
    }
    device::LaunchShape shape;
    shape.grid_x = static_cast<unsigned>(static_cast<int64_t>(branches.size()) * count * max_rank);
    Launch<device::TableDown<T>>(kOp, context, shape, params);
  });
}

// Rows [first, first + count) of W·x with what their slots add.
DecodeArgs DecodeOf(const LoraLinearForwardArgs& args, const Place& place, int64_t first,
                    int64_t count) {
  const int64_t max_rank = args.table.max_rank;
  const auto row = [&](const TensorView& view) {
    return static_cast<std::byte*>(view.data) +
           static_cast<size_t>(first * view.dim(1)) * SizeOf(view.dtype);
  };
  DecodeArgs decode;
  decode.dtype = args.x.dtype;
  decode.x = row(args.x);
  decode.m = count;
  decode.k = args.x.dim(1);
  decode.slots = Data<int32_t>(args.slots) + first;
  decode.sites = SitesOf(args.table);
  for (size_t i = 0; i < args.branches.size(); ++i) {
    const LoraBranch& branch = args.branches[i];
    DecodeBranch to;
    to.w = place.w[i];
    if (DecodesPacked(branch.weight)) to.packed = branch.weight;
    to.w_dtype = OperandDType(branch.weight);
    to.n = branch.weight.rows;
    to.bias = branch.bias ? branch.bias.data : nullptr;
    to.bias_f32 = branch.bias.dtype == DType::kF32;
    to.y = row(args.y[i]);
    if (HasSite(branch)) {
      to.site = args.table.entries + branch.site;
      to.h = place.h + static_cast<int64_t>(i) * count * max_rank;
      to.rank = max_rank;
    }
    decode.branches.push_back(to);
  }
  return decode;
}

void RunTable(const LoraLinearForwardArgs& args, Scratch scratch, Context& context) {
  const int64_t m = args.x.dim(0);
  if (m == 0) return;
  const Place place = PlaceOf(args, ScratchArena(scratch));
  CheckSlots(args, place, static_cast<CudaContext&>(context));
  place.expansions.Run(kOp, context);
  for (int64_t first = 0; first < m; first += kMaxDecodeRows) {
    const int64_t count = std::min(kMaxDecodeRows, m - first);
    ForFloat(args.x.dtype, [&]<class T>() { Down<T>(args, place, first, count, context); });
    DecodeLinear(DecodeOf(args, place, first, count), context);
  }
}

}  // namespace

PlannedCall PlanTableCall(const LoraLinearForwardArgs& args) {
  return CallOf<LoraLinearForwardArgs>(args, PlaceOf(args, ScratchArena()).bytes, RunTable);
}

}  // namespace lora::cuda
