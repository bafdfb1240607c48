// Times the LoRA layer on a GPU against cuBLAS: forward, backward and decoding, in CUDA graphs and
// call by call, with the L2 cold and warm. It prints Markdown; see scripts/gpu-check.
//   gpu_bench [--json FILE] [--small]        --small: tiny sizes, to try the program itself
// Exits with 77 without a GPU, and with 1 when something it timed was wrong.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <string>
#include <vector>

#include "backend/cuda/context.h"
#include "backend/cuda/skinny.h"
#include "core/ops/backend.h"
#include "test/gpu/cublas.h"
#include "test/gpu/report.h"
#include "test/gpu/timing.h"
#include "test/support/bench_problem.h"

namespace lora::test {
namespace {

constexpr size_t kWorkspace = size_t{64} << 20;

class Bench {
 public:
  explicit Bench(std::shared_ptr<cuda::Gpu> gpu)
      : gpu_(std::move(gpu)),
        context_(gpu_),
        stream_(static_cast<cudaStream_t>(gpu_->stream())),
        l2_bytes_(Attribute(cudaDevAttrL2CacheSize)),
        watch_(stream_, gpu_->properties().multiprocessors, l2_bytes_,
               [this] { context_.Finish(); }),
        bandwidth_(watch_.ReadBandwidth()),
        report_(bandwidth_.median) {
    workspace_ = gpu_->Allocate(kWorkspace);
    cublas_ = Cublas::Open(stream_, workspace_, kWorkspace, &why_no_cublas_);
  }
  ~Bench() {
    cublas_.reset();
    gpu_->Free(workspace_);
  }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  void Head() const {
    std::printf("rival: %s  \n", cublas_ ? ("cuBLAS " + cublas_->version()).c_str()
                                         : ("none, ours alone: " + why_no_cublas_).c_str());
    std::printf("read bandwidth, which shares refer to: %.0f GB/s (%.0f–%.0f)  \n",
                bandwidth_.median / 1e9, bandwidth_.lowest / 1e9, bandwidth_.highest / 1e9);
    std::printf(
        "L2: %.0f MB, filled with other data before each call where it is cold; warm: calls "
        "back to back.  \n",
        static_cast<double>(l2_bytes_) / 1e6);
    std::printf(
        "Figures: microseconds per call, median of 9 interleaved rounds (fastest–slowest).\n");
  }

  // Times M rows through one layer, forward and backward.
  void Layer(const BenchShape& shape, const std::vector<Mode>& modes, double most);
  // Times few rows, for which reading the weights is all the work.
  void Decode(BenchShape shape, const std::vector<Mode>& modes, double least);

  int wrong() const { return wrong_; }
  const std::string& json() const { return report_.json(); }

 private:
  size_t Attribute(cudaDeviceAttr attribute) const {
    int device = 0, value = 0;
    Must(cudaGetDevice(&device), "asking for the device");
    Must(cudaDeviceGetAttribute(&value, attribute, device), "asking for an attribute");
    return static_cast<size_t>(value);
  }

  // Makes a call of an op, with scratch of its own until the end of the case.
  template <class Args>
  std::function<void()> Call(const Args& args) {
    const Op<Args>& it = CudaBackend()->op<Args>();
    PlannedCall call = it.plan(args, context_.threads());
    const Scratch scratch = Take(call.scratch_bytes);
    return [this, scratch, run = std::move(call.run)] { run(scratch, context_); };
  }
  Scratch Take(size_t bytes) {
    if (bytes == 0) return {};
    taken_.push_back(gpu_->Allocate(bytes));
    if (taken_.back() == nullptr) throw std::runtime_error("the device has too little memory");
    return {static_cast<std::byte*>(taken_.back()), bytes};
  }
  void GiveBack() {
    for (void* data : taken_) gpu_->Free(data);
    taken_.clear();
  }

