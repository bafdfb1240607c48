// Measures what the kernels are compared with, whenever a line of its input asks for it:
//
//   ceilings THREADS
//   {"target": "avx3_zen4", "threads": 2}
//   {"what":"f32","milliseconds":40}          from whoever asks
//   {"rate": 228.1}
//
// f32 and bf16 are GFLOP/s of multiply-adds on registers alone, with the instructions that the
// kernels have on the target that runs (LORA_SIMD limits it): two operations for each multiply-add
// of a pair of numbers. Where the target has neither a dot product of bf16 pairs nor one of tiles,
// bf16 is what the f32 instructions make of such pairs. read is GB/s of reading memory in its
// order, 256 MB in huge pages. Each is the median of short runs in that time.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "backend/cpu/runtime/targets.h"
#include "backend/cpu/runtime/thread_pool.h"
#include "core/error.h"
#include "core/runtime/platform/platform.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/ceilings.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/simd/amx-inl.h"
#include "backend/cpu/simd/simd-inl.h"
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
  alignas(64) std::array<uint32_t, kAmxRows * kAmxPairs> values;
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = 0x3c003c00u | (static_cast<uint32_t>(i) * 2654435761u & 0x80ff80ffu);
  }
  alignas(64) std::array<float, kAmxRows * kAmxColumns> sums;
  TileRegisters registers;
  registers.ConfigureBlock(kAmxBlockRows);
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
  return 2.0 * 4 * kTurns * kAmxRows * kAmxColumns * 2 * kAmxPairs;
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

// Pages of this process, all of them written.
class Memory {
 public:
  Memory(size_t bytes, ThreadPool& pool)
      : bytes_(bytes), data_(static_cast<uint32_t*>(platform::MapHugePages(bytes))) {
    if (data_ == nullptr) throw std::bad_alloc();
    constexpr size_t kPart = size_t{1} << 20;
    pool.Run(bytes / kPart, [&](size_t part, size_t) {
      std::fill_n(data_ + part * kPart / sizeof(uint32_t), kPart / sizeof(uint32_t), 1u);
    });
  }
  ~Memory() { platform::UnmapPages(data_, bytes_); }
  Memory(const Memory&) = delete;

  const uint32_t* data() const { return data_; }

 private:
  size_t bytes_;
  uint32_t* data_;
};

class Ceilings {
 public:
  explicit Ceilings(int threads)
      : threads_(static_cast<size_t>(threads)),
        pool_(threads),
        sinks_(threads_),
        memory_(kBytes, pool_) {}

  // Returns GFLOP/s or GB/s.
  double Measure(const std::string& what, double seconds) {
    if (what == "f32") return MultiplyAdds(HWY_DYNAMIC_POINTER(MultiplyAddF32), seconds);
    if (what == "bf16") return MultiplyAdds(HWY_DYNAMIC_POINTER(MultiplyAddBF16), seconds);
    if (what == "read") return Reads(seconds);
    throw std::invalid_argument("expected f32, bf16 or read but received " + what);
  }

 private:
  // 0x3c003c00 is a small number, as one f32 and as two bf16.
  double MultiplyAdds(double (*work)(const uint32_t*, float*), double seconds) {
    const uint32_t values[] = {0x3c003c00u, 0x3c003c00u};
    return Rate(seconds, [&](size_t thread) {
      double done = 0;
      for (int i = 0; i < 64; ++i) done += work(values, &sinks_[thread].value);
      return done;
    });
  }

  double Reads(double seconds) {
    const size_t count = kBytes / sizeof(uint32_t) / threads_ / 1024 * 1024;
    return Rate(seconds, [&](size_t part) {
      HWY_DYNAMIC_DISPATCH(Read)(memory_.data() + part * count, count, &sinks_[part].value);
      return static_cast<double>(count * sizeof(uint32_t));
    });
  }

  // `work` returns how much it did. Returns 1e9 of that per second, the median of runs.
  double Rate(double seconds, const std::function<double(size_t part)>& work) {
    std::vector<double> rates;
    const Clock::time_point begin = Clock::now();
    do {
      std::vector<double> done(threads_);
      const Clock::time_point start = Clock::now();
      pool_.Run(threads_, [&](size_t part, size_t) { done[part] = work(part); });
      const double took = Seconds(start);
      double all = 0;
      for (const double part : done) all += part;
      rates.push_back(all / took / 1e9);
    } while (Seconds(begin) < seconds);
    const auto middle = rates.begin() + static_cast<ptrdiff_t>(rates.size() / 2);
    std::nth_element(rates.begin(), middle, rates.end());
    return *middle;
  }

  static constexpr size_t kBytes = size_t{256} << 20;
  const size_t threads_;
  ThreadPool pool_;
  std::vector<Sink> sinks_;
  Memory memory_;
};

}  // namespace
}  // namespace lora::cpu

int main(int argc, char** argv) {
  using namespace lora::cpu;
  const int threads = argc > 1 ? std::atoi(argv[1]) : 0;
  if (threads < 1 || threads > 1024) {
    std::fprintf(stderr, "usage: ceilings THREADS\n");
    return 1;
  }
  try {
    LimitTargetsByEnvironment();
    Ceilings ceilings(threads);
    std::printf("{\"target\": \"%s\", \"threads\": %d}\n", ActiveTarget().c_str(), threads);
    std::fflush(stdout);
    char line[128];
    while (std::fgets(line, sizeof line, stdin) != nullptr) {
      char what[8] = "";
      int milliseconds = 0;
      std::sscanf(line, "{\"what\":\"%7[a-z0-9]\",\"milliseconds\":%d}", what, &milliseconds);
      std::printf("{\"rate\": %.2f}\n", ceilings.Measure(what, milliseconds / 1e3));
      std::fflush(stdout);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
#endif  // HWY_ONCE
