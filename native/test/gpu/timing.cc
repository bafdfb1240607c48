#include "test/gpu/timing.h"

#include <algorithm>
#include <memory>
#include <stdexcept>

#include "test/gpu/bench_kernels.h"

namespace lora::test {
namespace {

constexpr int kRounds = 9;
constexpr double kBatch = 4000;   // microseconds of calls back to back
constexpr size_t kMaxCalls = 60;  // in a batch: the backend waits after 512 launches
constexpr int kColdCalls = 7;     // in a round

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 ? values[half] : (values[half - 1] + values[half]) / 2;
}

Times Summary(const std::vector<double>& rounds) {
  return {Median(rounds), *std::min_element(rounds.begin(), rounds.end()),
          *std::max_element(rounds.begin(), rounds.end())};
}

}  // namespace

void Must(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorName(error) + ", " +
                             cudaGetErrorString(error));
}

const char* Mode::name() const {
  if (graph) return cold ? "graph, cold L2" : "graph, warm L2";
  return cold ? "eager, cold L2" : "eager, warm L2";
}

// Says how a rival is run in a mode: pieces of work, each of `calls` calls.
class Stopwatch::Plan {
 public:
  Plan(Stopwatch& watch, const Rival& rival, Mode mode) : watch_(watch), rival_(rival) {
    for (const auto& call : rival.calls) call();  // loads what is loaded at the first call
    watch.settle_();
    const double once = watch.Between([&] {
      for (const auto& call : rival.calls) call();
    }) / static_cast<double>(rival.calls.size());
    watch.settle_();
    calls_ = 1;
    if (!mode.cold) {
      const auto wanted = static_cast<size_t>(kBatch / std::max(once, 1.0));
      const size_t turns = std::max<size_t>(1, std::min(wanted, kMaxCalls) / rival.calls.size());
      calls_ = std::min(turns * rival.calls.size(), kMaxCalls);
    }
    if (!mode.graph) return;
    // Single calls have one graph each, a batch has one with all of them.
    const size_t graphs = mode.cold ? rival.calls.size() : 1;
    for (size_t i = 0; i < graphs; ++i) {
      Must(cudaStreamBeginCapture(watch.stream_, cudaStreamCaptureModeThreadLocal), "capturing");
      cudaGraph_t graph = nullptr;
      try {
        Enqueue();
      } catch (...) {
        cudaStreamEndCapture(watch.stream_, &graph);
        throw;
      }
      Must(cudaStreamEndCapture(watch.stream_, &graph), "ending a capture");
      cudaGraphExec_t exec = nullptr;
      Must(cudaGraphInstantiate(&exec, graph, 0), "instantiating a graph");
      Must(cudaGraphDestroy(graph), "destroying a graph");
      graphs_.push_back(exec);
      Must(cudaGraphLaunch(exec, watch.stream_), "launching a graph");
      watch.settle_();
    }
    next_ = 0;
  }
  ~Plan() {
    for (cudaGraphExec_t exec : graphs_) cudaGraphExecDestroy(exec);
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  // Returns microseconds per call.
  double Sample() {
    const double time = watch_.Between([&] {
      if (graphs_.empty()) return Enqueue();
      Must(cudaGraphLaunch(graphs_[next_++ % graphs_.size()], watch_.stream_), "launching a graph");
    });
    return time / static_cast<double>(calls_);
  }

 private:
  void Enqueue() {
    for (size_t i = 0; i < calls_; ++i) rival_.calls[next_++ % rival_.calls.size()]();
  }

  Stopwatch& watch_;
  const Rival& rival_;
  size_t calls_ = 1, next_ = 0;
  std::vector<cudaGraphExec_t> graphs_;
};

Stopwatch::Stopwatch(cudaStream_t stream, int multiprocessors, size_t l2_bytes,
                     std::function<void()> settle)
    : stream_(stream),
      multiprocessors_(static_cast<unsigned>(multiprocessors)),
      settle_(std::move(settle)),
      l2_bytes_(l2_bytes),
      other_bytes_(std::max(size_t{1} << 30, 32 * l2_bytes)) {
  Must(cudaEventCreate(&begin_), "making an event");
  Must(cudaEventCreate(&end_), "making an event");
  Must(cudaMalloc(&other_, other_bytes_), "taking memory to fill the L2 with");
  Must(cudaMemsetAsync(other_, 0x5a, other_bytes_, stream_), "filling memory");
  void* sink = nullptr;
  Must(cudaMalloc(&sink, 256), "taking memory");
  sink_ = static_cast<unsigned*>(sink);
  settle_();
}

Stopwatch::~Stopwatch() {
  cudaFree(sink_);
  cudaFree(other_);
  cudaEventDestroy(end_);
  cudaEventDestroy(begin_);
}

// The L2 is filled by reading, because written lines would be written back while the call is timed.
void Stopwatch::Flush() {
  Must(ReadAll(other_, 4 * l2_bytes_, 4 * multiprocessors_, sink_, stream_), "reading");
}

double Stopwatch::Between(const std::function<void()>& work) {
  Must(cudaEventRecord(begin_, stream_), "recording an event");
  work();
  Must(cudaEventRecord(end_, stream_), "recording an event");
  Must(cudaEventSynchronize(end_), "waiting for an event");
  float milliseconds = 0;
  Must(cudaEventElapsedTime(&milliseconds, begin_, end_), "reading a time");
  return 1000.0 * static_cast<double>(milliseconds);
}

std::vector<Times> Stopwatch::Race(const std::vector<Rival>& rivals, Mode mode) {
  std::vector<std::unique_ptr<Plan>> plans;
  for (const Rival& rival : rivals) plans.push_back(std::make_unique<Plan>(*this, rival, mode));
  std::vector<std::vector<double>> rounds(rivals.size());
  for (int round = 0; round < kRounds; ++round) {
    for (size_t i = 0; i < plans.size(); ++i) {
      settle_();
      std::vector<double> samples;
      for (int sample = 0; sample < (mode.cold ? kColdCalls : 1); ++sample) {
        if (mode.cold) Flush();  // still runs while the call is launched: launching costs little
        samples.push_back(plans[i]->Sample());
      }
      rounds[i].push_back(Median(samples));
    }
  }
  std::vector<Times> times;
  for (const std::vector<double>& of : rounds) times.push_back(Summary(of));
  return times;
}

Times Stopwatch::ReadBandwidth() {
  Times best;
  for (const unsigned per_multiprocessor : {4u, 8u, 16u}) {
    std::vector<double> rounds;
    for (int round = -1; round < 2 * kRounds; ++round) {
      const double time = Between([&] {
        Must(ReadAll(other_, other_bytes_, per_multiprocessor * multiprocessors_, sink_, stream_),
             "reading");
      });
      if (round >= 0) rounds.push_back(static_cast<double>(other_bytes_) / (time * 1e-6));
    }
    const Times times = Summary(rounds);
    if (times.median > best.median) best = times;
  }
  return best;
}

}  // namespace lora::test
