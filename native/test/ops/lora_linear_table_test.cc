// Holds lora_linear of rows that have adapters of their own against the reference, which computes
// each adapter for all rows.
#include <cmath>
#include <vector>

#include "core/error.h"
#include "test/support/delta_table.h"
#include "test/support/tested_precision.h"

namespace lora::test {
namespace {

// A GPU computes 16 rows at once: the slots of the next 16 are others.
std::vector<int32_t> MixedSlots(int64_t m) {
  std::vector<int32_t> slots;
  for (int64_t i = 0; i < m; ++i)
    slots.push_back(static_cast<int32_t>((i * i / 2 + i / 16) % 4) - 1);
  return slots;
}

// The dtypes of tables that such a call reads.
std::vector<DType> TableDTypes(DType act, LinearPhase phase) {
  if (act != DType::kBF16 || phase != LinearPhase::kDecode || !Tested().backend.bf16_deltas)
    return {DType::kF32};
  return {DType::kF32, DType::kBF16};
}

// What rows with these slots are to be, out of what all rows would be with each of them.
struct Expected {
  std::vector<Tensor> y;
  std::vector<Bounds> bounds;
};
Expected ExpectedOf(const TableProblem& problem, const std::vector<int32_t>& slots) {
  std::vector<LoraLinearProblem> problems = {problem.Base()};
  for (int32_t slot = 0; slot < TableProblem::kSlots; ++slot)
    problems.push_back(problem.slot(slot));
  Expected expected;
  for (size_t p = 0; p < problems.size(); ++p) {
    const LoraLinearOutputs all = problems[p].Expected();
    const LoraLinearBounds bounds = problems[p].Bounds(all, PrecisionOf(problems[p]));
    if (p == 0) {
      expected.y = all.y;
      expected.bounds = bounds.y;
    }
    for (size_t i = 0; i < all.y.size(); ++i) {
      const int64_t n = all.y[i].shape()[1];
      if (p > 0) expected.bounds[i].norm = std::hypot(expected.bounds[i].norm, bounds.y[i].norm);
      for (size_t row = 0; row < slots.size(); ++row) {
        if (slots[row] + 1 != static_cast<int32_t>(p)) continue;
        for (int64_t o = 0; o < n; ++o) {
          const int64_t at = static_cast<int64_t>(row) * n + o;
          expected.y[i].Set(at, all.y[i].at(at));
          expected.bounds[i].element[static_cast<size_t>(at)] =
              bounds.y[i].element[static_cast<size_t>(at)];
        }
      }
    }
  }
  return expected;
}

void CheckRows(const LoraLinearCase& c, LinearPhase phase, DType low) {
  CAPTURE(phase);
  CAPTURE(c.Name());
  CAPTURE(NameOf(low));
  const TableProblem problem(c, phase, low);
  const std::vector<int32_t> slots = MixedSlots(c.m);
  const Expected expected = ExpectedOf(problem, slots);
  OnPathsInTurn([&](Context& context) { return problem.Forward(Tested().backend, context, slots); },
                [&](const std::vector<Tensor>& y) {
                  for (size_t i = 0; i < y.size(); ++i)
                    CHECK_CLOSE(y[i], expected.y[i], expected.bounds[i]);
                });
}

TEST_CASE("lora_linear with a table agrees with the reference row by row") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const LinearPhase phase :
         {LinearPhase::kAuto, LinearPhase::kPrefill, LinearPhase::kDecode}) {
      for (const LoraLinearCase& c :
           {CaseOf(dtype, 1, 70, {{66, 0, true, 0, true}, {30, 0}}), CaseOf(dtype, 0, 9, {{5, 0}}),
            CaseOf(dtype, 3, 33, {{5, 0, true, 0, true}, {0, 0}}), CaseOf(dtype, 8, 0, {{7, 0}}),
            CaseOf(dtype, 9, 129, {{130, 0, true, 0, true}, {3, 0}}),
            CaseOf(dtype, 21, 90, {{65, 0, false, 0, true}, {20, 0}})}) {
        for (const DType low : TableDTypes(dtype, phase)) CheckRows(c, phase, low);
      }
    }
  }
}

// A GPU computes h of 16 branches at once.
TEST_CASE("lora_linear with a table takes more branches than a launch") {
  LoraLinearCase c = CaseOf(DType::kF32, 2, 9, {});
  for (int64_t n = 1; n <= 18; ++n) c.branches.push_back({n % 4 + 1, 0});
  CheckRows(c, LinearPhase::kDecode, DType::kF32);
  TableProblem problem(c, LinearPhase::kDecode);
  problem.entries[18 + 17].rank = kFailedRank;  // of slot 1 and the last branch
  problem.Forward(Tested().backend, *NextContext(), {0, 2});
  CHECK_THROWS_AS(problem.Forward(Tested().backend, *NextContext(), {0, 1}), Error);
}

TEST_CASE("lora_linear refuses slots outside of the table, and adapters that had failed") {
  for (const LinearPhase phase : {LinearPhase::kPrefill, LinearPhase::kDecode}) {
    TableProblem problem(CaseOf(DType::kF32, 3, 8, {{5, 0}}), phase);
    const auto context = NextContext();
    const auto code = [&](const std::vector<int32_t>& slots) -> std::string {
      try {
        problem.Forward(Tested().backend, *context, slots);
        return "";
      } catch (const Error& error) {
        return error.code();
      }
    };
    CHECK(code({0, 2, -1}) == "");
    CHECK(code({0, 3, 1}) == "ERR_DATA");
    CHECK(code({-2, 0, 0}) == "ERR_DATA");
    problem.entries[1].rank = kFailedRank;
    CHECK(code({0, 2, -1}) == "");
    CHECK(code({0, 2, 1}) == "ERR_DATA");
    problem.sited = false;  // the slots are those of a call, whatever its branches read of them
    CHECK(code({0, 2, 1}) == "");
    CHECK(code({0, 3, 1}) == "ERR_DATA");
    CHECK(code({-2, 0, 0}) == "ERR_DATA");
  }
}

TEST_CASE("lora_linear takes a table of bf16 in decode steps on bf16 x only") {
  const auto context = NextContext();
  for (const DType act : {DType::kF32, DType::kBF16}) {
    for (const LinearPhase phase :
         {LinearPhase::kAuto, LinearPhase::kPrefill, LinearPhase::kDecode}) {
      if (act == DType::kBF16 && phase == LinearPhase::kDecode) continue;
      const TableProblem problem(CaseOf(act, 1, 8, {{5, 0}}), phase, DType::kBF16);
      CHECK_THROWS_WITH_AS(problem.Forward(Tested().backend, *context, {0}),
                           doctest::Contains("expected a table of f32"), Error);
    }
  }
}

}  // namespace
}  // namespace lora::test
