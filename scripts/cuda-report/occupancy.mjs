// How many blocks of a kernel a multiprocessor holds, by native/backend/cuda/occupancy.h.
import { linesOf } from './host_program.mjs';

const counter = `
#include <cstdio>

#include "backend/cuda/occupancy.h"

int main() {
  int arch, registers, threads, shared;
  while (std::scanf("%d %d %d %d", &arch, &registers, &threads, &shared) == 4) {
    const lora::cuda::Multiprocessor* const one = lora::cuda::MultiprocessorOf(arch);
    if (one == nullptr) return 1;
    std::printf("%d\\n", lora::cuda::BlocksAtOnce(*one, registers, threads, shared));
  }
}
`;

/** The blocks that a multiprocessor holds of each of the kernels { arch, registers, threads, shared }. */
export function blocksOf(root, kernels) {
  const input = kernels.map(({ arch, registers, threads, shared }) =>
    [arch, registers, threads, shared].join(' '),
  );
  const lines = linesOf(root, counter, { input: input.join('\n') });
  if (lines.length !== kernels.length)
    throw new Error(`[cuda-report] expected ${kernels.length} occupancies but received ${lines.length}`);
  return lines.map(Number);
}

const skinny = `
#include <cstdio>

#include "backend/cuda/device/skinny_s.cuh"
#include "backend/cuda/device/skinny_z.cuh"
#include "backend/cuda/occupancy.h"
#include "backend/cuda/skinny_plan.h"

namespace {

using lora::device::BF16;

template <class Z, class S>
void Print(int form) {
  for (const int tiles : {1, 2, 4, 6, 8}) {
    const size_t stage = Z::kRows * Z::kCols * sizeof(BF16) + S::Bytes(tiles);
    for (const lora::cuda::Multiprocessor& one : lora::cuda::kMultiprocessors) {
      const int stages = lora::cuda::SkinnyStages(
          stage, 0, lora::device::SkinnyBlock<BF16>::kMinBlocks, one.shared_bytes);
      std::printf("%d %d %d %d %zu\\n", form, tiles * 8, one.arch, stages, stages * stage);
    }
  }
}

}  // namespace

int main() {
  using namespace lora::device;
  Print<SkinnyZByOut<BF16>, SkinnySByRank<BF16>>(0);
  Print<SkinnyZByOut<BF16>, SkinnySByDepth<BF16>>(1);
  Print<SkinnyZByDepth<BF16>, SkinnySByDepth<BF16>>(2);
}
`;

/**
 * What launches of the low-rank products in bf16 without dropout take: { form, ranks, arch, stages, shared }, where `form` is the number of
 * the SkinnyForm and `ranks` those that a block has of all its adapters.
 */
export function lowRankLaunches(root) {
  return linesOf(root, skinny, { sources: ['backend/cuda/skinny_plan.cc'] }).map((line) => {
    const [form, ranks, arch, stages, shared] = line.split(' ').map(Number);
    return { form, ranks, arch, stages, shared };
  });
}
