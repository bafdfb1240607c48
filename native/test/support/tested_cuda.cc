#include "test/support/kept_matrix.h"
#include "test/support/schedules.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

int turn = 0;

std::vector<Tensor> RunOnce(int schedule, Addresses addresses, const RunFunction& run) {
  MirrorContext context = NthContext(schedule, addresses);
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

bool MultipliesCodes(const Kept&, int64_t) { return false; }

bool MultipliesHalves(int64_t) { return Tested().tensor_cores; }

std::unique_ptr<Context> NextContext() {
  const int schedule = turn++;
  return std::make_unique<MirrorContext>(NthGpu(schedule), static_cast<Addresses>(schedule % 4));
}

void OnEveryPath(const RunFunction& run, const CheckFunction& check) {
  for (const Addresses one : {Addresses::kAligned, Addresses::kOdd}) {
    const Addresses other =
        one == Addresses::kAligned ? Addresses::kSecondOdd : Addresses::kFirstOdd;
    CAPTURE(one);
    const std::vector<Tensor> first = RunOnce(turn++, one, run);
    for (const Tensor& output : first) CHECK(output.intact());
    check(first);
    CheckSame(RunOnce(turn++, other, run), first);
  }
}

void OnPathsInTurn(const RunFunction& run, const CheckFunction& check, bool) {
  const int schedule = turn++;
  const auto addresses = static_cast<Addresses>(schedule % 4);
  CAPTURE(addresses);
  const std::vector<Tensor> first = RunOnce(schedule, addresses, run);
  for (const Tensor& output : first) CHECK(output.intact());
  check(first);
  const auto others = static_cast<Addresses>((schedule + 1) % 4);
  if (schedule % 3 == 0) CheckSame(RunOnce(schedule + 4, others, run), first);
}

}  // namespace lora::test
