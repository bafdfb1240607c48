// The tensor-core GEMM in the emulator: exact on small integers, no report on any schedule, no bank
// conflict.
#include <doctest/doctest.h>

#include <cmath>
#include <random>
#include <vector>

#include "core/dtype.h"
#include "test/simt/gemm_mma_kernels.h"

namespace lora::simt {
namespace {

struct Case {
  int m, n, k;
};
// One below, at and above a tile; K in and beside multiples of 8 and 32.
const Case kCases[] = {{1, 1, 1},    {1, 64, 8},     {64, 64, 32},  {63, 65, 33}, {17, 130, 100},
                       {128, 40, 7}, {129, 127, 96}, {33, 97, 200}, {600, 8, 40}, {0, 4, 4}};

// Row-major on the host, without padding.
std::vector<uint16_t> Integers(size_t count, bool bf16, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<uint16_t> v(count);
  for (uint16_t& e : v) {
    const float f = static_cast<float>(static_cast<int>(random() % 7) - 3);
    e = bf16 ? BF16FromF32(f) : F16FromF32(f);
  }
  return v;
}

float ToF32(uint16_t bits, bool bf16) { return bf16 ? F32FromBF16(bits) : F32FromF16(bits); }

struct Run {
  Result result;
  size_t wrong = 0;
  size_t unwritten = 0;
};

// pad: elements between rows, which belong to nobody; -1: no padding at all, so that most pitches
// are odd.
// skew: bytes between a multiple of 16 and each matrix.
Run Gemm(const Case& c, bool bf16, bool large, bool by_rows, int pad, size_t skew,
         const Options& options) {
  const auto pitch = [&](int cols) { return pad < 0 ? cols : (cols + 7) / 8 * 8 + pad; };
  const int w_rows = by_rows ? c.k : c.n, w_cols = by_rows ? c.n : c.k;
  const auto x = Integers(static_cast<size_t>(c.m) * static_cast<size_t>(c.k), bf16, 1);
  const auto w = Integers(static_cast<size_t>(w_rows) * static_cast<size_t>(w_cols), bf16, 2);
  const auto bytes = [](int elements) { return static_cast<size_t>(elements) * 2; };
  Buffer x_device(static_cast<size_t>(c.m), bytes(c.k), bytes(pitch(c.k)), "x", skew);
  Buffer w_device(static_cast<size_t>(w_rows), bytes(w_cols), bytes(pitch(w_cols)), "w", skew);
  Buffer y_device(static_cast<size_t>(c.m), bytes(c.n), bytes(c.n + (pad < 0 ? 0 : 3)), "y", skew);
  x_device.Upload(x.data());
  w_device.Upload(w.data());
  Queue queue(options);
  LaunchGemm({bf16, large, by_rows, x_device.as<void>(), w_device.as<void>(), y_device.as<void>(),
              c.m, c.n, c.k, pitch(c.k), pitch(w_cols), c.n + (pad < 0 ? 0 : 3)},
             queue);
  Run run{queue.Synchronize()};
  std::vector<uint16_t> y(static_cast<size_t>(c.m) * static_cast<size_t>(c.n));
  y_device.Download(y.data());
  run.unwritten = y_device.Unwritten();
  for (int i = 0; i < c.m; ++i)
    for (int j = 0; j < c.n; ++j) {
      float sum = 0;
      for (int k = 0; k < c.k; ++k)
        sum += ToF32(x[static_cast<size_t>(i * c.k + k)], bf16) *
               ToF32(w[static_cast<size_t>(by_rows ? k * c.n + j : j * c.k + k)], bf16);
      const uint16_t expected = bf16 ? BF16FromF32(sum) : F16FromF32(sum);
      run.wrong += y[static_cast<size_t>(i * c.n + j)] != expected;
    }
  return run;
}

Options Nth(int i) {
  Options options;
  options.threads = static_cast<Schedule>(i % 3);
  options.blocks = static_cast<Schedule>((i + i / 3) % 3);
  options.async = static_cast<Async>(i / 3 % 3);
  options.seed = static_cast<uint64_t>(i) + 1;
  options.shared_shift = i % 2 ? 16 : 0;
  return options;
}

}  // namespace

TEST_CASE("GemmMma gives the exact product of small integers, without a report") {
  struct Place {
    int pad;
    size_t skew;
  };
  int turn = 0;
  for (const Case& c : kCases) {
    for (const bool bf16 : {true, false}) {
      for (const bool by_rows : {false, true}) {
        for (const Place& place :
             {Place{-1, 0}, Place{0, 0}, Place{8, 0}, Place{5, 0}, Place{0, 2}, Place{-1, 8}}) {
          for (const bool large : {false, true}) {
            const Options options = Nth(turn++ % 9);
            CAPTURE(c.m);
            CAPTURE(c.n);
            CAPTURE(c.k);
            CAPTURE(bf16);
            CAPTURE(by_rows);
            CAPTURE(place.pad);
            CAPTURE(place.skew);
            CAPTURE(large);
            const Run run = Gemm(c, bf16, large, by_rows, place.pad, place.skew, options);
            if (c.m == 0) {
              CHECK(run.result.Has(Kind::kLaunch));  // nothing to do is the caller's case
              continue;
            }
            CHECK_MESSAGE(run.result.reports.empty(), run.result.Text());
            CHECK(run.wrong == 0);
            CHECK(run.unwritten == 0);
          }
        }
      }
    }
  }
}

TEST_CASE("ldmatrix of GemmMma meets no bank conflict") {
  for (const bool large : {false, true}) {
    for (const bool by_rows : {false, true}) {
      const Run run = Gemm({128, 128, 128}, true, large, by_rows, 0, 0, Options());
      CHECK(run.result.ldmatrix_phases > 0);
      CHECK(run.result.WavefrontsPerPhase() == 1.0);
    }
  }
}

}  // namespace lora::simt
