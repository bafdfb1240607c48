#include "test/support/bench_problem.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "core/ops/backend.h"

namespace lora::test {
namespace {

// Gives memory of the host in place of a device's, for ops that run on the host.
class HostMemory final : public cuda::Gpu {
 public:
  const cuda::DeviceProperties& properties() const override { return properties_; }
  void* stream() const override { return nullptr; }
  uint32_t* counters() const override { return nullptr; }
  void* Allocate(size_t bytes) override { return std::malloc(bytes); }
  void Free(void* data) override { std::free(data); }
  size_t free_bytes() const override { return 0; }
  void Upload(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void Download(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  bool LoadKernel(const char*, size_t) override { return true; }
  std::string TakeLaunchError(int) override { return {}; }
  void* Capture(const std::function<void(void*)>&) override { return nullptr; }
  void LaunchGraph(void*) override {}
  void FreeGraph(void*) override {}
  void Synchronize() override {}
  void Pace() override {}

 private:
  cuda::DeviceProperties properties_;
};

// Runs without the checks, because lora_linear in f16 is for the benchmark, not for callers.
template <class Args>
void RunReference(const Args& args) {
  const std::unique_ptr<Context> context = ReferenceBackend().create_context(1);
  const Op<Args>& it = ReferenceBackend().op<Args>();
  const PlannedCall call = it.plan(args, 1);
  std::vector<std::byte> scratch(call.scratch_bytes);
  call.run(scratch, *context);
}

TEST_CASE("the benchmark's check accepts what the reference computes, and nothing else") {
  HostMemory memory;
  for (const BenchShape& shape :
       {BenchShape{37, 80, 51, 4, DType::kBF16, 2}, BenchShape{1, 64, 96, 16, DType::kF16, 1},
        BenchShape{9, 33, 20, 1, DType::kF32, 1}}) {
    CAPTURE(shape.Name());
    BenchProblem problem(memory, shape);
    CHECK(std::isinf(problem.YError(true)));  // nothing was written yet
    CHECK(std::isinf(problem.DbError()));
    const double bound = 2 * UnitRoundoff(shape.dtype);
    RunReference(problem.Forward(shape.copies - 1, false, false));
    CHECK(problem.YError(false) <= bound);
    CHECK(problem.YError(true) > 0.1);  // the adapter is missing
    RunReference(problem.Forward(0, true, true));
    CHECK(problem.YError(true) <= bound);
    CHECK(problem.YError(false) > 0.1);
    RunReference(problem.Backward(0, true, true));
    CHECK(problem.DxError() <= bound);
    CHECK(problem.DaError() <= 1e-5);
    CHECK(problem.DbError() <= 1e-5);
    problem.Poison();
    CHECK(std::isinf(problem.DxError()));
  }
}

}  // namespace
}  // namespace lora::test
