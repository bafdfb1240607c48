// The emulator must report every seeded bug under every schedule, and nothing in the right kernels.
// With LORA_SIMT_TABLE=FILE the table of docs/internals/emulator.md is written there.
#include <doctest/doctest.h>

#include <cstdlib>
#include <fstream>
#include <functional>
#include <vector>

#include "core/maths/dtype.h"
#include "test/simt/seeded_kernels.h"

namespace lora::simt {
namespace {

// Each thread schedule with each landing of copies, more seeds where chance is involved.
std::vector<Options> Schedules() {
  std::vector<Options> all;
  for (int threads = 0; threads < 3; ++threads)
    for (int async = 0; async < 3; ++async)
      for (int seed = 1; seed <= (threads == 2 || async == 2 ? 6 : 1); ++seed) {
        Options o;
        o.threads = static_cast<Schedule>(threads);
        o.blocks = static_cast<Schedule>((threads + async + seed) % 3);
        o.async = static_cast<Async>(async);
        o.seed = static_cast<uint64_t>(seed);
        all.push_back(o);
      }
  return all;
}

struct Outcome {
  Result result;
  bool right;  // the numbers
};
using Kernel = std::function<Outcome(const Options&, int bug)>;

struct Seed {
  const char* name;
  int bug;
  Kind kind;
  Kind also = kind;  // what stops the kernel first under some schedules
  bool old = false;  // loads what the L1 may still have, so that numbers are wrong in every run
};

std::vector<float> Counting(size_t count) {
  std::vector<float> v(count);
  for (size_t i = 0; i < count; ++i) v[i] = static_cast<float>(i % 97) + 1;
  return v;
}

struct Floats {
  explicit Floats(size_t count, const char* name, bool filled = true)
      : values(Counting(count)), buffer(count * 4, name) {
    if (filled) buffer.Upload(values.data());
  }
  std::vector<float> Read() const {
    std::vector<float> v(values.size());
    buffer.Download(v.data());
    return v;
  }
  float* data() const { return buffer.as<float>(); }
  std::vector<float> values;
  Buffer buffer;
};

bool Equals(const Floats& floats, size_t count, const std::function<float(size_t)>& expected) {
  const std::vector<float> got = floats.Read();
  for (size_t i = 0; i < count; ++i)
    if (got[i] != expected(i)) return false;
  return true;
}

Outcome RunExchange(const Options& o, int bug) {
  const Floats in(128, "in"), out(128, "out", false);
  Result result = Exchange(o, bug, in.data(), out.data());
  return {result, Equals(out, 128, [&](size_t i) { return in.values[i ^ 37]; })};
}

Outcome RunWarpExchange(const Options& o, int bug) {
  const Floats in(128, "in"), out(256, "out", false);
  Result result = WarpExchange(o, bug, in.data(), out.data());
  return {result, Equals(out, 256, [&](size_t i) {
            if (i < 128) return in.values[i ^ 5];
            float sum = 0;
            for (size_t j = 0; j < 32; ++j) sum += in.values[(i - 128) / 32 * 32 + j];
            return sum;
          })};
}

Outcome RunCopyPipeline(const Options& o, int bug) {
  const Floats in(512, "in"), out(128, "out", false);
  Result result = CopyPipeline(o, bug, in.data(), out.data());
  return {result, Equals(out, 128, [&](size_t i) {
            return in.values[i] + in.values[128 + i] + in.values[256 + i] + in.values[384 + i];
          })};
}

Outcome RunGlobal(const Options& o, int bug) {
  Buffer in(4, 240, 256, "in");
  const std::vector<float> rows = Counting(240);
  in.Upload(rows.data());
  const Floats out(256, "out"), unset(256, "unset", false);
  float host = 0;
  Result result = Global(o, bug, {in.as<float>(), out.data(), unset.data(), &host});
  return {result,
          Equals(out, 256, [&](size_t i) { return i % 64 < 60 ? rows[i / 64 * 60 + i % 64] : 0; })};
}

Outcome RunNamed(const Options& o, int bug) {
  const Floats in(256, "in"), out(256, "out", false);
  Result result = NamedBarriers(o, bug, in.data(), out.data());
  return {result, Equals(out, 256, [&](size_t i) { return in.values[i] + in.values[i ^ 1]; })};
}

Outcome RunArrivals(const Options& o, int bug) {
  const Floats in(512, "in"), out(192, "out");
  Buffer parts(2048, "parts"), counters(12, "counters");
  const std::vector<uint32_t> zeros(512);
  parts.Upload(zeros.data());
  counters.Upload(zeros.data());
  Result result =
      Arrivals(o, bug, {in.data(), parts.as<float>(), out.data(), counters.as<uint32_t>()});
  uint32_t left[3];
  counters.Download(left);
  const auto part = [&](size_t tile, size_t i) {
    float sum = 0;
    for (size_t n = 0; n < 4; ++n) sum += in.values[(tile * 4 + n) * 64 + i];
    return sum;
  };
  return {result, left[0] + left[1] + left[2] == 0 && Equals(out, 192, [&](size_t i) {
                    return i < 128 ? part(i / 64, i % 64) : part(0, i - 128) + part(1, i - 128);
                  })};
}

Outcome RunManyReaders(const Options& o, int bug) {
  const Floats out(256, "out", false);
  Result result = ManyReaders(o, bug, out.data());
  return {result, Equals(out, 256, [](size_t) { return 1.0f; })};
}

Outcome RunRegisters(const Options& o, int bug) {
  const Floats in(64, "in"), out(32, "out", false);
  Result result = Registers(o, bug, in.data(), out.data());
  return {result, Equals(out, 32, [&](size_t i) {
            float sum = 0;
            for (size_t j = 0; j < 8; ++j) sum += in.values[i + j];
            return sum;
          })};
}

Outcome RunDependent(const Options& o, int bug) {
  const Floats between(64, "between"), out(64, "out", false);
  Result result = Dependent(o, bug, between.data(), out.data());
  return {result, Equals(out, 64, [](size_t i) { return static_cast<float>(i); })};
}

// K = 196 with a pitch of 208: the last 16 bytes of a row are half padding.
Outcome RunGemm(const Options& o, int bug) {
  const size_t m = 100, n = 103, k = 196;
  const auto a = [](size_t i, size_t j) { return static_cast<float>((i * 7 + j * 3) % 7) - 3; };
  const auto b = [](size_t i, size_t j) { return static_cast<float>((i * 5 + j * 11) % 5) - 2; };
  std::vector<uint16_t> x(m * k), w(n * k);
  for (size_t i = 0; i < m; ++i)
    for (size_t j = 0; j < k; ++j) x[i * k + j] = BF16FromF32(a(i, j));
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < k; ++j) w[i * k + j] = BF16FromF32(b(i, j));
  Buffer x_device(m, k * 2, 416, "a"), w_device(n, k * 2, 416, "b"),
      c_device(m, n * 4, n * 4 + 4, "c");
  x_device.Upload(x.data());
  w_device.Upload(w.data());
  Result result = SeededGemm(o, bug,
                             {x_device.as<void>(), w_device.as<void>(), c_device.as<float>(), 100,
                              103, 196, 208, 208, 104});
  std::vector<float> c(m * n);
  c_device.Download(c.data());
  bool right = true;
  for (size_t i = 0; i < m; i += 3)
    for (size_t j = 0; j < n; ++j) {
      float sum = 0;
      for (size_t e = 0; e < k; ++e) sum += a(i, e) * b(j, e);
      right &= c[i * n + j] == sum;
    }
  return {result, right};
}

struct Family {
  const char* name;
  Kernel kernel;
  std::vector<Seed> seeds;
};

const std::vector<Family>& Families() {
  static const std::vector<Family> families = {
      {"exchange through shared memory",
       RunExchange,
       {{"no barrier between store and load", kNoBarrier, Kind::kRace},
        {"a warp's barrier where the block's is needed", kWarpBarrierOnly, Kind::kRace},
        {"a barrier reached by 96 of 128 threads", kBarrierByThreeWarps, Kind::kDeadlock},
        {"one thread leaves before the barrier", kEarlyExit, Kind::kDeadlock},
        {"halves of the block in two barriers", kTwoBarriers, Kind::kDivergence},
        {"store one past the end of shared memory", kPastShared, Kind::kSharedBounds},
        {"one element never stored", kUnwrittenShared, Kind::kUninitShared},
        {"8-byte store to a multiple of 4", kMisalignedShared, Kind::kMisaligned},
        {"no barrier before the overwrite", kOverwriteWithoutBarrier, Kind::kRace},
        {"a shared address in a global store", kSharedStoreThroughGlobal, Kind::kHostPointer}}},
      {"exchange within warps",
       RunWarpExchange,
       {{"no barrier of the warp", kNoWarpBarrier, Kind::kRace},
        {"the warp's barrier by half of it", kHalfWarpBarrier, Kind::kDivergence},
        {"a shuffle by 31 lanes", kShuffleBy31, Kind::kDeadlock},
        {"one lane in another shuffle", kShuffleElsewhere, Kind::kDivergence},
        {"a shuffle of a variable never set", kShuffleUnset, Kind::kUninitRegister},
        {"a warp call in a block of 120 threads", kPartialWarp, Kind::kDivergence}}},
      {"pipeline of cp.async",
       RunCopyPipeline,
       {{"no wait before the data is used", kNoCopyWait, Kind::kRace},
        {"no barrier after the wait", kNoBarrierAfterWait, Kind::kRace},
        {"no barrier before the stage is filled again", kNoBarrierBeforeRefill, Kind::kRace},
        {"nothing waits at all", kNeverWaited, Kind::kAsync},
        {"source at a multiple of 4 bytes", kMisalignedCopy, Kind::kMisaligned},
        {"copy past the end of the buffer", kCopyPastEnd, Kind::kGlobalBounds},
        {"store to a stage in flight", kStoreInFlight, Kind::kRace},
        {"store to the source in flight", kSourceInFlight, Kind::kRace},
        {"wait leaves one group too many pending", kWaitForTooFew, Kind::kRace},
        {"load of a stage in flight", kReadOthersCopy, Kind::kRace}}},
      {"global memory, 4 blocks",
       RunGlobal,
       {{"load past the end", kReadPastEnd, Kind::kGlobalBounds},
        {"store past the end", kWritePastEnd, Kind::kGlobalBounds},
        {"load of padding between rows", kReadPadding, Kind::kGlobalBounds},
        {"load of memory that nothing wrote", kReadUnwritten, Kind::kUninitGlobal},
        {"load of a copy of memory that nothing wrote", kReadCopyOfUnwritten, Kind::kUninitGlobal},
        {"load through a host pointer", kReadHost, Kind::kHostPointer},
        {"store through a host pointer", kWriteHost, Kind::kHostPointer},
        {"blocks 1 and 2 write the same element", kBlocksOverlap, Kind::kCrossBlock},
        {"the first block reads what the next one writes", kReadBeforeOtherWrites,
         Kind::kCrossBlock},
        {"the last block reads what the first one writes", kReadAfterOtherWrote, Kind::kCrossBlock},
        {"two blocks read an element, one writes it", kReadByTwoThenWritten, Kind::kCrossBlock},
        {"two threads of a block write the same element", kRaceInBlock, Kind::kRace},
        {"non-coherent load of the launch's own store", kNonCoherentOfOwn, Kind::kNonCoherent},
        {"store to what was loaded non-coherently", kNonCoherentThenWritten, Kind::kNonCoherent},
        {"4-byte load at a multiple of 2", kMisaligned4, Kind::kMisaligned},
        {"8-byte store at a multiple of 4", kMisaligned8, Kind::kMisaligned},
        {"16-byte store at a multiple of 8", kMisaligned16, Kind::kMisaligned}}},
      {"named barriers",
       RunNamed,
       {{"the producer does not wait until the buffer is free", kProducerRunsAhead, Kind::kRace,
         Kind::kDeadlock},
        {"the consumer does not wait until it is full", kConsumerRunsAhead, Kind::kRace},
        {"a count that is not whole warps", kNoWholeWarps, Kind::kDivergence},
        {"two counts for one barrier", kCountsDiffer, Kind::kDivergence},
        {"one warp never arrives", kOneWarpNeverArrives, Kind::kDeadlock},
        {"store after the arrival that announces it", kStoreAfterArrive, Kind::kRace}}},
      {"sums by the last block to arrive",
       RunArrivals,
       {{"nobody arrives", kNoArrival, Kind::kCrossBlock, Kind::kCrossBlock, true},
        {"no barrier between the stores and the arrival", kNoBarrierBeforeArrival,
         Kind::kCrossBlock},
        {"no barrier between the arrival and the loads", kNoBarrierAfterArrival, Kind::kRace},
        {"store after the arrival", kStoreAfterArrival, Kind::kCrossBlock},
        {"load before the arrival", kReadBeforeArrival, Kind::kCrossBlock},
        {"blocks that are not the last read too", kReadByAll, Kind::kCrossBlock},
        {"non-coherent load of another block's part", kNonCoherentPart, Kind::kNonCoherent,
         Kind::kNonCoherent, true},
        {"a count that is one too small", kOneTooFew, Kind::kArrival},
        {"a count that is one too large", kOneTooMany, Kind::kArrival},
        {"a block arrives twice", kArrivesTwice, Kind::kArrival},
        {"two tiles have one counter", kOneCounter, Kind::kArrival},
        {"an ordinary load of a counter", kReadsCounter, Kind::kCrossBlock},
        {"an ordinary store to a counter", kClearsCounter, Kind::kCrossBlock},
        {"the last of a tile does not arrive with those of others", kNoSecondArrival,
         Kind::kCrossBlock}}},
      {"one word read by 8 warps",
       RunManyReaders,
       {{"one early reader is not in the barrier", 1, Kind::kRace}}},
      {"registers",
       RunRegisters,
       {{"a sum never set to zero", kUnsetSum, Kind::kUninitRegister},
        {"the same, rounded to bf16", kUnsetHalf, Kind::kUninitRegister},
        {"the same, as a pair of bf16 in one store", kUnsetPairs, Kind::kUninitRegister},
        {"mma accumulators never set to zero", kUnsetAccumulator, Kind::kUninitRegister},
        {"index past a local array", kPastArray, Kind::kRegisterBounds},
        {"shift by 32 bits", kWideShift, Kind::kRegisterBounds}}},
      {"programmatic launches",
       RunDependent,
       {{"load before griddepcontrol.wait", kReadBeforeWait, Kind::kBeforeWait, Kind::kBeforeWait,
         true},
        {"store before griddepcontrol.wait", kWriteBeforeWait, Kind::kBeforeWait},
        {"one warp never waits", kNeverWaits, Kind::kBeforeWait},
        {"load of what the launch before the last one wrote", kReadOfTheOneBefore,
         Kind::kBeforeWait, Kind::kBeforeWait, true}}},
      {"tiled product",
       RunGemm,
       {{"no barrier after compute", kNoBarrierAfterCompute, Kind::kRace},
        {"no barrier after the wait", kNoBarrierAfterLoad, Kind::kRace},
        {"wait skipped", kNoWait, Kind::kRace},
        {"wait of the last turn leaves one group pending", kLastTurnUnwaited, Kind::kRace},
        {"row bound removed", kRowsUnbounded, Kind::kGlobalBounds},
        {"tail of k not clamped", kTailUnclamped, Kind::kGlobalBounds},
        {"barrier by three of four warps", kThreeWarpsSync, Kind::kDivergence},
        {"one lane skips mma", kLaneSkipsMma, Kind::kDivergence},
        {"store past n", kStorePastN, Kind::kGlobalBounds},
        {"tiles of two blocks overlap", kTilesOverlap, Kind::kCrossBlock},
        {"one chunk never loaded", kChunkMissing, Kind::kUninitShared},
        {"accumulators never set to zero", kUnsetTile, Kind::kUninitRegister}}},
  };
  return families;
}

}  // namespace

