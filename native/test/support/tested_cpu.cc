#include <array>
#include <initializer_list>
#include <string>

#include "backend/cpu/lora/lora_linear.h"
#include "backend/cpu/product/panels.h"
#include "backend/cpu/runtime/context.h"
#include "test/support/kept_matrix.h"
#include "test/support/simd_targets.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

Context& ContextOf(int threads) {
  static const std::array<std::unique_ptr<cpu::CpuContext>, 3> contexts = {
      std::make_unique<cpu::CpuContext>(1), std::make_unique<cpu::CpuContext>(2),
      std::make_unique<cpu::CpuContext>(3)};
  return *contexts[static_cast<size_t>(threads - 1)];
}

// Checks a run with some threads, and requires the same bits of runs with others.
void CheckTwice(int threads, std::initializer_list<int> others, const RunFunction& run,
                const CheckFunction& check) {
  const std::vector<Tensor> first = run(ContextOf(threads));
  for (const Tensor& output : first) CHECK(output.intact());
  check(first);
  for (const int other : others) {
    CAPTURE(other);
    const std::vector<Tensor> again = run(ContextOf(other));
    for (size_t i = 0; i < first.size(); ++i) CHECK_IDENTICAL(again[i], first[i]);
  }
}

}  // namespace

const TestedBackend& Tested() {
  static const TestedBackend tested = {
      CpuBackend(),
      {0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 63, 64, 65, 511, 512, 513, 1000, 1025, 100003},
      100003,
      false,
      false,
      cpu::kFewRows};
  return tested;
}

bool MultipliesCodes(const Kept& kept, int64_t cols) {
  switch (kept.format) {
    case WeightFormat::kI8Rows:
    case WeightFormat::kNF4:
    case WeightFormat::kFP4:
      return cols % 32 == 0;
    case WeightFormat::kQ4_0:
    case WeightFormat::kQ4_1:
    case WeightFormat::kQ5_0:
    case WeightFormat::kQ5_1:
    case WeightFormat::kQ8_0:
    case WeightFormat::kQ4_K:
    case WeightFormat::kQ5_K:
    case WeightFormat::kQ6_K:
      return true;
    default:
      return false;
  }
}

bool MultipliesHalves(int64_t k) {
  const std::string target = cpu::ActiveTarget();
  // AVX3_DL is there in builds with sanitizers alone, for the tiles of AVX3_SPR.
  return k % 2 == 0 && (target == "avx3_zen4" || target == "avx3_spr" || target == "avx3_dl" ||
                        target == "neon_bf16");
}

std::unique_ptr<Context> NextContext() {
  static int turn = 0;
  return CpuBackend().create_context(1 + turn++ % 3);
}

void OnEveryPath(const RunFunction& run, const CheckFunction& check) {
  ForEachSimdTarget([&] { CheckTwice(1, {1, 2, 3}, run, check); });
}

void OnPathsInTurn(const RunFunction& run, const CheckFunction& check, bool threads_matter) {
  if (!threads_matter) return OnEveryPath(run, check);
  ForEachSimdTarget([&] {
    for (const int threads : {1, 2, 3}) {
      CAPTURE(threads);
      CheckTwice(threads, {threads}, run, check);
    }
  });
}

}  // namespace lora::test
