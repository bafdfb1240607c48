// Tests that the steps of a program run as graphs of the device, and do what they do one by one.
#include <doctest/doctest.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend/cuda/context.h"
#include "core/ops/ops.h"
#include "core/runtime/steps.h"
#include "test/support/schedules.h"

namespace lora::test {
namespace {

constexpr int64_t kRows = 5, kIds = 3, kCols = 4;

// Looks up rows of a table, whose rows are 0, 10, 20, … in every column, and doubles them.
class LookUp {
 public:
  explicit LookUp(std::shared_ptr<cuda::Gpu> gpu) : gpu_(std::move(gpu)), context_(gpu_) {
    ids_->host_copy = std::make_unique<HostCopy>(ids_data_, kIds * sizeof(int32_t));
    std::vector<float> table(kRows * kCols);
    for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<float>(i / kCols * 10);
    context_.Upload(table_data_, table.data(), table.size() * sizeof(float));
    EmbeddingArgs embedding;
    embedding.weight = {table_data_, DType::kF32, kRows, kCols};
    embedding.ids = {ids_data_, DType::kI32, {kIds}};
    embedding.ids.host_copy = ids_->host_copy.get();
    embedding.y = {rows_data_, DType::kF32, {kIds, kCols}};
    BinaryArgs sum{BinaryKind::kAdd, embedding.y, embedding.y,
                   TensorView(sums_data_, DType::kF32, {kIds, kCols})};
    steps_.made = {rows_, sums_};
    steps_.steps = {StepOf(embedding, ids_, rows_), StepOf(sum, rows_, sums_)};
  }
  ~LookUp() {
    steps_ = Steps();
    for (void* data : {table_data_, ids_data_, rows_data_, sums_data_, scratch_}) gpu_->Free(data);
    gpu_->Synchronize();
  }
  LookUp(const LookUp&) = delete;
  LookUp& operator=(const LookUp&) = delete;

  // Returns the first column of what a run makes of these ids, or its failure.
  std::string Run(const std::vector<int32_t>& ids) {
    context_.Upload(ids_data_, ids.data(), kIds * sizeof(int32_t));
    ids_->host_copy->Wrote(ids_data_, ids.data(), kIds * sizeof(int32_t));
    return RunAgain();
  }
  // The ids may be what the device alone knows.
  std::string RunAgain() {
    steps_.Run(0, [this]() -> Context& { return context_; });
    if (sums_->failure) return sums_->failure->code + " " + sums_->failure->message;
    std::vector<float> sums(kIds * kCols);
    context_.ReadNow(sums.data(), sums_data_, sums.size() * sizeof(float));
    std::string text;
    for (int64_t i = 0; i < kIds; ++i)
      text += std::to_string(static_cast<int>(sums[static_cast<size_t>(i * kCols)])) + " ";
    return text;
  }
  void ForgetIds() { ids_->host_copy->Forget(); }
  int64_t graphs() const { return gpu_->graphs; }
  int64_t launches() const { return gpu_->launches; }
  std::string refusal() const { return gpu_->refusals().why; }

 private:
  template <class Args>
  Step StepOf(const Args& args, const StatusPtr& from, const StatusPtr& to) {
    const PlannedCall call = CudaBackend()->op<Args>().plan(args, context_.threads());
    REQUIRE(call.scratch_bytes <= kScratchBytes);
    Step step;
    step.op = "test";
    step.operands = {{from, Access::kIn}, {to, Access::kOut}};
    step.scratch = {static_cast<std::byte*>(scratch_), call.scratch_bytes};
    step.run = call.run;
    return step;
  }

  static constexpr size_t kScratchBytes = 256;
  const std::shared_ptr<cuda::Gpu> gpu_;
  cuda::GpuContext context_;
  void* const table_data_ = gpu_->Allocate(kRows * kCols * sizeof(float));
  void* const ids_data_ = gpu_->Allocate(kIds * sizeof(int32_t));
  void* const rows_data_ = gpu_->Allocate(kIds * kCols * sizeof(float));
  void* const sums_data_ = gpu_->Allocate(kIds * kCols * sizeof(float));
  void* const scratch_ = gpu_->Allocate(kScratchBytes);
  const StatusPtr ids_ = std::make_shared<Status>(), rows_ = std::make_shared<Status>(),
                  sums_ = std::make_shared<Status>();
  Steps steps_;
};

TEST_CASE("graphs: every run computes from what its inputs hold, and fails as steps do") {
  for (int schedule = 0; schedule < 9; ++schedule) {
    CAPTURE(schedule);
    LookUp it(NthGpu(schedule));
    CHECK(it.Run({0, 1, 2}) == "0 20 40 ");
    CHECK(it.graphs() == 0);
    CHECK(it.launches() == 2);
    CHECK(it.Run({4, 4, 0}) == "80 80 0 ");
    CHECK(it.graphs() == 1);
    CHECK(it.Run({3, 2, 1}) == "60 40 20 ");
    CHECK(it.graphs() == 2);
    CHECK(it.launches() == 6);
    CHECK(it.Run({0, 5, 1}) ==
          "ERR_DATA [embedding] expected ids from 0 to 4 but received 5 at position 1");
    CHECK(it.launches() == 6);
    CHECK(it.Run({1, 1, 1}) == "20 20 20 ");
    CHECK(it.graphs() == 3);
    it.ForgetIds();  // as where a kernel wrote them: the device is asked
    CHECK(it.RunAgain() == "20 20 20 ");
    CHECK(it.graphs() == 3);
    CHECK(it.launches() == 11);
    CHECK(it.Run({2, 2, 2}) == "40 40 40 ");
    CHECK(it.graphs() == 4);
    CHECK(it.refusal() == "");
  }
}

TEST_CASE("graphs: there are none where every launch is waited for") {
  setenv("LORA_CUDA_SYNC", "1", 1);
  LookUp it(NthGpu(0));
  unsetenv("LORA_CUDA_SYNC");
  for (int run = 0; run < 3; ++run) CHECK(it.Run({0, 1, 2}) == "0 20 40 ");
  CHECK(it.graphs() == 0);
  CHECK(it.launches() == 6);
}

}  // namespace
}  // namespace lora::test
