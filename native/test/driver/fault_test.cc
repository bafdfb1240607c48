// Tests what a program that uses a device makes of each error that CUDA can give it, at every call,
// on a CUDA runtime that the test plays and with the code that nvcc made; and of machines that are
// unlike others.
#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "backend/cuda/context.h"
#include "core/error.h"
#include "core/ops/backend.h"
#include "core/ops/ops.h"
#include "core/runtime/steps.h"
#include "test/driver/fake_cudart.h"

namespace lora::test {
namespace {

// Opens a device, launches kernels of several kinds on it, copies, waits and closes it.
class Program {
 public:
  explicit Program(int ordinal) : gpu_(cuda::Gpu::Open(ordinal)), context_(gpu_) {}
  ~Program() { Free(); }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  void Run() {
    constexpr int64_t kSize = 64, kRank = 4;
    LoraBranch branch;
    branch.weight = {Take(DType::kBF16, {kSize, kSize}).data, DType::kBF16, kSize, kSize};
    branch.up = Take(DType::kF32, {kSize, kRank});
    branch.down = Take(DType::kF32, {kRank, kSize});
    for (const int64_t rows : {1, 40}) {  // a decode step, and a product on tensor cores
      LoraLinearForwardArgs args;
      args.branches = {branch};
      args.x = Take(DType::kBF16, {rows, kSize});
      args.y = {Take(DType::kBF16, {rows, kSize})};
      args.h = {TensorView()};
      RunOp(args);
    }
    EmbeddingArgs embedding;  // waits for what the device says of the ids
    embedding.weight = branch.weight;
    embedding.ids = Take(DType::kI32, {3});
    embedding.y = Take(DType::kBF16, {3, kSize});
    RunOp(embedding);
    RunRecorded(embedding, branch);
    gpu_->Pace();
    gpu_->Pace();
    // Longer than one piece of page-locked memory.
    std::vector<char> sent(size_t{600} << 10), received(sent.size());
    for (size_t i = 0; i < sent.size(); ++i) sent[i] = static_cast<char>(i * 7 + i / 251);
    void* const data = Take(DType::kI32, {static_cast<int64_t>(sent.size() / 4)}).data;
    gpu_->Upload(data, sent.data(), sent.size());
    gpu_->Download(received.data(), data, received.size());
    CHECK(received == sent);
    void* const too_much = gpu_->Allocate(Fake().memory_bytes);
    CHECK(too_much == nullptr);
    (void)gpu_->free_bytes();
    context_.Finish();
    Free();
    gpu_->Synchronize();  // says what Free met
  }
  // Captures an op, runs it, and captures it again. Returns whether there was a graph each time.
  std::pair<bool, bool> CaptureFirst() {
    GatedForwardArgs args{};
    args.gate = Take(DType::kBF16, {3, 8});
    args.up = Take(DType::kBF16, {3, 8});
    args.y = Take(DType::kBF16, {3, 8});
    const auto run = [&] { RunOp(args); };
    const bool first = context_.Capture(run) != nullptr;
    run();
    const bool then = context_.Capture(run) != nullptr;
    context_.Finish();
    Free();
    gpu_->Synchronize();
    return {first, then};
  }
  // Returns why there is no graph of the recorded steps; empty where there is one.
  std::string Refusal() const {
    const auto [count, why] = gpu_->refusals();
    return count == 0 ? "" : "REFUSED " + why;
  }

 private:
  TensorView Take(DType dtype, Shape shape) {
    TensorView view(nullptr, dtype, shape);
    view.data = Take(view.bytes());
    return view;
  }
  void* Take(size_t bytes) {
    void* const data = gpu_->Allocate(bytes);
    if (data == nullptr) throw Error("ERR_OUT_OF_MEMORY", "test", "cudaErrorMemoryAllocation");
    blocks_.push_back(data);
    return data;
  }
  void Free() {
    for (void* block : blocks_) gpu_->Free(block);
    blocks_.clear();
  }
  template <class Args>
  void RunOp(const Args& args) {
    const PlannedCall call = CudaBackend()->op<Args>().plan(args, context_.threads());
    std::byte* scratch = nullptr;
    if (call.scratch_bytes > 0) scratch = static_cast<std::byte*>(Take(call.scratch_bytes));
    call.run(Scratch(scratch, call.scratch_bytes), context_);
  }

