#include "test/simt/seeded_kernels.h"

#include "backend/cuda/device/launch.h"

// The compiler sees the plainest of the unset variables below; in kernels its warning is an error.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

namespace lora::simt {
namespace {

using namespace device;  // NOLINT: the code below is kernel code

LORA_KERNEL void ExchangeKernel(int bug, const float* in, float* out) {
  LORA_DYNAMIC_SHARED(raw);
  float* s = reinterpret_cast<float*>(raw);
  const int t = ThreadIndex();
  if (bug == kEarlyExit && t == 127) return;
  if (bug != kUnwrittenShared || t != 64) s[t] = in[t];
  if (bug == kPastShared && t == 127) s[t + 1] = 0;
  if (bug == kMisalignedShared && t == 0) *reinterpret_cast<uint64_t*>(raw + 4) = 0;
  if (bug == kSharedStoreThroughGlobal && t == 0) StoreGlobal16(raw, Vec16{{0, 0, 0, 0}});
  if (bug == kWarpBarrierOnly) {
    SyncWarp();
  } else if (bug == kBarrierByThreeWarps) {
    if (t < 96) SyncThreads();
  } else if (bug == kTwoBarriers) {
    if (t < 64) {
      SyncThreads();
    } else {
      SyncThreads();
    }
  } else if (bug != kNoBarrier) {
    SyncThreads();
  }
  out[t] = s[t ^ 37];
  if (bug == kOverwriteWithoutBarrier) s[t] = 0;
}

LORA_KERNEL void WarpExchangeKernel(int bug, const float* in, float* out) {
  LORA_DYNAMIC_SHARED(raw);
  float* s = reinterpret_cast<float*>(raw);
  const int t = ThreadIndex(), lane = LaneIndex();
  s[t] = in[t];
  if (bug == kHalfWarpBarrier) {
    if (lane < 16) SyncWarp();
  } else if (bug != kNoWarpBarrier) {
    SyncWarp();
  }
  out[t] = s[t ^ 5];
  float sum = s[t];
  if (bug == kShuffleUnset) {
    float unset;
    if (in[t] < -1) unset = 1;
    sum = unset;
  }
  for (int mask = 16; mask > 0; mask /= 2) {
    if (bug == kShuffleBy31 && lane == 31) continue;
    if (bug == kShuffleElsewhere && lane == 31) {
      sum += ShuffleXor(sum, mask);
      continue;
    }
    sum += ShuffleXor(sum, mask);
  }
  out[128 + t] = sum;
}

LORA_KERNEL void CopyPipelineKernel(int bug, float* in, float* out) {
  LORA_DYNAMIC_SHARED(raw);
  const int t = ThreadIndex();
  const auto load = [&](int row) {
    if (t >= 32) return;  // one warp copies 512 bytes
    unsigned char* to = raw + row % 2 * 512 + t * 16;
    const float* from = in + row * 128 + t * 4;
    if (bug == kMisalignedCopy && row == 1) from += 1;
    if (bug == kCopyPastEnd && row == 3) from += 4;
    CopyAsync<16>(to, from, 16);
  };
  load(0);
  CopyAsyncCommit();
  float sum = 0;
  for (int row = 0; row < 4; ++row) {
    if (row + 1 < 4) load(row + 1);
    CopyAsyncCommit();  // the last group is empty
    if (bug == kStoreInFlight && t == 0 && row == 1) *reinterpret_cast<float*>(raw) = 0;
    if (bug == kSourceInFlight && t == 0 && row == 0) in[128] = 0;
    if (bug == kWaitForTooFew) {
      CopyAsyncWait<2>();
    } else if (bug != kNoCopyWait && bug != kNeverWaited) {
      CopyAsyncWait<1>();
    }
    if (bug == kNeverWaited) continue;
    if (bug == kReadOthersCopy && row == 1 && t == 1) sum += *reinterpret_cast<float*>(raw);
    if (bug != kNoBarrierAfterWait) SyncThreads();
    sum += *reinterpret_cast<const float*>(raw + row % 2 * 512 + t * 4);
    if (bug != kNoBarrierBeforeRefill) SyncThreads();
  }
  out[t] = sum;
}

LORA_KERNEL void GlobalKernel(int bug, GlobalArgs a) {
  const int t = ThreadIndex(), i = BlockX() * 64 + t, last = BlockX() == GridX() - 1;
  const float* in = a.in;
  float* out = a.out;
  if (t >= 60 && bug != kReadPadding) {
    CopyGlobal(out + i, a.unset + i);
    out[i] = 0;
    return;
  }
  switch (bug) {
    case kReadPastEnd:
      out[i] = in[last && t == 0 ? 256 : i];
      return;
    case kWritePastEnd:
      out[last && t == 0 ? 256 : i] = in[i];
      return;
    case kReadUnwritten:
      out[i] = a.unset[i];
      return;
    case kReadCopyOfUnwritten:
      CopyGlobal(out + i, a.unset + i);
      out[i] += in[i];
      return;
    case kReadHost:
      out[i] = t == 3 ? a.host[0] : in[i];
      return;
    case kWriteHost:
      out[i] = in[i];
      if (t == 3) a.host[0] = 1;
      return;
    case kBlocksOverlap:  // blocks 1 and 2 share one element
      out[BlockX() == 2 && t == 0 ? i - 1 - 4 : i] = in[i];
      return;
    case kReadBeforeOtherWrites:  // out is written after, or before, another block reads it
    case kReadAfterOtherWrote:
      if (BlockX() == (bug == kReadBeforeOtherWrites ? 0 : 3) && t == 0) {
        out[i] = in[i] + out[bug == kReadBeforeOtherWrites ? 65 : 1];
        return;
      }
      break;
    case kReadByTwoThenWritten:  // the writer reads it too, after the other block
      out[i] = in[i] + (BlockX() == 0 && t == 0 ? out[65] : 0 * out[i]);
      return;
    case kRaceInBlock:
      out[t == 1 ? i - 1 : i] = in[i];
      return;
    case kNonCoherentOfOwn:
      if (t % 4 == 0) StoreGlobal16(out + i, LoadGlobal16(in + i));
      if (t % 4 == 0)
        out[i] += ToFloat(BF16{static_cast<uint16_t>(LoadGlobalStream16(out + i).words[0] & 0)});
      return;
    case kNonCoherentThenWritten: {
      if (t % 4) return;
      Vec16 v = LoadGlobalStream16(out + i);
      v.words[0] &= 0;
      StoreGlobal16(out + i, v);
      return;
    }
    case kMisaligned4:
      if (t == 0)
        out[i] = *reinterpret_cast<const float*>(reinterpret_cast<const char*>(in + i) + 2);
      return;
    case kMisaligned8:
      if (t == 0) *reinterpret_cast<uint64_t*>(out + i + 1) = 0;
      return;
    case kMisaligned16:
      if (t == 0) StoreGlobal16(out + i + 2, LoadGlobal16(in + i));
      return;
    default:
      break;
  }
  out[i] = in[i];
}

LORA_KERNEL void NamedBarriersKernel(int bug, const float* in, float* out) {
  LORA_DYNAMIC_SHARED(raw);
  float* s = reinterpret_cast<float*>(raw);
  const int t = ThreadIndex(), full = bug == kNoWholeWarps ? 100 : 128;
  for (int turn = 0; turn < 4; ++turn) {
    if (t < 64) {
      if (turn > 0 && bug != kProducerRunsAhead) BarrierSync<2>(128);
      s[t] = in[turn * 64 + t];
      if (bug == kOneWarpNeverArrives && t < 32) continue;
      BarrierArrive<1>(full);
      if (bug == kStoreAfterArrive && t == 17) s[t] = in[turn * 64 + t];
    } else {
      if (bug != kConsumerRunsAhead) BarrierSync<1>(bug == kCountsDiffer ? 96 : full);
      out[turn * 64 + t - 64] = s[t - 64] + s[(t - 64) ^ 1];
      if (turn + 1 < 4) BarrierArrive<2>(128);
    }
  }
}

LORA_KERNEL void ArrivalsKernel(int bug, ArrivalArgs a) {
  LORA_DYNAMIC_SHARED(raw);
  int* last = reinterpret_cast<int*>(raw);
  const int t = ThreadIndex(), tile = BlockX() % 2, part = BlockX() / 2;
  const auto at = [&](int tile, int part) { return (tile * 4 + part) * 64 + t; };
  const float own = a.in[at(tile, part)];
  a.parts[at(tile, part)] = own;
  float sum = bug == kReadBeforeArrival ? 0 * a.parts[at(tile, (part + 1) % 4)] : 0;
  if (bug != kNoBarrierBeforeArrival) SyncThreads();
  if (t == 0) {
    uint32_t* counter = a.counters + (bug == kOneCounter ? 0 : tile);
    const int blocks = bug == kOneTooFew ? 3 : bug == kOneTooMany ? 5 : 4;
    last[0] = bug == kNoArrival ? part == 3 : LastToArrive(counter, blocks);
    if (bug == kArrivesTwice && part == 2) last[0] = LastToArrive(counter, blocks);
    if (bug == kStoreAfterArrival) a.parts[at(tile, part)] = own;
    if (bug == kReadsCounter && part == 1) last[0] += *counter > 9 ? 1 : 0;
    if (bug == kClearsCounter && last[0] != 0) *counter = 0;
  }
  if (bug != kNoBarrierAfterArrival) SyncThreads();
  if (last[0] == 0 && bug != kReadByAll) return;
  for (int i = 0; i < 4; ++i) {
    const float* from = a.parts + at(tile, i);
    sum += bug == kNonCoherentPart && t % 4 == 0 ? BitsToFloat(LoadGlobalStream16(from).words[0])
                                                 : *from;
  }
  if (bug != kReadByAll) a.out[tile * 64 + t] = sum;
  SyncThreads();
  if (t == 0) last[1] = bug == kNoSecondArrival ? tile : LastToArrive(a.counters + 2, 2);
  SyncThreads();
  if (last[1] == 0) return;
  sum = 0;
  for (int i = 0; i < 8; ++i) sum += a.parts[at(i / 4, i % 4)];
  a.out[128 + t] = sum;
}

LORA_KERNEL void ManyReadersKernel(int bug, float* out) {
  LORA_DYNAMIC_SHARED(raw);
  float* s = reinterpret_cast<float*>(raw);
  const int t = ThreadIndex();
  if (t == 0) s[0] = 1;
  SyncThreads();
  out[t] = s[0];
  if (bug == 0) {
    SyncThreads();
  } else if (t / 32 != 1) {
    BarrierSync<3>(224);
  }
  if (t == 255) s[0] = 2;
}

LORA_KERNEL void RegistersKernel(int bug, const float* in, float* out) {
  const int t = ThreadIndex();
  float values[8];
  for (int i = 0; i < 8; ++i) values[i] = in[t + (bug == kPastArray ? 0 : i)];
  if (bug == kUnsetAccumulator) {
    float acc[4];
    if (in[0] < -1) acc[0] = acc[1] = acc[2] = acc[3] = 0;
    const uint32_t a[4] = {0, 0, 0, 0}, b[2] = {0, 0};
    MmaM16N8K16<BF16>(acc, a, b);
    out[t] = acc[0];
    return;
  }
  if (bug == kUnsetHalf || bug == kUnsetPairs) {
    float sum;
    if (in[0] < -1) sum = 0;
    for (int i = 0; i < 8; ++i) sum += values[i];
    const BF16 half = FromFloat<BF16>(sum);
    if (bug == kUnsetHalf) {
      reinterpret_cast<BF16*>(out)[t] = half;
    } else {
      reinterpret_cast<uint32_t*>(out)[t] = Pack(half, half);
    }
    return;
  }
  if (bug == kWideShift) {
    out[t] = static_cast<float>(1u << (static_cast<int>(in[0]) + t + 1));
    return;
  }
  float sum;
  if (bug != kUnsetSum) sum = 0;
  for (int i = 0; i < 8; ++i) sum += values[bug == kPastArray ? i + t / 31 : i];
  out[t] = sum;
}

LORA_KERNEL void ProducerKernel(bool waits, float* between) {
  if (waits) GridDependencyWait();
  between[ThreadIndex()] = static_cast<float>(ThreadIndex());
  GridLaunchDependents();
}

// Waits before it does anything, and writes nothing that the next launch reads.
LORA_KERNEL void IdleKernel() {
  GridLaunchDependents();
  GridDependencyWait();
}

LORA_KERNEL void ConsumerKernel(int bug, const float* between, float* out) {
  const int t = ThreadIndex();
  const bool early = bug == kReadBeforeWait || bug == kReadOfTheOneBefore;
  float value = early ? between[t] : 0;
  if (bug == kWriteBeforeWait) out[t] = 0;
  if (bug != kNeverWaits || t >= 32) GridDependencyWait();
  if (bug == kNeverWaits && t < 32) return;
  if (!early) value = between[t];
  out[t] = value;
}

struct BoundedParams {
  static constexpr int kThreads = 128, kMinBlocks = 1;
};
LORA_KERNEL void LORA_LAUNCH_BOUNDS(BoundedParams::kThreads, BoundedParams::kMinBlocks)
    BoundedKernelBody(BoundedParams) {}

}  // namespace

Result Exchange(const Options& options, int bug, const float* in, float* out) {
  return Launch(options, ExchangeKernel, {}, {128}, 512, bug, in, out);
}
Result WarpExchange(const Options& options, int bug, const float* in, float* out) {
  return Launch(options, WarpExchangeKernel, {}, {bug == kPartialWarp ? 120u : 128u}, 512, bug, in,
                out);
}
Result CopyPipeline(const Options& options, int bug, float* in, float* out) {
  return Launch(options, CopyPipelineKernel, {}, {128}, 1024, bug, in, out);
}
Result Global(const Options& options, int bug, const GlobalArgs& args) {
  return Launch(options, GlobalKernel, {4}, {64}, 0, bug, args);
}
Result NamedBarriers(const Options& options, int bug, const float* in, float* out) {
  return Launch(options, NamedBarriersKernel, {}, {128}, 256, bug, in, out);
}
Result Arrivals(const Options& options, int bug, const ArrivalArgs& args) {
  return Launch(options, ArrivalsKernel, {8}, {64}, 8, bug, args);
}
Result ManyReaders(const Options& options, int bug, float* out) {
  return Launch(options, ManyReadersKernel, {}, {256}, 4, bug, out);
}
Result Registers(const Options& options, int bug, const float* in, float* out) {
  return Launch(options, RegistersKernel, {}, {32}, 0, bug, in, out);
}

Result Dependent(const Options& options, int bug, float* between, float* out) {
  Options programmatic = options;
  programmatic.programmatic = true;
  const bool chain = bug == kReadOfTheOneBefore;
  Result first = Launch(options, ProducerKernel, {}, {64}, 0, false, between);
  if (!first.reports.empty()) return first;
  if (chain) {
    first = Launch(programmatic, IdleKernel, {}, {64}, 0);
    if (!first.reports.empty()) return first;
  }
  return Launch(programmatic, ConsumerKernel, {}, {64}, 0, bug, between, out);
}

Result Bounded(const Options& options, Dim3 grid, Dim3 block, size_t shared_bytes) {
  return Launch(options, BoundedKernelBody, grid, block, shared_bytes, BoundedParams());
}
const void* BoundedKernel() { return reinterpret_cast<const void*>(BoundedKernelBody); }

}  // namespace lora::simt
