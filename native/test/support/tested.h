// Declares the backend that the tests in native/test/ops hold against the reference. Each of those
// files is compiled once and linked with one of two: tested_cpu.cc, which runs every instruction
// set and several numbers of threads, and tested_cuda.cc, which runs the emulator's schedules, or a
// GPU.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <memory>
#include <vector>

#include "test/support/close.h"
#include "test/support/rounding.h"
#include "test/support/run.h"
#include "test/support/tensors.h"

namespace lora::test {

struct TestedBackend {
  // Its ops take tensors in host memory.
  const Backend& backend;
  // Numbers of elements around the backend's vectors, warps and blocks.
  std::vector<int64_t> sizes;
  // Enough elements for three threads of a CPU, or for several blocks of a GPU.
  int64_t many;
  // The emulator takes long for many elements, and reports values that have the bits of an unset
  // register (simt/state.h).
  bool emulated;
  // Products of 16-bit activations run on tensor cores: both factors have 16 bits, and sums are
  // truncated where terms are aligned.
  bool tensor_cores;
  // A linear layer of at most so many rows, without dropout, runs as a decode step.
  int64_t few_rows;
};
const TestedBackend& Tested();

// Tells whether rows of k 16-bit elements are multiplied as such on the path that runs: on tensor
// cores, or by a CPU's instruction for pairs of bf16.
bool MultipliesHalves(int64_t k);

// Returns what activations may be: f32, bf16, and f16 where the backend takes it.
inline std::vector<DType> Activations() {
  if (Tested().backend.f16_activations) return {DType::kF32, DType::kBF16, DType::kF16};
  return {DType::kF32, DType::kBF16};
}

// Returns a context with the next number of threads, or the next schedule, at each call.
std::unique_ptr<Context> NextContext();

// Returns the outputs of one run on a context, in memory of their own.
using RunFunction = std::function<std::vector<Tensor>(Context&)>;
using CheckFunction = std::function<void(const std::vector<Tensor>&)>;

// Calls check(outputs) for every instruction set, or for aligned and for odd addresses, and
// requires the same bits from a second run, from other numbers of threads and another schedule, on
// addresses of which every other one is aligned.
void OnEveryPath(const RunFunction& run, const CheckFunction& check);

// Does the same at lower cost, for ops that the emulator takes long to run: it uses one schedule
// and one address per call, in turn. Every third call also requires the same bits from others.
// `threads_matter` is for ops whose sums are split by the number of threads: then each number has
// bits of its own, which are checked.
void OnPathsInTurn(const RunFunction& run, const CheckFunction& check, bool threads_matter = false);

template <class Args>
void RunTested(const Args& args, Context& context) {
  Run(Tested().backend, args, context);
}

// Runs a gradient, which no caller may ask for in f16.
template <class Args>
void RunGradient(const Backend& backend, const Args& args, DType act, Context& context) {
  if (act != DType::kF16) Check(args);
  RunUnchecked(backend.op<Args>(), args, context);
}

}  // namespace lora::test
