// Measures what the kernels are compared with, and prints JSON:
//
//   ceilings THREADS [MILLISECONDS]
//   {"target": "avx3_zen4", "threads": 2, "f32": 228.1, "bf16": 459.8, "read": 48.2}
//
// f32 and bf16 are GFLOP/s of multiply-adds on registers alone, with the instructions that the
// kernels have on the target that runs (LORA_SIMD limits it): two operations for each multiply-add
// of a pair of numbers. Where the target has neither a dot product of bf16 pairs nor one of tiles,
// bf16 is what the f32 instructions make of such pairs. read is GB/s of reading memory that no
// cache holds, once. Each is the best of short runs, since a ceiling is what was reached when
// nothing else ran.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <vector>

#include "backend/cpu/targets.h"
#include "backend/cpu/thread_pool.h"
#include "core/error.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/ceilings.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/amx-inl.h"
#include "backend/cpu/simd-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// Enough to hide the latency of a multiply-add, and as many as leave two of 16 registers.
constexpr size_t kSums = 12;
constexpr size_t kTurns = 4096;

// Adds kTurns products to each sum. Returns the operations; *sink keeps the compiler from leaving
// them out.
template <bool kPairs>
double MultiplyAdd(const uint32_t* values, float* sink) {
  const DF df;
  const DU du;
  const VU x = hn::Set(du, values[0]), w = hn::Set(du, values[1]);
  std::array<VF, kSums> sums;
  for (VF& sum : sums) sum = hn::Zero(df);
  for (size_t turn = 0; turn < kTurns; ++turn) {
    HWY_UNROLL(kSums)
    for (size_t i = 0; i < kSums; ++i) sums[i] = MulAddElements<kPairs>(x, w, sums[i]);
  }
  VF total = hn::Zero(df);
  for (const VF& sum : sums) total = hn::Add(total, sum);
  *sink += hn::ReduceSum(df, total);
  return 2.0 * (kPairs ? 2 : 1) * kSums * kTurns * kLanes;
}

double MultiplyAddF32(const uint32_t* values, float* sink) {
  return MultiplyAdd<false>(values, sink);
}

#if LORA_AMX
// Adds kTurns products of tiles to four sums. Their numbers vary, because a CPU lowers its clock
// for such ones and not for equal ones.
LORA_AMX_ATTR double MultiplyAddTiles(float* sink) {
  alignas(64) std::array<uint32_t, kTileRows * kTilePairs> values;
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = 0x3c003c00u | (static_cast<uint32_t>(i) * 2654435761u & 0x80ff80ffu);
  }
  alignas(64) std::array<float, kTileRows * kTileColumns> sums;
  TileRegisters registers;
  registers.ConfigureBlock(kBlockTileRows);
  HWY_FENCE;
  _tile_loadd(4, values.data(), 64);
  _tile_loadd(5, values.data(), 64);
  _tile_loadd(6, values.data(), 64);
  _tile_loadd(7, values.data(), 64);
  ZeroTiles<true, true>();
  for (size_t turn = 0; turn < kTurns; ++turn) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sums.data(), 64);
  HWY_FENCE;
  *sink += sums[0];
  return 2.0 * 4 * kTurns * kTileRows * kTileColumns * 2 * kTilePairs;
}
#endif

double MultiplyAddBF16([[maybe_unused]] const uint32_t* values, float* sink) {
#if LORA_AMX
  return MultiplyAddTiles(sink);
#else
  return MultiplyAdd<true>(values, sink);
#endif
}

