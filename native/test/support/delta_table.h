// A table of changes in host memory, for calls whose rows have adapters of their own.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "test/support/lora_problem.h"

namespace lora::test {

// The branches of a problem with one set of changes per slot. Ranks differ by slot and site. One
// slot has no change at one site, and no factors.
class TableProblem {
 public:
  static constexpr int kSlots = 3;

  // x and the frozen weights are those of `of`, whose ranks are not used. Its up and down have
  // values of `dtype`, which is that of the table.
  TableProblem(const LoraLinearCase& of, LinearPhase phase, DType dtype = DType::kF32) {
    constexpr int64_t kRanks[kSlots] = {5, 16, 1};
    auto sites = std::make_shared<std::vector<DeltaSite>>();
    for (int slot = 0; slot < kSlots; ++slot) {
      LoraLinearCase c = of;
      for (size_t i = 0; i < c.branches.size(); ++i) {
        c.branches[i].r = slot == 1 && i == 0 ? 0 : kRanks[slot] + static_cast<int64_t>(i % 8);
        c.branches[i].dropout = 0;
      }
      LoraLinearProblem problem(c, static_cast<uint64_t>(slot) + 1);
      problem.phase = phase;
      if (slot > 0) {
        problem.x = slots_[0].x;
        for (size_t i = 0; i < c.branches.size(); ++i) {
          problem.branches[i].weight = slots_[0].branches[i].weight;
          problem.branches[i].bias = slots_[0].branches[i].bias;
          problem.branches[i].scale = 0.5f * static_cast<float>(slot);
        }
      }
      if (slot == 1)
        for (BranchOperands& branch : problem.branches) branch.factor = Tensor();
      for (BranchOperands& branch : problem.branches) {
        branch.up = branch.up.As(dtype).As(DType::kF32);
        branch.down = branch.down.As(dtype).As(DType::kF32);
        ups_.push_back(branch.up.As(dtype));
        downs_.push_back(branch.down.As(dtype));
      }
      slots_.push_back(std::move(problem));
    }
    for (const BranchCase& branch : of.branches) sites->push_back({branch.n, of.k});
    for (const LoraLinearProblem& problem : slots_) {
      for (const BranchOperands& branch : problem.branches) {
        DeltaEntry entry;
        if (branch.up) {
          entry = {ups_[entries.size()].view().data, downs_[entries.size()].view().data, nullptr,
                   branch.scale, static_cast<int32_t>(branch.up.shape()[1])};
          if (branch.factor) entry.factor = branch.factor.view().as<float>();
        }
        entries.push_back(entry);
      }
    }
    table_ = {entries.data(), kSlots, 24, sites, nullptr, dtype};
  }

  const LoraLinearProblem& slot(int32_t slot) const {
    return slots_[static_cast<size_t>(std::max(slot, 0))];
  }
  // The problem whose rows have no change.
  LoraLinearProblem Base() const {
    LoraLinearProblem base = slots_[0];
    for (BranchOperands& branch : base.branches) branch.up = branch.down = branch.factor = Tensor();
    return base;
  }

  // Gives a branch another frozen weight, which is packed by these arguments.
  void SetWeight(size_t branch, const Tensor& values, const PackArgs& packed) {
    for (LoraLinearProblem& problem : slots_) problem.branches[branch].weight = values;
    packed_.resize(slots_[0].branches.size());
    packed_[branch] = packed;
  }

  // y of each branch, with the slot of each row.
  std::vector<Tensor> Forward(const Backend& backend, Context& context,
                              const std::vector<int32_t>& slots) const {
    return Forward(backend, context, slots, slots_[0].x);
  }
  // The same of another x.
  std::vector<Tensor> Forward(const Backend& backend, Context& context,
                              const std::vector<int32_t>& slots, const Tensor& x) const {
    const LoraLinearProblem& problem = slots_[0];
    const int64_t m = x.shape()[0];
    Tensor slot_of(DType::kI32, {m});
    for (int64_t i = 0; i < m; ++i) slot_of.Set(i, slots[static_cast<size_t>(i)]);
    LoraLinearForwardArgs args;
    args.x = x;
    args.phase = problem.phase;
    args.slots = slot_of;
    args.table = table_;
    std::vector<DeltaEntry> named = entries;
    std::vector<FrozenWeight> weights;
    for (size_t i = 0; i < named.size() && table_.dtype != DType::kF32; ++i) {
      if (!ups_[i]) continue;
      weights.emplace_back(backend, ups_[i], context);
      named[i].up = weights.back().view().data;
    }
    args.table.entries = named.data();
    std::vector<Tensor> y;
    for (size_t i = 0; i < problem.branches.size(); ++i) {
      const BranchOperands& branch = problem.branches[i];
      const DType act = problem.x.dtype();
      const bool set = i < packed_.size() && packed_[i];
      weights.emplace_back(backend, set ? *packed_[i] : PackOf(branch.weight, nullptr), act,
                           context);
      y.emplace_back(problem.x.dtype(), Shape{m, branch.weight.shape()[0]});
      LoraBranch to;
      to.weight = weights.back().view();
      to.bias = branch.bias;
      to.site = sited ? static_cast<int64_t>(i) : LoraBranch::kNoSite;
      args.branches.push_back(to);
      args.y.push_back(y.back());
      args.h.emplace_back();
    }
    Run(backend, args, context);
    return y;
  }

  std::vector<DeltaEntry> entries;  // [slots, sites]
  bool sited = true;                // whether the branches of a call have a site in the table

 private:
  std::vector<std::optional<PackArgs>> packed_;  // by branch; views of tensors of the test
  std::vector<LoraLinearProblem> slots_;
  std::vector<Tensor> ups_, downs_;  // of the entries, in the dtype of the table
  DeltaTableView table_;
};

}  // namespace lora::test