  template <class Args>
  Step StepOf(const Args& args, const StatusPtr& from, const StatusPtr& to) {
    const PlannedCall call = CudaBackend()->op<Args>().plan(args, context_.threads());
    Step step;
    step.op = "test";
    step.operands = {{from, Access::kIn}, {to, Access::kOut}};
    if (call.scratch_bytes > 0)
      step.scratch = {static_cast<std::byte*>(Take(call.scratch_bytes)), call.scratch_bytes};
    step.run = call.run;
    return step;
  }
  // Runs recorded steps, a graph with a wait behind it: as they are, captured, and launched again.
  void RunRecorded(const EmbeddingArgs& waits, const LoraBranch& branch) {
    LoraLinearForwardArgs args;
    args.branches = {branch};
    args.x = Take(DType::kBF16, {2, branch.weight.cols});
    args.y = {Take(DType::kBF16, {2, branch.weight.rows})};
    args.h = {TensorView()};
    std::vector<StatusPtr> statuses;
    for (int i = 0; i < 4; ++i) statuses.push_back(std::make_shared<Status>());
    Steps steps;
    steps.made.assign(statuses.begin() + 1, statuses.end());
    steps.steps = {StepOf(args, statuses[0], statuses[1]), StepOf(args, statuses[1], statuses[2]),
                   StepOf(waits, statuses[2], statuses[3])};
    for (int run = 0; run < 3; ++run) {
      steps.Run(0, [&]() -> Context& { return context_; });
      if (const FailurePtr& failure = statuses[3]->failure)
        throw Error(failure->code, failure->op, failure->message);
    }
  }

