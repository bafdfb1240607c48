// How many bytes the linear layer of a decode step moves for each weight, by format. A program of the host counts them: it
// asks the table of formats, and the rule by which the CUDA backend chooses the kernel.
import { linesOf } from './host_program.mjs';

const program = `
#include <cstdio>

#include "backend/cuda/skinny.h"

int main() {
  using namespace lora;
  constexpr int64_t kSide = 4096;
  std::printf("%d %d\\n", static_cast<int>(cuda::kMaxDecodeRows),
              static_cast<int>(cuda::kMaxPackedDecodeRows));
  for (size_t i = 0; i < kFormatsOfJavaScript; ++i) {
    const PackedView w(nullptr, DType::kBF16, kSide, kSide, static_cast<WeightFormat>(i));
    if (!Fits(w.format, w.dtype)) continue;
    const int64_t bytes =
        ValueBytes(w.format, kSide, kSide) +
        ScaleCount(w.format, kSide, kSide) * static_cast<int64_t>(sizeof(float));
    const int64_t expanded = IsQuantized(w.format) ? static_cast<int64_t>(SizeOf(w.dtype)) : 0;
    std::printf("%s %d %.17g %d\\n", NameOf(w.format), cuda::DecodesPacked(w),
                static_cast<double>(bytes) / (kSide * kSide), static_cast<int>(expanded));
  }
}
`;

/**
 * @param root the repository
 * @returns the rows of a launch, the most rows that packed bytes are decoded for, and for each format that bf16 activations have: whether
 * its packed bytes are decoded, their number for each weight of a matrix of 4096², and the bytes of an expanded weight (0: it is read as it is)
 */
export function weightBytes(root) {
  const [rows, ...formats] = linesOf(root, program);
  const [perLaunch, most] = rows.split(' ').map(Number);
  return {
    ...{ perLaunch, most },
    formats: formats.map((line) => {
      const [name, decoded, stored, expanded] = line.split(' ');
      return { name, decoded: decoded === '1', stored: Number(stored), expanded: Number(expanded) };
    }),
  };
}
