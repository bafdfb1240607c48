// Runs the tests of native/test/ops and native/test/cuda over a CUDA runtime that only looks at
// launches, with the code that nvcc made. Nothing is computed, so what the tests say of values does
// not count, and no reference computes any: every launch must keep to what its kernel was compiled
// for and to the limits of the device, and every kernel must have been launched.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <exception>
#include <map>
#include <set>
#include <string>

#include "backend/cuda/runtime.h"
#include "core/maths/row_major.h"
#include "test/driver/fake_cudart.h"
#include "test/support/kept_matrix.h"
#include "test/support/schedules.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

std::map<std::string, size_t> launched;       // kernels, and how often
std::map<std::string, std::string> violated;  // rules, and the test that first broke them

// Kernels that no shape in the tables of the tests launches.
const std::set<std::string> kElsewhere = {
    "_ZN4lora6device15AttentionDecodeINS0_3F16ELi128ENS0_14AttentionShapeEEEvNS0_"
    "21AttentionDecodeParamsIT_XT0_ET1_EE",
    "_ZN4lora6device15AttentionDecodeINS0_3F16ELi256ENS0_14AttentionShapeEEEvNS0_"
    "21AttentionDecodeParamsIT_XT0_ET1_EE",
    "_ZN4lora6device15AttentionDecodeINS0_4BF16ELi256ENS0_14AttentionShapeEEEvNS0_"
    "21AttentionDecodeParamsIT_XT0_ET1_EE",
    "_ZN4lora6device8CopyRowsImEEvNS0_14CopyRowsParamsIT_EE",
    "_ZN4lora6device9ClearRowsENS0_15ClearRowsParamsE",
    "_ZN4lora6device9TableDownINS0_3F16EEEvNS0_15TableDownParamsIT_EE",
};

// Multiprocessors with 100 KiB of shared memory take a kernel with smaller stages in its place.
const std::string kLargeShared =
    "_ZN4lora6device15KeyGradientsMmaINS0_4BF16ELi128ELi32EEEvNS0_21KeyGradientsMmaParamsIT_XT0_"
    "EXT1_EEE";

// Says nothing of the values that no kernel computed.
class Silent final : public doctest::IReporter {
 public:
  explicit Silent(const doctest::ContextOptions&) {}
  void report_query(const doctest::QueryData&) override {}
  void test_run_start() override {}
  void test_run_end(const doctest::TestRunStats&) override {}
  void test_case_start(const doctest::TestCaseData& test) override { name_ = test.m_name; }
  void test_case_reenter(const doctest::TestCaseData&) override {}
  void test_case_end(const doctest::CurrentTestCaseStats&) override {
    // A test that ends early gives nothing back, which is no fault of a launch.
    const bool kept = Fake().violation == "a pool was destroyed with memory in use";
    if (!Fake().violation.empty() && !kept) violated.emplace(Fake().violation, name_);
    Fake().violation.clear();
  }
  void test_case_exception(const doctest::TestCaseException&) override {}
  void subcase_start(const doctest::SubcaseSignature&) override {}
  void subcase_end() override {}
  void log_assert(const doctest::AssertData&) override {}
  void log_message(const doctest::MessageData&) override {}
  void test_case_skipped(const doctest::TestCaseData&) override {}

 private:
  std::string name_;
};
REGISTER_REPORTER("silent", 1, Silent);

int Main(int argc, char** argv) {
  // Plans split work by it; with this number the tests launch every kernel.
  Fake().multiprocessors = 108;
  try {
    cuda::Gpu::Open(0);
  } catch (const std::exception& error) {
    // Another nvcc may pack its code in another way.
    const bool unread = std::string(error.what()).find("fat binary") != std::string::npos;
    std::printf("%s: %s\n", unread ? "skipped" : "FAILED", error.what());
    return unread ? 77 : 1;
  }
  Fake().memory_bytes = size_t{4} << 30;
  Fake().on_launch = [](const FakeLaunch& launch) { ++launched[launch.kernel]; };
  doctest::Context context(argc, argv);
  context.setOption("reporters", "silent");
  context.run();
  size_t launches = 0, missing = 0;
  for (const auto& [kernel, count] : launched) launches += count;
  for (const auto& [rule, test] : violated) std::printf("%s: %s\n", test.c_str(), rule.c_str());
  const bool small = cuda::Gpu::Open(0)->properties().shared_bytes < size_t{100} << 10;
  for (const std::string& kernel : RegisteredKernels()) {
    const bool elsewhere = kElsewhere.contains(kernel) || (small && kernel == kLargeShared);
    if (launched.contains(kernel) != elsewhere) continue;
    std::printf("%s %s\n", elsewhere ? "a test launches" : "no test launched", kernel.c_str());
    ++missing;
  }
  const size_t failed = violated.size() + missing;
  std::printf("%zu launches on sm_%d\n", launches, ArchOf(0));
  // As doctest does, with kernels for test cases (scripts/ctest.mjs).
  std::printf("[doctest] test cases: %zu | %zu passed | %zu failed | 0 skipped\n",
              launched.size() + failed, launched.size(), failed);
  return failed == 0 ? 0 : 1;
}

// The reference without its sums.
Backend MakeEmptyReference() {
  Backend b;
  b.name = "reference";
  b.create_context = [](int) -> std::unique_ptr<Context> { return std::make_unique<Context>(); };
  b.f16_activations = true;
  b.bf16_deltas = true;
  b.reads = Fits;
  b.packed_bytes = [](int64_t rows, int64_t cols, WeightFormat format) {
    return RowMajorBytes(format, rows, cols);
  };
  AllOps::ForEach([&]<class Args>(std::type_identity<Args>) {
    b.op<Args>() = {[](const Args& args, int) {
      return CallOf<Args>(args, 0, [](const Args&, Scratch, Context&) {});
    }};
  });
  return b;
}

void RunOn(Addresses addresses, const RunFunction& run) {
  MirrorContext context(OpenGpu(), addresses);
  run(context);
}

}  // namespace

// In the place of tested_cuda.cc: every run that the tests ask for, once on aligned and once on odd
// addresses, and no check of what came out.
const TestedBackend& Tested() {
  static const TestedBackend tested = {
      MirroredCuda(), {0, 1, 2, 3, 4, 5, 7, 8, 9, 17, 65, 511, 2048, 2057}, 4111, false, true, 16};
  return tested;
}
bool MultipliesCodes(const Kept&, int64_t) { return false; }
bool MultipliesHalves(int64_t) { return true; }
std::unique_ptr<Context> NextContext() {
  return std::make_unique<MirrorContext>(OpenGpu(), Addresses::kAligned);
}
void OnEveryPath(const RunFunction& run, const CheckFunction&) {
  for (const Addresses addresses : {Addresses::kAligned, Addresses::kOdd}) RunOn(addresses, run);
}
void OnPathsInTurn(const RunFunction& run, const CheckFunction& check, bool) {
  OnEveryPath(run, check);
}

}  // namespace lora::test

// The linker takes this for ReferenceBackend() (--wrap).
extern "C" const lora::Backend& __wrap__ZN4lora16ReferenceBackendEv() {
  static const lora::Backend backend = lora::test::MakeEmptyReference();
  return backend;
}

int main(int argc, char** argv) { return lora::test::Main(argc, argv); }