TEST_CASE("right kernels give right numbers and no report") {
  for (const Family& family : Families())
    for (const Options& options : Schedules()) {
      CAPTURE(family.name);
      CAPTURE(options.seed);
      const Outcome outcome = family.kernel(options, 0);
      CHECK_MESSAGE(outcome.result.reports.empty(), outcome.result.Text());
      CHECK(outcome.right);
    }
}

TEST_CASE("every seeded bug is reported under every schedule, at its place") {
  const char* path = std::getenv("LORA_SIMT_TABLE");
  std::ofstream table(path ? path : "/dev/null");
  for (const Family& family : Families())
    for (const Seed& seed : family.seeds) {
      int runs = 0, reported = 0, wrong = 0, placed = 0;
      std::string example;
      for (const Options& options : Schedules()) {
        const Outcome outcome = family.kernel(options, seed.bug);
        ++runs;
        wrong += !outcome.right;
        reported += outcome.result.Has(seed.kind) || outcome.result.Has(seed.also);
        example = outcome.result.Text();
        placed += example.find("seeded_") != std::string::npos;
      }
      table << "| " << family.name << " | " << seed.name << " | " << NameOf(seed.kind) << " | "
            << reported << "/" << runs << " | " << wrong << " |\n";
      CHECK_MESSAGE(reported == runs, family.name, ": ", seed.name, ": ", reported, "\n", example);
      CHECK_MESSAGE((!seed.old || wrong == runs), family.name, ": ", seed.name, ": ", wrong);
      CHECK_MESSAGE(placed == runs, family.name, ": ", seed.name, ": ", example);
    }
}

TEST_CASE("wrong swizzles show as wrong numbers or as bank conflicts") {
  CHECK(RunGemm(Options(), 0).result.WavefrontsPerPhase() == 1.0);
  const Outcome differs = RunGemm(Options(), kSwizzleDiffers);
  CHECK(!differs.right);
  const Outcome consistent = RunGemm(Options(), kConsistentBadSwizzle);
  CHECK(consistent.right);
  CHECK(consistent.result.reports.empty());
  CHECK(consistent.result.WavefrontsPerPhase() > 1.5);
}

}  // namespace lora::simt
