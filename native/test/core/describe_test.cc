// Tests the descriptions of ops: their names and labels, and the walk over operands.
#include "core/ops/describe.h"

#include <doctest/doctest.h>

#include <set>
#include <string>
#include <vector>

#include "core/ops/ops.h"

namespace lora::test {
namespace {

// Returns what a walk sees: "in 5" for a tensor of 5 elements, "weight 1" for a matrix of one row.
template <class Args>
std::vector<std::string> Walked(const Args& args) {
  struct Record {
    std::vector<std::string>& seen;
    void operator()(const TensorView& view, Access access) const {
      constexpr const char* kNames[] = {"in", "out", "in-out", "update"};
      seen.push_back(std::string(kNames[static_cast<size_t>(access)]) + ' ' +
                     std::to_string(view.shape.numel()));
    }
    void operator()(const PackedView& view) const {
      seen.push_back("weight " + std::to_string(view.rows));
    }
    void operator()(const DeltaTableView& view) const {
      if (view) seen.push_back("table " + std::to_string(view.slots));
    }
  };
  std::vector<std::string> seen;
  ForEachOperand(args, Record{seen});
  return seen;
}

// Returns a tensor that its number of elements tells from others.
TensorView Marked(int64_t elements) { return TensorView(nullptr, DType::kF32, {elements}); }

TEST_CASE("every op has a name of its own, and a label") {
  std::set<std::string> names;
  AllOps::ForEach([&]<class Args>(std::type_identity<Args>) {
    constexpr auto& op = kDescription<Args>;
    CAPTURE(op.name);
    CHECK(names.insert(op.name).second);
    CHECK(std::string(op.label) != "");
  });
  CHECK(names.contains("lora_linear_backward"));
}

TEST_CASE("a walk visits every tensor of every branch with its direction") {
  LoraBranch branch;
  branch.weight.rows = 1;
  branch.bias = Marked(2);
  branch.up = Marked(3);
  branch.down = Marked(4);
  branch.factor = Marked(15);
  LoraLinearBackwardArgs args;
  args.x = Marked(5);
  args.branches = {branch, branch};
  args.g = {Marked(6), Marked(7)};
  args.h = {Marked(8), Marked(9)};
  args.dx = Marked(10);
  args.d_up = {Marked(11), Marked(12)};
  args.d_down = {Marked(13), Marked(14)};
  args.u = {Marked(16), Marked(17)};
  args.kept_u = {Marked(18), Marked(19)};
  CHECK(Walked(args) == std::vector<std::string>{"in 5",   "weight 1", "in 2",   "in 3",   "in 4",
                                                 "in 15",  "weight 1", "in 2",   "in 3",   "in 4",
                                                 "in 15",  "in 6",     "in 7",   "in 8",   "in 9",
                                                 "in 16",  "in 17",    "out 10", "out 11", "out 12",
                                                 "out 13", "out 14",   "out 18", "out 19"});

  AdamWArgs adamw;
  adamw.segments = {{Marked(1), Marked(2), Marked(3), Marked(4)}};
  CHECK(Walked(adamw) == std::vector<std::string>{"update 1", "in 2", "update 3", "update 4"});

  LinearCrossEntropyArgs loss;
  loss.weight.rows = 1;
  CHECK(Walked(loss) == std::vector<std::string>{"in 1", "weight 1", "in 1", "out 1", "out 1",
                                                 "out 1", "out 1", "out 1"});
}

TEST_CASE("the kind of an op is its label where its description says so") {
  CHECK(std::string(LabelOf(BinaryArgs{BinaryKind::kDiv, {}, {}, {}})) == "div");
  CHECK(std::string(LabelOf(UnaryArgs{UnaryKind::kSilu, 1, {}, {}})) == "silu");
  CHECK(std::string(LabelOf(RandomArgs{RandomKind::kNormal, 0, 0, 0, 1, {}})) == "random");
  CHECK(std::string(LabelOf(ReduceSumArgs{})) == "sum");
}

TEST_CASE("f16 activations are seen where an op's description marks them") {
  const TensorView half(nullptr, DType::kF16, {1});
  CHECK(ActivationOf(GatedForwardArgs{GatedKind::kSilu, half, half, half}) == DType::kF16);
  CHECK(ActivationOf(GatedBackwardArgs{GatedKind::kSilu, half, half, half, half, half}) ==
        DType::kF32);
  EmbeddingArgs embedding;
  embedding.weight.dtype = DType::kF16;
  CHECK(ActivationOf(embedding) == DType::kF16);
}

}  // namespace
}  // namespace lora::test
