// log softmax(logits) at an id and at the n largest, one row per task. The sum of exponentials is
// that of cross_entropy; the largest are sought in the chunks that can hold them (logit_rows.h).
#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/cpu/elementwise/convert.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/logits/cross_entropy_rows.h"
#include "backend/cpu/logits/logit_rows.h"
#include "backend/cpu/runtime/arena.h"
#include "backend/cpu/runtime/context.h"

namespace lora::cpu {
namespace {

// The scratch of one thread.
struct RowScratch {
  float* logits = nullptr;  // where they are not f32 already
  float* chunk_largest;     // [chunks]
  float* chunk_copy;        // [chunks]
  int32_t* ids;             // [vocab]

  RowScratch(const LogProbsArgs& args, Arena& arena) {
    const auto vocab = static_cast<size_t>(args.logits.dim(1));
    if (args.logits.dtype != DType::kF32) logits = arena.Take<float>(vocab);
    chunk_largest = arena.Take<float>(LogitChunks(vocab));
    chunk_copy = arena.Take<float>(LogitChunks(vocab));
    ids = arena.Take<int32_t>(vocab);
  }
};

size_t BytesOfThread(const LogProbsArgs& args) {
  Arena arena;
  RowScratch(args, arena);
  return arena.bytes();
}

// Makes the first of scratch.ids the n largest, in order, and returns how many there are.
size_t TakeLargest(const float* logits, size_t vocab, size_t n, const RowScratch& scratch) {
  if (n == 0) return 0;
  int32_t* const ids = scratch.ids;
  size_t count = 0;
  const LogitScan scan = ScanLogits(logits, vocab, scratch.chunk_largest);
  if (scan.first_bad >= 0 || n > LogitChunks(vocab)) {
    for (size_t i = 0; i < vocab; ++i)
      if (!std::isnan(logits[i])) ids[count++] = static_cast<int32_t>(i);
  } else {
    const float least = LowerBoundOfTop(scratch.chunk_largest, vocab, n, scratch.chunk_copy);
    count = CollectFrom(least, logits, vocab, scratch.chunk_largest, ids);
  }
  const size_t kept = std::min(n, count);
  std::partial_sort(ids, ids + kept, ids + count, [logits](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  return kept;
}

}  // namespace

size_t ScratchBytes(const LogProbsArgs& args, int threads) {
  return BytesOfThread(args) * static_cast<size_t>(threads);
}

void Run(const LogProbsArgs& args, Scratch scratch, Context& context) {
  RequireActivation("log_probs", args.logits.dtype);
  const auto rows = static_cast<size_t>(args.logits.dim(0));
  const auto vocab = static_cast<size_t>(args.logits.dim(1)), n = static_cast<size_t>(args.n);
  const size_t per_thread = BytesOfThread(args);
  static_cast<CpuContext&>(context).ParallelFor(rows, [&](size_t row, size_t thread) {
    Arena arena(scratch.subspan(thread * per_thread, per_thread));
    const RowScratch own(args, arena);
    const std::byte* stored =
        args.logits.as<const std::byte>() + row * vocab * SizeOf(args.logits.dtype);
    LogSum total;
    AddLogits(stored, args.logits.dtype, vocab, total);
    const float* logits = reinterpret_cast<const float*>(stored);
    if (own.logits != nullptr) {
      ConvertToF32(stored, args.logits.dtype, vocab, own.logits);
      logits = own.logits;
    }
    const double lse = total.Log();
    int32_t* const ids = args.top_ids.as<int32_t>() + row * (1 + n);
    float* const values = args.values.as<float>() + row * (1 + n);
    ids[0] = args.ids.as<const int32_t>()[row];
    const size_t found = TakeLargest(logits, vocab, n, own);
    for (size_t i = 0; i < n; ++i) ids[1 + i] = i < found ? own.ids[i] : -1;
    for (size_t i = 0; i <= n; ++i) {
      const bool inside = ids[i] >= 0 && static_cast<size_t>(ids[i]) < vocab;
      values[i] = inside ? static_cast<float>(static_cast<double>(logits[ids[i]]) - lse)
                         : std::numeric_limits<float>::quiet_NaN();
    }
  });
}

template PlannedCall Plan(const LogProbsArgs&, int);
}  // namespace lora::cpu