  const std::shared_ptr<cuda::Gpu> gpu_;
  cuda::GpuContext context_;
  std::vector<void*> blocks_;
};

// Returns the code and the sentence of the error that ended it, or why it had no graph.
std::string Use(int ordinal) {
  try {
    Program program(ordinal);
    program.Run();
    return program.Refusal();
  } catch (const Error& error) {
    return error.code() + " " + error.what();
  }
}
void CheckClean() {
  CHECK(Fake().violation == "");
  CHECK(Fake().live_objects == 0);
}

struct Fault {
  cudaError_t error;
  bool for_good;
};

// The errors of these may go unsaid: the process closes the device, asks what is free, or chooses a
// device that is chosen already.
const std::set<std::string> kUnsaid = {
    "cudaSetDevice",     "cudaStreamSynchronize", "cudaEventDestroy",
    "cudaFree",          "cudaFreeHost",          "cudaMemPoolDestroy",
    "cudaStreamDestroy", "cudaMemGetInfo",        "cudaMemPoolGetAttribute",
    "cudaGraphDestroy"};

void CheckFault(const Fault& fault, int call, std::map<std::string, int>& outcomes) {
  ResetFake();
  Fake().fail_at = call;
  Fake().fail_with = fault.error;
  Fake().fail_for_good = fault.for_good;
  const std::string text = Use(0);
  const std::string failed = Fake().failed, name = cudaGetErrorName(fault.error);
  CAPTURE(failed);
  CAPTURE(name);
  CAPTURE(call);
  CAPTURE(text);
  CHECK(failed != "");
  ++outcomes[text.substr(0, text.find(' '))];
  if (text.empty()) {
    // Memory is asked for once more after all that was freed came back, also for code.
    const bool asked_again =
        (failed == "cudaMallocFromPoolAsync" || failed.starts_with("cudaFunc")) &&
        fault.error == cudaErrorMemoryAllocation;
    CHECK((kUnsaid.contains(failed) || asked_again));
  } else {
    CHECK(text.find(name) != std::string::npos);
    CHECK((text.starts_with("ERR_") || text.starts_with("REFUSED ")));
  }
  CHECK(Use(1) == "");  // another device goes on
  CheckClean();
}

TEST_CASE("faults: each error at each call is survived and said, and another device goes on") {
  for (const Fault& fault : {Fault{cudaErrorMemoryAllocation, false},
                             {cudaErrorUnknown, false},
                             {cudaErrorIllegalAddress, true},
                             {cudaErrorECCUncorrectable, true}}) {
    ResetFake();
    REQUIRE(Use(0) == "");
    CheckClean();
    const int calls = static_cast<int>(Fake().called.size());
    std::map<std::string, int> outcomes;
    for (int call = 1; call <= calls; ++call) CheckFault(fault, call, outcomes);
    std::printf("%s%s at each of %d calls:", cudaGetErrorName(fault.error),
                fault.for_good ? " for good" : " once", calls);
    for (const auto& [code, count] : outcomes)
      std::printf(" %d %s;", count, code.empty() ? "without effect" : code.c_str());
    std::printf("\n");
  }
}

TEST_CASE("faults: where every launch is waited for, an error names the op that it stopped") {
  ResetFake();
  Fake().fail_with = cudaErrorIllegalAddress;
  Fake().fail_for_good = true;
  Fake().on_launch = [](const FakeLaunch&) {
    if (Fake().failed.empty()) Fake().fail_at = static_cast<int>(Fake().called.size()) + 1;
  };
  try {
    setenv("LORA_CUDA_SYNC", "1", 1);
    Program program(0);
    unsetenv("LORA_CUDA_SYNC");
    program.Run();
    FAIL("expected an error");
  } catch (const Error& error) {
    CHECK(error.code() == "ERR_DEVICE_LOST");
    CHECK(error.op() == "low_rank_down");  // of the program's first launch
    CHECK(std::string(error.what()).find("cudaErrorIllegalAddress") != std::string::npos);
  }
  CheckClean();
}

TEST_CASE("launches: a kernel is loaded by its first one, and later ones make no other call") {
  ResetFake();
  const auto count = [](const std::string& name) {
    return std::count_if(Fake().called.begin(), Fake().called.end(),
                         [&](const char* call) { return name == call; });
  };
  Program program(0);
  CHECK(RegisteredKernels().size() > 200);
  CHECK(count("cudaFuncGetAttributes") == 1);  // by opening the device
  CHECK(count("cudaFuncSetAttribute") == 0);
  std::set<std::string> kernels;
  Fake().on_launch = [&](const FakeLaunch& launch) { kernels.insert(launch.kernel); };
  program.Run();
  CHECK(count("cudaFuncGetAttributes") == static_cast<std::ptrdiff_t>(1 + kernels.size()));
  CHECK(count("cudaFuncSetAttribute") == static_cast<std::ptrdiff_t>(kernels.size()));
  CHECK(Fake().graphs_launched == 2);
  Fake().called.clear();
  program.Run();
  CHECK(count("cudaFuncGetAttributes") == 0);
  CHECK(count("cudaFuncSetAttribute") == 0);
}

TEST_CASE(
    "launches: a graph of a kernel that nothing has loaded is refused, and the device goes on") {
  ResetFake();
  for (const int ordinal : {0, 1}) {
    Program program(ordinal);
    CHECK(program.CaptureFirst() == std::pair{false, true});
    CHECK(program.Refusal() ==
          "REFUSED [gated] the device could not load a kernel inside of a capture: "
          "cudaErrorStreamCaptureUnsupported: other");
    program.Run();
  }
  CheckClean();
}

TEST_CASE("machines: a slice of a GPU (MIG), and a virtual one without memory pools") {
  ResetFake();
  Fake().multiprocessors = 14;
  CHECK(Use(0) == "");
  CheckClean();
  ResetFake();
  Fake().pools = false;
  CHECK(Use(0) == "");
  CheckClean();
}

TEST_CASE("machines: workers that use one device at once, each with a stream of its own") {
  ResetFake();
  std::vector<std::string> said(3);
  std::vector<std::thread> workers;
  for (std::string& text : said)
    workers.emplace_back([&text] {
      for (int i = 0; i < 3 && text.empty(); ++i) text = Use(0);
    });
  for (std::thread& worker : workers) worker.join();
  CHECK(said == std::vector<std::string>(3));
  CheckClean();
}

TEST_CASE("machines: a process forked off one that uses a device is told, and the other goes on") {
  ResetFake();
  Program parent(0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    std::string used;
    try {
      parent.Run();
    } catch (const Error& error) {
      used = error.code() + " " + error.what();
    }
    const auto says = [](const std::string& text, const char* code) {
      return text.starts_with(code) &&
             text.find("cudaErrorInitializationError") != std::string::npos;
    };
    _exit(says(used, "ERR_DEVICE_LOST") && says(Use(0), "ERR_DEVICE_UNAVAILABLE") ? 0 : 1);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  parent.Run();
}

}  // namespace
}  // namespace lora::test
