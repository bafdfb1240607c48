// Declares small kernels, each right with bug 0 and with one fault for every other number.
#pragma once

#include "simt/simt.h"

namespace lora::simt {

// out[i] = in[i ^ 37]: through shared memory, 128 threads, one block. in, out: 128 floats.
enum ExchangeBug {
  kNoBarrier = 1,
  kWarpBarrierOnly,
  kBarrierByThreeWarps,
  kEarlyExit,
  kTwoBarriers,
  kPastShared,
  kUnwrittenShared,
  kMisalignedShared,
  kOverwriteWithoutBarrier,
  kSharedStoreThroughGlobal,
};
Result Exchange(const Options& options, int bug, const float* in, float* out);

// out[i] = in[i ^ 5] within warps, then a sum over the warp in out[128 + i].
// in: 128 floats, out: 256.
enum WarpBug {
  kNoWarpBarrier = 1,
  kHalfWarpBarrier,
  kShuffleBy31,
  kShuffleElsewhere,
  kShuffleUnset,
  kPartialWarp,
};
Result WarpExchange(const Options& options, int bug, const float* in, float* out);

// out[i] = sum of in over 4 rows of 128, through a ring of 2 stages of cp.async.
// in: 512 floats.
enum CopyBug {
  kNoCopyWait = 1,
  kNoBarrierAfterWait,
  kNoBarrierBeforeRefill,
  kNeverWaited,
  kMisalignedCopy,
  kCopyPastEnd,
  kStoreInFlight,
  kSourceInFlight,
  kWaitForTooFew,
  kReadOthersCopy,
};
Result CopyPipeline(const Options& options, int bug, float* in, float* out);

// out[i] = in[i] for 4 blocks of 64 threads.
// in: 256 floats in rows of 60 with a pitch of 64 (bug 0 skips the padding), out: 256 floats;
// unset: a buffer that nothing wrote, of which the padding is copied first; host: host memory.
enum GlobalBug {
  kReadPastEnd = 1,
  kWritePastEnd,
  kReadPadding,
  kReadUnwritten,
  kReadHost,
  kWriteHost,
  kBlocksOverlap,
  kReadBeforeOtherWrites,
  kReadAfterOtherWrote,
  kRaceInBlock,
  kNonCoherentOfOwn,
  kMisaligned4,
  kMisaligned8,
  kMisaligned16,
  kNonCoherentThenWritten,
  kReadByTwoThenWritten,
  kReadCopyOfUnwritten,
};
struct GlobalArgs {
  const float* in;
  float* out;
  const float* unset;
  float* host;
};
Result Global(const Options& options, int bug, const GlobalArgs& args);

// out[i] = in[i] + in[i ^ 1] through named barriers: warps 0–1 fill, warps 2–3 read, 4 turns of 64.
// in, out: 256 floats.
enum NamedBug {
  kProducerRunsAhead = 1,
  kConsumerRunsAhead,
  kNoWholeWarps,
  kCountsDiffer,
  kOneWarpNeverArrives,
  kStoreAfterArrive,
};
Result NamedBarriers(const Options& options, int bug, const float* in, float* out);

// Two tiles of 64 floats, each the sum of 4 parts, which the last of 4 blocks to arrive adds in
// their order; the last of the two tiles adds all 8. in, parts: 512 floats, out: 192.
// counters: 3 words, 0 before and after.
enum ArrivalBug {
  kNoArrival = 1,
  kNoBarrierBeforeArrival,
  kNoBarrierAfterArrival,
  kStoreAfterArrival,
  kReadBeforeArrival,
  kReadByAll,
  kNonCoherentPart,
  kOneTooFew,
  kOneTooMany,
  kArrivesTwice,
  kOneCounter,
  kReadsCounter,
  kClearsCounter,
  kNoSecondArrival,
};
struct ArrivalArgs {
  const float* in;
  float* parts;
  float* out;
  uint32_t* counters;
};
Result Arrivals(const Options& options, int bug, const ArrivalArgs& args);

// All 8 warps read one word, then one thread overwrites it. Bug 1 leaves one
// early reader out of the barrier.
Result ManyReaders(const Options& options, int bug, float* out);

// out[i] = sum of 8 numbers kept in registers. in: 64 floats, out: 32.
enum RegisterBug {
  kUnsetSum = 1,
  kUnsetHalf,
  kUnsetPairs,
  kUnsetAccumulator,
  kPastArray,
  kWideShift
};
Result Registers(const Options& options, int bug, const float* in, float* out);

// A producer and a consumer of 64 floats, the second a programmatic launch.
enum DependentBug { kReadBeforeWait = 1, kWriteBeforeWait, kNeverWaits, kReadOfTheOneBefore };
Result Dependent(const Options& options, int bug, float* between, float* out);

// An empty kernel bound to 128 threads, for launches that must be refused.
Result Bounded(const Options& options, Dim3 grid, Dim3 block, size_t shared_bytes);
const void* BoundedKernel();

// c = a·bᵀ by mma.sync, for bugs in tiled kernels; see seeded_gemm.cc.
enum GemmBug {
  kNoBarrierAfterCompute = 1,
  kNoBarrierAfterLoad,
  kNoWait,
  kSwizzleDiffers,
  kRowsUnbounded,
  kTailUnclamped,
  kThreeWarpsSync,
  kLaneSkipsMma,
  kStorePastN,
  kTilesOverlap,
  kChunkMissing,
  kUnsetTile,
  kConsistentBadSwizzle,
  kLastTurnUnwaited,
};
struct GemmProblem {
  const void* a;  // bf16 [m, k], pitch in elements
  const void* b;  // bf16 [n, k]
  float* c;       // [m, n]
  int m, n, k, a_pitch, b_pitch, c_pitch;
};
Result SeededGemm(const Options& options, int bug, const GemmProblem& problem);

}  // namespace lora::simt
