// The rules of frozen matrices and of lora_linear.
#include "core/ops/linear.h"

#include <utility>

#include "core/ops/rules.h"

namespace lora {
namespace {

using check::Rules;

void CheckProbability(const Rules& rules, const Dropout& dropout) {
  LORA_CHECK(dropout.p >= 0 && dropout.p < 1, rules.op(),
             "expected dropout p in [0, 1) but received ", dropout.p);
}

void CheckTable(const Rules& rules, const LoraLinearForwardArgs& args) {
  LORA_CHECK(args.slots.defined == static_cast<bool>(args.table), rules.op(),
             "expected slots and a table together but received ",
             args.table ? "a table alone" : "slots alone");
  if (!args.table) return;
  rules.ShapeIs("slots", args.slots, {args.x.dim(0)}, "(rows)");
  rules.Int32("slots", args.slots);
  const bool steps = args.phase == LinearPhase::kDecode && args.x.dtype == DType::kBF16;
  LORA_CHECK(args.table.dtype == DType::kF32 || steps, rules.op(),
             "expected a table of f32, but in "
             "a decode step on bf16 x, and received one of ",
             NameOf(args.table.dtype), " in phase ", kLinearPhases[static_cast<size_t>(args.phase)],
             " on x of dtype ", NameOf(args.x.dtype));
}

// Checks where a branch stands in the table of a call.
void CheckSite(const Rules& rules, const LoraBranch& branch, const DeltaTableView& table) {
  LORA_CHECK(!table || !branch.up, rules.op(), "expected no up and down beside a table");
  LORA_CHECK(!table || !branch.factor, rules.op(), "expected no factor beside a table");
  LORA_CHECK(!table || !branch.dropout.active(), rules.op(), "expected no dropout beside a table");
  if (branch.site == LoraBranch::kNoSite) return;
  LORA_CHECK(table, rules.op(), "expected a table with site ", branch.site, " but received none");
  const int64_t sites = static_cast<int64_t>(table.sites->size());
  LORA_CHECK(branch.site >= 0 && branch.site < sites, rules.op(), "expected a site from 0 to ",
             sites - 1, " but received ", branch.site);
  const DeltaSite& site = (*table.sites)[static_cast<size_t>(branch.site)];
  LORA_CHECK(site.out == branch.weight.rows && site.in == branch.weight.cols, rules.op(),
             "expected a weight of shape ", Shape{site.out, site.in}, " (that of site ",
             branch.site, ") but received ", Shape{branch.weight.rows, branch.weight.cols});
}

void CheckBranch(const Rules& rules, const LoraBranch& branch) {
  const int64_t out = branch.weight.rows, in = branch.weight.cols;
  if (branch.bias) {
    rules.ShapeIs("bias", branch.bias, {out}, "(out)");
    rules.TypeOrFloat32("bias", branch.bias, "weight", branch.weight.dtype);
  }
  LORA_CHECK(branch.up.defined == branch.down.defined, rules.op(),
             "expected up and down together but received ",
             branch.up.defined ? "up alone" : "down alone");
  if (!branch.up) return;
  rules.Float32("up", branch.up);
  rules.Float32("down", branch.down);
  rules.Rank("up", branch.up, 2, "(out, rank)");
  const int64_t rank = branch.up.dim(1);
  LORA_CHECK(rank >= 1, rules.op(), "expected a rank of at least 1 but received up of shape ",
             branch.up.shape);
  rules.ShapeIs("up", branch.up, {out, rank}, "(out, rank)");
  rules.ShapeIs("down", branch.down, {rank, in}, "(rank, in)");
  rules.Finite("scale", branch.scale);
  CheckProbability(rules, branch.dropout);
}

// Checks the u of branch i that is given or kept.
void CheckU(const Rules& rules, const LoraLinearBackwardArgs& args, size_t i) {
  const bool given = IsAt(args.u, i), kept = IsAt(args.kept_u, i);
  if (!given && !kept) return;
  const LoraBranch& branch = args.branches[i];
  LORA_CHECK(branch.up, rules.op(), "expected no u without up and down");
  LORA_CHECK(!given || (!args.dx && !kept), rules.op(),
             "expected no u in a call that computes it: one for dx, or one that keeps it");
  const TensorView& u = given ? args.u[i] : args.kept_u[i];
  rules.ShapeIs("u", u, {args.g[i].dim(0), branch.up.dim(1)}, "(rows, rank)");
  rules.Float32("u", u);
}

}  // namespace

void Check(const PackArgs& args) {
  const Rules rules(LabelOf(args));
  const FormatTraits& format = TraitsOf(args.format);
  LORA_CHECK(args.src.dtype == format.stored, rules.op(), "expected weight of dtype ",
             NameOf(format.stored), " (", format.name, ") but received ", NameOf(args.src.dtype));
  if (HasBlocks(args.format)) {
    LORA_CHECK(args.cols % format.block.values == 0, rules.op(),
               "expected rows of whole blocks of ", format.block.values, " values (", format.name,
               ") but received a weight of shape ", Shape{args.rows, args.cols});
  }
  if (format.codes == nullptr && !HasBlocks(args.format)) {
    rules.ShapeIs("weight", args.src, {args.rows, args.cols}, "(out, in)");
  } else {
    rules.ShapeIs("weight", args.src, {ValueBytes(args.format, args.rows, args.cols)},
                  format.codes ? "(bytes of codes)" : "(bytes of blocks)");
  }
  if (format.scales == Scales::kNone) {
    LORA_CHECK(!args.scales, rules.op(), "expected no scales with a weight in ", format.name);
  } else {
    rules.ShapeIs("scales", args.scales, {ScaleCount(args.format, args.rows, args.cols)},
                  format.scales == Scales::kRows ? "(out)" : "(blocks of 64 values)");
    rules.Float32("scales", args.scales);
  }
}

void Check(const QuantizeArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Rank("weight", args.src, 2, "(out, in)");
  rules.Floating("weight", args.src);
  rules.ShapeIs("values", args.values, args.ValueShape(), "(those of pack)");
  rules.Type("values", args.values, {DType::kI8});
  rules.ShapeIs("magnitudes", args.magnitudes, {ScaleCount(args.format, args.rows(), args.cols())},
                "(groups that share a scale)");
  rules.Type("magnitudes", args.magnitudes, {DType::kF32});
}

void Check(const QuantizeBlocksArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Floating("values", args.values);
  const BlockSize size = TraitsOf(args.format).block;
  LORA_CHECK(args.values.numel() % size.values == 0, rules.op(), "expected whole blocks of ",
             size.values, " values (", NameOf(args.format), ") but received ", args.values.numel(),
             " values");
  rules.ShapeIs("blocks", args.blocks, {args.count() * size.bytes}, "(bytes of blocks)");
  rules.ShapeIs("held", args.held, {args.count()}, "(blocks)");
  for (const auto& [name, bytes] : {std::pair{"blocks", args.blocks}, {"held", args.held}})
    rules.Type(name, bytes, {DType::kI8});
}

void Check(const UnpackArgs& args) {
  const Rules rules(LabelOf(args));
  LORA_CHECK(args.src, rules.op(), "expected a packed weight but received none");
  rules.ShapeIs("dst", args.dst, {args.src.rows, args.src.cols}, "(out, in)");
  rules.SameType("dst", args.dst, "weight", args.src.dtype);
}

void Check(const LoraLinearForwardArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Rank("x", args.x, 2, "(rows, in)");
  rules.InferenceAct("x", args.x);
  const size_t n = args.branches.size();
  LORA_CHECK(n >= 1, rules.op(), "expected at least one branch but received none");
  rules.Count("y", args.y.size(), n, "branch");
  rules.Count("h", args.h.size(), n, "branch");
  CheckTable(rules, args);
  for (size_t i = 0; i < n; ++i) {
    const LoraBranch& branch = args.branches[i];
    rules.Weight("weight", branch.weight, args.x.dtype, "x", args.x.dim(1));
    CheckBranch(rules, branch);
    CheckSite(rules, branch, args.table);
    LORA_CHECK(args.phase != LinearPhase::kDecode || !branch.up || !branch.dropout.active(),
               rules.op(), "expected no dropout in a decode step but received p ",
               branch.dropout.p);
    LORA_CHECK(branch.activations == Activations::kExact || !branch.dropout.active(), rules.op(),
               "expected no dropout beside int8 activations but received p ", branch.dropout.p);
    if (branch.factor) {
      rules.ShapeIs("factor", branch.factor, {branch.weight.rows}, "(out)");
      rules.Float32("factor", branch.factor);
    }
    rules.ShapeIs("y", args.y[i], {args.x.dim(0), branch.weight.rows}, "(rows, out)");
    rules.SameType("y", args.y[i], "x", args.x.dtype);
    if (!args.h[i]) continue;
    LORA_CHECK(branch.up, rules.op(), "expected no h without up and down");
    rules.ShapeIs("h", args.h[i], {args.x.dim(0), branch.up.dim(1)}, "(rows, rank)");
    rules.Float32("h", args.h[i]);
  }
}

void ThrowSlot(const LoraLinearForwardArgs& args, int32_t slot, int64_t row) {
  Throw("ERR_DATA", LabelOf(args), "expected slots from -1 to ", args.table.slots - 1,
        " but received ", slot, " at row ", row);
}

void ThrowFailedSlot(const LoraLinearForwardArgs& args, int32_t slot) {
  Throw("ERR_DATA", LabelOf(args), "the adapter in slot ", slot,
        " was set with weights that had failed");
}

const DeltaEntry& EntryOf(const LoraLinearForwardArgs& args, size_t branch, int64_t row) {
  static constexpr DeltaEntry kNone;
  const DeltaTableView& table = args.table;
  const int32_t slot = args.slots.as<int32_t>()[row];
  if (slot < -1 || slot >= table.slots) ThrowSlot(args, slot, row);
  const int64_t site = args.branches[branch].site;
  if (slot < 0 || site == LoraBranch::kNoSite) return kNone;
  const int64_t sites = static_cast<int64_t>(table.sites->size());
  const DeltaEntry& entry = table.entries[slot * sites + site];
  if (entry.rank == kFailedRank) ThrowFailedSlot(args, slot);
  return entry;
}

void Check(const LoraLinearBackwardArgs& args) {
  const Rules rules(LabelOf(args));
  const size_t n = args.branches.size();
  LORA_CHECK(n >= 1, rules.op(), "expected at least one branch but received none");
  rules.Count("g", args.g.size(), n, "branch");
  rules.Count("h", args.h.size(), n, "branch");
  rules.Count("d_up", args.d_up.size(), n, "branch");
  rules.Count("d_down", args.d_down.size(), n, "branch");
  if (!args.u.empty()) rules.Count("u", args.u.size(), n, "branch");
  if (!args.kept_u.empty()) rules.Count("kept_u", args.kept_u.size(), n, "branch");
  rules.Rank("g", args.g[0], 2, "(rows, out)");
  rules.Act("g", args.g[0]);
  const int64_t rows = args.g[0].dim(0), in = args.branches[0].weight.cols;
  const DType act = args.g[0].dtype;
  if (args.x) {
    rules.ShapeIs("x", args.x, {rows, in}, "(rows, in)");
    rules.SameType("x", args.x, "g", act);
  }
  if (args.dx) {
    rules.ShapeIs("dx", args.dx, {rows, in}, "(rows, in)");
    rules.SameType("dx", args.dx, "g", act);
  }
  for (size_t i = 0; i < n; ++i) {
    const LoraBranch& branch = args.branches[i];
    rules.Weight("weight", branch.weight, act, "x", in);
    CheckBranch(rules, branch);
    LORA_CHECK(!branch.factor, rules.op(),
               "expected no factor in backward, whose g is multiplied by it");
    LORA_CHECK(branch.activations == Activations::kExact, rules.op(),
               "expected exact activations in backward");
    rules.ShapeIs("g", args.g[i], {rows, branch.weight.rows}, "(rows, out)");
    rules.SameType("g", args.g[i], "the first g", act);
    CheckSite(rules, branch, DeltaTableView());
    LORA_CHECK((!args.d_up[i] && !args.d_down[i]) || branch.up, rules.op(),
               "expected up and down where their gradients are wanted but received none");
    if (args.d_up[i]) {
      rules.ShapeIs("d_up", args.d_up[i], branch.up.shape, "(out, rank)");
      rules.Float32("d_up", args.d_up[i]);
      rules.ShapeIs("h", args.h[i], {rows, branch.up.dim(1)}, "(rows, rank)");
      rules.Float32("h", args.h[i]);
    }
    if (args.d_down[i]) {
      rules.ShapeIs("d_down", args.d_down[i], branch.down.shape, "(rank, in)");
      rules.Float32("d_down", args.d_down[i]);
      rules.Present("x", args.x);
    }
    CheckU(rules, args, i);
  }
}

void Check(const DropoutArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Rank("x", args.x, 2, "(rows, columns)");
  rules.Floating("x", args.x);
  CheckProbability(rules, args.dropout);
  rules.Like("y", args.y, "x", args.x);
}

}  // namespace lora
