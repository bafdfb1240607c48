#include "test/support/schedules.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

int turn = 0;

std::vector<Tensor> RunOnce(int schedule, int64_t skew, const RunFunction& run) {
  MirrorContext context = NthContext(schedule, skew);
  return run(context);
}

void CheckSame(const std::vector<Tensor>& one, const std::vector<Tensor>& other) {
  for (size_t i = 0; i < one.size(); ++i) CHECK_IDENTICAL(one[i], other[i]);
}

}  // namespace

const TestedBackend& Tested() {
#ifdef LORA_REAL_GPU
  constexpr bool kEmulated = false;
#else
  constexpr bool kEmulated = true;
#endif
  static const TestedBackend tested = {
      MirroredCuda(), {0, 1, 2, 3, 4, 5, 7, 8, 9, 17, 65, 511, 2048, 2057},
      4111,           kEmulated,
      true,           16};
  return tested;
}

bool MultipliesHalves(int64_t) { return Tested().tensor_cores; }

std::unique_ptr<Context> NextContext() {
  const int schedule = turn++;
  return std::make_unique<MirrorContext>(NthGpu(schedule), schedule % 2);
}

void OnEveryPath(const RunFunction& run, const CheckFunction& check) {
  for (const int64_t skew : {0, 1}) {
    CAPTURE(skew);
    const std::vector<Tensor> first = RunOnce(turn++, skew, run);
    for (const Tensor& output : first) CHECK(output.intact());
    check(first);
    CheckSame(RunOnce(turn++, skew, run), first);
  }
}

void OnPathsInTurn(const RunFunction& run, const CheckFunction& check, bool) {
  const int schedule = turn++;
  const int64_t skew = schedule % 2;
  CAPTURE(skew);
  const std::vector<Tensor> first = RunOnce(schedule, skew, run);
  for (const Tensor& output : first) CHECK(output.intact());
  check(first);
  if (schedule % 3 == 0) CheckSame(RunOnce(schedule + 4, 1 - skew, run), first);
}

}  // namespace lora::test