  // Runs it once on poisoned outputs, and holds the errors that come out against the bound.
  bool Right(BenchProblem& problem, const char* what, const std::function<void()>& call,
             const std::vector<std::pair<const char*, std::function<double()>>>& errors);
  // Times the rivals and prints a table of them.
  void Table(const BenchShape& shape, const char* what, const std::vector<Rival>& rivals,
             const std::vector<Mode>& modes, const std::vector<Target>& targets);

  std::shared_ptr<cuda::Gpu> gpu_;
  cuda::GpuContext context_;
  const cudaStream_t stream_;
  const size_t l2_bytes_;
  Stopwatch watch_;
  const Times bandwidth_;
  Report report_;
  void* workspace_ = nullptr;
  std::unique_ptr<Cublas> cublas_;
  std::string why_no_cublas_;
  std::vector<void*> taken_;
  int wrong_ = 0;
};

bool Bench::Right(BenchProblem& problem, const char* what, const std::function<void()>& call,
                  const std::vector<std::pair<const char*, std::function<double()>>>& errors) {
  // One rounding of operands or result to the dtype gives this, with room for a few.
  const double bound = 2 * UnitRoundoff(problem.shape.dtype);
  problem.Poison();
  call();
  context_.Finish();
  bool right = true;
  for (const auto& [name, error_of] : errors) {
    const double error = error_of();
    if (error <= bound) continue;
    std::printf("\n**WRONG**: %s of %s, %s: relative error %.2g, expected at most %.2g\n", name,
                what, problem.shape.Name().c_str(), error, bound);
    right = false;
    ++wrong_;
  }
  return right;
}

void Bench::Table(const BenchShape& shape, const char* what, const std::vector<Rival>& rivals,
                  const std::vector<Mode>& modes, const std::vector<Target>& targets) {
  std::vector<std::vector<Times>> times;  // [mode][rival]
  for (const Mode mode : modes) times.push_back(watch_.Race(rivals, mode));
  report_.Table(shape.Name(), what, rivals, modes, times, targets);
}

void Bench::Layer(const BenchShape& shape, const std::vector<Mode>& modes, double most) {
  BenchProblem p(*gpu_, shape);
  const auto [m, k, n, r, dtype, copies] = shape;
  constexpr float s = BenchProblem::kScale;
  const BenchProblem::Weights& w = p.weights[0];
  const auto y_error = [&] { return p.YError(true); };
  const auto dx_error = [&] { return p.DxError(); };
  const auto da_error = [&] { return p.DaError(); };
  const auto db_error = [&] { return p.DbError(); };
  // The rival does as PyTorch would: every intermediate rounded to the dtype. Both up and down were
  // rounded before.
  const auto rival_forward = [&, m = m, k = k, n = n, r = r, dtype = dtype] {
    cublas_->Gemm(false, true, m, r, k, 1, p.x, w.b_rounded, dtype, 0, p.h_rounded, dtype);
    cublas_->Gemm(false, true, m, n, k, 1, p.x, w.w, dtype, 0, p.y, dtype);
    cublas_->Gemm(false, true, m, n, r, s, p.h_rounded, w.a_rounded, dtype, 1, p.y, dtype);
  };
  const auto rival_u = [&, m = m, n = n, r = r, dtype = dtype] {
    cublas_->Gemm(false, false, m, r, n, 1, p.g, w.a_rounded, dtype, 0, p.u_rounded, dtype);
  };
  const auto rival_dx = [&, m = m, k = k, n = n, r = r, dtype = dtype] {
    cublas_->Gemm(false, false, m, k, n, 1, p.g, w.w, dtype, 0, p.dx, dtype);
    cublas_->Gemm(false, false, m, k, r, s, p.u_rounded, w.b_rounded, dtype, 1, p.dx, dtype);
  };
  const auto rival_gradients = [&, m = m, k = k, n = n, r = r, dtype = dtype] {
    cublas_->Gemm(true, false, n, r, m, s, p.g, p.h_rounded, dtype, 0, p.d_up, DType::kF32);
    cublas_->Gemm(true, false, r, k, m, s, p.u_rounded, p.x, dtype, 0, p.d_down, DType::kF32);
  };
  const auto rival_frozen = [&, m = m, k = k, n = n, dtype = dtype] {
    cublas_->Gemm(false, true, m, n, k, 1, p.x, w.w, dtype, 0, p.y, dtype);
  };
  std::vector<Rival> rivals;

  const auto frozen = Call(p.Forward(0, false, false));
  const auto forward = Call(p.Forward(0, true, true));
  bool right = Right(p, "ours, frozen", frozen, {{"y", [&] { return p.YError(false); }}});
  right &= Right(p, "ours", forward, {{"y", y_error}});
  rivals = {{"ours, frozen layer", {frozen}}, {"ours", {forward}}};
  std::vector<Target> targets = {{"ours: LoRA / frozen", 1, 0}};
  if (cublas_) {
    right &= Right(p, "cuBLAS", rival_forward, {{"y", y_error}});
    rivals.push_back({"cuBLAS, frozen layer", {rival_frozen}});
    rivals.push_back({"cuBLAS, 3 calls", {rival_forward}});
    targets.push_back({"ours / cuBLAS, frozen layers", 0, 2});
    const std::string limit = most == 0 ? "" : ", target at most " + Show("%.1f", most);
    targets.push_back({"ours / cuBLAS of 3 calls" + limit, 1, 3, most});
  }
  if (right) Table(shape, "forward", rivals, modes, targets);

  const auto dx = Call(p.Backward(0, true, false));
  right = Right(p, "ours", dx, {{"dx", dx_error}});
  rivals = {{"ours", {dx}}};
  targets.clear();
  if (cublas_) {
    const auto rival = [=] {
      rival_u();
      rival_dx();
    };
    right &= Right(p, "cuBLAS", rival, {{"dx", dx_error}});
    rivals.push_back({"cuBLAS, 3 calls", {rival}});
    targets.push_back({"ours / cuBLAS of 3 calls", 0, 1});
  }
  if (right) Table(shape, "backward, dx alone", rivals, modes, targets);

  forward();  // leaves h
  cuda::LowRankDownArgs down;
  down.dtype = down.t_dtype = dtype;
  down.by_columns = true;
  auto* u = reinterpret_cast<float*>(Take(static_cast<size_t>(m * r) * 4).data());
  down.problems = {{p.g, m, n, n, {{static_cast<const float*>(w.a), r, {}, u}}}};
  const cuda::LowRankPlan down_plan = cuda::PlanLowRankDown(down, context_.threads());
  cuda::LowRankDown(down, down_plan, Take(down_plan.scratch_bytes), context_);
  cuda::LowRankGradientsArgs gradients;
  gradients.dtype = dtype;
  gradients.gradients = {
      {p.x, m, k, k, {}, u, r, s, static_cast<float*>(p.d_down), false},
      {p.g, m, n, n, {}, static_cast<const float*>(p.h), r, s, static_cast<float*>(p.d_up), true}};
  const cuda::LowRankPlan plan = cuda::PlanLowRankGradients(gradients, context_.threads());
  const Scratch scratch = Take(plan.scratch_bytes);
  const auto launch = [&] { cuda::LowRankGradients(gradients, plan, scratch, context_); };
  const auto both = Call(p.Backward(0, false, true));
  right = Right(p, "ours, grouped launch", launch, {{"d_up", da_error}, {"d_down", db_error}});
  right &= Right(p, "ours", both, {{"d_up", da_error}, {"d_down", db_error}});
  const auto size = static_cast<double>(SizeOf(dtype));
  const auto of = [](int64_t rows, int64_t cols) { return static_cast<double>(rows * cols); };
  const double least = most == 0 ? 0 : 0.7;
  const double once = (of(m, k) + of(m, n)) * size + 2 * of(m, r) * 4;
  rivals = {{"ours, d_up and d_down of u and h", {launch}},
            {"ours, the op: u, then d_up and d_down", {both}}};
  targets = {{std::string("read bandwidth, d_up and d_down (x and g once)") +
                  (least == 0 ? "" : ", target at least 70%"),
              0, -1, 0, once, least, &kModes[0]},  // warm, x and g may come from the L2
             {"read bandwidth, the op (x once, g twice)", 1, -1, 0, once + of(m, n) * size}};
  if (cublas_) {
    rival_forward();
    const auto rival = [=] {
      rival_u();
      rival_gradients();
    };
    right &= Right(p, "cuBLAS", rival, {{"d_up", da_error}, {"d_down", db_error}});
    rivals.push_back({"cuBLAS, 3 calls", {rival}});
    targets.push_back({"ours / cuBLAS of 3 calls", 1, 2});
  }
  if (right) Table(shape, "backward, d_up and d_down", rivals, modes, targets);

  const auto backward = Call(p.Backward(0, true, true));
  right = Right(p, "ours", backward, {{"dx", dx_error}, {"d_up", da_error}, {"d_down", db_error}});
  rivals = {{"ours", {backward}}};
  targets.clear();
  if (cublas_) {
    const auto rival = [=] {
      rival_u();
      rival_dx();
      rival_gradients();
    };
    rivals.push_back({"cuBLAS, 5 calls", {rival}});
    targets.push_back({"ours / cuBLAS of 5 calls", 0, 1});
  }
  if (right) Table(shape, "backward, all", rivals, modes, targets);
  context_.Finish();
  GiveBack();
}

void Bench::Decode(BenchShape shape, const std::vector<Mode>& modes, double least) {
  const double size = static_cast<double>(SizeOf(shape.dtype));
  const double frozen_bytes = static_cast<double>(shape.n * shape.k) * size;
  const double bytes = frozen_bytes + static_cast<double>((shape.n + shape.k) * shape.r) * 4;
  // In turn, all together more than twice what the L2 holds.
  shape.copies =
      std::max(2, static_cast<int>(2 * static_cast<double>(l2_bytes_) / frozen_bytes) + 2);
  BenchProblem p(*gpu_, shape);
  const auto [m, k, n, r, dtype, copies] = shape;
  Rival frozen{"ours, frozen layer", {}}, ours{"ours", {}};
  Rival rival_frozen{"cuBLAS, frozen layer", {}}, rival{"cuBLAS, 3 calls", {}};
  for (int i = 0; i < copies; ++i) {
    frozen.calls.push_back(Call(p.Forward(i, false, false)));
    ours.calls.push_back(Call(p.Forward(i, true, false)));
    const BenchProblem::Weights w = p.weights[static_cast<size_t>(i)];
    rival_frozen.calls.push_back([&, w, m = m, k = k, n = n, dtype = dtype] {
      cublas_->Gemm(false, true, m, n, k, 1, p.x, w.w, dtype, 0, p.y, dtype);
    });
    rival.calls.push_back([&, w, m = m, k = k, n = n, r = r, dtype = dtype] {
      cublas_->Gemm(false, true, m, r, k, 1, p.x, w.b_rounded, dtype, 0, p.h_rounded, dtype);
      cublas_->Gemm(false, true, m, n, k, 1, p.x, w.w, dtype, 0, p.y, dtype);
      cublas_->Gemm(false, true, m, n, r, BenchProblem::kScale, p.h_rounded, w.a_rounded, dtype, 1,
                    p.y, dtype);
    });
  }
  bool right = true;
  for (const auto& call : ours.calls)
    right &= Right(p, "ours", call, {{"y", [&] { return p.YError(true); }}});
  right &= Right(p, "ours, frozen", frozen.calls[0], {{"y", [&] { return p.YError(false); }}});
  std::vector<Rival> rivals = {frozen, ours};
  const std::string limit =
      least == 0 ? "" : ", target at least " + Show("%.0f", 100 * least) + "%";
  std::vector<Target> targets = {{"read bandwidth, ours, frozen", 0, -1, 0, frozen_bytes},
                                 {"read bandwidth, ours" + limit, 1, -1, 0, bytes, least,
                                  &kModes[1]}};  // its weights are never in the L2
  if (cublas_) {
    right &= Right(p, "cuBLAS", rival.calls[0], {{"y", [&] { return p.YError(true); }}});
    rivals.push_back(rival_frozen);
    rivals.push_back(rival);
    targets.push_back({"ours / cuBLAS of 3 calls", 1, 3});
  }
  const std::string what = "decode, weights in turn over " + std::to_string(copies) + " copies";
  if (right) Table(shape, what.c_str(), rivals, modes, targets);
  context_.Finish();
  GiveBack();
}

// Prints the driver and the clocks, where there is an nvidia-smi.
void Clocks(const char* when) {
  std::FILE* smi = popen(
      "nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.draw,"
      "temperature.gpu --format=csv,noheader 2>/dev/null",
      "r");
  if (smi == nullptr) return;
  char line[512];
  while (std::fgets(line, sizeof line, smi) != nullptr) {
    line[std::strcspn(line, "\n")] = 0;
    std::printf(
        "%s (name, driver, SM clock, its maximum, memory clock, power, temperature): %s  \n", when,
        line);
  }
  pclose(smi);
}

int Main(int argc, char** argv) {
  std::string json_path;
  bool small = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--small") == 0) {
      small = true;
    } else if (std::strcmp(argv[i], "--json") == 0 && i + 1 < argc) {
      json_path = argv[++i];
    } else {
      std::fprintf(stderr, "gpu_bench [--json FILE] [--small]\n");
      return 2;
    }
  }
  for (const cuda::Fact& fact : cuda::Facts())
    std::printf("%s: %s  \n", fact.name.c_str(), fact.value.c_str());
  if (!cuda::UnavailableReason().empty()) {
    std::printf("skipped: %s\n", cuda::UnavailableReason().c_str());
    return 77;
  }
  const cuda::DeviceSummary device = cuda::Describe(0);
  std::printf("GPU: %s, compute capability %s  \n", device.name.c_str(),
              device.compute_capability.c_str());
  Clocks("before");
  Bench bench(cuda::Gpu::Open(0));
  bench.Head();
  const int64_t by = small ? 32 : 1;
  const std::vector<Mode> all(std::begin(kModes), std::end(kModes)), some = {kModes[0], kModes[3]};
  const auto shape = [&](int64_t m, int64_t k, int64_t n, int64_t r, DType dtype) {
    return BenchShape{std::max<int64_t>(1, m / by), k / by, n / by, r, dtype};
  };
  bench.Layer(shape(4096, 4096, 4096, 16, DType::kBF16), all, 1.5);
  bench.Layer(shape(4096, 2048, 2048, 16, DType::kBF16), all, 1.4);
  bench.Decode(shape(1, 4096, 14336, 16, DType::kBF16), all, 0.85);
  for (const int64_t rank : {8, 64})
    bench.Layer(shape(4096, 4096, 4096, rank, DType::kBF16), some, 0);
  bench.Layer(shape(4096, 4096, 4096, 16, DType::kF16), some, 0);
  bench.Decode(shape(1, 14336, 4096, 16, DType::kBF16), some, 0);
  bench.Decode(shape(1, 4096, 4096, 16, DType::kBF16), some, 0);
  bench.Decode(shape(1, 4096, 14336, 16, DType::kF16), some, 0);
  bench.Decode(shape(small ? 256 : 8, 4096, 14336, 16, DType::kBF16), some, 0);
  std::printf("\n");
  Clocks("after");
  if (!json_path.empty()) std::ofstream(json_path) << "[\n" << bench.json() << "\n]\n";
  return bench.wrong() == 0 ? 0 : 1;
}

}  // namespace
}  // namespace lora::test

int main(int argc, char** argv) {
  try {
    return lora::test::Main(argc, argv);
  } catch (const std::exception& e) {
    std::printf("\n**FAILED**: %s\n", e.what());
    return 1;
  }
}
