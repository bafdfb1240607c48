// A backend is a table of ops. reference and cpu fill all of it; an unavailable backend says why.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <tuple>

#include "core/ops/graphs.h"
#include "core/ops/ops.h"

namespace lora {

// What the ops of a backend run on: a thread pool (reference, cpu) or a CUDA stream. Created once
// per stream, used by that stream's worker only.
class Context {
 public:
  virtual ~Context() = default;
  // Threads that work on one op, or a GPU's multiprocessors. Results are bitwise reproducible for a
  // given number.
  virtual int threads() const { return 1; }
  // Returns when what the ops so far have started is done; throws when the device was lost.
  virtual void Finish() {}
  // Returns what captures work of this context (graphs.h); null where nothing does.
  virtual Graphs* graphs() { return nullptr; }
};

using Scratch = std::span<std::byte>;

// One call of an op: how many bytes of scratch it needs, and the work itself. `run` may throw
// lora::Error; nothing else leaves it. A recorded program runs it many times, so it uses nothing
// up.
struct PlannedCall {
  size_t scratch_bytes = 0;
  std::function<void(Scratch, Context&)> run;
};

// One op. A call is planned once, when it is enqueued. What its plan decides is a pure function of
// the arguments, without the addresses of their data, and of the number of threads.
template <class Args>
struct Op {
  PlannedCall (*plan)(const Args&, int threads) = nullptr;
};

// Plans a call whose work follows from its arguments at little cost.
template <class Args>
PlannedCall CallOf(const Args& args, size_t scratch_bytes,
                   void (*run)(const Args&, Scratch, Context&)) {
  return {scratch_bytes,
          [args = args, run](Scratch scratch, Context& context) { run(args, scratch, context); }};
}

// Plans a call by the functions that its op has in the namespace of a backend, which is that of
// Here. They are looked up by the types of their arguments, so the number of threads and the
// scratch are of types that name Here.
template <class Here>
struct ThreadsIn {
  int count;
  operator int() const { return count; }
};
template <class Here>
struct ScratchIn : Scratch {};
template <class Here, class Args>
PlannedCall PlanIn(const Args& args, ThreadsIn<Here> threads) {
  if constexpr (requires { PlanCall(args, threads); }) {
    return PlanCall(args, threads);
  } else {
    size_t scratch_bytes = 0;
    if constexpr (requires { ScratchBytes(args, threads); })
      scratch_bytes = ScratchBytes(args, threads);
    return CallOf<Args>(args, scratch_bytes, [](const Args& a, Scratch scratch, Context& context) {
      Run(a, ScratchIn<Here>{scratch}, context);
    });
  }
}

struct Backend {
  const char* name = "";
  std::unique_ptr<Context> (*create_context)(int threads) = nullptr;

  // Whether ops of inference take activations in f16 (Activation() in fields.h). Every backend
  // stores and casts f16.
  bool f16_activations = false;
  // Whether ops with activations of a dtype read a weight that is kept in a format. Every backend
  // reads FormatOf(dtype).
  bool (*reads)(WeightFormat, DType activations) = nullptr;
  // Whether the tables of decode steps may keep up and down in bf16 (delta_table.h).
  bool bf16_deltas = false;
  // Bytes of W [rows, cols] packed.
  size_t (*packed_bytes)(int64_t rows, int64_t cols, WeightFormat) = nullptr;
  // Bytes of the copies that a call makes of some x [rows, k], in bf16 or f32, with a k for each.
  // Null where calls copy nothing.
  size_t (*copied_bytes)(bool bf16, size_t rows, std::span<const size_t> widths) = nullptr;

  // backend.op<RmsNormForwardArgs>()
  template <class Args>
  Op<Args>& op() {
    return std::get<Op<Args>>(ops_);
  }
  template <class Args>
  const Op<Args>& op() const {
    return std::get<Op<Args>>(ops_);
  }

 private:
  template <class... Args>
  static std::tuple<Op<Args>...> TableOf(OpList<Args...>);
  decltype(TableOf(AllOps())) ops_;
};

const Backend& ReferenceBackend();
const Backend& CpuBackend();

// nullptr when CUDA cannot be used; then CudaUnavailableReason() is the sentence that says why.
const Backend* CudaBackend();
const char* CudaUnavailableReason();

}  // namespace lora
