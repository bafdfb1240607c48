#include "test/support/cases.h"

#include <sstream>
#include <utility>

namespace lora::test {
namespace {

std::vector<LoraLinearCase> AllCases() {
  const std::vector<LoraLinearCase> shapes = {
      // nothing, and next to nothing
      {{}, 0, 8, {{8, 4}}},
      {{}, 5, 0, {{6, 3, true}}},
      {{}, 5, 8, {{0, 2}}},
      {{}, 1, 1, {{1, 1}}},
      {{}, 3, 7, {{3, 0}}},
      {{}, 7, 3, {{7, 3, true, 0.5f}}},
      // rows around the tile of 6 and the limit of the decode path
      {{}, 1, 64, {{64, 8}}},
      {{}, 4, 100, {{33, 8, true}}},
      {{}, 5, 130, {{66, 8, false, 0.1f}}},
      {{}, 6, 96, {{48, 4}}},
      {{}, 7, 96, {{48, 16, true}}},
      {{}, 13, 65, {{47, 1}}},
      // outputs around the tile of 64
      {{}, 6, 40, {{63, 4}}},
      {{}, 6, 40, {{65, 4, true}}},
      {{}, 12, 40, {{129, 0, true}}},
      // inputs, and outputs, which are backward's inputs, around the CPU's block of nearly 512
      // elements: 512 of f32 and 1024 of bf16 make one, 768 and 1536 make two
      {{}, 7, 511, {{32, 8}}},
      {{}, 7, 512, {{32, 8}}},
      {{}, 7, 513, {{32, 8, true, 0.25f}}},
      {{}, 7, 767, {{9, 3}}},
      {{}, 7, 768, {{9, 3}}},
      {{}, 3, 1030, {{70, 16}}},
      {{}, 6, 1535, {{9, 3, true}}},
      {{}, 6, 1700, {{32, 8, true, 0.25f}}},
      {{}, 7, 20, {{800, 8}}},
      {{}, 7, 12, {{1700, 3, true}, {33, 8}}},
      // ranks
      {{}, 9, 72, {{40, 64}}},
      {{}, 9, 72, {{40, 65, true}}},
      {{}, 2, 72, {{40, 65, false, 0.1f}}},
      {{}, 9, 24, {{16, 65}}},
      // rows around the chunk of 1024
      {{}, 64, 64, {{64, 16, false, 0.1f}}},
      {{}, 130, 100, {{96, 8, true}}},
      {{}, 1025, 32, {{17, 3, false, 0.1f}}},
      // a factor of each output: few rows and many, whole panels and parts, one pass and several
      {{}, 1, 64, {{64, 8, true, 0, true}}},
      {{}, 4, 100, {{65, 3, false, 0, true}, {31, 0, true, 0, true}}},
      {{}, 7, 96, {{66, 16, true, 0, true}, {8, 4}}},
      {{}, 6, 1700, {{33, 8, true, 0.25f, true}}},
      // several branches that read one x: grouped-query projections, mixed adapters
      {{}, 7, 66, {{66, 8}, {22, 8}, {22, 8}}},
      {{}, 6, 512, {{64, 4, true, 0.1f}, {31, 0, true}, {16, 65, false, 0.3f}, {5, 1}}},
      {{}, 1, 130, {{64, 0}, {65, 3}}},
      {{}, 0, 16, {{4, 2}, {4, 0, true}}},
  };
  std::vector<LoraLinearCase> cases;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (LoraLinearCase shape : shapes) {
      shape.dtype = dtype;
      cases.push_back(shape);
    }
  }
  return cases;
}

}  // namespace

std::string LoraLinearCase::Name() const {
  std::ostringstream out;
  out << NameOf(dtype) << " m " << m << " k " << k << ':';
  for (size_t i = 0; i < branches.size(); ++i) {
    const BranchCase& branch = branches[i];
    out << (i ? "; n " : " n ") << branch.n << " r " << branch.r << (branch.bias ? " bias" : "");
    if (branch.dropout > 0) out << " dropout " << branch.dropout;
    if (branch.factor) out << " factor";
  }
  return out.str();
}

LoraLinearCase CaseOf(DType dtype, int64_t m, int64_t k, std::vector<BranchCase> branches) {
  LoraLinearCase c;
  c.dtype = dtype;
  c.m = m;
  c.k = k;
  c.branches = std::move(branches);
  return c;
}

const std::vector<LoraLinearCase>& LoraLinearCases() {
  static const std::vector<LoraLinearCase> cases = AllCases();
  return cases;
}

}  // namespace lora::test