// `count` is a multiple of 8 vectors of any target.
void Read(const uint32_t* data, size_t count, float* sink) {
  const DU du;
  constexpr size_t kStreams = 8;
  std::array<VU, kStreams> sums;
  for (VU& sum : sums) sum = hn::Zero(du);
  for (size_t i = 0; i < count; i += kStreams * kLanes) {
    HWY_UNROLL(kStreams)
    for (size_t s = 0; s < kStreams; ++s)
      sums[s] = hn::Xor(sums[s], hn::Load(du, data + i + s * kLanes));
  }
  VU total = hn::Zero(du);
  for (const VU& sum : sums) total = hn::Xor(total, sum);
  *sink += static_cast<float>(hn::ReduceSum(du, total));
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {

HWY_EXPORT(MultiplyAddF32);
HWY_EXPORT(MultiplyAddBF16);
HWY_EXPORT(Read);

namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::time_point since) {
  return std::chrono::duration<double>(Clock::now() - since).count();
}

struct alignas(64) Sink {
  float value = 0;
};

class Ceilings {
 public:
  Ceilings(int threads, double seconds)
      : threads_(static_cast<size_t>(threads)),
        seconds_(seconds),
        pool_(threads),
        sinks_(threads_) {}

  // 0x3c003c00 is a small number, as one f32 and as two bf16.
  double MultiplyAdds(double (*work)(const uint32_t*, float*)) {
    const uint32_t values[] = {0x3c003c00u, 0x3c003c00u};
    return Best([&](size_t thread) {
      double done = 0;
      for (int i = 0; i < 64; ++i) done += work(values, &sinks_[thread].value);
      return done;
    });
  }

  double Reads() {
    constexpr size_t kBytes = size_t{256} << 20;  // several times a large cache
    const size_t count = kBytes / sizeof(uint32_t) / threads_ / 1024 * 1024;
    std::vector<uint32_t> memory(count * threads_ + 16);
    // Each thread's part on a page of its own is no matter, but a vector must be aligned.
    uint32_t* data = memory.data();
    while (reinterpret_cast<uintptr_t>(data) % 64 != 0) ++data;
    pool_.Run(threads_, [&](size_t part, size_t) {
      std::fill_n(data + part * count, count, static_cast<uint32_t>(part + 1));
    });
    return Best([&](size_t part) {
      HWY_DYNAMIC_DISPATCH(Read)(data + part * count, count, &sinks_[part].value);
      return static_cast<double>(count * sizeof(uint32_t));
    });
  }

 private:
  // `work` returns how much it did. Returns 1e9 of that per second, in the best of many runs.
  double Best(const std::function<double(size_t part)>& work) {
    double best = 0;
    const Clock::time_point begin = Clock::now();
    do {
      std::vector<double> done(threads_);
      const Clock::time_point start = Clock::now();
      pool_.Run(threads_, [&](size_t part, size_t) { done[part] = work(part); });
      const double seconds = Seconds(start);
      double all = 0;
      for (const double part : done) all += part;
      best = std::max(best, all / seconds / 1e9);
    } while (Seconds(begin) < seconds_);
    return best;
  }

  const size_t threads_;
  const double seconds_;
  ThreadPool pool_;
  std::vector<Sink> sinks_;
};

}  // namespace
}  // namespace lora::cpu

int main(int argc, char** argv) {
  using namespace lora::cpu;
  const int threads = argc > 1 ? std::atoi(argv[1]) : 0;
  const int milliseconds = argc > 2 ? std::atoi(argv[2]) : 600;
  if (threads < 1 || threads > 1024 || milliseconds < 1) {
    std::fprintf(stderr, "usage: ceilings THREADS [MILLISECONDS]\n");
    return 1;
  }
  try {
    LimitTargetsByEnvironment();
    Ceilings ceilings(threads, milliseconds / 1e3);
    const double f32 = ceilings.MultiplyAdds(HWY_DYNAMIC_POINTER(MultiplyAddF32));
    const double bf16 = ceilings.MultiplyAdds(HWY_DYNAMIC_POINTER(MultiplyAddBF16));
    std::printf(
        "{\"target\": \"%s\", \"threads\": %d, \"f32\": %.1f, \"bf16\": %.1f, \"read\": %.1f}\n",
        ActiveTarget().c_str(), threads, f32, bf16, ceilings.Reads());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
#endif  // HWY_ONCE
