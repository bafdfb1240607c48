// Runs CUDA kernels on the CPU, each thread as a fiber, and reports what hardware would not tell
// (docs/internals/emulator.md). A lock lets one launch at a time run in a process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "simt/buffer.h"
#include "simt/location.h"
#include "simt/numerics.h"

namespace lora::simt {

enum class Kind : uint8_t {
  kRace,            // two accesses of one block, one of them a write, in no order
  kCrossBlock,      // the same between blocks of one launch
  kNonCoherent,     // a non-coherent load of what the same launch writes
  kBeforeWait,      // work before griddepcontrol.wait that belongs after it
  kSharedBounds,    // outside the block's shared memory
  kGlobalBounds,    // outside every buffer, or in the padding between its rows
  kUseAfterFree,    // in a buffer that was freed
  kRegisterBounds,  // an index outside a local array, a shift outside the word
  kMisaligned,      // an address that is no multiple of the access's size
  kUninitShared,    // shared memory that the block has not written
  kUninitGlobal,    // global memory that nothing has written
  kUninitRegister,  // a register that was never set
  kAsync,           // copies that nothing waits for
  kDivergence,      // threads of one warp or block in different collective calls
  kArrival,         // blocks that do not come to a counter as often as they say
  kDeadlock,        // no thread can run
  kHostPointer,     // host memory used as device memory, or the reverse
  kLaunch,          // a launch that hardware refuses
  kStaging,         // host memory changed while a queued copy still needed it
};
const char* NameOf(Kind kind);

struct Report {
  Kind kind;
  std::string text;  // names the kernel's file and line
};

struct Result {
  std::vector<Report> reports;
  uint64_t accesses = 0;             // loads and stores checked
  uint64_t ldmatrix_phases = 0;      // groups of eight rows
  uint64_t ldmatrix_wavefronts = 0;  // passes that the banks of shared memory need for them
  // With Options::count_banks, the passes of the ordinary access of shared memory (a line of code)
  // that the banks slow down most, by the fewest that its bytes need. It is 1 without conflicts, 32
  // at worst, 0 without accesses.
  double worst_bank_conflict = 0;
  std::string worst_bank_place;
  bool Has(Kind kind) const;
  std::string Text() const;
  // Adds what a later launch gave.
  void Add(const Result& later);
  // Returns 1 without bank conflicts, 8 at worst.
  double WavefrontsPerPhase() const;
};

enum class Schedule : uint8_t { kForward, kReverse, kRandom };
// Asynchronous copies land at the wait, at once, or either.
enum class Async : uint8_t { kLazy, kEager, kRandom };

struct Options {
  Schedule threads = Schedule::kForward;
  Schedule blocks = Schedule::kForward;
  Async async = Async::kLazy;
  uint64_t seed = 1;
  int arch = 80;              // decides how much shared memory there is
  int device = 0;             // shared-memory opt-ins are per device
  uint32_t shared_shift = 0;  // moves the base of dynamic shared memory; a multiple of 16
  bool programmatic = false;  // may start before the launch before it has ended
  bool count_banks = false;   // conflicts of ordinary accesses of shared memory, which takes time
  Numerics numerics;
  // False plants a fault: LastToArrive counts, but acquires nothing.
  bool acquires = true;
  bool last_block_only = false;  // of a grid too large to run
};

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};

// Does cudaFuncSetAttribute(kernel, MaxDynamicSharedMemorySize, bytes) on one device.
void SetMaxDynamicShared(int device, const void* kernel, size_t bytes);

namespace internal {
struct Call {
  const void* kernel;
  int max_threads;  // of __launch_bounds__
  Dim3 grid, block;
  size_t shared_bytes;
  void (*body)(const void* context);
  const void* context;  // the launch's arguments: the only host memory that kernels may read
  size_t context_bytes;
};
Result Run(const Options& options, const Call& call);

// Params::kThreads is what the kernel passes to LORA_LAUNCH_BOUNDS.
template <class P>
constexpr int ThreadsOf() {
  if constexpr (requires { std::remove_cvref_t<P>::kThreads; }) {
    return std::remove_cvref_t<P>::kThreads;
  } else {
    return 1024;
  }
}
}  // namespace internal

// Runs every block of kernel(args...) and returns what was found.
template <class... P, class... A>
Result Launch(const Options& options, void (*kernel)(P...), Dim3 grid, Dim3 block,
              size_t shared_bytes, A&&... args) {
  struct Context {
    void (*kernel)(P...);
    std::tuple<P...> args;
  };
  const Context context{kernel, std::tuple<P...>(std::forward<A>(args)...)};
  int max_threads = 1024;
  ((max_threads = max_threads < internal::ThreadsOf<P>() ? max_threads : internal::ThreadsOf<P>()),
   ...);
  return internal::Run(
      options, {reinterpret_cast<const void*>(kernel), max_threads, grid, block, shared_bytes,
                [](const void* c) {
                  const auto* call = static_cast<const Context*>(c);
                  std::apply(call->kernel, call->args);
                },
                &context, sizeof context});
}

}  // namespace lora::simt
